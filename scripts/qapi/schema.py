# SPDX-License-Identifier: BSD-3-Clause
"""What the definitions of a schema mean: types, commands and events that refer to each other.

Passes: names are declared; contents are resolved; relations (bases, unions, alternates, clashes)
are checked; documentation is compared with what it documents.
"""
import re

from .expr import check_definition
from .names import c_name, camel
from .source import QAPIError

FEATURES_MAX = 64
SPECIAL_FEATURES = ('deprecated', 'unstable')


class Entity:
    """What has a name at the top level.  meta: as written in the schema, or 'built-in', 'array'."""
    meta = None

    def __init__(self, name, info=None, ifcond=None, features=(), doc=None, module=None):
        self.name, self.info, self.ifcond, self.features = name, info, ifcond, list(features)
        self.doc, self.module = doc, module

    def describe(self):
        return "%s '%s'" % (self.meta, self.name)


class Type(Entity):
    def describe(self):
        return "%s type '%s'" % (self.meta, self.name)

    def c_type_name(self):
        return c_name(self.name)


class Builtin(Type):
    """json: the kind of JSON values; c_type: the declaration."""
    meta = 'built-in'

    def __init__(self, name, json, c_type):
        super().__init__(name)
        self.json, self.c_type = json, c_type

    def c_type_name(self):
        return self.name  # the runtime's


class Enum(Type):
    meta = 'enum'
    prefix = None
    values = ()  # of Value


class Object(Type):
    """A struct or union.  local: members of its own; base: an Object; tag: the name of the
    discriminator; branches: of Branch; inline_base: the unnamed type of the members of a union
    that gives them itself."""
    base = tag = inline_base = None
    local = ()
    branches = ()
    implicit = False

    def __init__(self, name, info=None, ifcond=None, features=(), doc=None, module=None,
                 meta='struct'):
        super().__init__(name, info, ifcond, features, doc, module)
        self.meta = meta

    def members(self):
        return (self.base.members() if self.base else []) + list(self.local)

    def tag_member(self):
        return next(m for m in self.members() if m.name == self.tag)


class Alternate(Type):
    meta = 'alternate'
    branches = ()  # of Branch


class Array(Type):
    meta = 'array'

    def describe(self):
        return "array type ['%s']" % self.element.name

    def __init__(self, element):
        super().__init__(element.name + 'List', module=element.module, ifcond=element.ifcond)
        self.element = element


class Command(Entity):
    """arg: an Object (the empty one: no arguments); ret: a type or None; flags: those written."""
    meta = 'command'
    arg = ret = None
    flags = {}


class Event(Entity):
    meta = 'event'
    arg = None
    flags = {}


class Named:
    """A feature, value, member or branch."""
    role = None

    def __init__(self, name, info, owner, ifcond=None, features=()):
        self.name, self.info, self.owner, self.ifcond = name, info, owner, ifcond
        self.features = list(features)

    def describe(self, info):
        """owner: the type that defines it, which is only named where it is not the one at
        info."""
        if getattr(self.owner, 'implicit', False):
            role = {'-arg': 'parameter', '-base': 'base ' + self.role}[self.owner.suffix]
            owner = self.owner.of
        else:
            role, owner = self.role, self.owner
        text = "%s '%s'" % (role, self.name)
        if info is None or owner.name != info.defn_name:
            text += " of %s '%s'" % (
                owner.meta if isinstance(owner, (Command, Event)) else 'type', owner.name)
        return text


class Feature(Named):
    role = 'feature'


class Value(Named):
    role = 'value'


class Member(Named):
    role = 'member'

    def __init__(self, name, info, owner, type_, optional, ifcond=None, features=()):
        super().__init__(name, info, owner, ifcond, features)
        self.type, self.optional = type_, optional


class Branch(Named):
    """own_if: the condition as written; ifcond: and that of the enum value."""
    role = 'branch'

    def __init__(self, name, info, owner, type_, ifcond=None):
        super().__init__(name, info, owner, ifcond)
        self.type, self.own_if = type_, ifcond


BUILTINS = [
    ('str', 'string', 'char *'), ('number', 'number', 'double'), ('int', 'int', 'int64_t'),
    ('int8', 'int', 'int8_t'), ('int16', 'int', 'int16_t'), ('int32', 'int', 'int32_t'),
    ('int64', 'int', 'int64_t'), ('uint8', 'int', 'uint8_t'), ('uint16', 'int', 'uint16_t'),
    ('uint32', 'int', 'uint32_t'), ('uint64', 'int', 'uint64_t'), ('size', 'int', 'uint64_t'),
    ('bool', 'boolean', 'bool'), ('any', 'value', 'struct json_object *'),
    ('null', 'null', 'bool')]
QTYPES = ('none', 'qnull', 'qnum', 'qstring', 'qdict', 'qlist', 'qbool')


class Schema:
    """entities: all that files define, and the implicit types, in order; types by name; arrays by
    the name of the element type."""

    def __init__(self, parser):
        self.pragma, self.modules, self.files = parser.pragma, parser.modules, parser.files
        self.items, self.docs = parser.items, parser.docs
        self.names, self.entities, self.arrays = {}, [], {}
        self.feature_names = set(SPECIAL_FEATURES)
        self._predefine()
        self.entity_of = {}  # Definition -> Entity
        for d in parser.definitions:
            self._declare(d)
        for d, ent in self.entity_of.items():
            getattr(self, '_define_' + ent.meta)(ent, d.expr, d.info)
        for d, ent in self.entity_of.items():
            if isinstance(ent, Object):
                self._check_base(ent, d.info)
        for d, ent in self.entity_of.items():
            getattr(self, '_check_' + ent.meta)(ent, d.info)
        for d, ent in self.entity_of.items():
            self._check_doc(ent, d)

    def _predefine(self):
        for b in BUILTINS:
            self.names[b[0]] = Builtin(*b)
        self.empty = Object('q_empty')
        self.empty.implicit = True
        qtype = Enum('QType')
        qtype.prefix = 'QTYPE'
        qtype.values = [Value(v, None, qtype) for v in QTYPES]
        self.names['QType'] = qtype

    # ---- names ----

    def _declare(self, d):
        meta, name = check_definition(d, self.pragma)
        args = (name, d.info, d.expr.get('if'), (), d.doc, d.module)
        ent = {'enum': Enum, 'alternate': Alternate, 'command': Command,
               'event': Event}.get(meta, Object)(*args)
        ent.meta = meta
        ent.features = self._features(d.expr, d.info, ent)
        if isinstance(ent, Type):
            for f in ent.features:
                if f.name in SPECIAL_FEATURES:
                    raise QAPIError(d.info, "feature '%s' is not supported for types" % f.name)
        other = self.names.get(name)
        if other:
            if other.info is None:
                raise QAPIError(d.info, '%s is already defined' % other.describe())
            raise QAPIError(d.info, "'%s' is already defined\n%s" % (
                name, QAPIError(other.info, 'previous definition')))
        self.names[name] = ent
        self.entities.append(ent)
        self.entity_of[d] = ent

    def _features(self, expr, info, owner):
        out = [Feature(f['name'], info, owner, f.get('if')) for f in expr.get('features', [])]
        self._no_clash(out, info)
        self.feature_names.update(f.name for f in out)
        if len(self.feature_names) > FEATURES_MAX:
            raise QAPIError(info, 'Maximum of %d schema features is permitted' % FEATURES_MAX)
        return out

    @staticmethod
    def _no_clash(named, info, seen=None):
        """No two have one name in C; seen: names already taken."""
        seen = {} if seen is None else seen
        for n in named:
            c = c_name(n.name)
            if c in seen:
                raise QAPIError(info, '%s collides with %s' % (n.describe(info),
                                                               seen[c].describe(info)))
            seen[c] = n
        return seen

    # ---- contents ----

    def _lookup(self, name, info, what):
        if isinstance(name, list):
            element = self._lookup(name[0], info, info.defn_meta)
            return self.arrays.setdefault(element.name, Array(element))
        t = self.names.get(name)
        if not isinstance(t, Type):
            raise QAPIError(info, "%s uses unknown type '%s'" % (what, name))
        return t

    def _members(self, data, info, owner):
        out = []
        for key, val in data.items():
            m = Member(key.lstrip('*'), info, owner, None, key.startswith('*'), val.get('if'))
            m.type = self._lookup(val['type'], info, m.describe(info))
            m.features = self._features(val, info, m)
            out.append(m)
        return out

    def _implicit(self, ent, suffix, data, info):
        """The type of inline members; suffix as in the names that messages and dumps use."""
        if not data:
            return self.empty
        schema_name = 'q_obj_%s%s' % (ent.name, suffix)
        name = {'-arg': camel(ent.name.lower() if ent.meta == 'event' else ent.name) + 'Arg',
                '-base': ent.name + 'Base'}[suffix]
        if name in self.names:
            name = schema_name  # less handsome, but nobody else's
        obj = Object(name, info, ent.ifcond, module=ent.module)
        obj.implicit, obj.suffix, obj.of = True, suffix, ent
        obj.schema_name = schema_name
        obj.local = self._members(data, info, obj)
        if suffix == '-arg':
            self._no_clash(obj.local, info)
            self.names[name] = obj
            self.entities.append(obj)
        return obj

    def _define_enum(self, ent, expr, info):
        ent.prefix = expr.get('prefix') or ent.name
        ent.values = []
        for v in expr['data']:
            value = Value(v['name'], info, ent, v.get('if'))
            value.features = self._features(v, info, value)
            ent.values.append(value)
        self._no_clash(ent.values, info)

    def _define_struct(self, ent, expr, info):
        if 'base' in expr:
            ent.base = self._lookup(expr['base'], info, "'base'")
        ent.local = self._members(expr['data'], info, ent)

    def _define_union(self, ent, expr, info):
        if isinstance(expr['base'], str):
            ent.base = self._lookup(expr['base'], info, "'base'")
        else:
            ent.inline_base = self._implicit(ent, '-base', expr['base'], info)
            ent.local = ent.inline_base.local
        ent.tag = expr['discriminator']
        ent.branches = self._branches(ent, expr, info)

    def _define_alternate(self, ent, expr, info):
        ent.branches = self._branches(ent, expr, info)

    def _branches(self, ent, expr, info):
        return [Branch(name, info, ent,
                       self._lookup(val['type'], info, "branch '%s'" % name), val.get('if'))
                for name, val in expr['data'].items()]

    def _define_event(self, ent, expr, info):
        data = expr.get('data')
        if isinstance(data, str):
            ent.arg = self._lookup(data, info, "%s's 'data'" % ent.meta)
        else:
            ent.arg = self._implicit(ent, '-arg', data, info)
        ent.flags = {key: expr[key] for key in ('boxed', 'gen', 'success-response', 'allow-oob',
                                                'allow-preconfig', 'coroutine') if key in expr}

    def _define_command(self, ent, expr, info):
        self._define_event(ent, expr, info)
        if 'returns' in expr:
            ent.ret = self._lookup(expr['returns'], info, "command's 'returns'")

    # ---- relations ----

    def _check_enum(self, ent, info):
        pass

    def _check_struct(self, ent, info):
        self._no_clash(ent.members(), info)

    @staticmethod
    def _check_base(ent, info):
        seen, base = {ent}, ent.base
        while base:
            if base in seen:
                raise QAPIError(info, 'object %s contains itself' % ent.name)
            if base.meta != 'struct':
                raise QAPIError(info, "'base' requires a struct type, %s isn't" % base.describe())
            seen.add(base)
            base = base.base

    def _check_union(self, ent, info):
        base = self._no_clash(ent.members(), info)
        tag = base.get(c_name(ent.tag))
        if tag is None or tag.name != ent.tag:
            raise QAPIError(info, "discriminator '%s' is not a member of 'base'" % ent.tag)
        what = "discriminator member '%s' of %s" % (
            ent.tag, "base type '%s'" % ent.base.name if ent.base else "'base'")
        if not isinstance(tag.type, Enum):
            raise QAPIError(info, '%s must be of enum type' % what)
        if tag.optional:
            raise QAPIError(info, '%s must not be optional' % what)
        if tag.ifcond:
            raise QAPIError(info, '%s must not be conditional' % what)
        values = {v.name: v for v in tag.type.values}
        if not values:
            raise QAPIError(info, 'union has no branches')
        self._no_clash(ent.branches, info)
        for b in ent.branches:
            if b.name not in values:
                raise QAPIError(info, "branch '%s' is not a value of %s" % (b.name,
                                                                          tag.type.describe()))
            if not isinstance(b.type, Object):
                raise QAPIError(info, "branch '%s' cannot use %s" % (b.name, b.type.describe()))
            self._no_clash(self._all_members(b.type, info, (ent,)), info, dict(base))
            b.ifcond = both(values[b.name].ifcond, b.ifcond)

    def _all_members(self, obj, info, inside):
        """Members of an object, and of the branches if it is a union itself, each name once."""
        if obj in inside:
            raise QAPIError(info, 'object %s contains itself' % obj.name)
        out = {m.name: m for m in obj.members()}
        for b in obj.branches:
            if isinstance(b.type, Object):
                out.update((m.name, m) for m in self._all_members(b.type, info, inside + (obj,)))
        return list(out.values())

    def _check_alternate(self, ent, info):
        self._no_clash(ent.branches, info)
        seen = {}
        for b in ent.branches:
            kinds = json_kinds(b.type)
            if not kinds:
                raise QAPIError(info, "branch '%s' cannot use %s" % (b.name, b.type.describe()))
            for k in kinds:
                if k in seen:
                    raise QAPIError(info, "branch '%s' can't be distinguished from '%s'" %
                                    (b.name, seen[k]))
            seen.update((k, b.name) for k in kinds)

    def _check_event(self, ent, info):
        arg, boxed = ent.arg, ent.flags.get('boxed')
        if not isinstance(arg, Object):
            raise QAPIError(info, "%s's 'data' cannot take %s" % (ent.meta, arg.describe()))
        if arg.branches and not boxed:
            raise QAPIError(info, "%s's 'data' can take %s only with 'boxed': true" %
                            (ent.meta, arg.describe()))
        if not boxed and any(m.ifcond for m in arg.members()):
            raise QAPIError(info, "conditional %s arguments require 'boxed': true" % ent.meta)

    def _check_command(self, ent, info):
        self._check_event(ent, info)
        if ent.ret is None or ent.name in self.pragma.lists['command-returns-exceptions']:
            return
        t = ent.ret.element if isinstance(ent.ret, Array) else ent.ret
        if not isinstance(t, Object):
            raise QAPIError(info, "command's 'returns' cannot take %s" % ent.ret.describe())

    # ---- documentation ----

    def _check_doc(self, ent, d):
        if d.doc is None:
            if self.pragma.doc_required:
                raise QAPIError(d.info, 'documentation comment required')
            return
        if d.doc.symbol != ent.name:
            raise QAPIError(d.info, "documentation comment is for '%s'" % d.doc.symbol)
        own = self.own_members(ent)
        role = {'enum': 'value', 'alternate': 'branch', 'command': 'parameter',
                'event': 'parameter'}.get(ent.meta, 'member')
        required = (self.pragma.doc_required and
                    ent.name not in self.pragma.lists['documentation-exceptions'])
        features = [f.name for n in [ent] + list(own) for f in n.features]
        d.doc.check(ent, role, [m.name for m in own], list(dict.fromkeys(features)), required)

    # ---- for the outputs ----

    @staticmethod
    def own_members(ent):
        """What a definition itself defines, and documents."""
        if isinstance(ent, Enum):
            return ent.values
        if isinstance(ent, Object):
            return ent.local
        if isinstance(ent, Alternate):
            return ent.branches
        return ent.arg.local if ent.arg.implicit else []

    def commands_and_events(self):
        """In the order that clients see: a module's own ones before those of what it includes."""
        place = {m: i for i, m in enumerate(self.modules)}
        return sorted((e for e in self.entities if isinstance(e, (Command, Event))),
                      key=lambda e: place[e.module])

    def commands(self):
        return [e for e in self.commands_and_events() if isinstance(e, Command)]

    def events(self):
        return [e for e in self.commands_and_events() if isinstance(e, Event)]


def both(a, b):
    """The condition that both hold; None always holds."""
    if a and b and a != b:
        return {'all': [a, b]}
    return a or b


def json_kinds(t):
    """What an alternate's branch takes: the JSON kind, and what else it cannot be told from on a
    command line, where every scalar is a string; none: the type cannot be a branch."""
    if isinstance(t, Enum):
        kinds = {'string'}
        for v in t.values:
            if v.name in ('on', 'off'):
                kinds.add('boolean')
            if re.match(r'[-+0-9.]', v.name):
                kinds.add('number')
        return kinds
    if isinstance(t, Builtin):
        return {'string': {'string', 'number', 'boolean'}, 'int': {'number'}, 'value': set()}.get(
            t.json, {t.json})
    if isinstance(t, Object):
        return {'object'}
    return {'array'} if isinstance(t, Array) else set()
