# SPDX-License-Identifier: BSD-3-Clause
"""The schema language: what is an error, where, in which words; what is not.

A case is the text of a schema.  Its file is called x.json; expected errors are whole outputs.
"""
import os
import re

import pytest

from cases import BASE, COMMAND, ENUM, PARTS, union, ROOT, load
from qapi.parser import Parser
from qapi.schema import Schema
from qapi.source import QAPIError


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


def test_own_schema():
    """Ours follows the rules, and every definition has a first version."""
    schema = Schema(Parser(os.path.join(ROOT, 'qapi', 'schema.json')))
    assert schema.pragma.doc_required
    for ent in schema.entities:
        if ent.doc:
            assert re.fullmatch(r'\d+\.\d+', ent.doc.section('Since').text()), ent.name
