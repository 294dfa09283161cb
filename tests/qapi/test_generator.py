# SPDX-License-Identifier: BSD-3-Clause
"""The generator: its command line, what it writes, schemas that are damaged."""
import os
import random
import re

import pytest

from cases import COMMAND, PARTS, ROOT, load, run
from qapi import gen_commands, gen_events, gen_introspect, gen_manual, gen_types
from qapi.source import QAPIError


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
