# SPDX-License-Identifier: BSD-3-Clause
"""C types, and the tables by which the runtime parses, serialises, copies and frees them."""
from .ccode import File, c_enum, c_name, c_type, guard, is_pointer, table_of, used_types
from .schema import Alternate, Array, Enum, Object

KINDS = {'object': 'OBJECT', 'string': 'STRING', 'int': 'NUMBER', 'number': 'NUMBER',
         'boolean': 'BOOLEAN', 'null': 'NULL'}


def json_kind(t):
    if isinstance(t, Object):
        return 'QAPI_KIND_OBJECT'
    if isinstance(t, Array):
        return 'QAPI_KIND_ARRAY'
    return 'QAPI_KIND_' + ('STRING' if isinstance(t, Enum) else KINDS[t.json])


def has_flag(m):
    return m.optional and not is_pointer(m.type)


# ---- declarations ----

def member_decl(m):
    name = c_name(m.name)
    text = '    bool has_%s;\n' % name if has_flag(m) else ''
    return guard(m.ifcond, text + '    %s%s;\n' % (c_type(m.type), name))


def union_decl(branches, type_of):
    text = ''.join(guard(b.ifcond, '        %s%s;\n' % (type_of(b.type), c_name(b.name)))
                   for b in branches)
    return '    union {\n%s    } u;\n' % text


def declare_enum(t):
    text = ''.join(guard(v.ifcond, '    %s,\n' % c_enum(t.prefix, v.name)) for v in t.values)
    text += '    %s,\n' % c_enum(t.prefix, '_max')
    n = t.c_type_name()
    return ('typedef enum %s {\n%s} %s;\n'
            '/* The name of a value, which must be one; static. */\n'
            'const char *qapi_enum_%s(int value);\n' % (n, text, n, n))


def declare(t):
    n = t.c_type_name()
    if isinstance(t, Enum):
        return guard(t.ifcond, declare_enum(t))
    if isinstance(t, Array):
        body = '    %s *next;\n    %svalue;\n' % (n, c_type(t.element))
    elif isinstance(t, Alternate):
        body = '    QapiKind type;\n' + union_decl(t.branches, c_type)
    else:
        body = ''.join(member_decl(m) for m in t.members())
        if t.branches:
            body += union_decl(t.branches, lambda b: b.c_type_name() + ' ')
        if not body or all(m.ifcond for m in t.members()):
            body += '    char empty; /* C wants a member */\n'
    return guard(t.ifcond, 'struct %s {\n%s};\n' % (n, body))


# ---- tables ----

def count(kind, table):
    return '    .%s = %s,\n    .%s_count = G_N_ELEMENTS(%s),\n' % (
        'members' if kind == 'member' else 'branches', table, kind, table)


def member_rows(t):
    n, text = t.c_type_name(), ''
    for m in t.members():
        name = c_name(m.name)
        flag = 'offsetof(%s, has_%s)' % (n, name) if has_flag(m) else '-1'
        text += guard(m.ifcond, '    {"%s", %s, offsetof(%s, %s), %s, %s},\n' % (
            m.name, table_of(m.type), n, name, flag, 'true' if m.optional else 'false'))
    return text


def branch_rows(t, value_of):
    n = t.c_type_name()
    return ''.join(guard(b.ifcond, '    {%s, %s, offsetof(%s, u.%s)},\n' % (
        value_of(b), table_of(b.type), n, c_name(b.name))) for b in t.branches)


def table(t, meta, before, fields):
    n = t.c_type_name()
    return ('%sconst QapiType qapi_type_%s = {\n    .name = "%s",\n    .meta = QAPI_META_%s,\n'
            '    .size = sizeof(%s),\n%s};\n' % (before, n, t.name, meta, n, fields))


def define_enum(t):
    n = t.c_type_name()
    rows = ''.join(guard(v.ifcond, '    [%s] = "%s",\n' % (c_enum(t.prefix, v.name), v.name))
                   for v in t.values)
    return table(t, 'ENUM', 'static const char *const %s_names[] = {\n%s};\n' % (n, rows),
                 '    .enum_names = %s_names,\n    .enum_count = G_N_ELEMENTS(%s_names),\n' % (n, n)) + (
        'const char *qapi_enum_%s(int value)\n{\n    return %s_names[value];\n}\n' % (n, n))


def define_object(t):
    n, before, fields = t.c_type_name(), '', ''
    rows = member_rows(t)
    if rows:
        before += 'static const QapiMember %s_members[] = {\n%s};\n' % (n, rows)
        fields += count('member', n + '_members')
    if t.branches:
        tag = t.tag_member()
        before += 'static const QapiBranch %s_branches[] = {\n%s};\n' % (
            n, branch_rows(t, lambda b: c_enum(tag.type.prefix, b.name)))
        fields += count('branch', n + '_branches')
        fields += '    .tag_offset = offsetof(%s, %s),\n' % (n, c_name(t.tag))
    return table(t, 'OBJECT', before, fields)


def define(t):
    n = t.c_type_name()
    if isinstance(t, Enum):
        text = define_enum(t)
    elif isinstance(t, Array):
        text = table(t, 'LIST', '', '    .element = %s,\n    .value_offset = offsetof(%s, value),\n' %
                     (table_of(t.element), n))
    elif isinstance(t, Alternate):
        rows = branch_rows(t, lambda b: json_kind(b.type))
        text = table(t, 'ALTERNATE',
                     'static const QapiBranch %s_branches[] = {\n%s};\n' % (n, rows),
                     count('branch', n + '_branches') + '    .tag_offset = offsetof(%s, type),\n' % n)
    else:
        text = define_object(t)
    return guard(t.ifcond, text)


def generate(schema, prefix):
    types = used_types(schema)
    enums = [t for t in types if isinstance(t, Enum)]
    others = [t for t in types if not isinstance(t, Enum)]
    head = File(prefix, 'qapi-types.h', 'C types of the schema')
    head.add('#include "qapi/visit.h"\n\n')
    for t in others:
        n = t.c_type_name()
        head.add(guard(t.ifcond, 'typedef struct %s %s;\n' % (n, n)))
    for t in enums + others:
        head.add('\n', declare(t))
    head.add('\n')
    for t in types:
        text = 'extern const QapiType qapi_type_%s;\n' % t.c_type_name()
        if not isinstance(t, Enum):
            text += 'QAPI_DECLARE_TYPE_FUNCTIONS(%s)\n' % t.c_type_name()
        head.add(guard(t.ifcond, text))
    body = File(prefix, 'qapi-types.c', "Tables of the schema's types")
    body.add('#include "%s"\n' % head.name)
    for t in types:
        body.add('\n', define(t))
    return [head, body]
