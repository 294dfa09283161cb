# SPDX-License-Identifier: BSD-3-Clause
"""What all C outputs share: conditions, declarations, the order of types, the frame of files."""
import re

from .names import c_enum, c_name
from .schema import Alternate, Array, Builtin, Enum, Object


def condition(c):
    """The preprocessor expression of an `if`."""
    if isinstance(c, str):
        return 'defined(%s)' % c
    key, val = next(iter(c.items()))
    if key == 'not':
        return '!%s' % condition(val)
    return '(%s)' % {'all': ' && ', 'any': ' || '}[key].join(condition(v) for v in val)


def guard(ifcond, text):
    """text, within that condition."""
    if not ifcond or not text:
        return text
    return '#if %s\n%s#endif /* %s */\n' % (condition(ifcond), text, condition(ifcond))


def is_pointer(t):
    """Members and elements of this type are pointers; NULL: absent."""
    return not isinstance(t, Enum) and not (isinstance(t, Builtin) and not t.c_type.endswith('*'))


def c_type(t):
    """How a member or element is declared, up to its name."""
    if isinstance(t, Builtin):
        return t.c_type if t.c_type.endswith('*') else t.c_type + ' '
    return t.c_type_name() + (' *' if is_pointer(t) else ' ')


def table_of(t):
    return '&qapi_type_%s' % t.c_type_name()


def used_types(schema):
    """All types that need C code, those that are embedded in others before these."""
    out = []

    def visit(t):
        if t in out:
            return
        if isinstance(t, Object):
            for b in t.branches:
                visit(b.type)
        out.append(t)

    for e in schema.entities:
        if isinstance(e, (Enum, Object, Alternate)):
            visit(e)
    refs = [m.type for t in out if isinstance(t, Object) for m in t.local]
    if schema.names['QType'] in refs or 'QType' in schema.arrays:
        out.insert(0, schema.names['QType'])
    # the runtime has arrays of built-in types
    return out + [a for a in schema.arrays.values() if not isinstance(a.element, Builtin)]


class File:
    """A file to be written; `prefix` as on the generator's command line."""

    def __init__(self, prefix, name, about):
        self.name = prefix + name
        self.text = ('/* SPDX-License-Identifier: BSD-3-Clause */\n'
                     '/* %s.  Made by scripts/qapi from a schema: changes belong there. */\n' % about)
        self.is_header = name.endswith('.h')
        if self.is_header:
            self.macro = re.sub(r'[^A-Z0-9]', '_', self.name.upper())
            self.text += '#ifndef %s\n#define %s\n\n' % (self.macro, self.macro)

    def add(self, *texts):
        for text in texts:
            self.text += text

    def done(self):
        if self.is_header:
            self.text += '\n#endif\n'
        return self.text


__all__ = ['condition', 'guard', 'is_pointer', 'c_type', 'c_name', 'c_enum', 'table_of',
           'used_types', 'File', 'Array']
