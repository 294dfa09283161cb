# SPDX-License-Identifier: BSD-3-Clause
"""Functions that send events."""
from .ccode import c_name, c_type, file_head, guard, is_pointer
from .schema import Event, c_enum


def params(ev):
    out = []
    for m in ev.arg.members():
        if m.optional and not is_pointer(m.type):
            out.append('bool has_%s' % c_name(m.name))
        ct = c_type(m.type)
        out.append(('const ' if ct == 'char *' else '') + ct + c_name(m.name))
    return ', '.join(out) or 'void'


def body(ev, schema):
    name = c_name(ev.name.lower())
    text = 'void qapi_event_send_%s(%s)\n{\n' % (name, params(ev))
    if ev.arg is schema.empty:
        text += '    qapi_event_emit(%s, "%s", NULL);\n}\n' % (c_enum('QapiEvent', ev.name), ev.name)
        return guard(ev.ifcond, text)
    text += '    %s data = {\n' % ev.arg.name
    for m in ev.arg.members():
        n = c_name(m.name)
        if m.optional and not is_pointer(m.type):
            text += '        .has_%s = has_%s,\n' % (n, n)
        cast = '(char *)' if c_type(m.type) == 'char *' else ''
        text += '        .%s = %s%s,\n' % (n, cast, n)
    text += '    };\n\n    qapi_event_emit(%s, "%s", qapi_serialise(&qapi_type_%s, &data));\n}\n' % (
        c_enum('QapiEvent', ev.name), ev.name, ev.arg.name)
    return guard(ev.ifcond, text)


def generate(schema):
    events = [e for e in schema.entities if isinstance(e, Event)]
    head = file_head('Events', '#ifndef QAPI_EVENTS_H\n#define QAPI_EVENTS_H\n\n#include "qapi-types.h"\n#include "qapi/event.h"\n\n')
    head += 'typedef enum QapiEvent {\n' + ''.join(guard(e.ifcond, '    %s,\n' % c_enum('QapiEvent', e.name)) for e in events)
    head += '} QapiEvent;\n\n'
    head += ''.join(guard(e.ifcond, 'void qapi_event_send_%s(%s);\n' % (c_name(e.name.lower()), params(e))) for e in events)
    head += '\n#endif\n'
    text = file_head('Sending events', '#include "qapi-events.h"\n\n') + '\n'.join(body(e, schema) for e in events)
    return {'qapi-events.h': head, 'qapi-events.c': text}
