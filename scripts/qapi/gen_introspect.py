# SPDX-License-Identifier: BSD-3-Clause
"""The reply of query-qmp-schema.

Commands and events come first, module by module, then the types they mention, each when it is
first mentioned (a list that grows while it is walked).  Names of types that a schema defines are
replaced by numbers, in the same order: clients shall not depend on them.  All integer types look
the same.  What has a condition is within the same condition in C.
"""
import json

from .ccode import File, c_name, guard
from .schema import Alternate, Array, Builtin, Enum, both

NULL = object()


class Entry:
    """A JSON object with members in order.  A value may be NULL or a list of (condition, value),
    where a value may be an Entry again; None: there is no such member."""

    def __init__(self, ifcond, **members):
        self.ifcond, self.members = ifcond, members

    def pieces(self):
        """[(condition, JSON text)]: joined where the conditions hold, they are the object."""
        out, before = [], '{'
        for key, value in self.members.items():
            if value is None:
                continue
            text = '%s"%s": ' % (before, key.replace('_', '-'))
            before = ', '
            if not isinstance(value, list):
                out.append((None, text + ('null' if value is NULL else json.dumps(value))))
                continue
            out.append((None, text + '['))
            out += list_pieces(value)
            out.append((None, ']'))
        return out + [(None, '}')]

    def joined_pieces(self):
        """The same with as few pieces as there can be."""
        out = []
        for cond, text in self.pieces():
            if out and out[-1][0] == cond:
                text = out.pop()[1] + text
            out.append((cond, text))
        return out


def list_pieces(items):
    """A comma goes before every element that another one may precede: unless one surely does,
    under the condition that one of those does."""
    out, earlier = [], []
    for cond, value in items:
        if earlier:
            some = None if None in earlier else {'any': earlier[:]}
            comma = ', ' if some is None else None
        else:
            some, comma = None, ''
        if comma is None:
            out.append((both(some, cond), ', '))
            comma = ''
        inner = value.joined_pieces() if isinstance(value, Entry) else [(None, json.dumps(value))]
        for inner_cond, text in inner:
            out.append((both(cond, inner_cond), comma + text))
            comma = ''
        earlier.append(cond)
    return out


class Introspection:
    def __init__(self, schema, unmask):
        self.schema, self.unmask = schema, unmask
        self.names, self.work, self.count = {}, [], 0
        self.int_array = Array(schema.names['int'])
        self.entries = [self.top(e) for e in schema.commands_and_events()]
        while self.work:
            self.entries.append(self.entry(self.work.pop(0)))

    def use(self, t):
        """The name by which a type is mentioned."""
        if isinstance(t, Builtin) and t.json == 'int':
            t = self.schema.names['int']
        if isinstance(t, Array) and isinstance(t.element, Builtin) and t.element.json == 'int':
            t = self.int_array
        if t in self.names:
            return self.names[t]
        self.work.append(t)
        if isinstance(t, Array):
            self.names[t] = None  # before what its element mentions
            name = '[' + self.use(t.element) + ']'
        elif isinstance(t, Builtin):
            name = t.name
        elif self.unmask:
            name = getattr(t, 'schema_name', t.name)
        else:
            name = str(self.count)
            self.count += 1
        self.names[t] = name
        return name

    @staticmethod
    def features(named):
        return [(f.ifcond, f.name) for f in named.features] or None

    def top(self, e):
        members = {'name': e.name, 'meta_type': e.meta, 'arg_type': self.use(e.arg)}
        if e.meta == 'command':
            members['ret_type'] = self.use(e.ret or self.schema.empty)
            members['allow_oob'] = True if 'allow-oob' in e.flags else None
        return Entry(e.ifcond, **members, features=self.features(e))

    def entry(self, t):
        name = self.use(t)
        if isinstance(t, Builtin):
            return Entry(None, name=name, meta_type='builtin', json_type=t.json)
        if isinstance(t, Array):
            return Entry(t.ifcond, name=name, meta_type='array', element_type=self.use(t.element))
        if isinstance(t, Enum):
            members = {'meta_type': 'enum',
                       'members': [(v.ifcond, self.named(v, name=v.name)) for v in t.values],
                       'values': [(v.ifcond, v.name) for v in t.values]}
        elif isinstance(t, Alternate):
            members = {'meta_type': 'alternate',
                       'members': [(b.ifcond, Entry(None, type=self.use(b.type)))
                                   for b in t.branches]}
        else:
            members = self.object(t)
        return Entry(t.ifcond, name=name, **members, features=self.features(t))

    def object(self, t):
        members = {'meta_type': 'object', 'members': []}
        for m in t.members():
            value = {'name': m.name, 'type': self.use(m.type)}
            if m.optional:
                value['default'] = NULL
            members['members'].append((m.ifcond, self.named(m, **value)))
        if t.tag:
            have = {b.name for b in t.branches}
            members['tag'] = t.tag
            members['variants'] = [self.variant(b, b.type) for b in t.branches]
            members['variants'] += [self.variant(v, self.schema.empty)
                                    for v in t.tag_member().type.values if v.name not in have]
        return members

    def variant(self, n, t):
        return n.ifcond, Entry(None, case=n.name, type=self.use(t))

    def named(self, n, **value):
        return Entry(None, **value, features=self.features(n))


def generate(schema, prefix, unmask=False):
    symbol = c_name(prefix) + 'qapi_introspection'
    head = File(prefix, 'qapi-introspect.h', 'Introspection')
    head.add('/* The reply of query-qmp-schema: a JSON object a string, NULL ends it. */\n'
             'extern const char *const %s[];\n' % symbol)
    body = File(prefix, 'qapi-introspect.c', 'The reply of query-qmp-schema')
    body.add('#include "%s"\n#include <stddef.h>\n\nconst char *const %s[] = {\n' %
             (head.name, symbol))
    for entry in Introspection(schema, unmask).entries:
        text = ''
        for cond, piece in entry.pieces():
            text += guard(cond, '    "%s"\n' % piece.replace('\\', '\\\\').replace('"', '\\"'))
        body.add(guard(entry.ifcond, text[:-1] + ',\n'))  # the last piece has no condition
    body.add('    NULL,\n};\n')
    return [head, body]
