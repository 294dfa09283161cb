# SPDX-License-Identifier: BSD-3-Clause
"""The form of definitions: their keys, names, conditions and features.

check_definition() sees one definition at a time, without knowing the others.  It brings what may
be written in two ways into the longer one: a member, value, branch or feature is a dict
afterwards.
"""
import re

from .source import QAPIError

METAS = ('enum', 'struct', 'union', 'alternate', 'command', 'event')
KEYS = {  # mandatory and optional ones
    'enum': (['enum', 'data'], ['prefix', 'if', 'features']),
    'struct': (['struct', 'data'], ['base', 'if', 'features']),
    'union': (['union', 'base', 'discriminator', 'data'], ['if', 'features']),
    'alternate': (['alternate', 'data'], ['if', 'features']),
    'command': (['command'], ['data', 'returns', 'boxed', 'gen', 'success-response', 'allow-oob',
                              'allow-preconfig', 'coroutine', 'if', 'features']),
    'event': (['event'], ['data', 'boxed', 'if', 'features']),
}
FLAGS = {'gen': False, 'success-response': False, 'boxed': True, 'allow-oob': True,
         'allow-preconfig': True, 'coroutine': True}
NAME = re.compile(r'(__[A-Za-z0-9.-]+_)?([xX]-)?([A-Za-z][A-Za-z0-9_-]*)')


def check_definition(d, pragma):
    """Returns the kind and the name of the definition d."""
    expr, info = d.expr, d.info
    metas = [m for m in METAS if m in expr]
    if len(metas) != 1:
        raise QAPIError(info, 'expression must have exactly one key %s' %
                        ', '.join("'%s'" % m for m in METAS))
    meta = metas[0]
    check_name_is_str(expr[meta], info, "'%s'" % meta)
    name = expr[meta]
    info.set_defn(meta, name)
    _definition_name(meta, name, info, pragma)
    _keys(expr, info, meta, *KEYS[meta])
    for flag, value in FLAGS.items():
        if flag in expr and expr[flag] is not value:
            raise QAPIError(info, "flag '%s' may only use %s value" % (flag, str(value).lower()))
    if 'allow-oob' in expr and 'coroutine' in expr:
        raise QAPIError(info, "flags 'allow-oob' and 'coroutine' are incompatible")
    _Checker(info, expr, pragma, meta, name).check()
    check_if(expr, info, meta)
    check_features(expr, info)
    return meta, name


# ---- names ----

def check_name_is_str(name, info, source):
    if not isinstance(name, str):
        raise QAPIError(info, '%s requires a string name' % source)


def _stem(name, info, source):
    """The name without prefixes; q_ is ours."""
    m = NAME.fullmatch(name)
    if not m or re.sub('-', '_', name).startswith('q_'):
        raise QAPIError(info, '%s has an invalid name' % source)
    return m.group(3)


def _lower(name, info, source, upper_ok=False, underscore_ok=False):
    stem = _stem(name, info, source)
    if (not upper_ok and re.search('[A-Z]', stem)) or (not underscore_ok and '_' in stem):
        raise QAPIError(info, "name of %s must not use uppercase or '_'" % source)


def _definition_name(meta, name, info, pragma):
    if meta == 'event':
        if re.search('[a-z-]', _stem(name, info, meta)):
            raise QAPIError(info, "name of %s must not use lowercase or '-'" % meta)
    elif meta == 'command':
        _lower(name, info, meta, underscore_ok=name in pragma.lists['command-name-exceptions'])
    else:
        stem = _stem(name, info, meta)
        if not re.fullmatch('[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*', stem):
            raise QAPIError(info, 'name of %s must use CamelCase' % meta)
        if name.endswith('List'):
            raise QAPIError(info, "%s name should not end in 'List'" % meta)


# ---- keys, conditions, features ----

def _pprint(names):
    return ', '.join("'%s'" % n for n in sorted(names))


def _keys(value, info, source, required, optional):
    missing = set(required) - set(value)
    if missing:
        raise QAPIError(info, '%s misses key%s %s' % (
            source, 's' if len(missing) > 1 else '', _pprint(missing)))
    unknown = set(value) - set(required) - set(optional)
    if unknown:
        raise QAPIError(info, '%s has unknown key%s %s\nValid keys are %s.' % (
            source, 's' if len(unknown) > 1 else '', _pprint(unknown),
            _pprint(set(required) | set(optional))))


def check_if(expr, info, source):
    def check(cond):
        if isinstance(cond, str):
            if not re.fullmatch('[A-Z][A-Z0-9_]*', cond):
                raise QAPIError(info, "'if' condition '%s' of %s is not a valid identifier" %
                                (cond, source))
            return
        if not isinstance(cond, dict):
            raise QAPIError(info, "'if' condition of %s must be a string or an object" % source)
        _keys(cond, info, "'if' condition of %s" % source, [], ['all', 'any', 'not'])
        if len(cond) != 1:
            raise QAPIError(info, "'if' condition of %s has conflicting keys" % source)
        key, operands = next(iter(cond.items()))
        if key == 'not':
            check(operands)
            return
        if not isinstance(operands, list):
            raise QAPIError(info, "'%s' condition of %s must be an array" % (key, source))
        if not operands:
            raise QAPIError(info, "'if' condition [] of %s is useless" % source)
        for operand in operands:
            check(operand)

    if 'if' in expr:
        check(expr['if'])


def check_features(expr, info):
    features = expr.get('features', [])
    if not isinstance(features, list):
        raise QAPIError(info, "'features' must be an array")
    features[:] = [f if isinstance(f, dict) else {'name': f} for f in features]
    for f in features:
        source = "'features' member"
        _keys(f, info, source, ['name'], ['if'])
        check_name_is_str(f['name'], info, source)
        source = "%s '%s'" % (source, f['name'])
        _lower(f['name'], info, source)
        check_if(f, info, source)


# ---- data ----

class _Checker:
    def __init__(self, info, expr, pragma, meta, name):
        self.info, self.expr, self.meta = info, expr, meta
        self.exempt = name in pragma.lists['member-name-exceptions']

    def check(self):
        getattr(self, '_' + self.meta)()

    def _fail(self, msg):
        raise QAPIError(self.info, msg)

    def _type_name(self, value, source):
        if not isinstance(value, str):
            self._fail('%s should be a type name' % source)

    def _type_name_or_array(self, value, source):
        if not isinstance(value, list):
            if not isinstance(value, str):
                self._fail('%s should be a type name or array' % source)
        elif len(value) != 1 or not isinstance(value[0], str):
            self._fail('%s: array type must contain single type name' % source)

    def _members(self, data, source):
        for key in list(data):
            label = "%s member '%s'" % (source, key)
            name = key[1:] if key.startswith('*') else key
            _lower(name, self.info, label, self.exempt, self.exempt)
            c = name.replace('-', '_')
            if c == 'u' or c == 'has' or c.startswith('has_'):
                self._fail('%s uses reserved name' % label)
            if not isinstance(data[key], dict):
                data[key] = {'type': data[key]}
            _keys(data[key], self.info, label, ['type'], ['if', 'features'])
            check_if(data[key], self.info, label)
            check_features(data[key], self.info)
            self._type_name_or_array(data[key]['type'], label)

    def _members_or_name(self, data, source):
        if isinstance(data, dict):
            self._members(data, source)
        elif not isinstance(data, str):
            self._fail('%s should be an object or type name' % source)

    def _branches(self, array_ok):
        data = self.expr['data']
        if not isinstance(data, dict):
            self._fail("'data' must be an object")
        for key in list(data):
            label = "'data' member '%s'" % key
            if self.meta == 'alternate':
                _lower(key, self.info, label)
            if not isinstance(data[key], dict):
                data[key] = {'type': data[key]}
            _keys(data[key], self.info, label, ['type'], ['if'])
            check_if(data[key], self.info, label)
            if array_ok:
                self._type_name_or_array(data[key]['type'], label)
            else:
                self._type_name(data[key]['type'], label)

    def _enum(self):
        values, prefix = self.expr['data'], self.expr.get('prefix')
        if not isinstance(values, list):
            self._fail("'data' must be an array")
        if prefix is not None and not isinstance(prefix, str):
            self._fail("'prefix' must be a string")
        values[:] = [v if isinstance(v, dict) else {'name': v} for v in values]
        for v in values:
            source = "'data' member"
            _keys(v, self.info, source, ['name'], ['if', 'features'])
            check_name_is_str(v['name'], self.info, source)
            source = "%s '%s'" % (source, v['name'])
            name = v['name']
            if name[:1].isdigit():
                name = 'd' + name
            _lower(name, self.info, source, self.exempt, self.exempt)
            check_if(v, self.info, source)
            check_features(v, self.info)

    def _struct(self):
        if not isinstance(self.expr['data'], dict):
            self._fail("'data' should be an object or type name")
        self._members(self.expr['data'], "'data'")
        if 'base' in self.expr:
            self._type_name(self.expr['base'], "'base'")

    def _union(self):
        self._members_or_name(self.expr['base'], "'base'")
        check_name_is_str(self.expr['discriminator'], self.info, "'discriminator'")
        self._branches(array_ok=False)

    def _alternate(self):
        if self.expr['data'] == {}:
            self._fail("'data' must not be empty")
        self._branches(array_ok=True)

    def _arguments(self):
        data = self.expr.get('data')
        if self.expr.get('boxed'):
            if data is None:
                self._fail("'boxed': true requires 'data'")
            self._type_name(data, "'data'")
        elif data is not None:
            self._members_or_name(data, "'data'")

    def _command(self):
        self._arguments()
        if 'returns' in self.expr:
            self._type_name_or_array(self.expr['returns'], "'returns'")

    def _event(self):
        self._arguments()
