# SPDX-License-Identifier: BSD-3-Clause
"""docs/capabilities.md tells the truth: the schema has every path that it names, and what they stand for can be called."""
import re

import pytest

from lib.daemon import ROOT
from lib.schema import Schema

DOC = (ROOT / 'docs' / 'capabilities.md').read_text(encoding='utf-8')
PATHS = [m.group(1) for line in DOC.splitlines() if line.startswith('|') for m in re.finditer(r'`([a-zA-Z][^` ]*)`', line)
         if '/' in m.group(1) or line.startswith('| `')]


@pytest.fixture(scope='module')
def schema():
    from lib.daemon import Daemon
    with Daemon() as d:
        yield Schema(d.cmd('query-qmp-schema'))


def test_the_page_has_paths():
    assert len(PATHS) > 25 and 'transaction/$snapshots-without-pause' in PATHS


@pytest.mark.parametrize('path', PATHS)
def test_path(schema, path):
    assert schema.has(path)


@pytest.mark.parametrize('path', [
    'nope', 'transaction/$nope', 'transaction/arg-type/nope', 'transaction/arg-type/*actions', 'transaction/arg-type/actions/type/^nope',
    'blockdev-add/arg-type/+nope', 'blockdev-add/arg-type/+file/nope', 'transaction-check/ret-type/nope', 'query-iothreads/ret-type/!int',
    'chardev-add/arg-type/backend/+socket/data/$reconnect', 'object-add/arg-type/qom-type/^secret/$nope', 'transaction/ret-type/id'])
def test_what_is_not_there(schema, path):
    """The question can be answered with no."""
    assert not schema.has(path)


def test_grammar(schema):
    for path in ('chardev-add/arg-type/backend/type/^memory/$deprecated', 'query-iothreads/ret-type/thread-id/!int',
                 'object-add/arg-type/+secret/*data', 'blockdev-add/arg-type/+qcow2/file/+file/filename/!string'):
        assert schema.has(path)


def test_every_command_exists(daemon):
    """What the schema has can be called: no command answers that it has not been found or is not there."""
    d = daemon()
    names = {e['name'] for e in d.cmd('query-qmp-schema') if e['meta-type'] == 'command'}
    assert names == {c['name'] for c in d.cmd('query-commands')}
    for name in sorted(names - {'quit', 'qmp_capabilities', 'stop', 'system_reset'}):
        r = d.qmp.execute(name, {'no-such-member': 1})
        assert r.get('error', {}).get('desc') and r['error']['class'] == 'GenericError', (name, r)
