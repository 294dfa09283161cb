# SPDX-License-Identifier: BSD-3-Clause
"""From tokens to expressions and documentation.

A schema file is a sequence of directives (include, pragma), definitions and documentation blocks.  The parser returns the definitions of a
file and of all it includes, in order, each with its documentation; schema.py gives them meaning.
"""
import os
import re

from .source import Info, Lexer, QAPIError


class Doc:
    """One documentation block: overview, members, features, tagged sections."""

    TAGS = ('Returns', 'Errors', 'Since', 'TODO')

    def __init__(self, info, lines):
        self.info, self.symbol = info, None
        self.body, self.args, self.features, self.sections = [], {}, {}, []
        self._parse(lines)

    def _error(self, line, msg):
        return QAPIError(self.info.at_line(line), msg)

    def _parse(self, lines):
        current, in_features = self.body, False
        seen = set()
        if lines and lines[0][1].startswith('@'):
            m = re.match(r'@([^:]+):$', lines[0][1])
            if not m:
                raise self._error(lines[0][0], "line should end with ':'")
            self.symbol = m.group(1)
            if not self.symbol:
                raise self._error(lines[0][0], 'name required after \'@\'')
            lines = lines[1:]
        for line, text in lines:
            m = re.match(r'@([^:\s]+):( +|$)(.*)', text)
            if m and self.symbol:
                where = self.features if in_features else self.args
                if m.group(1) in where:
                    raise self._error(line, "duplicated parameter name '%s'" % m.group(1))
                current = where[m.group(1)] = [m.group(3)] if m.group(3) else []
                continue
            if m:
                raise self._error(line, "'%s' not allowed in free-form documentation" % ('@' + m.group(1) + ':'))
            if text == 'Features:' and self.symbol:
                if in_features:
                    raise self._error(line, "duplicated 'Features:' line")
                in_features, current = True, []
                continue
            m = re.match(r'(Returns|Errors|Since|TODO|Notes?|Examples?): *(.*)', text)
            if m and self.symbol:
                tag = m.group(1)
                if tag not in self.TAGS:
                    raise self._error(line, "unexpected '%s:' section" % tag)
                if tag in seen and tag != 'TODO':
                    raise self._error(line, "duplicated '%s' section" % tag)
                seen.add(tag)
                current = [m.group(2)] if m.group(2) else []
                self.sections.append((tag, current))
                continue
            if len(text) > 68 and '://' not in text and not text.startswith('    '):
                raise self._error(line, 'documentation line longer than 70 characters')
            current.append(text.strip() if current is not self.body else text)

    def section(self, tag):
        for name, text in self.sections:
            if name == tag:
                return ' '.join(t for t in text if t)
        return None

    @staticmethod
    def text(lines):
        return '\n'.join(lines).strip()


class Pragma:
    """State shared by a whole include tree."""

    LISTS = ('command-name-exceptions', 'command-returns-exceptions', 'documentation-exceptions', 'member-name-exceptions')

    def __init__(self):
        self.doc_required = False
        self.lists = {name: [] for name in self.LISTS}


class Definition:
    """A definition as written: expr is a dict with values of str, bool, list, dict."""

    def __init__(self, info, expr, doc, module):
        self.info, self.expr, self.doc, self.module = info, expr, doc, module


class Parser:
    def __init__(self, fname, info=None, seen=None, pragma=None, module=None):
        self.fname = fname
        self.seen = {os.path.abspath(fname)} if seen is None else seen
        self.pragma = pragma or Pragma()
        self.module = module or os.path.basename(fname)
        self.definitions, self.docs = [], []
        self.files = [fname]
        try:
            with open(fname, encoding='utf-8') as f:
                text = f.read()
        except OSError as e:
            raise QAPIError(info, "can't read %s file '%s': %s" % ('include' if info else 'schema', fname, e.strerror))
        self.lex = Lexer(text, Info(fname, parent=info))
        self.parse()

    # ---- expressions ----

    def value(self):
        lex = self.lex
        if lex.tok == '{':
            return self.members()
        if lex.tok == '[':
            return self.values()
        if lex.tok in ("'", 't', 'f'):
            val = lex.val
            lex.advance()
            return val
        raise lex.error("expected '{', '[', string, or boolean")

    def members(self):
        lex, expr = self.lex, {}
        lex.advance()
        if lex.tok == '}':
            lex.advance()
            return expr
        if lex.tok != "'":
            raise lex.error("expected string or '}'")
        while True:
            key = lex.val
            if key in expr:
                raise lex.error("duplicate key '%s'" % key)
            lex.advance()
            if lex.tok != ':':
                raise lex.error("expected ':'")
            lex.advance()
            expr[key] = self.value()
            if lex.tok == '}':
                lex.advance()
                return expr
            if lex.tok != ',':
                raise lex.error("expected ',' or '}'")
            lex.advance()
            if lex.tok != "'":
                raise lex.error('expected string')

    def values(self):
        lex, out = self.lex, []
        lex.advance()
        if lex.tok == ']':
            lex.advance()
            return out
        if lex.tok not in ('{', '[', "'", 't', 'f'):
            raise lex.error("expected '{', '[', ']', string, or boolean")
        while True:
            out.append(self.value())
            if lex.tok == ']':
                lex.advance()
                return out
            if lex.tok != ',':
                raise lex.error("expected ',' or ']'")
            lex.advance()

    # ---- top level ----

    def parse(self):
        lex, doc = self.lex, None
        lex.advance()
        while lex.tok is not None:
            info = lex.here()
            if lex.tok == '#':
                if doc and doc.symbol:
                    raise QAPIError(doc.info, "documentation for '%s' is not followed by the definition" % doc.symbol)
                doc = Doc(info, lex.doc_lines())
                self.docs.append((self.module, doc))
                lex.advance()
                continue
            if lex.tok != '{':
                raise lex.error("expected '{'")
            expr = self.members()
            if 'include' in expr:
                self.reject_doc(doc)
                self.include(expr, info)
            elif 'pragma' in expr:
                self.reject_doc(doc)
                self.pragmas(expr, info)
            else:
                self.define(expr, doc if doc and doc.symbol else None, info)
            doc = None
        self.reject_doc(doc)

    @staticmethod
    def reject_doc(doc):
        if doc and doc.symbol:
            raise QAPIError(doc.info, "documentation for '%s' is not followed by the definition" % doc.symbol)

    def include(self, expr, info):
        if set(expr) != {'include'}:
            raise QAPIError(info, "invalid 'include' directive")
        name = expr['include']
        if not isinstance(name, str):
            raise QAPIError(info, "value of 'include' must be a string")
        path = os.path.join(os.path.dirname(self.fname), name)
        absolute = os.path.abspath(path)
        up = info
        while up:
            if os.path.abspath(up.fname) == absolute:
                raise QAPIError(info, 'inclusion loop for %s' % name)
            up = up.parent
        if absolute in self.seen:
            return
        self.seen.add(absolute)
        sub = Parser(path, info, self.seen, self.pragma)
        self.definitions += sub.definitions
        self.docs += sub.docs
        self.files += sub.files

    def pragmas(self, expr, info):
        if set(expr) != {'pragma'}:
            raise QAPIError(info, "invalid 'pragma' directive")
        if not isinstance(expr['pragma'], dict):
            raise QAPIError(info, "value of 'pragma' must be an object")
        for name, value in expr['pragma'].items():
            if name == 'doc-required':
                if not isinstance(value, bool):
                    raise QAPIError(info, "pragma 'doc-required' must be boolean")
                self.pragma.doc_required = value
            elif name in Pragma.LISTS:
                if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                    raise QAPIError(info, "pragma %s must be a list of strings" % name)
                self.pragma.lists[name] += value
            else:
                raise QAPIError(info, "unknown pragma '%s'" % name)

    def define(self, expr, doc, info):
        self.definitions.append(Definition(info, expr, doc, self.module))
