# SPDX-License-Identifier: BSD-3-Clause
"""Source positions, errors, and the lexical layer of the schema language.

Tokens are { } [ ] : , strings in single quotes, true and false.  A string holds bytes 32 to 126; its only escape is a doubled
backslash.  Comments run from # to the end of the line; a line of ## alone begins and ends a documentation block.

Error texts have the form that users of the language know:

    In file included from OUTER:LINE:
    FILE: In KIND 'NAME':
    FILE:LINE[:COLUMN]: message
"""


class Info:
    """A position: file, line, the chain of includes, and the definition it lies in."""

    def __init__(self, fname, line=1, parent=None):
        self.fname, self.line, self.parent = fname, line, parent
        self.defn_meta = self.defn_name = None

    def at_line(self, line):
        info = Info(self.fname, line, self.parent)
        info.defn_meta, info.defn_name = self.defn_meta, self.defn_name
        return info

    def set_defn(self, meta, name):
        self.defn_meta, self.defn_name = meta, name

    def loc(self):
        return '%s:%d' % (self.fname, self.line)

    def include_path(self):
        text, parent = '', self.parent
        while parent:
            text = 'In file included from %s:\n' % parent.loc() + text
            parent = parent.parent
        return text

    def in_defn(self):
        if self.defn_name:
            return "%s: In %s '%s':\n" % (self.fname, self.defn_meta, self.defn_name)
        return ''


class QAPIError(Exception):
    """Any error; semantic ones have no column."""

    def __init__(self, info, msg, col=None):
        super().__init__(msg)
        self.info, self.msg, self.col = info, msg, col

    def __str__(self):
        if self.info is None:
            return self.msg
        loc = self.info.loc()
        if self.col is not None:
            loc += ':%d' % self.col
        return self.info.include_path() + self.info.in_defn() + loc + ': ' + self.msg


class Lexer:
    """Tokens of one file; `tok` is the current one: a character, 't', 'f', "'" (string in val), '#' (doc in val), None."""

    def __init__(self, text, info):
        self.text = text if text.endswith('\n') else text + '\n'
        self.pos, self.info = 0, info
        self.line, self.line_start = 1, 0
        self.tok = self.val = None
        self.tok_pos = 0

    def column(self, pos):
        col = 1
        for ch in self.text[self.line_start:pos]:
            col = ((col + 7) % 8) + 1 if ch == '\t' else col + 1
        return col

    def error(self, msg, pos=None):
        pos = self.tok_pos if pos is None else pos
        return QAPIError(self.info.at_line(self.line), msg, self.column(pos))

    def newline(self):
        self.line += 1
        self.line_start = self.pos

    def here(self):
        return self.info.at_line(self.line)

    def advance(self, keep_comments=False):
        """Moves to the next token; plain comments are skipped."""
        while True:
            if self.pos >= len(self.text):
                self.tok = None
                return
            ch = self.text[self.pos]
            self.tok_pos = self.pos
            self.pos += 1
            if ch == '#':
                if self.text[self.pos:self.pos + 1] == '#' and self._only_on_line():
                    self.tok, self.val = '#', None
                    return
                self.pos = self.text.index('\n', self.pos)
            elif ch in '{}:,[]':
                self.tok = ch
                return
            elif ch == "'":
                self.tok, self.val = "'", self._string()
                return
            elif self.text.startswith('true', self.tok_pos):
                self.tok, self.val = 't', True
                self.pos = self.tok_pos + 4
                return
            elif self.text.startswith('false', self.tok_pos):
                self.tok, self.val = 'f', False
                self.pos = self.tok_pos + 5
                return
            elif ch == '\n':
                self.newline()
            elif not ch.isspace():
                # up to the next thing that could begin a token
                end = self.pos
                while end < len(self.text) and self.text[end] not in "{}[]:,' \t\n#":
                    end += 1
                raise self.error("stray '%s'" % self.text[self.tok_pos:end])

    def _only_on_line(self):
        rest = self.text[self.pos + 1:self.text.index('\n', self.pos)]
        return rest == ''

    def _string(self):
        out = ''
        while True:
            ch = self.text[self.pos]
            self.pos += 1
            if ch == '\n':
                raise self.error("missing terminating \"'\"")
            if ch == '\\':
                ch = self.text[self.pos]
                self.pos += 1
                if ch != '\\':
                    raise self.error("unknown escape \\%s" % ch, self.pos - 1)
                out += ch
            elif ch == "'":
                return out
            elif ord(ch) < 32 or ord(ch) >= 127:
                raise self.error('invalid character in string', self.pos - 1)
            else:
                out += ch

    def doc_lines(self):
        """After a '#' token: the lines of the block, as (line number, text); the closing ## is consumed."""
        lines = []
        self.pos = self.text.index('\n', self.pos) + 1
        self.newline()
        while True:
            if self.pos >= len(self.text):
                raise self.error("documentation comment must end with '##'", len(self.text))
            end = self.text.index('\n', self.pos)
            text = self.text[self.pos:end]
            self.tok_pos = self.pos
            if text == '##':
                self.pos = end + 1
                self.newline()
                return lines
            if not text.startswith('#'):
                raise self.error("documentation comment must end with '##'")
            if len(text) > 1 and text[1] != ' ':
                raise self.error("missing space after #", self.pos + 1)
            lines.append((self.line, text[2:].rstrip()))
            self.pos = end + 1
            self.newline()
