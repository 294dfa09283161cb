# SPDX-License-Identifier: BSD-3-Clause
"""The reference manual."""
import os

from cases import ROOT, load, run
from qapi import gen_manual


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


def test_parts_and_places(tmp_path, monkeypatch):
    """What pages of other sources take of it; names that differ in their case have places of their own."""
    schema = load(tmp_path, monkeypatch, """
##
# @Kind:
#
# @one: 1
# @two: 2
##
{ 'enum': 'Kind', 'data': [ 'one', { 'name': 'two', 'if': 'T' } ] }
##
# @Base:
#
# @deep: from the base
##
{ 'struct': 'Base', 'data': { 'deep': 'str' } }
##
# @One:
#
# The first.
#
# @x: a number
##
{ 'struct': 'One', 'base': 'Base', 'data': { '*x': 'int' } }
##
# @All:
#
# @kind: which
# @id: its name
##
{ 'union': 'All', 'base': { 'kind': 'Kind', 'id': 'str' }, 'discriminator': 'kind',
  'data': { 'one': 'One', 'two': { 'type': 'Base', 'if': 'T' } } }
##
# @all:
##
{ 'command': 'all' }""")
    assert gen_manual.part(schema, 'members', 'All') == '- `kind` (`Kind`): which\n- `id` (`str`): its name'
    assert gen_manual.part(schema, 'kinds', 'All') == (
        '### one\n\nThe first.\n\n- `x` (`int`, optional): a number\n- `deep` (`str`): from the base')
    assert 'Commands: [all](#all-1).' in gen_manual.generate(schema, 'T')
