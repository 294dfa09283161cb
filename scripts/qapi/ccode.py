# SPDX-License-Identifier: BSD-3-Clause
"""Helpers that all C outputs share."""
from .schema import Alternate, Array, Builtin, Enum, Object, c_name


def guard(ifcond, text):
    """text inside the preprocessor condition that ifcond stands for."""
    if not ifcond:
        return text
    return '#if %s\n%s#endif /* %s */\n' % (condition(ifcond), text, condition(ifcond))


def condition(c):
    if isinstance(c, str):
        return 'defined(%s)' % c
    key, val = next(iter(c.items()))
    if key == 'not':
        return '!%s' % condition(val)
    joiner = ' && ' if key == 'all' else ' || '
    return '(%s)' % joiner.join(condition(v) for v in val)


def is_pointer(t):
    return isinstance(t, (Object, Alternate, Array)) or (isinstance(t, Builtin) and t.name in ('str', 'any'))


def c_type(t):
    """How a member or list element of type t is declared, ending in a blank or a star."""
    if isinstance(t, Builtin):
        return t.c_type if t.c_type.endswith('*') else t.c_type + ' '
    return t.name + (' ' if isinstance(t, Enum) else ' *')


def used_types(schema):
    """All enums, objects, alternates and arrays, in an order in which embedded ones come first."""
    out, seen = [], set()

    def visit(t, embedded):
        if isinstance(t, Builtin) or t is None:
            return
        if isinstance(t, Array):
            visit(t.element, False)
        if t in seen:
            return
        if isinstance(t, Object):
            # what is embedded must be complete before
            if t.base:
                visit(t.base, True)
            for _, b, _ in t.branches:
                visit(b, True)
        seen.add(t)
        out.append(t)

    for e in schema.entities:
        if isinstance(e, (Enum, Object, Alternate)):
            visit(e, False)
    for a in schema.arrays.values():
        visit(a, False)
    return out


def file_head(what, extra=''):
    return ('/* SPDX-License-Identifier: BSD-3-Clause */\n'
            '/* %s: made by scripts/qapi from the schema; changes belong there. */\n%s' % (what, extra))


__all__ = ['guard', 'condition', 'is_pointer', 'c_type', 'used_types', 'file_head', 'c_name']
