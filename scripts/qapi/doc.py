# SPDX-License-Identifier: BSD-3-Clause
"""Documentation blocks.

A block whose first line is "@NAME:" documents the definition that follows it:

    overview, any number of paragraphs
    @member: description; more lines of it are indented
    Features:
    @feature: description
    Returns: text, Errors: text, Since: text, TODO: text

Paragraphs without indentation may follow any of these.  Every other block is free-form text.
Style: lines of 70 characters at most (but for a word alone, such as a URL), two blanks between
sentences; not in literal blocks, which are what is indented after a line that ends in "::" and
is no directive (".. name::"), but for qmp-example.
"""
import re

from .lexer import column
from .source import QAPIError

LINE_MAX = 70
TAGS = ('Returns', 'Errors', 'Since', 'TODO')
OLD_TAGS = ('Note', 'Notes', 'Example', 'Examples')
TAG = r'(%s):(?!:) *' % '|'.join(TAGS + OLD_TAGS)
BEGINNING = r'@[^\s:]*:|Features:$|' + TAG  # of anything but a paragraph


class Section:
    """Lines of text.  kind: 'Plain', a tag, 'Member' or 'Feature' (these two with a name).
    indent: of the lines below the first one."""

    def __init__(self, kind, info, name=None):
        self.kind, self.info, self.name = kind, info, name
        self.lines, self.indent = [], 0

    def raw(self):
        """The text as it is written."""
        return '\n'.join(self.lines).strip('\n')

    def text(self):
        """The text without the indentation that belongs to the section."""
        return '\n'.join(self.lines[:1] + [s[self.indent:] for s in self.lines[1:]]).strip('\n')



class Doc:
    """A block.  symbol: NAME, or None; args and features: name -> Section; sections: all, in
    order."""

    def __init__(self, info, lines):
        self.info, self.symbol = info, None
        self.args, self.features, self.sections = {}, {}, []
        self._lines = lines
        self._next = 0
        self._literal = None
        if lines and lines[0][1].startswith('@'):
            self._symbol()
            self._definition()
        else:
            self._free_form()

    # ---- lines ----

    @staticmethod
    def _error(info, msg, text=''):
        """text: of the line, up to where the error is; without it: at the beginning."""
        return QAPIError(info, msg, column('# ' + text) if text else 1)

    def _peek(self):
        return self._lines[self._next] if self._next < len(self._lines) else (None, None)

    def _take(self):
        info, text = self._peek()
        self._next += 1
        self._style(info, text)
        return info, text

    def _style(self, info, text):
        indent = len(text) - len(text.lstrip())
        if self._literal is not None:
            if not text or indent > self._literal:
                return
            self._literal = None
        if len(text) + 2 > LINE_MAX and ' ' in text.strip():
            raise self._error(info, 'documentation line longer than %d characters' % LINE_MAX)
        m = re.search(r'(?<!e\.g\.)(?<!i\.e\.)(?<=[A-Za-z0-9)\'"][.!?]) (?=[A-Z])', text)
        if m and not re.fullmatch(r' *([0-9]+|[A-Za-z])\.', text[:m.start()]):  # a list's item
            raise self._error(info, 'Use two spaces between sentences\n'
                              'If this not the end of a sentence, please report a bug.',
                              text[:m.start()])
        if text.endswith('::') and (text[indent:indent + 3] != '.. ' or
                                    text[indent:] == '.. qmp-example::'):
            self._literal = indent

    # ---- grammar ----

    def _free_form(self):
        section = Section('Plain', self.info)
        self.sections.append(section)
        while self._next < len(self._lines):
            info, text = self._take()
            m = re.match(r'@\S+:', text)
            if m:
                raise self._error(info, "'%s' not allowed in free-form documentation" % m.group())
            section.lines.append(text)

    def _symbol(self):
        info, text = self._take()
        if not text.endswith(':'):
            raise self._error(info, "line should end with ':'")
        self.symbol = text[1:-1]
        if not self.symbol:
            raise self._error(info, "name required after '@'")

    def _definition(self):
        closed = False  # no more members
        while self._next < len(self._lines):
            info, text = self._peek()
            member = re.match(r'@([^\s:]*): *', text)
            tag = re.match(TAG, text)
            if member:
                if closed:
                    raise self._error(info, "description of '%s' follows a section" %
                                      member.group().strip())
                self._described('Member', self.args, member)
            elif text == 'Features:':
                if self.features:
                    raise self._error(info, "duplicated 'Features:' line")
                self._features()
                closed = True
            elif tag:
                self._tagged(tag)
                closed = True
            else:
                self._paragraphs()

    def _paragraphs(self):
        section = Section('Plain', self._peek()[0])
        while self._next < len(self._lines):
            text = self._peek()[1]
            if re.match(BEGINNING, text):
                break
            section.lines.append(self._take()[1])
        if section.text():
            self.sections.append(section)

    def _described(self, kind, where, m):
        info, name = self._peek()[0], m.group(1)
        what = 'parameter' if kind == 'Member' else 'feature'
        if not name:
            raise QAPIError(info, 'invalid %s name' % what)
        if name in where:
            raise QAPIError(info, "'%s' %s name duplicated" % (name, what))
        where[name] = Section(kind, info, name)
        self.sections.append(where[name])
        self._indented(where[name], m.end())

    def _features(self):
        info = self._take()[0]
        while self._next < len(self._lines):
            info = self._peek()[0]
            m = re.match(r'@([^\s:]*): *', self._peek()[1])
            if m:
                self._described('Feature', self.features, m)
            elif not self._peek()[1]:
                self._take()
            else:
                break
        if not self.features:
            raise self._error(info, 'feature descriptions expected')

    def _tagged(self, m):
        info, tag = self._peek()[0], m.group(1)
        if tag in OLD_TAGS:
            raise self._error(info, "'%s:' sections are not supported" % tag)
        if tag != 'TODO' and self.section(tag):
            raise QAPIError(info, "duplicated '%s' section" % tag)
        section = Section(tag, info)
        self.sections.append(section)
        self._indented(section, m.end())
        if not section.text():
            raise QAPIError(info, "text required after '%s:'" % tag)

    def _indented(self, section, start):
        """The rest of the line after `start`, and the lines that are indented below it."""
        section.lines.append(self._take()[1][start:])
        indent, blank = None, False
        while self._next < len(self._lines):
            info, text = self._peek()
            have = len(text) - len(text.lstrip())
            if text and have == 0 and (blank or re.match(BEGINNING, text)):
                return
            if text and indent is None:
                indent = section.indent = have
            if text and (have < indent or have == 0):
                raise self._error(info, 'unexpected de-indent (expected at least %d spaces)' %
                                  (indent or 4))
            section.lines.append(self._take()[1])
            blank = not text

    def section(self, tag):
        for s in self.sections:
            if s.kind == tag:
                return s
        return None

    def body_and_rest(self):
        """The overview, or None, and all other sections without those of members and features."""
        rest = [s for s in self.sections if s.name is None]
        first = bool(self.sections) and self.sections[0].kind == 'Plain'
        return (rest[0], rest[1:]) if first else (None, rest)

    # ---- against the definition ----

    def check(self, entity, role, members, features, required):
        """members: names of what the definition itself defines, each a `role`; features: names of
        its features and of its members' ones."""
        self._bogus(members, self.args, 'member')
        self._bogus(features, self.features, 'feature')
        for what, names, described in ((role, members if required else (), self.args),
                                       ('feature', features, self.features)):
            for name in names:
                if name not in described:
                    raise QAPIError(entity.info, "%s '%s' lacks documentation" % (what, name))
        returns, errors = self.section('Returns'), self.section('Errors')
        if returns and entity.meta != 'command':
            raise QAPIError(returns.info, "'Returns' section is only valid for commands")
        if returns and entity.ret is None:
            raise QAPIError(returns.info,
                            "'Returns' section, but command doesn't return anything")
        if errors and entity.meta != 'command':
            raise QAPIError(errors.info, "'Errors' section is only valid for commands")

    def _bogus(self, known, described, role):
        bogus = [s for name, s in described.items() if name not in known]
        if bogus:
            raise QAPIError(bogus[0].info, "documented %s%s %s do%s not exist" % (
                role, 's' if len(bogus) > 1 else '',
                ', '.join("'%s'" % s.name for s in bogus), '' if len(bogus) > 1 else 'es'))
