# SPDX-License-Identifier: BSD-3-Clause
"""Functions that send events: build the data, hand it to the runtime."""
from .ccode import File, c_enum, c_name, c_type, guard, is_pointer, table_of


def has_flag(m):
    return m.optional and not is_pointer(m.type)


def parameters(ev, schema):
    if ev.arg is schema.empty:
        return 'void'
    if 'boxed' in ev.flags:
        return 'const %s *arg' % ev.arg.c_type_name()
    out = []
    for m in ev.arg.members():
        if has_flag(m):
            out.append('bool has_%s' % c_name(m.name))
        declaration = c_type(m.type)
        if declaration == 'char *':
            declaration = 'const char *'
        out.append(declaration + c_name(m.name))
    return ', '.join(out)


def prototype(ev, schema, prefix):
    return 'void %sqapi_event_send_%s(%s)' % (c_name(prefix), c_name(ev.name.lower()), parameters(ev, schema))


def function(ev, schema, prefix, enum):
    emit = '    qapi_event_emit(%s, "%s", %%s);\n' % (c_enum(enum, ev.name), ev.name)
    text = prototype(ev, schema, prefix) + '\n{\n'
    if ev.arg is schema.empty:
        text += emit % 'NULL'
    elif 'boxed' in ev.flags:
        text += emit % ('qapi_serialise(%s, arg)' % table_of(ev.arg))
    else:
        text += '    %s q_data = {\n' % ev.arg.c_type_name()
        for m in ev.arg.members():
            n = c_name(m.name)
            if has_flag(m):
                text += '        .has_%s = has_%s,\n' % (n, n)
            # the table reads only
            cast = '(char *)' if c_type(m.type) == 'char *' else ''
            text += '        .%s = %s%s,\n' % (n, cast, n)
        text += '    };\n\n' + emit % ('qapi_serialise(%s, &q_data)' % table_of(ev.arg))
    return guard(ev.ifcond, text + '}\n')


def generate(schema, prefix):
    events = schema.events()
    enum = c_name(prefix) + 'QapiEvent' if prefix else 'QapiEvent'
    head = File(prefix, 'qapi-events.h', 'Events')
    head.add('#include "%sqapi-types.h"\n#include "qapi/event.h"\n\n' % prefix)
    head.add('typedef enum %s {\n' % enum)
    for e in events:
        head.add(guard(e.ifcond, '    %s,\n' % c_enum(enum, e.name)))
    head.add('    %s,\n} %s;\n\n' % (c_enum(enum, '_max'), enum))
    head.add('/* Control thread.  Arguments stay the caller\'s. */\n')
    for e in events:
        head.add(guard(e.ifcond, prototype(e, schema, prefix) + ';\n'))
    body = File(prefix, 'qapi-events.c', 'Sending events')
    body.add('#include "%s"\n' % head.name)
    for e in events:
        body.add('\n', function(e, schema, prefix, enum))
    return [head, body]
