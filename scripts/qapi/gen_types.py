# SPDX-License-Identifier: BSD-3-Clause
"""C types, and the tables by which qapi/visit.c parses, serialises, copies and frees them."""
from .ccode import c_name, c_type, file_head, guard, is_pointer, used_types
from .schema import Alternate, Array, Enum, c_enum

KINDS = {'object': 'QAPI_KIND_OBJECT', 'string': 'QAPI_KIND_STRING', 'int': 'QAPI_KIND_NUMBER', 'number': 'QAPI_KIND_NUMBER',
         'boolean': 'QAPI_KIND_BOOLEAN', 'null': 'QAPI_KIND_NULL', 'array': 'QAPI_KIND_ARRAY'}


def has_flag(m):
    return m.optional and not is_pointer(m.type)


def member_decl(m):
    text = ''
    if has_flag(m):
        text += '    bool has_%s;\n' % c_name(m.name)
    return guard(m.ifcond, text + '    %s%s;\n' % (c_type(m.type), c_name(m.name)))


def struct_body(t):
    text = ''.join(member_decl(m) for m in t.members())
    branches = [b for b in t.branches if b[1] is not None]
    if branches:
        text += '    union {\n'
        for name, b, ifcond in branches:
            text += guard(ifcond, '        %s %s;\n' % (b.name, c_name(name)))
        text += '    } u;\n'
    return text or '    char empty; /* C wants a member */\n'


def declare(t):
    if isinstance(t, Enum):
        text = 'typedef enum %s {\n' % t.name
        for v in t.values:
            text += guard(v.ifcond, '    %s,\n' % c_enum(t.prefix, v.name))
        text += '    %s,\n} %s;\n' % (c_enum(t.prefix, '_max'), t.name)
        text += 'const char *qapi_enum_%s(int value);\n' % t.name
    elif isinstance(t, Array):
        text = 'struct %s {\n    %s *next;\n    %svalue;\n};\n' % (t.name, t.name, c_type(t.element))
    elif isinstance(t, Alternate):
        text = 'struct %s {\n    QapiKind type;\n    union {\n' % t.name
        for b in t.branches:
            text += guard(b.ifcond, '        %s%s;\n' % (c_type(b.type), c_name(b.name)))
        text += '    } u;\n};\n'
    else:
        text = 'struct %s {\n%s};\n' % (t.name, struct_body(t))
    return guard(t.ifcond, text)


def wrappers(t):
    n = t.name
    return guard(t.ifcond, 'extern const QapiType qapi_type_%s;\n'
                 'QAPI_DECLARE_TYPE_FUNCTIONS(%s)\n' % (n, n))


def type_ref(t):
    return '&qapi_type_%s' % t.name


def member_row(owner, m):
    flag = 'offsetof(%s, has_%s)' % (owner, c_name(m.name)) if has_flag(m) else '-1'
    return guard(m.ifcond, '    {"%s", %s, offsetof(%s, %s), %s, %s},\n' % (
        m.name, type_ref(m.type), owner, c_name(m.name), flag, 'true' if m.optional else 'false'))


def define(t):
    n = t.name
    if isinstance(t, Enum):
        rows = ''.join(guard(v.ifcond, '    [%s] = "%s",\n' % (c_enum(t.prefix, v.name), v.name)) for v in t.values)
        text = ('static const char *const %s_names[] = {\n%s};\n'
                'const QapiType qapi_type_%s = {.name = "%s", .meta = QAPI_META_ENUM, .size = sizeof(%s), .enum_names = %s_names,\n'
                '    .enum_count = G_N_ELEMENTS(%s_names)};\n'
                'const char *qapi_enum_%s(int value)\n{\n    return %s_names[value];\n}\n' % (n, rows, n, n, n, n, n, n, n))
    elif isinstance(t, Array):
        text = ('const QapiType qapi_type_%s = {.name = "%s", .meta = QAPI_META_LIST, .size = sizeof(%s), .element = %s,\n'
                '    .value_offset = offsetof(%s, value)};\n' % (n, n, n, type_ref(t.element), n))
    elif isinstance(t, Alternate):
        rows = ''
        for b in t.branches:
            kind = KINDS[{'object': 'object', 'enum': 'string', 'array': 'array', 'alternate': 'object'}.get(b.type.kind) or b.type.json]
            rows += guard(b.ifcond, '    {%s, %s, offsetof(%s, u.%s)},\n' % (kind, type_ref(b.type), n, c_name(b.name)))
        text = ('static const QapiBranch %s_branches[] = {\n%s};\n'
                'const QapiType qapi_type_%s = {.name = "%s", .meta = QAPI_META_ALTERNATE, .size = sizeof(%s), .branches = %s_branches,\n'
                '    .branch_count = G_N_ELEMENTS(%s_branches), .tag_offset = offsetof(%s, type)};\n' % (n, rows, n, n, n, n, n, n))
    else:
        text = define_object(t)
    return guard(t.ifcond, text)


def define_object(t):
    n, text, fields = t.name, '', ''
    rows = ''.join(member_row(n, m) for m in t.members())
    if rows:
        text += 'static const QapiMember %s_members[] = {\n%s};\n' % (n, rows)
        fields += ', .members = %s_members, .member_count = G_N_ELEMENTS(%s_members)' % (n, n)
    if t.tag:
        tag = t.tag_member()
        rows = ''.join(guard(i, '    {%s, %s, offsetof(%s, u.%s)},\n' % (c_enum(tag.type.prefix, v), type_ref(b), n, c_name(v)))
                       for v, b, i in t.branches)
        text += 'static const QapiBranch %s_branches[] = {\n%s};\n' % (n, rows)
        fields += (',\n    .branches = %s_branches, .branch_count = G_N_ELEMENTS(%s_branches), .tag_offset = offsetof(%s, %s)'
                   % (n, n, n, c_name(t.tag)))
    return text + ('const QapiType qapi_type_%s = {.name = "%s", .meta = QAPI_META_OBJECT, .size = sizeof(%s)%s};\n' %
                   (n, n, n, fields))


BUILTIN_ARRAYS = ['str', 'int', 'size', 'bool', 'number', 'uint32', 'uint64']


def generate(schema):
    types = used_types(schema)
    have = {t.name for t in types}
    for b in BUILTIN_ARRAYS:
        a = Array(schema.types[b])
        if a.name not in have:
            types.append(a)
    head = file_head('C types of the schema',
                     '#ifndef QAPI_TYPES_H\n#define QAPI_TYPES_H\n\n#include "qapi/visit.h"\n\n')
    head += ''.join(guard(t.ifcond, 'typedef struct %s %s;\n' % (t.name, t.name)) for t in types if not isinstance(t, Enum))
    head += '\n' + '\n'.join(declare(t) for t in types if isinstance(t, Enum))
    head += '\n' + '\n'.join(declare(t) for t in types if not isinstance(t, Enum)) + '\n'
    head += ''.join(wrappers(t) for t in types if not isinstance(t, Enum))
    head += ''.join(guard(t.ifcond, 'extern const QapiType qapi_type_%s;\n' % t.name) for t in types if isinstance(t, Enum))
    head += '\n#endif\n'
    body = file_head('Tables of the schema\'s types', '#include "qapi-types.h"\n\n') + '\n'.join(define(t) for t in types)
    return {'qapi-types.h': head, 'qapi-types.c': body}
