# SPDX-License-Identifier: BSD-3-Clause
"""The reply of query-qmp-schema: names of types are masked by numbers, in order of first mention.

Conditions: an entry, member or value that is compiled in only under a condition becomes a separate piece of the literal.
The literal is an array of pieces, each a JSON object as text.
"""
import json

from .ccode import file_head, guard
from .schema import Alternate, Array, Builtin, Command, Enum, Event, Object


class Introspection:
    def __init__(self, schema, unmask=False):
        self.schema, self.unmask = schema, unmask
        self.names, self.work, self.entries = {}, [], []

    def name_of(self, t):
        if isinstance(t, Builtin):
            if t.json == 'int':
                t = self.schema.types['int']
        if isinstance(t, Array):
            name = '[' + self.name_of(t.element) + ']'
            if name not in self.names:
                self.names[name] = name
                self.work.append(t)
            return name
        if isinstance(t, Builtin):
            if t.name not in self.names:
                self.names[t.name] = t.name
                self.work.append(t)
            return t.name
        if t not in self.names:
            self.names[t] = t.name if self.unmask else str(len([n for n in self.names if not isinstance(n, str)]))
            self.work.append(t)
        return self.names[t]

    @staticmethod
    def features(ent, obj):
        if ent.features:
            obj['features'] = [f.name for f in ent.features]
        return obj

    def member(self, m):
        obj = {'name': m.name, 'type': self.name_of(m.type)}
        if m.optional:
            obj['default'] = None
        return self.features(m, obj)

    def entry(self, t):
        if isinstance(t, Builtin):
            return {'name': self.name_of(t), 'meta-type': 'builtin', 'json-type': t.json}
        if isinstance(t, Array):
            return {'name': self.name_of(t), 'meta-type': 'array', 'element-type': self.name_of(t.element)}
        obj = {'name': self.name_of(t)}
        if isinstance(t, Enum):
            obj['meta-type'] = 'enum'
            obj['members'] = [(v.ifcond, self.features(v, {'name': v.name})) for v in t.values]
            obj['values'] = [(v.ifcond, v.name) for v in t.values]
        elif isinstance(t, Alternate):
            obj['meta-type'] = 'alternate'
            obj['members'] = [(b.ifcond, {'type': self.name_of(b.type)}) for b in t.branches]
        elif isinstance(t, Object):
            obj['meta-type'] = 'object'
            obj['members'] = [(m.ifcond, self.member(m)) for m in t.members()]
            if t.tag:
                obj['tag'] = t.tag
                have = {v: (b, i) for v, b, i in t.branches}
                obj['variants'] = []
                for v in t.tag_member().type.values:
                    b, ifcond = have.get(v.name, (self.schema.empty, None))
                    obj['variants'].append((ifcond or v.ifcond, {'case': v.name, 'type': self.name_of(b)}))
        return self.features(t, obj)

    def run(self):
        for e in self.schema.entities:
            if isinstance(e, (Command, Event)):
                self.entries.append((e.ifcond, self.command_entry(e)))
        while self.work:
            t = self.work.pop(0)
            self.entries.append((t.ifcond, self.entry(t)))
        return self.entries

    def command_entry(self, e):
        if isinstance(e, Command):
            obj = {'name': e.name, 'meta-type': 'command', 'arg-type': self.name_of(e.arg),
                   'ret-type': self.name_of(e.ret if e.ret is not None else self.schema.empty)}
            if e.flags.get('allow-oob'):
                obj['allow-oob'] = True
        else:
            obj = {'name': e.name, 'meta-type': 'event', 'arg-type': self.name_of(e.arg)}
        return self.features(e, obj)


def c_string(text):
    return '"' + text.replace('\\', '\\\\').replace('"', '\\"') + '"'


def entry_text(obj):
    """C string pieces of one entry; list elements may carry conditions."""
    out, first = [], True
    for key, val in obj.items():
        head = ('{' if first else ', ') + json.dumps(key) + ': '
        first = False
        if isinstance(val, list) and val and isinstance(val[0], tuple):
            out.append('    %s\n' % c_string(head + '['))
            for i, (cond, item) in enumerate(val):
                # a conditional element is never the first one
                text = ('' if i == 0 else ', ') + json.dumps(item)
                out.append(guard(cond, '    %s\n' % c_string(text)))
            out.append('    "]"\n')
        else:
            out.append('    %s\n' % c_string(head + json.dumps(val)))
    return ''.join(out) + '    "}"\n'


def generate(schema, unmask=False):
    entries = Introspection(schema, unmask).run()
    head = file_head('Introspection', '#ifndef QAPI_INTROSPECT_H\n#define QAPI_INTROSPECT_H\n\n'
                     '/* The reply of query-qmp-schema, one JSON object a string; NULL ends it. */\n'
                     'extern const char *const qapi_introspection[];\n\n#endif\n')
    body = file_head('The reply of query-qmp-schema', '#include "qapi-introspect.h"\n#include <stddef.h>\n\n'
                     'const char *const qapi_introspection[] = {\n')
    for cond, obj in entries:
        text = entry_text(obj)
        body += guard(cond, text.rstrip('\n') + ',\n')
    return {'qapi-introspect.h': head, 'qapi-introspect.c': body + '    NULL,\n};\n'}
