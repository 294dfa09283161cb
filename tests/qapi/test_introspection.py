# SPDX-License-Identifier: BSD-3-Clause
"""What query-qmp-schema tells of a schema."""
import json

import pytest

from cases import union, load
from qapi import gen_introspect


def literal(schema, defined=(), unmask=False):
    """Introspection as the preprocessor leaves it."""
    entries = gen_introspect.Introspection(schema, unmask).entries

    def holds(c):
        if c is None or isinstance(c, str):
            return c is None or c in defined
        key, val = next(iter(c.items()))
        return not holds(val) if key == 'not' else {'all': all, 'any': any}[key](map(holds, val))

    return [json.loads(''.join(text for c, text in e.pieces() if holds(c)))
            for e in entries if holds(e.ifcond)]


def test_introspection(tmp_path, monkeypatch):
    schema = load(tmp_path, monkeypatch, union() + """
        { 'command': 'one', 'data': 'Uni', 'boxed': true, 'returns': [ 'Part' ],
          'allow-oob': true }
        { 'struct': 'Unused', 'data': { } }
        { 'event': 'TWO', 'data': { 'size': 'size', '*list': [ 'Kind' ] } }
        { 'command': 'three', 'features': [ 'x' ], 'returns': [ 'Part' ] }""")
    assert literal(schema) == [
        {'name': 'one', 'meta-type': 'command', 'arg-type': '0', 'ret-type': '[1]',
         'allow-oob': True},
        {'name': 'TWO', 'meta-type': 'event', 'arg-type': '2'},
        {'name': 'three', 'meta-type': 'command', 'arg-type': '3', 'ret-type': '[1]',
         'features': ['x']},
        {'name': '0', 'meta-type': 'object', 'tag': 'kind',
         'members': [{'name': 'kind', 'type': '4'}, {'name': 'opt', 'type': '4', 'default': None},
                     {'name': 'id', 'type': 'str'}],
         'variants': [{'case': 'one', 'type': '1'}, {'case': 'two', 'type': '3'},
                      {'case': 'on', 'type': '3'}]},
        {'name': '[1]', 'meta-type': 'array', 'element-type': '1'},
        {'name': '1', 'meta-type': 'object', 'members': [{'name': 'x', 'type': 'int'}]},
        {'name': '2', 'meta-type': 'object',
         'members': [{'name': 'size', 'type': 'int'},
                     {'name': 'list', 'type': '[4]', 'default': None}]},
        {'name': '3', 'meta-type': 'object', 'members': []},
        {'name': '4', 'meta-type': 'enum', 'values': ['one', 'two', 'on'],
         'members': [{'name': 'one'}, {'name': 'two'}, {'name': 'on'}]},
        {'name': 'str', 'meta-type': 'builtin', 'json-type': 'string'},
        {'name': 'int', 'meta-type': 'builtin', 'json-type': 'int'},
        {'name': '[4]', 'meta-type': 'array', 'element-type': '4'},
    ]
    names = [e['name'] for e in literal(schema, unmask=True)]
    assert names == ['one', 'TWO', 'three', 'Uni', '[Part]', 'Part', 'q_obj_TWO-arg', 'q_empty',
                     'Kind', 'str', 'int', '[Kind]']


@pytest.mark.parametrize('defined', [c.split() for c in ('', 'A', 'B', 'C', 'A B', 'A C', 'A B C')])
@pytest.mark.parametrize('which', ['A C', 'A -', '- A', 'A B C', 'A - B', '- -'])
def test_introspection_conditions(tmp_path, monkeypatch, defined, which):
    """Commas are right whatever conditions hold."""
    values = ['v%d' % i for i in range(len(which.split()))]
    conditions = dict(zip(values, which.split()))
    schema = load(tmp_path, monkeypatch, "{ 'enum': 'Foo', 'data': [ %s ] }\n"
                  "{ 'struct': 'Bar', 'data': { 'a': 'Foo' } }\n"
                  "{ 'command': 'x', 'data': 'Bar', 'if': { 'not': 'B' } }\n"
                  "{ 'command': 'y', 'data': 'Bar', 'if': { 'any': [ 'B', 'A' ] } }" %
                  ', '.join("'%s'" % v if c == '-' else "{ 'name': '%s', 'if': '%s' }" % (v, c)
                            for v, c in conditions.items()))
    entries = literal(schema, defined)
    enum = [e for e in entries if e['meta-type'] == 'enum'][0]
    assert enum['values'] == [v for v, c in conditions.items() if c == '-' or c in defined]
    assert [m['name'] for m in enum['members']] == enum['values']
    assert [e['name'] for e in entries if e['meta-type'] == 'command'] == (
        ['x'] if 'B' not in defined else []) + (['y'] if 'A' in defined or 'B' in defined else [])


def test_introspection_integers(tmp_path, monkeypatch):
    """All look the same, and so do arrays of them: no name is there twice."""
    schema = load(tmp_path, monkeypatch, "{ 'struct': 'Foo', 'data': { %s } }\n"
                  "{ 'command': 'x', 'data': 'Foo' }" % ', '.join(
                      "'a%d': '%s', 'b%d': [ '%s' ]" % (i, t, i, t) for i, t in enumerate(
                          ['uint8', 'size', 'int', 'int64'])))
    entries = literal(schema)
    assert [e['name'] for e in entries] == ['x', '0', '1', 'int', '[int]']
    assert [m['type'] for m in entries[1]['members']] == ['int', '[int]'] * 4


def test_introspection_modules(tmp_path, monkeypatch):
    schema = load(tmp_path, monkeypatch, {
        'x.json': "{ 'event': 'A' }\n{ 'include': 'y.json' }\n{ 'command': 'b' }",
        'y.json': "{ 'include': 'z.json' }\n{ 'command': 'c' }", 'z.json': "{ 'event': 'D' }"})
    assert [e['name'] for e in literal(schema)] == ['A', 'b', 'c', 'D', '0']
    assert [c.name for c in schema.commands()] == ['b', 'c']
    assert [e.name for e in schema.events()] == ['A', 'D']


def test_introspection_variants(tmp_path, monkeypatch):
    """Branches as they are written, then values without one."""
    entries = literal(load(tmp_path, monkeypatch, union(data="'on': 'Part', 'one': 'Part'") +
                           "{ 'command': 'x', 'data': 'Uni', 'boxed': true }"))
    assert [v['case'] for v in entries[1]['variants']] == ['on', 'one', 'two']


@pytest.mark.parametrize('defined', [[], ['A'], ['B'], ['A', 'B']])
def test_introspection_features(tmp_path, monkeypatch, defined):
    """Features may have conditions on every level."""
    features = "'features': [ { 'name': 'a', 'if': 'A' }, { 'name': 'b', 'if': 'B' } ]"
    schema = load(tmp_path, monkeypatch, """
        { 'enum': 'Foo', 'data': [ 'u', { 'name': 'v', 'if': 'A', FEATURES } ], FEATURES }
        { 'struct': 'Bar', 'data': { '*f': { 'type': 'Foo', 'if': 'B', FEATURES },
                                     'g': { 'type': 'Foo', FEATURES } } }
        { 'command': 'x', 'returns': 'Bar', FEATURES }""".replace('FEATURES', features))
    have = [d.lower() for d in defined]
    f = {'name': 'f', 'type': '2', 'default': None, 'features': have}
    g = {'name': 'g', 'type': '2', 'features': have}
    v = {'name': 'v', 'features': have}
    assert literal(schema, defined) == [
        {'name': 'x', 'meta-type': 'command', 'arg-type': '0', 'ret-type': '1', 'features': have},
        {'name': '0', 'meta-type': 'object', 'members': []},
        {'name': '1', 'meta-type': 'object', 'members': [f, g] if 'B' in defined else [g]},
        {'name': '2', 'meta-type': 'enum', 'features': have,
         'members': [{'name': 'u'}, v] if 'A' in defined else [{'name': 'u'}],
         'values': ['u', 'v'] if 'A' in defined else ['u']}]
