# SPDX-License-Identifier: BSD-3-Clause
"""What tests of the generator share: where it is, schemas given as text, running it."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAIN = os.path.join(ROOT, 'scripts', 'qapi', 'main.py')
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
from qapi.parser import Parser  # noqa: E402
from qapi.schema import Schema  # noqa: E402


# A command, and types that cases are about.
COMMAND = "{ 'command': 'foo', 'data': { 'a': 'int' }, 'returns': 'Part' }"
ENUM = "{ 'enum': 'Kind', 'data': [ 'one', 'two', 'on' ] }\n"
BASE = "{ 'struct': 'Base', 'data': { 'kind': 'Kind', '*opt': 'Kind', 'id': 'str' } }\n"
PARTS = ENUM + BASE + "{ 'struct': 'Part', 'data': { 'x': 'int' } }\n" \
                      "{ 'struct': 'Other', 'data': { 'id': 'str' } }\n" \
                      "{ 'alternate': 'Alt', 'data': { 'a': 'Part', 'b': 'str' } }\n"


def union(base="'Base'", tag='kind', data="'one': 'Part'"):
    return PARTS + "{ 'union': 'Uni', 'base': %s, 'discriminator': '%s', 'data': { %s } }" % (
        base, tag, data)


def load(tmp_path, monkeypatch, files):
    """Parses x.json; files: text of it, or a dict of texts by name."""
    for name, text in (files if isinstance(files, dict) else {'x.json': files}).items():
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    monkeypatch.chdir(tmp_path)
    return Schema(Parser('x.json'))


def run(*args, cwd):
    return subprocess.run([sys.executable, '-B', MAIN, *args], cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
