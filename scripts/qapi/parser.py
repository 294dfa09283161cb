# SPDX-License-Identifier: BSD-3-Clause
"""From tokens to definitions.

A schema file is a sequence of directives (include, pragma), definitions, and documentation
blocks.  The parser follows includes and returns all definitions in order, each as it is written,
with its documentation; expr.py checks their form, schema.py gives them meaning.
"""
import os

from .doc import Doc
from .lexer import Lexer
from .source import Info, QAPIError


NESTING_MAX = 100


class Pragma:
    """What pragmas set: shared by a whole include tree."""

    LISTS = ('command-name-exceptions', 'command-returns-exceptions', 'documentation-exceptions',
             'member-name-exceptions')

    def __init__(self):
        self.doc_required = False
        self.lists = {name: [] for name in self.LISTS}

    def set(self, name, value, info):
        if name == 'doc-required':
            if not isinstance(value, bool):
                raise QAPIError(info, "pragma 'doc-required' must be boolean")
            self.doc_required = value
        elif name in self.LISTS:
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise QAPIError(info, "pragma %s must be a list of strings" % name)
            self.lists[name] = value
        else:
            raise QAPIError(info, "unknown pragma '%s'" % name)


class Definition:
    """A definition as it is written: expr is a dict with values of str, bool, list and dict."""

    def __init__(self, info, expr, doc, module):
        self.info, self.expr, self.doc, self.module = info, expr, doc, module


class Include:
    """An include directive in `module`; module_name: of what it includes."""

    def __init__(self, module, module_name):
        self.module, self.module_name = module, module_name


class Module:
    """A file: its name relative to the main one, the definitions and free text in it, in order."""

    def __init__(self, name):
        self.name, self.contents = name, []


class Parser:
    """definitions: of the file and all it includes, in order; items: these and include
    directives; docs: all documentation; modules and files (paths) likewise."""

    def __init__(self, fname, info=None, root=None):
        self.fname = fname
        self.root = root or self
        if root is None:
            self.seen = set()
            self.pragma = Pragma()
            self.definitions, self.items, self.docs = [], [], []
            self.modules, self.files = [], []
            self.top = os.path.dirname(fname)
        self.root.seen.add(os.path.abspath(fname))
        self.root.files.append(fname)
        self.module = Module(self._module_name(fname))
        self.root.modules.append(self.module)
        try:
            with open(fname, encoding='utf-8') as f:
                text = f.read()
        except OSError as e:
            raise QAPIError(info, "can't read %s file '%s': %s" % (
                'include' if info else 'schema', fname, e.strerror)) from e
        except UnicodeDecodeError as e:
            raise QAPIError(Info(fname, parent=info), 'file is not UTF-8 text') from e
        self.lex = Lexer(text, Info(fname, parent=info))
        self._file()

    def _module_name(self, path):
        return os.path.relpath(path, self.root.top or '.')

    # ---- expressions ----

    def _value(self, depth=0):
        lex = self.lex
        if depth == NESTING_MAX:
            raise lex.error('nested too deeply')
        if lex.tok == '{':
            return self._members(depth + 1)
        if lex.tok == '[':
            return self._values(depth + 1)
        if lex.tok in ("'", 't', 'f'):
            val = lex.val
            lex.advance()
            return val
        raise lex.error("expected '{', '[', string, or boolean")

    def _members(self, depth):
        lex, expr = self.lex, {}
        lex.advance()
        if lex.tok == '}':
            lex.advance()
            return expr
        if lex.tok != "'":
            raise lex.error("expected string or '}'")
        while True:
            key = lex.val
            lex.advance()
            if lex.tok != ':':
                raise lex.error("expected ':'")
            lex.advance()
            if key in expr:
                raise lex.error("duplicate key '%s'" % key)
            expr[key] = self._value(depth)
            if lex.tok == '}':
                lex.advance()
                return expr
            if lex.tok != ',':
                raise lex.error("expected ',' or '}'")
            lex.advance()
            if lex.tok != "'":
                raise lex.error('expected string')

    def _values(self, depth):
        lex, out = self.lex, []
        lex.advance()
        if lex.tok == ']':
            lex.advance()
            return out
        if lex.tok not in ('{', '[', "'", 't', 'f'):
            raise lex.error("expected '{', '[', ']', string, or boolean")
        while True:
            out.append(self._value(depth))
            if lex.tok == ']':
                lex.advance()
                return out
            if lex.tok != ',':
                raise lex.error("expected ',' or ']'")
            lex.advance()

    # ---- top level ----

    def _file(self):
        lex, doc = self.lex, None
        lex.advance()
        while lex.tok is not None:
            info = lex.here()
            if lex.tok == '#':
                self._no_definition(doc)
                doc = Doc(info, lex.doc_lines())
                self.root.docs.append(doc)
                if not doc.symbol:
                    self.module.contents.append(doc)
                lex.advance()
                continue
            expr = self._value()
            if not isinstance(expr, dict):
                raise QAPIError(info, 'top-level expression must be an object')
            if 'include' in expr:
                self._no_definition(doc)
                self._include(expr, info)
            elif 'pragma' in expr:
                self._no_definition(doc)
                self._pragma(expr, info)
            else:
                if doc and not doc.symbol:
                    raise QAPIError(doc.info, 'definition documentation required')
                d = Definition(info, expr, doc, self.module)
                self.root.definitions.append(d)
                self.root.items.append(d)
                self.module.contents.append(d)
            doc = None
        self._no_definition(doc)

    @staticmethod
    def _no_definition(doc):
        if doc and doc.symbol:
            raise QAPIError(doc.info, "documentation for '%s' is not followed by the definition"
                            % doc.symbol)

    def _include(self, expr, info):
        if len(expr) != 1:
            raise QAPIError(info, "invalid 'include' directive")
        name = expr['include']
        if not isinstance(name, str):
            raise QAPIError(info, "value of 'include' must be a string")
        path = os.path.join(os.path.dirname(self.fname), name)
        self.root.items.append(Include(self.module, self._module_name(path)))
        absolute = os.path.abspath(path)
        up = info
        while up:
            if os.path.abspath(up.fname) == absolute:
                raise QAPIError(info, 'inclusion loop for %s' % name)
            up = up.parent
        if absolute not in self.root.seen:
            Parser(path, info, self.root)

    def _pragma(self, expr, info):
        if len(expr) != 1:
            raise QAPIError(info, "invalid 'pragma' directive")
        if not isinstance(expr['pragma'], dict):
            raise QAPIError(info, "value of 'pragma' must be an object")
        for name, value in expr['pragma'].items():
            self.root.pragma.set(name, value, info)
