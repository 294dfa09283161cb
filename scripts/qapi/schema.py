# SPDX-License-Identifier: BSD-3-Clause
"""What the definitions of a schema mean: checked types, commands and events."""
import re

from .source import QAPIError

METAS = ('enum', 'struct', 'union', 'alternate', 'command', 'event')
KEYS = {
    'enum': ({'enum', 'data'}, {'prefix', 'if', 'features'}),
    'struct': ({'struct', 'data'}, {'base', 'if', 'features'}),
    'union': ({'union', 'base', 'discriminator', 'data'}, {'if', 'features'}),
    'alternate': ({'alternate', 'data'}, {'if', 'features'}),
    'command': ({'command'}, {'data', 'returns', 'boxed', 'gen', 'success-response', 'allow-oob', 'allow-preconfig', 'coroutine',
                              'if', 'features'}),
    'event': ({'event'}, {'data', 'boxed', 'if', 'features'}),
}
FLAGS = {'boxed': True, 'gen': False, 'success-response': False, 'allow-oob': True, 'allow-preconfig': True, 'coroutine': True}


# keywords of C and macros that compilers predefine
C_RESERVED = frozenset('''auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while asm typeof
    linux unix i386 and or not xor'''.split())


def c_name(name):
    name = re.sub(r'[^A-Za-z0-9_]', '_', name)
    if name in C_RESERVED:
        return 'q_' + name
    return 'q_' + name if name[:1].isdigit() else name


def c_enum(prefix, value):
    def upper(s):
        s = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', s)
        s = re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', s)
        return re.sub(r'[^A-Za-z0-9]', '_', s).upper()
    return upper(prefix) + '_' + re.sub(r'[^A-Za-z0-9]', '_', value).upper()


def camel(name):
    return ''.join(p[:1].upper() + p[1:] for p in re.split(r'[-_]', name))


class Type:
    """Base of all types; kind: builtin, enum, object, alternate, array."""

    def __init__(self, name, info=None, ifcond=None, features=(), doc=None, module=None):
        self.name, self.info, self.ifcond, self.features, self.doc, self.module = name, info, ifcond, features, doc, module


class Builtin(Type):
    kind = 'builtin'

    def __init__(self, name, json, c_type):
        super().__init__(name)
        self.json, self.c_type = json, c_type


class Enum(Type):
    kind = 'enum'
    prefix = None
    values = ()  # of Value


class Value:
    def __init__(self, name, ifcond=None, features=()):
        self.name, self.ifcond, self.features = name, ifcond, features


class Member:
    def __init__(self, name, type_, optional=False, ifcond=None, features=()):
        self.name, self.type, self.optional, self.ifcond, self.features = name, type_, optional, ifcond, features


class Object(Type):
    """Struct or union.  local: own members; base: another Object; tag: member name; branches: [(value, Object or None, if)]."""
    kind = 'object'
    base = None
    local = ()
    tag = None
    branches = ()
    implicit = False

    def members(self):
        return (self.base.members() if self.base else []) + list(self.local)

    def tag_member(self):
        return next(m for m in self.members() if m.name == self.tag)


class Alternate(Type):
    kind = 'alternate'
    branches = ()  # of Member


class Array(Type):
    kind = 'array'

    def __init__(self, element):
        super().__init__(element.name + 'List')
        self.element = element
        self.module, self.ifcond = element.module, element.ifcond


class Command(Type):
    arg = ret = None
    flags = {}


class Event(Type):
    arg = None


BUILTINS = [('str', 'string', 'char *'), ('number', 'number', 'double'), ('int', 'int', 'int64_t'), ('int8', 'int', 'int8_t'),
            ('int16', 'int', 'int16_t'), ('int32', 'int', 'int32_t'), ('int64', 'int', 'int64_t'), ('uint8', 'int', 'uint8_t'),
            ('uint16', 'int', 'uint16_t'), ('uint32', 'int', 'uint32_t'), ('uint64', 'int', 'uint64_t'), ('size', 'int', 'uint64_t'),
            ('bool', 'boolean', 'bool'), ('any', 'value', 'struct json_object *'), ('null', 'null', 'bool')]


class Schema:
    def __init__(self, parser):
        self.pragma = parser.pragma
        self.types, self.entities, self.arrays = {}, [], {}
        for b in BUILTINS:
            self.types[b[0]] = Builtin(*b)
        self.empty = Object('q_empty')
        self.empty.implicit = True
        self.raw = []
        for d in parser.definitions:
            self.declare(d)
        for ent, d in self.raw:
            self.define(ent, d)
        for ent, d in self.raw:
            self.check(ent, d)

    # ---- pass 1: names ----

    def declare(self, d):
        expr = d.expr
        meta = [m for m in METAS if m in expr]
        if not meta:
            raise QAPIError(d.info, "expression is missing metatype")
        if len(meta) > 1:
            raise QAPIError(d.info, "expression has more than one metatype: %s" % ', '.join("'%s'" % m for m in meta))
        meta = meta[0]
        name = expr[meta]
        if not isinstance(name, str):
            raise QAPIError(d.info, "'%s' key must have a string value" % meta)
        d.info.set_defn(meta, name)
        need, may = KEYS[meta]
        self.check_keys(expr, d.info, meta, need, may)
        self.check_name(meta, name, d.info)
        cls = {'enum': Enum, 'struct': Object, 'union': Object, 'alternate': Alternate, 'command': Command, 'event': Event}[meta]
        ent = cls(name, d.info, self.cond(expr, d.info, meta), self.features(expr, d.info), d.doc, d.module)
        ent.meta = meta
        if name in self.types:
            other = self.types[name]
            if other.info is None:
                raise QAPIError(d.info, "%s '%s' is already defined" % ('built-in type', name))
            raise QAPIError(d.info, "'%s' is already defined\n%s: previous definition" % (name, other.info.loc()))
        self.types[name] = ent
        self.entities.append(ent)
        self.raw.append((ent, d))
        self.check_doc(ent, d)

    @staticmethod
    def check_keys(obj, info, what, need, may):
        missing, unknown = need - set(obj), set(obj) - need - may
        if missing:
            raise QAPIError(info, '%s misses key%s %s' % (what, 's' if len(missing) > 1 else '',
                                                          ', '.join("'%s'" % k for k in sorted(missing))))
        if unknown:
            raise QAPIError(info, "%s has unknown key%s %s\nValid keys are %s." %
                            (what, 's' if len(unknown) > 1 else '', ', '.join("'%s'" % k for k in sorted(unknown)),
                             ', '.join("'%s'" % k for k in sorted(need | may))))

    def check_name(self, meta, name, info):
        base = re.sub(r'^__[A-Za-z0-9.]+_', '', name)
        if not re.fullmatch(r'(x-)?[A-Za-z][A-Za-z0-9_-]*', base) or c_name(name).startswith('q_empty'):
            raise QAPIError(info, "%s has an invalid name" % meta)
        if meta == 'event':
            if not re.fullmatch(r'[A-Z][A-Z0-9_]*', base):
                raise QAPIError(info, "name of event '%s' must be upper case without '-'" % name)
        elif meta == 'command':
            if (base != base.lower() or '_' in base) and name not in self.pragma.lists['command-name-exceptions']:
                raise QAPIError(info, "name of command must not use uppercase or '_'")
        else:
            if not re.fullmatch(r'[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*|X[A-Za-z0-9]+', base):
                raise QAPIError(info, "name of type must use CamelCase")
            if base.endswith('List'):
                raise QAPIError(info, "%s name should not end in 'List'" % meta)

    def cond(self, expr, info, what):
        def check(c):
            if isinstance(c, str):
                if not re.fullmatch(r'[A-Z][A-Z0-9_]*', c):
                    raise QAPIError(info, "'if' condition '%s' of %s is not a valid identifier" % (c, what))
                return
            if not isinstance(c, dict) or len(c) != 1 or next(iter(c)) not in ('all', 'any', 'not'):
                raise QAPIError(info, "'if' condition of %s must be a string or an object with one of 'all', 'any', 'not'" % what)
            key, val = next(iter(c.items()))
            if key == 'not':
                check(val)
            elif not isinstance(val, list) or not val:
                raise QAPIError(info, "'%s' condition of %s must be a non-empty array" % (key, what))
            else:
                for v in val:
                    check(v)
        if 'if' not in expr:
            return None
        check(expr['if'])
        return expr['if']

    def features(self, expr, info):
        out = []
        feats = expr.get('features', [])
        if not isinstance(feats, list):
            raise QAPIError(info, "'features' must be an array")
        for f in feats:
            if isinstance(f, str):
                f = {'name': f}
            self.check_keys(f, info, "'features' member", {'name'}, {'if'})
            if f['name'] in (v.name for v in out):
                raise QAPIError(info, "feature '%s' occurs twice" % f['name'])
            out.append(Value(f['name'], self.cond(f, info, 'feature')))
        return out

    # ---- pass 2: contents ----

    def lookup(self, name, info, what, array_ok=True):
        if isinstance(name, list):
            if len(name) != 1 or not isinstance(name[0], str) or not array_ok:
                raise QAPIError(info, "%s: array type must contain single type name" % what)
            element = self.lookup(name[0], info, what, False)
            if element.name not in self.arrays:
                self.arrays[element.name] = Array(element)
            return self.arrays[element.name]
        if not isinstance(name, str):
            raise QAPIError(info, "%s should be a type name" % what)
        t = self.types.get(name)
        if t is None or isinstance(t, (Command, Event)):
            raise QAPIError(info, "%s uses unknown type '%s'" % (what, name))
        return t

    def member_list(self, data, info, what):
        if not isinstance(data, dict):
            raise QAPIError(info, "'data' should be an object or type name")
        out = []
        for key, val in data.items():
            name = key.lstrip('*') if key.startswith('*') else key
            label = "%s member '%s'" % (what, name)
            if not re.fullmatch(r'(__[A-Za-z0-9.]+_)?(x-)?[A-Za-z][A-Za-z0-9_-]*', name):
                raise QAPIError(info, "%s has an invalid name" % label)
            if name in ('u',) or name.startswith('has-') or name.startswith('has_'):
                raise QAPIError(info, "%s uses reserved name" % label)
            if (name != name.lower() or '_' in name) and info.defn_name not in self.pragma.lists['member-name-exceptions']:
                raise QAPIError(info, "name of %s must not use uppercase or '_'" % label)
            if not isinstance(val, dict):
                val = {'type': val}
            self.check_keys(val, info, label, {'type'}, {'if', 'features'})
            out.append(Member(name, self.lookup(val['type'], info, label), key.startswith('*'), self.cond(val, info, label),
                              self.features(val, info)))
        return out

    def implicit(self, name, data, ent, what):
        if not data:
            return self.empty
        obj = Object(name, ent.info, ent.ifcond, module=ent.module)
        obj.local = self.member_list(data, ent.info, what)
        obj.implicit = True
        obj.meta = 'struct'
        self.entities.append(obj)
        return obj

    def define(self, ent, d):
        expr, info, data = d.expr, d.info, d.expr.get('data')
        if ent.meta == 'enum':
            self.define_enum(ent, expr, info)
        elif ent.meta == 'struct':
            ent.local = self.member_list(data, info, "'data'")
            if 'base' in expr:
                ent.base = self.lookup(expr['base'], info, "'base'", False)
        elif ent.meta == 'union':
            self.define_union(ent, expr, info)
        elif ent.meta == 'alternate':
            ent.branches = self.member_list(data, info, "'data'")
            if not ent.branches:
                raise QAPIError(info, "alternate has no branches")
        else:
            for flag, val in FLAGS.items():
                if flag in expr and expr[flag] is not val:
                    raise QAPIError(info, "flag '%s' may only use %s value" % (flag, str(val).lower()))
            ent.flags = {f: expr[f] for f in FLAGS if f in expr}
            if expr.get('coroutine') and expr.get('allow-oob'):
                raise QAPIError(info, "flags 'allow-oob' and 'coroutine' are incompatible")
            if isinstance(data, dict):
                ent.arg = self.implicit(camel(ent.name.lower() if ent.meta == 'event' else ent.name) + 'Arg', data, ent, "'data'")
                ent.arg.schema_name = 'q_obj_%s-arg' % ent.name
            elif data is not None:
                ent.arg = self.lookup(data, info, "'data'", False)
            else:
                ent.arg = self.empty
            ret = expr.get('returns')
            ent.ret = self.lookup(ret, info, "'returns'") if ret is not None else None

    def define_enum(self, ent, expr, info):
        if not isinstance(expr['data'], list):
            raise QAPIError(info, "'data' must be an array")
        ent.prefix = expr.get('prefix', ent.name)
        ent.values = []
        for v in expr['data']:
            if isinstance(v, str):
                v = {'name': v}
            if not isinstance(v, dict):
                raise QAPIError(info, "'data' member must be a string or an object")
            self.check_keys(v, info, "'data' member", {'name'}, {'if', 'features'})
            if v['name'] in (o.name for o in ent.values):
                raise QAPIError(info, "value '%s' collides with value '%s'" % (v['name'], v['name']))
            ent.values.append(Value(v['name'], self.cond(v, info, 'value'), self.features(v, info)))

    def define_union(self, ent, expr, info):
        base = expr['base']
        if isinstance(base, dict):
            ent.local = self.member_list(base, info, "'base'")
        else:
            ent.base = self.lookup(base, info, "'base'", False)
        ent.tag = expr['discriminator']
        ent.raw_branches = expr['data']
        if not isinstance(expr['data'], dict) or not expr['data']:
            raise QAPIError(info, "union has no branches")

    # ---- pass 3: relations ----

    def check(self, ent, d):
        info = d.info
        if isinstance(ent, Object):
            self.check_object(ent, info)
        elif isinstance(ent, Alternate):
            self.check_alternate(ent, info)
        elif isinstance(ent, Command) and ent.ret is not None:
            inner = ent.ret.element if isinstance(ent.ret, Array) else ent.ret
            if not isinstance(inner, Object) and ent.name not in self.pragma.lists['command-returns-exceptions']:
                raise QAPIError(info, "command's 'returns' cannot take %s type '%s'" % (inner.kind, inner.name))

    def check_object(self, ent, info):
        seen, up = {ent}, ent.base
        while up:
            if up in seen:
                raise QAPIError(info, "object %s contains itself" % ent.name)
            if not isinstance(up, Object):
                raise QAPIError(info, "'base' requires a struct type, %s type '%s' isn't" % (up.kind, up.name))
            seen.add(up)
            up = up.base
        self.check_clash(ent.members(), info)
        if ent.meta != 'union':
            return
        tag = [m for m in ent.members() if m.name == ent.tag]
        if not tag:
            raise QAPIError(info, "discriminator '%s' is not a member of 'base'" % ent.tag)
        tag = tag[0]
        if not isinstance(tag.type, Enum):
            raise QAPIError(info, "discriminator member '%s' of 'base' must be of enum type" % ent.tag)
        if tag.optional:
            raise QAPIError(info, "discriminator member '%s' of 'base' must not be optional" % ent.tag)
        if tag.ifcond:
            raise QAPIError(info, "discriminator member '%s' of 'base' must not be conditional" % ent.tag)
        values = {v.name: v for v in tag.type.values}
        ent.branches = []
        for name, val in ent.raw_branches.items():
            label = "'data' member '%s'" % name
            if not isinstance(val, dict):
                val = {'type': val}
            self.check_keys(val, info, label, {'type'}, {'if'})
            if name not in values:
                raise QAPIError(info, "branch '%s' is not a value of enum type '%s'" % (name, tag.type.name))
            t = self.lookup(val['type'], info, label, False)
            if not isinstance(t, Object):
                raise QAPIError(info, "branch '%s' cannot use %s type '%s'" % (name, t.kind, t.name))
            self.check_clash(ent.members() + t.members(), info)
            ent.branches.append((name, t, self.cond(val, info, label) or values[name].ifcond))

    @staticmethod
    def check_clash(members, info):
        seen = {}
        for m in members:
            if c_name(m.name) in seen:
                raise QAPIError(info, "member '%s' collides with member '%s'" % (m.name, seen[c_name(m.name)]))
            seen[c_name(m.name)] = m.name

    def check_alternate(self, ent, info):
        seen = {}
        for b in ent.branches:
            kind = {'object': 'object', 'enum': 'string', 'array': 'array'}.get(b.type.kind) or getattr(b.type, 'json', None)
            if kind is None or kind == 'value':
                raise QAPIError(info, "branch '%s' cannot use %s type '%s'" % (b.name, b.type.kind, b.type.name))
            clash = {'string': ('number', 'int', 'boolean'), 'int': ('number', 'string'), 'number': ('int', 'string'),
                     'boolean': ('string',)}.get(kind, ()) if not isinstance(b.type, Enum) else ()
            for k in (kind,) + tuple(clash):
                if k in seen:
                    raise QAPIError(info, "branch '%s' can't be distinguished from '%s'" % (b.name, seen[k]))
            seen[kind] = b.name

    # ---- documentation ----

    def check_doc(self, ent, d):
        doc, expr = d.doc, d.expr
        if not doc:
            if self.pragma.doc_required:
                raise QAPIError(d.info, 'documentation comment required')
            return
        if doc.symbol != ent.name:
            raise QAPIError(d.info, "documentation comment is for '%s'" % doc.symbol)
        data = expr.get('data')
        names = []
        if ent.meta == 'enum':
            names = [v if isinstance(v, str) else v.get('name') for v in data]
        elif ent.meta in ('struct', 'alternate', 'command', 'event') and isinstance(data, dict):
            names = [k.lstrip('*') for k in data]
        elif ent.meta == 'union' and isinstance(expr['base'], dict):
            names = [k.lstrip('*') for k in expr['base']]
        bogus = [n for n in doc.args if n not in names]
        if bogus:
            raise QAPIError(d.info, "documented member '%s' does not exist" % bogus[0])
        missing = [n for n in names if n not in doc.args]
        if missing and self.pragma.doc_required and ent.name not in self.pragma.lists['documentation-exceptions']:
            raise QAPIError(d.info, "%s '%s' not documented" % ('value' if ent.meta == 'enum' else 'member', missing[0]))
        for f in ent.features:
            if f.name not in doc.features and self.pragma.doc_required:
                raise QAPIError(d.info, "feature '%s' not documented" % f.name)
        if doc.section('Returns') and not expr.get('returns'):
            raise QAPIError(d.info, "'Returns' section, but command doesn't return anything")
