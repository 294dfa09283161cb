# SPDX-License-Identifier: BSD-3-Clause
"""The lexical layer.

Tokens are { } [ ] : , strings in single quotes, true and false.  A string holds the bytes 32 to
126; its only escape is a doubled backslash.  # begins a comment that ends with the line, except
that ## begins a documentation block, which ends with a line of ## alone.
"""
import re

from .source import QAPIError


def column(text):
    """The column behind `text`, the beginning of a line.  Columns count from 1; every character
    counts 1 but a tab, which sets the column to (column + 7) mod 8 + 1."""
    col = 1
    for ch in text:
        col = (col + 7) % 8 + 1 if ch == '\t' else col + 1
    return col


class Lexer:
    """`tok` is the current token: a character of {}[]:, or "'" (a string), 't', 'f', '#' (the
    beginning of a documentation block), or None at the end.  `val` is its value."""

    def __init__(self, text, info):
        self.text = text if text.endswith('\n') else text + '\n'
        self.info = info
        self.cursor = self.pos = 0  # behind the token, and where it begins
        self.line, self.line_pos = 1, 0
        self.tok = self.val = None

    def here(self):
        return self.info.at_line(self.line)

    def error(self, msg):
        return QAPIError(self.here(), msg, column(self.text[self.line_pos:self.pos]))

    def advance(self):
        """Goes on to the next token."""
        while self.cursor < len(self.text):
            self.pos = self.cursor
            ch = self.text[self.cursor]
            self.cursor += 1
            if ch == '\n':
                if self.cursor == len(self.text):
                    break  # the end is where the last line ends
                self.line, self.line_pos = self.line + 1, self.cursor
            elif ch == '#':
                if self.text[self.cursor] == '#':
                    self.tok, self.val = '#', None
                    return
                self.cursor = self.text.index('\n', self.cursor)
            elif not ch.isspace():
                self._token(ch)
                return
        self.tok = None

    def _token(self, ch):
        self.tok, self.val = ch, None
        if ch == "'":
            self.val = self._string()
        elif self.text.startswith('true', self.pos):
            self.tok, self.val, self.cursor = 't', True, self.pos + 4
        elif self.text.startswith('false', self.pos):
            self.tok, self.val, self.cursor = 'f', False, self.pos + 5
        elif ch not in '{}:,[]':
            # as far as no other token begins
            end = re.compile(r"[]\[{}:,\s'#]").search(self.text, self.cursor).start()
            raise self.error("stray '%s'" % self.text[self.pos:end])

    def _string(self):
        out = ''
        while True:
            ch = self.text[self.cursor]
            self.cursor += 1
            if ch == '\n':
                raise self.error('missing terminating "\'"')
            if ch == "'":
                return out
            if ch == '\\':
                ch = self.text[self.cursor]
                self.cursor += 1
                if ch == '\n':
                    raise self.error('missing terminating "\'"')
                if ch != '\\':
                    raise self.error('unknown escape \\%s' % ch)
            elif not 32 <= ord(ch) < 127:
                raise self.error('funny character in string')
            out += ch

    def doc_lines(self):
        """At a '#' token: the lines of the block with their positions, as [(info, text)], text
        without the # and the blank after it.  The cursor is behind the block afterwards."""
        end = self.text.index('\n', self.cursor)
        if self.text[self.cursor + 1:end]:
            raise self.error("junk after '##' at start of documentation comment")
        lines = []
        while True:
            self.pos = end
            if end + 1 == len(self.text):
                raise self.error("documentation comment must end with '##'")
            self.pos = end + 1
            self.line, self.line_pos = self.line + 1, self.pos
            end = self.text.index('\n', self.pos)
            text = self.text[self.pos:end]
            self.cursor = end
            if text.startswith('##'):
                if text != '##':
                    raise self.error("junk after '##' at end of documentation comment")
                return lines
            if not text.startswith('#'):
                raise self.error("documentation comment must end with '##'")
            if len(text) > 1 and text[1] != ' ':
                raise self.error('missing space after #')
            lines.append((self.here(), text[2:].rstrip()))
