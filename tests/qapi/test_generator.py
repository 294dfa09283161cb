# SPDX-License-Identifier: BSD-3-Clause
"""The schema language: what is an error, where, in which words; what is not; what comes out.

A case is the text of a schema.  Its file is called x.json; expected errors are whole outputs.
"""
import json
import os
import random
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAIN = os.path.join(ROOT, 'scripts', 'qapi', 'main.py')
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
from qapi import gen_commands, gen_events, gen_introspect, gen_manual, gen_types  # noqa: E402
from qapi.parser import Parser  # noqa: E402
from qapi.schema import Schema  # noqa: E402
from qapi.source import QAPIError  # noqa: E402


def load(tmp_path, monkeypatch, files):
    """Parses x.json; files: text of it, or a dict of texts by name."""
    for name, text in (files if isinstance(files, dict) else {'x.json': files}).items():
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    monkeypatch.chdir(tmp_path)
    return Schema(Parser('x.json'))


def lines(*text):
    return '\n'.join(text) + '\n'


SYNTAX = {
    'top-level-string': ("'x'", "x.json:1: top-level expression must be an object"),
    'top-level-array': ('\n[ ]', "x.json:2: top-level expression must be an object"),
    'junk-word': ("{ 'command': nil }", "x.json:1:14: stray 'nil'"),
    'junk-character': ("{ 'command': 'x' };", "x.json:1:19: stray ';'"),
    'number': ("{ 'command': 5 }", "x.json:1:14: stray '5'"),
    'double-quotes': ('{ "command": 1 }', "x.json:1:3: stray '\"command\"'"),
    'tab-in-column': ("\t\t&", "x.json:1:1: stray '&'"),
    'top-level-comma': (",", "x.json:1:1: expected '{', '[', string, or boolean"),
    'top-level-open': ("['x',", "x.json:1:6: expected '{', '[', string, or boolean"),
    'tab-after-text': ("{ \t'a' 'b' }", "x.json:1:7: expected ':'"),
    'open-object': ("{ 'command': 'x', ", "x.json:1:19: expected string"),
    'open-object-2': ("{ 'command': 'x' ", "x.json:1:18: expected ',' or '}'"),
    'open-blank-lines': ("{ 'command': 'x'\n\n\n", "x.json:3:1: expected ',' or '}'"),
    'open-comment': ("{ 'command': # x", "x.json:1:17: expected '{', '[', string, or boolean"),
    'open-array': ("{ 'command': [ 'x' ", "x.json:1:20: expected ',' or ']'"),
    'open-string': ("{ 'command': 'x }", 'x.json:1:14: missing terminating "\'"'),
    'open-escape': ("{ 'command': 'x\\\n'}", 'x.json:1:14: missing terminating "\'"'),
    'unknown-escape': ("{ 'command': 'a\\n' }", 'x.json:1:14: unknown escape \\n'),
    'byte-31': ("{ 'command': '\x1f' }", 'x.json:1:14: funny character in string'),
    'byte-127': ("{ 'command': '\x7f' }", 'x.json:1:14: funny character in string'),
    'not-ascii': ("{ 'command': '\u00e9' }", 'x.json:1:14: funny character in string'),
    'no-colon': ("{ 'a' 'b' }", "x.json:1:7: expected ':'"),
    'no-comma': ("{ 'a': 'b' 'c': 'd' }", "x.json:1:12: expected ',' or '}'"),
    'no-comma-array': ("{ 'a': [ 'b' 'c' ] }", "x.json:1:14: expected ',' or ']'"),
    'leading-comma': ("{ , 'a': 'b' }", "x.json:1:3: expected string or '}'"),
    'leading-comma-array': ("{ 'a': [ , 'b' ] }",
                            "x.json:1:10: expected '{', '[', ']', string, or boolean"),
    'trailing-comma': ("{ 'a': 'b', }", 'x.json:1:13: expected string'),
    'trailing-comma-array': ("{ 'a': [ 'b', ] }",
                             "x.json:1:15: expected '{', '[', string, or boolean"),
    'no-value': ("{ 'a': }", "x.json:1:8: expected '{', '[', string, or boolean"),
    'nesting': ("{ 'a': " + '[' * 99 + '\n[', 'x.json:2:1: nested too deeply'),
    'nesting-much': ('[' * 100000, 'x.json:1:101: nested too deeply'),
    'duplicate-key': ("{ 'a': 'b',\n  'a': 'c' }", "x.json:2:8: duplicate key 'a'"),
}

DIRECTIVES = {
    'include-extra': ("{ 'include': 'y.json', 'x': 'y' }", "x.json:1: invalid 'include' directive"),
    'include-no-string': ("{ 'include': [ ] }", "x.json:1: value of 'include' must be a string"),
    'include-no-file': ("\n{ 'include': 'n.json' }",
                        "x.json:2: can't read include file 'n.json': No such file or directory"),
    'include-self': ("{ 'include': 'x.json' }", 'x.json:1: inclusion loop for x.json'),
    'include-cycle': ({'x.json': "{ 'include': 'y.json' }", 'y.json': "\n{ 'include': 'z.json' }",
                       'z.json': "{ 'include': './x.json' }"},
                      'In file included from x.json:1:\nIn file included from y.json:2:\n'
                      'z.json:1: inclusion loop for ./x.json'),
    'include-bad-inside': ({'x.json': "\n{ 'include': 'y.json' }", 'y.json': '&'},
                           "In file included from x.json:2:\ny.json:1:1: stray '&'"),
    'include-not-utf-8': ({'x.json': "{ 'include': 'y.json' }", 'y.json': b'\xff'},
                          'In file included from x.json:1:\ny.json:1: file is not UTF-8 text'),
    'pragma-extra': ("{ 'pragma': { }, 'x': 'y' }", "x.json:1: invalid 'pragma' directive"),
    'pragma-no-object': ("{ 'pragma': [ ] }", "x.json:1: value of 'pragma' must be an object"),
    'pragma-unknown': ("{ 'pragma': { 'x': true } }", "x.json:1: unknown pragma 'x'"),
    'pragma-no-bool': ("{ 'pragma': { 'doc-required': 'x' } }",
                       "x.json:1: pragma 'doc-required' must be boolean"),
    'pragma-no-list': ("{ 'pragma': { 'command-name-exceptions': [ true ] } }",
                       "x.json:1: pragma command-name-exceptions must be a list of strings"),
}

ENUM = "{ 'enum': 'Kind', 'data': [ 'one', 'two', 'on' ] }\n"
BASE = "{ 'struct': 'Base', 'data': { 'kind': 'Kind', '*opt': 'Kind', 'id': 'str' } }\n"
PARTS = ENUM + BASE + "{ 'struct': 'Part', 'data': { 'x': 'int' } }\n" \
                      "{ 'struct': 'Other', 'data': { 'id': 'str' } }\n" \
                      "{ 'alternate': 'Alt', 'data': { 'a': 'Part', 'b': 'str' } }\n"


def union(base="'Base'", tag='kind', data="'one': 'Part'"):
    return PARTS + "{ 'union': 'Uni', 'base': %s, 'discriminator': '%s', 'data': { %s } }" % (
        base, tag, data)


# text, kind and name of the definition, message; the definition is the last one
MEANING = {
    # form
    'no-meta': ("{ 'name': 'x' }", None,
                "expression must have exactly one key 'enum', 'struct', 'union', 'alternate', "
                "'command', 'event'"),
    'two-metas': ("{ 'command': 'x', 'event': 'X' }", None,
                  "expression must have exactly one key 'enum', 'struct', 'union', 'alternate', "
                  "'command', 'event'"),
    'name-no-string': ("{ 'command': [ ] }", None, "'command' requires a string name"),
    'missing-key': ("{ 'enum': 'Foo' }", ('enum', 'Foo'), "enum misses key 'data'"),
    'missing-keys': ("{ 'union': 'Foo', 'data': { } }", ('union', 'Foo'),
                     "union misses keys 'base', 'discriminator'"),
    'unknown-key': ("{ 'event': 'FOO', 'gen': false }", ('event', 'FOO'),
                    "event has unknown key 'gen'\n"
                    "Valid keys are 'boxed', 'data', 'event', 'features', 'if'."),
    'unknown-keys': ("{ 'struct': 'Foo', 'data': { }, 'x': 'y', 'a': 'b' }", ('struct', 'Foo'),
                     "struct has unknown keys 'a', 'x'\n"
                     "Valid keys are 'base', 'data', 'features', 'if', 'struct'."),
    'flag-default': ("{ 'command': 'x', 'gen': true }", ('command', 'x'),
                     "flag 'gen' may only use false value"),
    'flag-false': ("{ 'command': 'x', 'allow-oob': false }", ('command', 'x'),
                   "flag 'allow-oob' may only use true value"),
    'flag-string': ("{ 'command': 'x', 'success-response': 'false' }", ('command', 'x'),
                    "flag 'success-response' may only use false value"),
    'oob-coroutine': ("{ 'command': 'x', 'allow-oob': true, 'coroutine': true }", ('command', 'x'),
                      "flags 'allow-oob' and 'coroutine' are incompatible"),
    # names
    'name-space': ("{ 'struct': '*Foo', 'data': { } }", ('struct', '*Foo'),
                   'struct has an invalid name'),
    'name-case': ("{ 'struct': 'foo', 'data': { } }", ('struct', 'foo'),
                  'name of struct must use CamelCase'),
    'name-list': ("{ 'struct': 'FooList', 'data': { } }", ('struct', 'FooList'),
                  "struct name should not end in 'List'"),
    'name-q': ("{ 'command': 'q-x' }", ('command', 'q-x'), 'command has an invalid name'),
    'name-command': ("{ 'command': 'do_it' }", ('command', 'do_it'),
                     "name of command must not use uppercase or '_'"),
    'name-event': ("{ 'event': 'FOO-BAR' }", ('event', 'FOO-BAR'),
                   "name of event must not use lowercase or '-'"),
    'name-member': ("{ 'struct': 'Foo', 'data': { 'aB': 'int' } }", ('struct', 'Foo'),
                    "name of 'data' member 'aB' must not use uppercase or '_'"),
    'name-member-bad': ("{ 'struct': 'Foo', 'data': { '1x': 'int' } }", ('struct', 'Foo'),
                        "'data' member '1x' has an invalid name"),
    'name-member-u': ("{ 'struct': 'Foo', 'data': { 'u': 'int' } }", ('struct', 'Foo'),
                      "'data' member 'u' uses reserved name"),
    'name-member-has': ("{ 'struct': 'Foo', 'data': { '*has-x': 'int' } }", ('struct', 'Foo'),
                        "'data' member '*has-x' uses reserved name"),
    'name-enum': ("{ 'enum': 'Foo', 'data': [ 'a_b' ] }", ('enum', 'Foo'),
                  "name of 'data' member 'a_b' must not use uppercase or '_'"),
    'name-enum-bad': ("{ 'enum': 'Foo', 'data': [ 'a b' ] }", ('enum', 'Foo'),
                      "'data' member 'a b' has an invalid name"),
    # enum
    'enum-no-array': ("{ 'enum': 'Foo', 'data': { } }", ('enum', 'Foo'), "'data' must be an array"),
    'enum-prefix': ("{ 'enum': 'Foo', 'data': [ ], 'prefix': [ ] }", ('enum', 'Foo'),
                    "'prefix' must be a string"),
    'enum-no-string': ("{ 'enum': 'Foo', 'data': [ [ ] ] }", ('enum', 'Foo'),
                       "'data' member requires a string name"),
    'enum-key': ("{ 'enum': 'Foo', 'data': [ { 'name': 'x', 'y': 'z' } ] }", ('enum', 'Foo'),
                 "'data' member has unknown key 'y'\nValid keys are 'features', 'if', 'name'."),
    'enum-clash': ("{ 'pragma': { 'member-name-exceptions': [ 'Foo' ] } }\n"
                   "{ 'enum': 'Foo', 'data': [ 'a-b', 'a_b' ] }", ('enum', 'Foo'),
                   "value 'a_b' collides with value 'a-b'"),
    # struct
    'struct-data': ("{ 'struct': 'Foo', 'data': [ ] }", ('struct', 'Foo'),
                    "'data' should be an object or type name"),
    'member-dict': ("{ 'struct': 'Foo', 'data': { 'a': { } } }", ('struct', 'Foo'),
                    "'data' member 'a' misses key 'type'"),
    'member-bool': ("{ 'struct': 'Foo', 'data': { 'a': true } }", ('struct', 'Foo'),
                    "'data' member 'a' should be a type name or array"),
    'member-array': ("{ 'struct': 'Foo', 'data': { 'a': [ 'x', 'y' ] } }", ('struct', 'Foo'),
                     "'data' member 'a': array type must contain single type name"),
    'member-unknown': ("{ 'struct': 'Foo', 'data': { 'a': [ 'Bar' ] } }", ('struct', 'Foo'),
                       "struct uses unknown type 'Bar'"),
    'member-unknown-2': ("{ 'struct': 'Foo', 'data': { 'a': 'Bar' } }", ('struct', 'Foo'),
                         "member 'a' uses unknown type 'Bar'"),
    'member-command': ("{ 'command': 'int16x' }\n{ 'struct': 'Foo', 'data': { 'a': 'int16x' } }",
                       ('struct', 'Foo'), "member 'a' uses unknown type 'int16x'"),
    'member-clash': ("{ 'pragma': { 'member-name-exceptions': [ 'Foo' ] } }\n"
                     "{ 'struct': 'Foo', 'data': { 'a-b': 'int', '*a_b': 'int' } }",
                     ('struct', 'Foo'), "member 'a_b' collides with member 'a-b'"),
    'base-unknown': ("{ 'struct': 'Foo', 'base': 'Bar', 'data': { } }", ('struct', 'Foo'),
                     "'base' uses unknown type 'Bar'"),
    'base-enum': (ENUM + "{ 'struct': 'Foo', 'base': 'Kind', 'data': { } }", ('struct', 'Foo'),
                  "'base' requires a struct type, enum type 'Kind' isn't"),
    'base-no-name': ("{ 'struct': 'Foo', 'base': { }, 'data': { } }", ('struct', 'Foo'),
                     "'base' should be a type name"),
    'base-cycle': ("{ 'struct': 'Foo', 'base': 'Foo', 'data': { } }", ('struct', 'Foo'),
                   'object Foo contains itself'),
    'base-clash': (ENUM + BASE + "{ 'struct': 'Mid', 'base': 'Base', 'data': { } }\n"
                   "{ 'struct': 'Foo', 'base': 'Mid', 'data': { 'id': 'int' } }", ('struct', 'Foo'),
                   "member 'id' collides with member 'id' of type 'Base'"),
    # union
    'union-discriminator': (union(tag='none'), ('union', 'Uni'),
                            "discriminator 'none' is not a member of 'base'"),
    'union-optional': (union(tag='opt'), ('union', 'Uni'),
                       "discriminator member 'opt' of base type 'Base' must not be optional"),
    'union-string': (union(tag='id'), ('union', 'Uni'),
                     "discriminator member 'id' of base type 'Base' must be of enum type"),
    'union-conditional': (union("{ 'kind': { 'type': 'Kind', 'if': 'X' } }"), ('union', 'Uni'),
                          "discriminator member 'kind' of 'base' must not be conditional"),
    'union-no-value-at-all': ("{ 'enum': 'None', 'data': [ ] }\n{ 'union': 'Uni', 'base': { 'kind': "
                              "'None' }, 'discriminator': 'kind', 'data': { } }", ('union', 'Uni'),
                              'union has no branches'),
    'union-inline-optional': (union("{ '*kind': 'Kind' }"), ('union', 'Uni'),
                              "discriminator member 'kind' of 'base' must not be optional"),
    'union-bad-branch-name': (union(data="'One_': 'Part'"), ('union', 'Uni'),
                              "branch 'One_' is not a value of enum type 'Kind'"),
    'union-no-value': (union(data="'three': 'Part'"), ('union', 'Uni'),
                       "branch 'three' is not a value of enum type 'Kind'"),
    'union-int': (union(data="'one': 'int'"), ('union', 'Uni'),
                  "branch 'one' cannot use built-in type 'int'"),
    'union-alternate': (union(data="'one': 'Alt'"), ('union', 'Uni'),
                        "branch 'one' cannot use alternate type 'Alt'"),
    'union-array': (union(data="'one': [ 'Part' ]"), ('union', 'Uni'),
                    "'data' member 'one' should be a type name"),
    'union-unknown': (union(data="'one': 'None'"), ('union', 'Uni'),
                      "branch 'one' uses unknown type 'None'"),
    'union-branch-key': (union(data="'one': { 'type': 'Part', 'features': [ ] }"), ('union', 'Uni'),
                         "'data' member 'one' has unknown key 'features'\n"
                         "Valid keys are 'if', 'type'."),
    'union-clash': (union(data="'one': 'Other'"), ('union', 'Uni'),
                    "member 'id' of type 'Other' collides with member 'id' of type 'Base'"),
    'union-clash-inline': (union("{ 'kind': 'Kind', 'x': 'int' }"), ('union', 'Uni'),
                           "member 'x' of type 'Part' collides with base member 'x'"),
    'union-data': (PARTS + "{ 'union': 'Uni', 'base': 'Base', 'discriminator': 'kind', 'data': [ ] }",
                   ('union', 'Uni'), "'data' must be an object"),
    'union-base-union': (union() + "\n{ 'union': 'Vni', 'base': 'Uni', 'discriminator': 'kind', "
                         "'data': { 'one': 'Part' } }", ('union', 'Vni'),
                         "'base' requires a struct type, union type 'Uni' isn't"),
    'union-nested-clash': (union("{ 'kind': 'Kind' }") + "\n{ 'union': 'Vni', 'base': { 'x': 'Kind' "
                           "}, 'discriminator': 'x', 'data': { 'one': 'Uni' } }", ('union', 'Vni'),
                           "member 'x' of type 'Part' collides with base member 'x'"),
    'union-base-clash': (ENUM + "{ 'struct': 'Part', 'data': { 'x': 'int' } }\n"
                         "{ 'union': 'Uni', 'base': { 'a': 'Kind' }, 'discriminator': 'a', 'data': "
                         "{ 'one': 'Part' } }\n{ 'union': 'Vni', 'base': { 'a': 'Kind' }, "
                         "'discriminator': 'a', 'data': { 'two': 'Uni' } }", ('union', 'Vni'),
                         "base member 'a' of type 'Uni' collides with base member 'a'"),
    'union-itself': (ENUM + "{ 'union': 'Uni', 'base': { 'kind': 'Kind' }, 'discriminator': 'kind', "
                     "'data': { 'one': 'Uni' } }", ('union', 'Uni'), 'object Uni contains itself'),
    # alternate
    'alternate-empty': ("{ 'alternate': 'Foo', 'data': { } }", ('alternate', 'Foo'),
                        "'data' must not be empty"),
    'alternate-any': ("{ 'alternate': 'Foo', 'data': { 'a': 'any' } }", ('alternate', 'Foo'),
                      "branch 'a' cannot use built-in type 'any'"),
    'alternate-nested': (PARTS + "{ 'alternate': 'Foo', 'data': { 'a': 'Alt' } }",
                         ('alternate', 'Foo'), "branch 'a' cannot use alternate type 'Alt'"),
    'alternate-objects': (PARTS + "{ 'alternate': 'Foo', 'data': { 'a': 'Part', 'b': 'Other' } }",
                          ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-arrays': ("{ 'alternate': 'Foo', 'data': { 'a': [ 'int' ], 'b': [ 'str' ] } }",
                         ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-str-int': ("{ 'alternate': 'Foo', 'data': { 'a': 'str', 'b': 'int' } }",
                          ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-bool-str': ("{ 'alternate': 'Foo', 'data': { 'a': 'bool', 'b': 'str' } }",
                           ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-int-number': ("{ 'alternate': 'Foo', 'data': { 'a': 'int', 'b': 'number' } }",
                             ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-enum-bool': (ENUM + "{ 'alternate': 'Foo', 'data': { 'a': 'Kind', 'b': 'bool' } }",
                            ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-enum-int': ("{ 'enum': 'Num', 'data': [ '2d' ] }\n"
                           "{ 'alternate': 'Foo', 'data': { 'a': 'Num', 'b': 'int8' } }",
                           ('alternate', 'Foo'), "branch 'b' can't be distinguished from 'a'"),
    'alternate-clash': ("{ 'pragma': { 'member-name-exceptions': [ 'Foo' ] } }\n"
                        "{ 'alternate': 'Foo', 'data': { 'a_b': 'int' } }", ('alternate', 'Foo'),
                        "name of 'data' member 'a_b' must not use uppercase or '_'"),
    'alternate-optional': ("{ 'alternate': 'Foo', 'data': { '*a': 'str' } }", ('alternate', 'Foo'),
                           "'data' member '*a' has an invalid name"),
    # commands and events
    'data-int': ("{ 'command': 'x', 'data': 'int' }", ('command', 'x'),
                 "command's 'data' cannot take built-in type 'int'"),
    'data-array': ("{ 'command': 'x', 'data': [ 'int' ] }", ('command', 'x'),
                   "'data' should be an object or type name"),
    'data-unknown': ("{ 'event': 'X', 'data': 'Foo' }", ('event', 'X'),
                     "event's 'data' uses unknown type 'Foo'"),
    'data-union': (union() + "\n{ 'command': 'x', 'data': 'Uni' }", ('command', 'x'),
                   "command's 'data' can take union type 'Uni' only with 'boxed': true"),
    'data-conditional': ("{ 'event': 'X', 'data': { 'a': { 'type': 'int', 'if': 'Y' } } }",
                         ('event', 'X'), "conditional event arguments require 'boxed': true"),
    'data-clash': ("{ 'pragma': { 'member-name-exceptions': [ 'x' ] } }\n"
                   "{ 'command': 'x', 'data': { 'a-b': 'int', 'a_b': 'int' } }", ('command', 'x'),
                   "parameter 'a_b' collides with parameter 'a-b'"),
    'data-parameter': ("{ 'command': 'x', 'data': { 'a': 'Foo' } }", ('command', 'x'),
                       "parameter 'a' uses unknown type 'Foo'"),
    'boxed-inline': ("{ 'command': 'x', 'data': { }, 'boxed': true }", ('command', 'x'),
                     "'data' should be a type name"),
    'boxed-nothing': ("{ 'event': 'X', 'boxed': true }", ('event', 'X'),
                      "'boxed': true requires 'data'"),
    'returns-int': ("{ 'command': 'x', 'returns': [ 'int' ] }", ('command', 'x'),
                    "command's 'returns' cannot take array type ['int']"),
    'returns-dict': ("{ 'command': 'x', 'returns': { } }", ('command', 'x'),
                     "'returns' should be a type name or array"),
    'returns-unknown-array': ("{ 'command': 'x', 'returns': [ 'Foo' ] }", ('command', 'x'),
                              "command uses unknown type 'Foo'"),
    'returns-unknown': ("{ 'command': 'x', 'returns': 'Foo' }", ('command', 'x'),
                        "command's 'returns' uses unknown type 'Foo'"),
    # definitions twice
    'twice-builtin': ("{ 'command': 'size' }", ('command', 'size'),
                      "built-in type 'size' is already defined"),
    'twice': ("{ 'struct': 'Foo', 'data': { } }\n{ 'enum': 'Foo', 'data': [ ] }", ('enum', 'Foo'),
              "'Foo' is already defined\nx.json: In struct 'Foo':\nx.json:1: previous definition"),
    # conditions
    'if-lower': ("{ 'command': 'x', 'if': 'foo' }", ('command', 'x'),
                 "'if' condition 'foo' of command is not a valid identifier"),
    'if-empty': ("{ 'command': 'x', 'if': '' }", ('command', 'x'),
                 "'if' condition '' of command is not a valid identifier"),
    'if-list': ("{ 'command': 'x', 'if': [ 'A' ] }", ('command', 'x'),
                "'if' condition of command must be a string or an object"),
    'if-key': ("{ 'command': 'x', 'if': { 'value': 'A' } }", ('command', 'x'),
               "'if' condition of command has unknown key 'value'\n"
               "Valid keys are 'all', 'any', 'not'."),
    'if-keys': ("{ 'command': 'x', 'if': { 'not': 'A', 'any': [ 'A' ] } }", ('command', 'x'),
                "'if' condition of command has conflicting keys"),
    'if-no-list': ("{ 'command': 'x', 'if': { 'all': 'A' } }", ('command', 'x'),
                   "'all' condition of command must be an array"),
    'if-useless': ("{ 'command': 'x', 'if': { 'any': [ ] } }", ('command', 'x'),
                   "'if' condition [] of command is useless"),
    'if-nested': ("{ 'command': 'x', 'if': { 'any': [ 'A', { 'not': 'b' } ] } }", ('command', 'x'),
                  "'if' condition 'b' of command is not a valid identifier"),
    'if-member': ("{ 'struct': 'Foo', 'data': { 'a': { 'type': 'int', 'if': 'b' } } }",
                  ('struct', 'Foo'), "'if' condition 'b' of 'data' member 'a' is not a valid "
                  "identifier"),
    # features
    'features-dict': ("{ 'command': 'x', 'features': { } }", ('command', 'x'),
                      "'features' must be an array"),
    'features-name': ("{ 'command': 'x', 'features': [ { 'if': 'A' } ] }", ('command', 'x'),
                      "'features' member misses key 'name'"),
    'features-bool': ("{ 'command': 'x', 'features': [ true ] }", ('command', 'x'),
                      "'features' member requires a string name"),
    'features-case': ("{ 'command': 'x', 'features': [ 'a_b' ] }", ('command', 'x'),
                      "name of 'features' member 'a_b' must not use uppercase or '_'"),
    'features-twice': ("{ 'command': 'x', 'features': [ 'a', 'a' ] }", ('command', 'x'),
                       "feature 'a' collides with feature 'a'"),
    'features-type': ("{ 'struct': 'Foo', 'data': { }, 'features': [ 'deprecated' ] }",
                      ('struct', 'Foo'), "feature 'deprecated' is not supported for types"),
    'features-many': ("{ 'command': 'x', 'features': [ %s ] }" %
                      ', '.join("'f%d'" % i for i in range(63)), ('command', 'x'),
                      'Maximum of 64 schema features is permitted'),
}

COMMAND = "{ 'command': 'foo', 'data': { 'a': 'int' }, 'returns': 'Part' }"
NEEDED = "{ 'pragma': { 'doc-required': true } }"


def doc(*text, then=COMMAND):
    """A block at line 1."""
    return lines('##', *text, '##', then) + "{ 'struct': 'Part', 'data': { 'x': 'int' } }\n"


# text, whole message; the position is part of it
DOCS = {
    'start-junk': (lines('## x', '##'),
                   "x.json:1:1: junk after '##' at start of documentation comment"),
    'no-end': (lines('##', '# text'), "x.json:2:7: documentation comment must end with '##'"),
    'no-end-2': (lines('##', '# text', COMMAND),
                 "x.json:3:1: documentation comment must end with '##'"),
    'end-junk': (lines('##', '# text', '## x'),
                 "x.json:3:1: junk after '##' at end of documentation comment"),
    'no-blank': (lines('##', '#text', '##'), 'x.json:2:1: missing space after #'),
    'doc-no-colon': (doc('# @foo'), "x.json:2:1: line should end with ':'"),
    'no-name': (doc('# @:'), "x.json:2:1: name required after '@'"),
    'no-member-name': (doc('# @foo:', '#', '# @: x'), "x.json:4: invalid parameter name"),
    'free-form-member': (lines('##', '# text', '# @a: x', '##'),
                         "x.json:3:1: '@a:' not allowed in free-form documentation"),
    'no-definition': (lines('##', '# @foo:', '##', '##', '# text', '##'),
                      "x.json:1: documentation for 'foo' is not followed by the definition"),
    'before-include': (lines('##', '# @foo:', '##', "{ 'include': 'y.json' }"),
                       "x.json:1: documentation for 'foo' is not followed by the definition"),
    'before-pragma': (lines('##', '# @foo:', '##', "{ 'pragma': { } }"),
                      "x.json:1: documentation for 'foo' is not followed by the definition"),
    'at-end': (lines('##', '# @foo:', '##'),
               "x.json:1: documentation for 'foo' is not followed by the definition"),
    'no-symbol': (doc('# foo'), 'x.json:1: definition documentation required'),
    'feature-undocumented': (lines('##', '# @x:', '##', "{ 'command': 'x', 'features': [ 'y' ] }"),
                             "x.json: In command 'x':\nx.json:4: feature 'y' lacks documentation"),
    'feature-exempt': ("{ 'pragma': { 'doc-required': true, 'documentation-exceptions': [ 'Foo' ] "
                       "} }\n" + lines('##', '# @Foo:', '##', "{ 'struct': 'Foo', 'data': { 'x': { "
                                       "'type': 'int', 'features': [ 'y' ] } } }"),
                       "x.json: In struct 'Foo':\nx.json:5: feature 'y' lacks documentation"),
    'feature-twice': (doc('# @foo:', '# Features:', '# @f: x', '# @f: y'),
                      "x.json:5: 'f' feature name duplicated"),
    'feature-no-name': (doc('# @foo:', '# Features:', '# @: x'), 'x.json:4: invalid feature name'),
    'features-end': (doc('# @foo:', '# Features:'), 'x.json:3:1: feature descriptions expected'),
    'other-name': (doc('# @bar:'), "x.json: In command 'foo':\n"
                   "x.json:4: documentation comment is for 'bar'"),
    'doc-required': (NEEDED + "\n{ 'command': 'foo' }", "x.json: In command 'foo':\n"
                 'x.json:2: documentation comment required'),
    'required-member': (NEEDED + '\n' + doc('# @foo:', '#', '# Overview'),
                        "x.json: In command 'foo':\nx.json:7: parameter 'a' lacks documentation"),
    'required-value': (NEEDED + '\n' + lines('##', '# @Foo:', '##',
                                             "{ 'enum': 'Foo', 'data': [ 'a' ] }"),
                       "x.json: In enum 'Foo':\nx.json:5: value 'a' lacks documentation"),
    'required-feature': (NEEDED + '\n' + lines('##', '# @x:', '##',
                                               "{ 'command': 'x', 'features': [ 'y' ] }"),
                         "x.json: In command 'x':\nx.json:5: feature 'y' lacks documentation"),
    'member-twice': (doc('# @foo:', '#', '# @a: x', '# @a: y'),
                     "x.json:5: 'a' parameter name duplicated"),
    'bogus': (doc('# @foo:', '#', '# @b: x', '# @c: x'),
              "x.json:4: documented members 'b', 'c' do not exist"),
    'bogus-feature': (doc('# @foo:', '# Features:', '# @b: x'),
                      "x.json:4: documented feature 'b' does not exist"),
    'no-features': (doc('# @foo:', '# Features:', '# text'),
                    'x.json:4:1: feature descriptions expected'),
    'features-twice': (doc('# @foo:', '# Features:', '# @f: x', '#', '# Features:', '# @g: y'),
                       "x.json:6:1: duplicated 'Features:' line"),
    'member-late': (doc('# @foo:', '# Since: 1', '# @a: x'),
                    "x.json:4:1: description of '@a:' follows a section"),
    'section-empty': (doc('# @foo:', '#', '# Errors:', '#', '# Since: 1'),
                      "x.json:4: text required after 'Errors:'"),
    'section-twice': (doc('# @foo:', '#', '# Since: 1', '# Since: 2'),
                      "x.json:5: duplicated 'Since' section"),
    'section-old': (doc('# @foo:', '#', '# Note: text'),
                    "x.json:4:1: 'Note:' sections are not supported"),
    'returns-nothing': (doc('# @foo:', '# Returns: x', then="{ 'command': 'foo' }"),
                        "x.json:3: 'Returns' section, but command doesn't return anything"),
    'returns-event': (doc('# @FOO:', '# Returns: x', then="{ 'event': 'FOO' }"),
                      "x.json:3: 'Returns' section is only valid for commands"),
    'errors-event': (doc('# @FOO:', '# Errors: x', then="{ 'event': 'FOO' }"),
                     "x.json:3: 'Errors' section is only valid for commands"),
    'de-indent': (doc('# @foo:', '#', '# @a: line', '#     line', '#   line'),
                  'x.json:6:1: unexpected de-indent (expected at least 4 spaces)'),
    'de-indent-0': (doc('# @foo:', '#', '# @a: line', '# line'),
                    'x.json:5:1: unexpected de-indent (expected at least 4 spaces)'),
    'long-line': (doc('# @foo:', '#', '# ' + 'word ' * 13 + 'long'),
                  'x.json:4:1: documentation line longer than 70 characters'),
    'one-blank-in-note': (doc('# @foo:', '#', '# .. note::', '#', '#     One sentence. Another.'),
                          'x.json:6:20: Use two spaces between sentences\n'
                          'If this not the end of a sentence, please report a bug.'),
    'one-blank-behind': (doc('# @foo:', '#', '# Like::', '#', '#     A one. Two', '#',
                             '# One sentence. Another.'),
                         'x.json:8:16: Use two spaces between sentences\n'
                         'If this not the end of a sentence, please report a bug.'),
    'one-blank': (doc('# @foo:', '#', '# One sentence. Another.'),
                  'x.json:4:16: Use two spaces between sentences\n'
                  'If this not the end of a sentence, please report a bug.'),
}

GOOD = {
    'empty': '',
    'comments': "# one\n  # two { '\n{ 'command': 'x' } # three ##\n#",
    'include-twice': {'x.json': "{ 'include': 'y.json' }\n{ 'include': './y.json' }",
                      'y.json': "{ 'command': 'x' }"},
    'forward': "{ 'struct': 'Foo', 'data': { '*a': 'Bar', 'b': [ 'Bar' ] }, 'base': 'Baz' }\n"
               "{ 'struct': 'Baz', 'data': { } }\n{ 'alternate': 'Bar', 'data': { 'x': 'Foo' } }",
    'names': "{ 'command': 'x-do-it' }\n{ 'command': '__org.example_do-it' }\n"
             "{ 'event': 'X_1' }\n{ 'event': '__ORG.EXAMPLE_X-ONE' }\n{ 'enum': 'Xy', 'data': [ ] }",
    'exceptions': "{ 'pragma': { 'command-name-exceptions': [ 'a_b' ], "
                  "'command-returns-exceptions': [ 'a_b' ], 'member-name-exceptions': [ 'a_b' ] } "
                  "}\n{ 'command': 'a_b', 'data': { 'A_b': 'int' }, 'returns': 'int' }",
    'literal': doc('# @foo:', '#', '# Example::', '#',
                   '#     {"a": "One sentence. Another", "b": "' + 'long ' * 10 + '"}', '#',
                   '# https://example.org/' + 'a' * 80),
    'literal-example': doc('# @foo:', '#', '# .. qmp-example::', '#    :title: A. B', '#',
                           '#    One sentence. Another', '#', '#    One sentence. Another'),
    'nesting': "{ 'command': 'x', 'if': " + "{ 'not': " * 98 + "'A'" + ' }' * 99,
    # deprecated and unstable count always
    'features-62': "{ 'command': 'x', 'features': [ 'unstable', %s ] }" % ', '.join(
        "'f%d'" % i for i in range(62)),
    'union-empty': union(data=''),
    'doc-list': doc('# @foo:', '#', '# 1. One', '#', '# a. Two'),
    'docs': doc('# @foo:', '#', '# Overview e.g. This.  That.', '#', '# More.', '#',
                '# @a: first', '#     second', '#', '#     third', '#', '# Text.', '#',
                '# Features:', '#', '# @f: x', '#', '# Returns: y', '#', '# Errors:',
                '#     - GenericError: z', '#', '# TODO: t', '#', '# TODO: t', '#', '# Since: 1',
                then=COMMAND[:-2] + ", 'features': [ 'f' ] }"),
    'union-in-union': union("{ 'kind': 'Kind' }") + "\n{ 'union': 'Vni', 'base': { 'y': 'Kind' }, "
                      "'discriminator': 'y', 'data': { 'one': 'Uni', 'two': 'Part' } }",
    'alternate': "{ 'enum': 'Kind', 'data': [ 'off-x' ] }\n{ 'struct': 'Sx', 'data': { } }\n"
                 "{ 'alternate': 'Foo', 'data': { 'a': 'Kind', 'b': 'bool', 'c': 'int', "
                 "'d': 'null', 'e': [ 'Sx' ], 'f': 'Sx' } }",
}


@pytest.mark.parametrize('name', list(SYNTAX) + list(DIRECTIVES) + list(DOCS))
def test_error(tmp_path, monkeypatch, name):
    files, message = {**SYNTAX, **DIRECTIVES, **DOCS}[name] if name not in SYNTAX else SYNTAX[name]
    with pytest.raises(QAPIError) as e:
        load(tmp_path, monkeypatch, files)
    assert str(e.value) == message


@pytest.mark.parametrize('name', MEANING)
def test_meaning(tmp_path, monkeypatch, name):
    text, where, message = MEANING[name]
    with pytest.raises(QAPIError) as e:
        load(tmp_path, monkeypatch, text)
    line = len(text.rstrip('\n').split('\n'))
    expected = 'x.json:%d: %s' % (line, message)
    if where:
        expected = "x.json: In %s '%s':\n%s" % (*where, expected)
    assert str(e.value) == expected


@pytest.mark.parametrize('name', GOOD)
def test_good(tmp_path, monkeypatch, name):
    load(tmp_path, monkeypatch, GOOD[name])


def test_names_differ():
    """No case hides another one."""
    assert not set(SYNTAX) & set(DIRECTIVES)
    assert not (set(SYNTAX) | set(DIRECTIVES)) & set(DOCS)


def test_doc_contents(tmp_path, monkeypatch):
    schema = load(tmp_path, monkeypatch, GOOD['docs'])
    d = schema.names['foo'].doc
    assert [s.kind for s in d.sections] == ['Plain', 'Member', 'Plain', 'Feature', 'Returns',
                                            'Errors', 'TODO', 'TODO', 'Since']
    assert d.sections[0].text() == 'Overview e.g. This.  That.\n\nMore.'
    assert d.args['a'].text() == 'first\nsecond\n\nthird'
    assert d.section('Errors').text() == '- GenericError: z'


# ---- outputs ----

def run(*args, cwd):
    return subprocess.run([sys.executable, '-B', MAIN, *args], cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


def test_command_line(tmp_path):
    (tmp_path / 'x.json').write_text(COMMAND + PARTS)
    (tmp_path / 'file').write_text('')
    r = run('x.json', '-o', 'out/dir', '-p', 'my-', '--depfile', 'd', cwd=tmp_path)
    assert (r.returncode, r.stdout, r.stderr) == (0, '', '')
    assert sorted(os.listdir(tmp_path / 'out/dir')) == [
        'my-qapi-' + n for n in ('commands.c', 'commands.h', 'events.c', 'events.h',
                                 'introspect.c', 'introspect.h', 'types.c', 'types.h')]
    assert (tmp_path / 'd').read_text() == 'my-qapi-types.h: x.json\n'
    r = run('n.json', cwd=tmp_path)
    assert (r.returncode, r.stdout) == (1, '')
    assert r.stderr == "can't read schema file 'n.json': No such file or directory\n"
    (tmp_path / 'deep.json').write_text("{ 'struct': 'Base0', 'data': { } }" + ''.join(
        "{ 'struct': 'Base%d', 'base': 'Base%d', 'data': { } }\n" % (i, i - 1)
        for i in range(1, 5000)))
    r = run('deep.json', '-o', 'new', cwd=tmp_path)
    assert (r.returncode, r.stdout) == (1, '')
    assert r.stderr == 'deep.json: definitions are nested too deeply\n'
    assert not (tmp_path / 'new').exists()
    r = run('x.json', '-o', 'file/x', cwd=tmp_path)
    assert r.returncode == 1 and r.stderr == 'qapi: file/x: Not a directory\n'
    assert run('x.json', '-p', 'a b', cwd=tmp_path).returncode == 2
    (tmp_path / 'x.json').write_text('{')
    r = run('x.json', '-o', 'new', cwd=tmp_path)
    assert r.returncode == 1 and r.stderr == "x.json:1:2: expected string or '}'\n"
    assert not (tmp_path / 'new').exists()


def test_unnamed_types(tmp_path, monkeypatch):
    """Names that we make for C give way to those of the schema."""
    schema = load(tmp_path, monkeypatch, """
        { 'struct': 'DoItArg', 'data': { 'a': 'int' } }
        { 'command': 'do-it', 'data': { 'b': 'DoItArg' } }
        { 'event': 'STOP_IT', 'data': { 'a': 'int' } }
        { 'command': 'stop-it', 'data': { 'b': 'int' } }""")
    assert [schema.names[n].arg.name for n in ('do-it', 'STOP_IT', 'stop-it')] == [
        'q_obj_do-it-arg', 'StopItArg', 'q_obj_stop-it-arg']
    head = gen_types.generate(schema, '')[0].done()
    for name in ('DoItArg', 'q_obj_do_it_arg', 'StopItArg', 'q_obj_stop_it_arg'):
        assert head.count('struct %s {' % name) == 1
    assert 'qmp_do_it(const q_obj_do_it_arg *arg, Error **errp)' in (
        gen_commands.generate(schema, '')[0].done())


TOKENS = ('{', '}', '[', ']', ':', ',', "'", 'true', 'false', "'data'", "'if'", "'features'", "'base'",
          "'type'", "'name'", '#', '##', '##\n', '\n', '\t', "'int'", "[ 'int' ]", "{ 'all': [ 'A' ] }",
          '# @a:\n', '# Features:\n', '# Returns:', '\\', "'*a'", '{ }', '[ ]', '\u00e9', '\0')


@pytest.mark.parametrize('seed', range(10))
def test_damaged(tmp_path, monkeypatch, seed):
    """Whatever stands in a schema, either there is an error or there are outputs."""
    with open(os.path.join(ROOT, 'tests', 'qapi', 'test-schema.json'), encoding='utf-8') as f:
        good = f.read()
    rand, errors = random.Random(seed), 0
    places = [m.span() for m in re.finditer(r"'[^'\n]*'|\w+|[{}\[\]:,]|#+", good)]
    for _ in range(30):
        text = good
        for begin, end in sorted(rand.sample(places, rand.randint(1, 2)), reverse=True):
            other = good[slice(*rand.choice(places))]
            text = text[:begin] + rand.choice(['', other, rand.choice(TOKENS)]) + text[end:]
        try:
            schema = load(tmp_path, monkeypatch, text)
        except QAPIError as e:
            errors += 1
            assert re.fullmatch(r"(x\.json: In .*:\n)?x\.json:\d+(:\d+)?: [^\n]+(\n[^\n]+)*", str(e))
            continue
        for gen in (gen_types, gen_commands, gen_events, gen_introspect):
            gen.generate(schema, '')
        gen_manual.generate(schema, '')
    assert errors


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


def test_own_schema():
    """Ours follows the rules, and every definition has a first version."""
    schema = Schema(Parser(os.path.join(ROOT, 'qapi', 'schema.json')))
    assert schema.pragma.doc_required
    for ent in schema.entities:
        if ent.doc:
            assert re.fullmatch(r'\d+\.\d+', ent.doc.section('Since').text()), ent.name


def test_manual(tmp_path, monkeypatch):
    schema = load(tmp_path, monkeypatch, """##
# = Things
#
# Free text about @nothing.
##

##
# @Thing:
#
# A thing.  Like this::
#
#     @kept = 1
#
# @size: bytes, see @name
#     below
#
# @name: its name
#
# Features:
#
# @unstable: not yet
#
# Since: 1.0
##
{ 'struct': 'Thing',
  'data': { '*size': { 'type': 'size', 'features': [ 'unstable' ] },
            'name': { 'type': [ 'str' ], 'if': { 'any': [ 'A', { 'not': 'B' } ] } } } }

##
# @get:
#
# Gets.
#
# Returns: it
#
# Errors:
#     - none
##
{ 'command': 'get', 'data': 'Thing', 'boxed': true, 'returns': [ 'Thing' ],
  'allow-oob': true, 'if': 'A' }
""")
    assert gen_manual.generate(schema, 'Title') == """<!-- SPDX-License-Identifier: BSD-3-Clause -->
<!-- made by scripts/qapi from a schema: changes belong there -->
# Title

Commands: [get](#get).

Events: none.

## Things

Free text about `nothing`.

### Thing

*struct*

A thing.  Like this:

    @kept = 1

- `size` (`size`, optional, unstable): bytes, see `name`
  below
- `name` (array of `str`, only if built with (`A` or not `B`)): its name

- Feature `unstable`: not yet

Since: 1.0

### get

*command*, only if built with `A`, can run out of band, arguments: [Thing](#thing)

Gets.

Returns: array of [Thing](#thing), it

Errors:

- none
"""


def test_manual_is_current(tmp_path):
    """If not: scripts/qmp-doc"""
    r = run(os.path.join(ROOT, 'qapi', 'schema.json'), '--manual', 'm.md', cwd=tmp_path)
    assert (r.returncode, r.stderr) == (0, '')
    with open(os.path.join(ROOT, 'docs', 'qmp.md'), encoding='utf-8') as f:
        assert (tmp_path / 'm.md').read_text() == f.read()
