# SPDX-License-Identifier: BSD-3-Clause
"""The runner of QEMU's schema cases, upstream.py, with a tree of ours in the same form: what it
prints for a schema with everything in it, and that it sees what does not agree."""
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))

SCHEMA = """{ 'include': 'sub/part.json' }
{ 'include': 'more.json' }

##
# Free text.
#
#  - indented
##

# not a block

##
# @Beast:
#
# Kinds.
#
# @cat: purrs
#     and scratches
#
# Features:
#
# @tail: it has one
#
# Text behind.
#
# TODO: more
#
# Since: 1.0
##
{ 'enum': 'Beast', 'prefix': 'BST', 'features': [ 'tail' ],
  'data': [ 'cat', { 'name': 'dog', 'if': { 'not': 'NO_DOGS' },
                     'features': [ { 'name': 'tail', 'if': 'TAILS' } ] } ] }
{ 'union': 'Zoo', 'base': { 'beast': 'Beast', '*cages': [ 'Cage' ] },
  'discriminator': 'beast', 'if': { 'any': [ 'A', { 'all': [ 'B' ] } ] },
  'data': { 'cat': { 'type': 'Cage', 'if': 'CATS' } } }
{ 'struct': 'Keeper', 'base': 'Person', 'data': { 'zoos': [ 'Zoo' ] } }
{ 'alternate': 'Place', 'data': { 'cage': 'Cage', 'name': 'str' } }
{ 'command': 'feed', 'data': { 'where': { 'type': 'Place', 'features': [ 'unstable' ] } },
  'returns': [ 'Keeper' ], 'allow-oob': true, 'gen': false }
{ 'command': 'count', 'data': 'Zoo', 'boxed': true, 'coroutine': true,
  'success-response': false, 'allow-preconfig': true }
{ 'event': 'ESCAPED', 'data': { } }
{ 'event': 'CAUGHT', 'data': { 'cages': [ 'Cage' ] }, 'features': [ 'deprecated' ] }
{ 'event': 'MOVED', 'data': 'Zoo', 'boxed': true }
"""
PART = "{ 'include': '../more.json' }\n{ 'struct': 'Cage', 'data': { 'bars': 'uint8' } }\n"
MORE = "{ 'struct': 'Person', 'data': { '*names': [ 'str' ] } }\n"

BUILTIN = """module ./builtin
object q_empty
enum QType
    member none
    member qnull
    member qnum
    member qstring
    member qdict
    member qlist
    member qbool
"""
OUT = BUILTIN + """module good.json
include sub/part.json
include more.json
enum Beast
    prefix BST
    member cat
    member dog
        if {'not': 'NO_DOGS'}
        feature tail
            if TAILS
    feature tail
object q_obj_Zoo-base
    member beast: Beast optional=False
    member cages: CageList optional=True
    if {'any': ['A', {'all': ['B']}]}
object Zoo
    base q_obj_Zoo-base
    tag beast
    case cat: Cage
        if CATS
    case dog: q_empty
        if {'not': 'NO_DOGS'}
    if {'any': ['A', {'all': ['B']}]}
array ZooList Zoo
object Keeper
    base Person
    member zoos: ZooList optional=False
alternate Place
    tag type
    case cage: Cage
    case name: str
object q_obj_feed-arg
    member where: Place optional=False
        feature unstable
array KeeperList Keeper
command feed q_obj_feed-arg -> KeeperList
    gen=False success_response=True boxed=False oob=True preconfig=False
command count Zoo -> None
    gen=True success_response=False boxed=True oob=False preconfig=True coroutine=True
event ESCAPED None
    boxed=False
object q_obj_CAUGHT-arg
    member cages: CageList optional=False
event CAUGHT q_obj_CAUGHT-arg
    boxed=False
    feature deprecated
event MOVED Zoo
    boxed=True
module sub/part.json
include more.json
object Cage
    member bars: uint8 optional=False
array CageList Cage
module more.json
object Person
    member names: strList optional=True
doc freeform
    body=
Free text.

 - indented
doc symbol=Beast
    body=
Kinds.
    arg=cat
purrs
    and scratches
    arg=dog

    feature=tail
it has one
    section=Plain
Text behind.
    section=Todo
more
    section=Since
1.0
"""
CASES = {
    'good.json': SCHEMA, 'sub/part.json': PART, 'more.json': MORE, 'good.out': OUT, 'good.err': '',
    'bad.json': "{ 'include': 'bad-inside.json' }\n", 'bad-inside.json': "\n{ 'x': 1 }\n",
    'bad.out': '',
    'bad.err': "In file included from bad.json:1:\nbad-inside.json:2:8: stray '1'\n",
    'none.out': '',
    'none.err': "can't read schema file 'none.json': No such file or directory\n",
    'meson.build': "schemas = [\n  'good.json',\n  'bad.json',\n]\nschemas = files(schemas)\n"
                   "schemas += [meson.current_source_dir() / 'none.json']\ntest('x', y)\n",
}


@pytest.fixture(name='tree')
def make_tree(tmp_path):
    folder = tmp_path / 'tests' / 'qapi-schema'
    (folder / 'sub').mkdir(parents=True)
    for name, text in CASES.items():
        (folder / name).write_text(text)
    return folder


def run(folder, *args):
    r = subprocess.run([sys.executable, '-B', os.path.join(HERE, 'upstream.py'),
                        os.path.relpath(folder.parent.parent, HERE), *args], cwd=HERE, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    return r.returncode, r.stdout, r.stderr


def test_agree(tree):
    assert run(tree) == (0, 'positive: 1 of 1, negative: 2 of 2\n', '')
    assert run(tree, 'bad') == (0, 'positive: 0 of 0, negative: 1 of 1\n', '')


@pytest.mark.parametrize('name, count', [
    ('good.out', 'positive: 0 of 1, negative: 2 of 2'),
    ('bad.err', 'positive: 1 of 1, negative: 1 of 2'),
    ('bad.out', 'positive: 1 of 1, negative: 1 of 2')])
def test_differ(tree, name, count):
    (tree / name).write_text(CASES[name] + 'more\n')
    code, out, err = run(tree)
    assert (code, err) == (1, '')
    out = out.split('\n')
    assert '--- ' + name in out and '-more' in out and out[-2] == count


def test_no_tree(tree):
    (tree / 'bad.err').unlink()
    assert run(tree) == (2, '', '%s: No such file or directory\n' % (tree / 'bad.err'))
    code, out, err = run(tree / 'x')
    assert (code, out) == (2, '') and 'meson.build' in err


@pytest.mark.skipif('CUTPOINT_QEMU_TREE' not in os.environ, reason='CUTPOINT_QEMU_TREE names no QEMU source tree')
def test_upstream_tree():
    """QEMU's own cases, all of them."""
    r = subprocess.run([sys.executable, '-B', os.path.join(HERE, 'upstream.py'), os.environ['CUTPOINT_QEMU_TREE']], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert r.returncode == 0, r.stdout
    counts = [int(n) for n in r.stdout.replace(',', ' ').split() if n.isdigit()]
    assert counts[0] == counts[1] > 0 and counts[2] == counts[3] > 0
