# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints as libvirt makes, measures, moves and deletes them: persistent dirty bitmaps of the same name in every image of a chain."""
import pytest  # noqa: F401  (the fixtures are test_libvirt's)

from lib import images as img
from lib.jobs import wait_status, events_of, error_of
from test_libvirt import MIB, machine  # noqa: F401  pylint: disable=unused-import

G = 65536


def add(node, name, **more):
    return {'type': 'block-dirty-bitmap-add', 'data': {'node': node, 'name': name, **more}}


def checkpoint(node, name):
    return add(node, name, persistent=True, disabled=False)


def remove(node, name):
    return {'type': 'block-dirty-bitmap-remove', 'data': {'node': node, 'name': name}}


def merge(node, target, *sources):
    return {'type': 'block-dirty-bitmap-merge', 'data': {'node': node, 'target': target,
                                                         'bitmaps': [{'node': n, 'name': b} for n, b in sources]}}


def transaction(m, *actions):
    assert m.d.qmp.execute('transaction', {'actions': list(actions)}) == {'return': {}}


def bitmaps(m, node):
    return {b['name']: b for b in m.node(node).get('dirty-bitmaps', [])}


def reopen(m, number, read_only):
    assert m.d.qmp.execute('blockdev-reopen', {'options': [
        {'node-name': f'libvirt-{number}-format', 'read-only': read_only, 'driver': 'qcow2', 'file': f'libvirt-{number}-storage',
         'backing': None}]}) == {'return': {}}


def snapshot(m, name, *checkpoints):
    """With checkpoints the new image's bitmaps begin in the transaction of the snapshot, disk by disk."""
    m.nodes()
    actions = []
    for disk in m.chains:
        n = m.overlay(disk, m.images / f'{disk}.{name}')
        o = f'libvirt-{n}-format'
        actions += [add(o, c, persistent=True, disabled=False, granularity=G) for c in checkpoints]
        actions.append({'type': 'blockdev-snapshot', 'data': {'node': m.top(disk), 'overlay': o}})
        m.chains[disk].insert(0, (n, m.images / f'{disk}.{name}'))
    transaction(m, *actions)


def stored(path):
    return {b['name']: b['flags'] for b in img.info(path, share=True)['format-specific']['data'].get('bitmaps', [])}


def test_create_and_delete(machine):
    m = machine('vda', 'vdb', 'vdc')
    transaction(m, *(checkpoint(m.top(d), 'c1') for d in m.chains))
    transaction(m, *(checkpoint(m.top(d), 'c2') for d in m.chains))
    for disk in m.chains:
        assert {n: (b['persistent'], b['recording'], b['busy']) for n, b in bitmaps(m, m.top(disk)).items()} == \
            {'c1': (True, True, False), 'c2': (True, True, False)}
    transaction(m, *(remove(m.top(d), 'c1') for d in m.chains))
    m.end()
    assert [stored(m.images / f'{d}.qcow2') for d in m.chains] == [{'c2': ['auto']}] * 3


def test_size(machine):
    m = machine('vda')
    transaction(m, checkpoint(m.top('vda'), 'c1'))
    m.writers['vda'].h.pwrite(b'1', 20 * MIB)
    tmp = 'libvirt-tmp-size-xml'
    transaction(m, add(m.top('vda'), tmp, persistent=False, disabled=True, granularity=G), merge(m.top('vda'), tmp, (m.top('vda'), 'c1')))
    count = bitmaps(m, m.top('vda'))[tmp]['count']
    assert G <= count <= 6 * G
    transaction(m, remove(m.top('vda'), tmp))
    m.end()


def test_snapshots_with_checkpoints_and_deletion_in_the_whole_chain(machine):
    m = machine('vda', 'vdb')
    transaction(m, *(checkpoint(m.top(d), 'c1') for d in m.chains))
    snapshot(m, 's1', 'c1')
    snapshot(m, 's2', 'c1')
    for disk in m.chains:
        for node in m.names(disk):
            assert bitmaps(m, node)['c1']['persistent']
        assert [stored(p) for _, p in m.chains[disk][1:]] == [{'c1': ['auto']}] * 2
        below = m.chains[disk][1:]
        assert m.d.qmp.error('transaction', {'actions': [remove(f'libvirt-{n}-format', 'c1') for n, _ in below]}) == \
            "Bitmap 'c1' is readonly and cannot be modified"
        for n, _ in below:
            reopen(m, n, False)
        transaction(m, remove(m.top(disk), 'c1'), *(remove(f'libvirt-{n}-format', 'c1') for n, _ in below))
        for n, path in below:
            reopen(m, n, True)
            assert stored(path) == {} and m.node(f'libvirt-{n}-format')['ro']
    m.end()
    assert all(stored(p) == {} for chain in m.chains.values() for _, p in chain)


def test_active_commit_with_checkpoints(machine):
    """What the job writes into the base while the pivot is near is in a bitmap of its own; the base's checkpoints get that and the top's."""
    m = machine('vda')
    transaction(m, checkpoint(m.top('vda'), 'c1'))
    snapshot(m, 's1', 'c1')
    transaction(m, checkpoint(m.top('vda'), 'c2'))
    m.writers['vda'].h.pwrite(b'1', 20 * MIB)
    top, base = m.names('vda')
    job = f'commit-vda-{top}'
    assert m.d.qmp.execute('block-commit', {'device': top, 'job-id': job, 'top-node': top, 'base-node': base, 'auto-finalize': True,
                                            'auto-dismiss': False}) == {'return': {}}
    wait_status(m.d, job, 'ready')
    tmp = 'libvirt-tmp-activewrite'
    transaction(m, add(base, tmp, persistent=False, disabled=False))
    m.writers['vda'].h.pwrite(b'1', 24 * MIB)
    assert m.d.qmp.execute('job-complete', {'id': job}) == {'return': {}}
    wait_status(m.d, job, 'concluded')
    assert 'BLOCK_JOB_COMPLETED' in events_of(m.d, job) and error_of(m.d, job) is None
    m.dismiss(job)
    assert bitmaps(m, base)[tmp]['recording'] and bitmaps(m, base)[tmp]['count'] >= G
    transaction(m, merge(base, 'c1', (top, 'c1'), (base, tmp)),
                add(base, 'c2', persistent=True, disabled=False, granularity=G), merge(base, 'c2', (top, 'c2'), (base, tmp)), remove(base, tmp))
    (number, _), pair = m.chains['vda']
    m.delete(number)
    m.chains['vda'] = [pair]
    found = bitmaps(m, base)
    assert set(found) == {'c1', 'c2'} and 2 * G <= found['c2']['count'] <= found['c1']['count']
    m.end()
    assert stored(m.images / 'vda.qcow2') == {'c2': ['auto'], 'c1': ['auto']}


def test_commit_of_a_middle_image_with_checkpoints(machine):
    """The base is writable for the moment in which it gets the marks of what was committed into it."""
    m = machine('vda')
    for name in ('s1', 's2'):
        transaction(m, checkpoint(m.top('vda'), f'c-{name}'))
        snapshot(m, name, *(f'c-{n}' for n in ('s1', 's2')[:1 + (name == 's2')]))
    top, middle, base = m.names('vda')
    job = f'commit-vda-{middle}'
    assert m.d.qmp.execute('block-commit', {'device': top, 'job-id': job, 'top-node': middle, 'base-node': base, 'auto-finalize': True,
                                            'auto-dismiss': False}) == {'return': {}}
    m.conclude(job)
    pairs = m.chains['vda']
    reopen(m, pairs[2][0], False)
    transaction(m, merge(base, 'c-s1', (middle, 'c-s1')),
                add(base, 'c-s2', persistent=True, disabled=True, granularity=G), merge(base, 'c-s2', (middle, 'c-s2')))
    reopen(m, pairs[2][0], True)
    assert stored(pairs[2][1]) == {'c-s1': ['auto'], 'c-s2': []}
    m.delete(pairs[1][0])
    m.chains['vda'] = [pairs[0], pairs[2]]
    m.end()


def test_redefined_after_a_restart(machine, daemon):
    """The bitmaps are what tells that a checkpoint is usable: there, recording, and not inconsistent."""
    m = machine('vda')
    transaction(m, checkpoint(m.top('vda'), 'c1'))
    m.writers['vda'].h.pwrite(b'1', 20 * MIB)
    count = None
    m.end()
    for killed in (False, True):
        d = daemon()
        d.cmd('blockdev-add', {'driver': 'file', 'filename': str(m.images / 'vda.qcow2'), 'node-name': 'libvirt-1-storage',
                               'auto-read-only': True, 'discard': 'unmap'})
        d.cmd('blockdev-add', {'node-name': 'libvirt-1-format', 'read-only': False, 'driver': 'qcow2', 'file': 'libvirt-1-storage',
                               'backing': None})
        (b,) = next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == 'libvirt-1-format')['dirty-bitmaps']
        assert b['persistent'] and b['recording'] and not b.get('inconsistent') and b['count'] == (count or b['count']) >= 2 * G
        count = b['count']
        if killed:
            d.kill()
        else:
            d.stop()
    assert stored(m.images / 'vda.qcow2') == {'c1': ['in-use', 'auto']}
