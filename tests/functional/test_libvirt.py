# SPDX-License-Identifier: BSD-3-Clause
"""What libvirt sends, in its order: node pairs by reference, jobs that are dismissed by hand, deletion from the top down right after.

A guest's disk is an NBD export of the top format node here; a client writes to it all the time.
"""
import json
import os
import threading

import nbd
import pytest

from lib import images as img
from lib.jobs import error_of, events_of, wait_status

MIB = 1 << 20
SIZE = 32 * MIB


class Writer(threading.Thread):
    """Writes blocks with rising numbers to a disk until it is ended; then tells the last number."""

    def __init__(self, uri):
        super().__init__()
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
        self.number, self.problem, self.ended = 0, None, False
        self.start()

    def run(self):
        try:
            while not self.ended:
                self.number += 1
                self.h.pwrite(self.number.to_bytes(8, 'little') * 512, self.number % 64 * 4096)
        except Exception as e:  # told by end()
            self.problem = e

    def end(self):
        self.ended = True
        self.join()
        if self.problem:
            raise self.problem
        newest = max(int.from_bytes(self.h.pread(8, i * 4096), 'little') for i in range(64))
        assert newest == self.number, 'the newest write is there'
        self.h.shutdown()
        return self.number


class Machine:
    """A domain with disks: node names count up and are never used twice."""

    def __init__(self, d, images, disks):
        self.d, self.images, self.count = d, images, 0
        self.chains = {}   # disk -> [(number, path)], top first
        self.writers = {}
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{images}/nbd.sock'}}})
        for disk in disks:
            path = img.create(images / f'{disk}.qcow2', str(SIZE))
            number = self.storage(path)
            self.format(number, backing=None)
            self.chains[disk] = [(number, path)]
            d.cmd('block-export-add', {'type': 'nbd', 'id': disk, 'node-name': self.top(disk), 'name': disk, 'writable': True})
            self.writers[disk] = Writer(f'nbd+unix:///{disk}?socket={images}/nbd.sock')

    def top(self, disk):
        return f'libvirt-{self.chains[disk][0][0]}-format'

    def names(self, disk):
        return [f'libvirt-{n}-format' for n, _ in self.chains[disk]]

    def storage(self, path):
        self.count += 1
        self.add({'driver': 'file', 'filename': str(path), 'node-name': f'libvirt-{self.count}-storage', 'auto-read-only': True,
                  'discard': 'unmap'})
        return self.count

    def add(self, options):
        assert self.d.qmp.execute('blockdev-add', options) == {'return': {}}

    def format(self, number, **options):
        self.add({'node-name': f'libvirt-{number}-format', 'read-only': False, 'driver': 'qcow2', 'file': f'libvirt-{number}-storage',
                  **options})

    def create(self, number, backing):
        job = f'create-libvirt-{number}-format'
        reply = self.d.qmp.execute('blockdev-create', {'job-id': job, 'options': {
            'driver': 'qcow2', 'file': f'libvirt-{number}-storage', 'size': SIZE, 'cluster-size': 65536, 'backing-file': str(backing),
            'backing-fmt': 'qcow2'}})
        assert reply == {'return': {}} and events_of(self.d, job)[:2] == ['created', 'running']
        wait_status(self.d, job, 'concluded')
        assert events_of(self.d, job) == ['created', 'running', 'waiting', 'pending', 'concluded']
        assert self.d.cmd('query-jobs') == [{'id': job, 'type': 'create', 'status': 'concluded', 'current-progress': 1, 'total-progress': 1}]
        self.dismiss(job)

    def dismiss(self, job):
        assert self.d.qmp.execute('job-dismiss', {'id': job}) == {'return': {}}
        assert events_of(self.d, job)[-1] == 'null', 'before the reply'
        self.d.qmp.events.clear()

    def overlay(self, disk, path, reuse=False):
        """Steps of one disk before the transaction; the new pair's number."""
        if not reuse:
            path.touch(0o600)
        number = self.storage(path)
        if not reuse:
            self.create(number, self.chains[disk][0][1])
        self.format(number, backing=None)
        return number

    def snapshot(self, name, reuse=False):
        self.nodes()
        new = {disk: (self.overlay(disk, self.images / f'{disk}.{name}', reuse), self.images / f'{disk}.{name}') for disk in self.chains}
        reply = self.d.qmp.execute('transaction', {'actions': [
            {'type': 'blockdev-snapshot', 'data': {'node': self.top(disk), 'overlay': f'libvirt-{n}-format'}} for disk, (n, _) in new.items()]})
        assert reply == {'return': {}}
        for disk, pair in new.items():
            old = self.top(disk)
            self.chains[disk].insert(0, pair)
            assert self.node(old)['ro'] and not self.node(self.top(disk))['ro']

    def nodes(self):
        """What libvirt demands of the reply, or it drops all of it."""
        nodes = self.d.cmd('query-named-block-nodes', {'flat': True})
        for n in nodes:
            assert n['node-name'] and n['image']['virtual-size'] >= 0 and 'backing-image' not in n['image']
            if n['drv'] == 'qcow2':
                assert n['image']['cluster-size'] == 65536 and n['image']['format-specific']['data']['compat'] == '1.1'
                assert n['image']['actual-size'] > 0
        return {n['node-name']: n for n in nodes}

    def node(self, name):
        return self.nodes()[name]

    def delete(self, number):
        """Both nodes of a pair, at once: nothing may use them any more."""
        for kind in ('format', 'storage'):
            assert self.d.qmp.execute('blockdev-del', {'node-name': f'libvirt-{number}-{kind}'}) == {'return': {}}

    def conclude(self, job):
        wait_status(self.d, job, 'concluded')
        assert error_of(self.d, job) is None
        self.dismiss(job)

    def end(self):
        """Stops writing; every chain is whole, with all that was written."""
        wrote = {disk: w.end() for disk, w in self.writers.items()}
        self.d.stop()
        for disk, number in wrote.items():
            chain = [path for _, path in self.chains[disk]]
            assert [os.path.realpath(i['filename']) for i in img.info(chain[0], chain=True)] == [os.path.realpath(p) for p in chain]
            for path in chain:
                img.run('qemu-img', 'check', path)
            raw = self.images / f'{disk}.raw'
            img.run('qemu-img', 'convert', '-O', 'raw', chain[0], raw)
            with open(raw, 'rb') as f:
                data = f.read(64 * 4096)
            assert max(int.from_bytes(data[i:i + 8], 'little') for i in range(0, len(data), 4096)) == number


@pytest.fixture
def machine(daemon, images):
    made = []

    def make(*disks):
        made.append(Machine(daemon(), images, disks))
        return made[0]

    yield make
    for m in made:
        for w in m.writers.values():
            w.ended = True
            w.join()


def test_snapshots_of_three_disks(machine):
    m = machine('vda', 'vdb', 'vdc')
    for name in ('s1', 's2'):
        m.snapshot(name)
    m.end()


def test_reuse_external(machine):
    """The file is there, whatever backing its header names; libvirt does not look, and the true name is what ends up in it."""
    m = machine('vda')
    img.create(m.images / 'vda.s1', backing=m.images / 'vda.qcow2', size=str(SIZE))
    m.snapshot('s1', reuse=True)
    m.end()


def test_failure_before_the_transaction(machine):
    """The second disk cannot be prepared: the first one's nodes go again."""
    m = machine('vda', 'vdb')
    before = sorted(m.nodes())
    number = m.overlay('vda', m.images / 'vda.s1')
    error = m.d.qmp.error('blockdev-add', {'driver': 'file', 'filename': str(m.images / 'no' / 'vdb.s1'), 'node-name': 'libvirt-9-storage',
                                           'auto-read-only': True, 'discard': 'unmap'})
    assert 'No such file or directory' in error
    m.delete(number)
    (m.images / 'vda.s1').unlink()
    assert sorted(m.nodes()) == before
    m.end()


def test_failed_transaction(machine):
    """libvirt takes an error to mean that nothing has happened, deletes its nodes and unlinks its files."""
    m = machine('vda', 'vdb')
    before, files = sorted(m.nodes()), m.d.descriptors()
    new = [m.overlay(disk, m.images / f'{disk}.s1') for disk in m.chains]
    actions = [{'type': 'blockdev-snapshot', 'data': {'node': m.top(disk), 'overlay': f'libvirt-{n}-format'}}
               for disk, n in zip(m.chains, new)]
    assert m.d.qmp.error('transaction', {'actions': [*actions, {'type': 'abort', 'data': {}}]}) == 'Transaction aborted using Abort action'
    assert m.d.qmp.execute('transaction', {'actions': []}) == {'return': {}}, 'storage migration sends this'
    for disk, n in zip(m.chains, new):
        m.delete(n)
        (m.images / f'{disk}.s1').unlink()
    assert sorted(m.nodes()) == before and m.d.descriptors() == files
    m.end()


def test_blockcommit_active_pivot(machine):
    m = machine('vda')
    for name in ('s1', 's2', 's3'):
        m.snapshot(name)
    names = m.names('vda')
    job = f'commit-vda-{names[0]}'
    reply = m.d.qmp.execute('block-commit', {'device': names[0], 'job-id': job, 'top-node': names[0], 'base-node': names[-1],
                                             'auto-finalize': True, 'auto-dismiss': False})
    assert reply == {'return': {}} and events_of(m.d, job)[:2] == ['created', 'running']
    (info,) = m.d.cmd('query-block-jobs')
    assert info['device'] == job and info['type'] == 'commit' and {'speed', 'offset', 'len', 'ready'} <= set(info)
    wait_status(m.d, job, 'ready')
    assert not m.node(names[-1])['ro'], 'the base has become writable by itself'
    m.d.qmp.execute('job-complete', {'id': job})
    wait_status(m.d, job, 'concluded')
    seen = events_of(m.d, job)
    assert seen.index('waiting') < seen.index('pending') < seen.index('BLOCK_JOB_COMPLETED') < seen.index('concluded')
    assert error_of(m.d, job) is None
    m.dismiss(job)
    *above, base = m.chains['vda']
    m.nodes()
    for number, _ in above:
        m.delete(number)
    assert sorted(m.nodes()) == sorted(f'libvirt-{base[0]}-{k}' for k in ('format', 'storage'))
    m.chains['vda'] = [base]
    m.end()


def test_blockcommit_aborted_at_ready(machine):
    m = machine('vda')
    m.snapshot('s1')
    names = m.names('vda')
    job = f'commit-vda-{names[0]}'
    m.d.cmd('block-commit', {'device': names[0], 'job-id': job, 'top-node': names[0], 'base-node': names[1], 'auto-finalize': True,
                             'auto-dismiss': False})
    wait_status(m.d, job, 'ready')
    assert m.d.qmp.execute('block-job-cancel', {'device': job}) == {'return': {}}
    m.conclude(job)
    assert sorted(m.nodes()) == sorted(f'libvirt-{n}-{k}' for n, _ in m.chains['vda'] for k in ('format', 'storage'))
    m.end()


def test_blockcommit_of_a_middle_image(machine):
    m = machine('vdb')
    for name in ('s1', 's2', 's3'):
        m.snapshot(name)
    top, (number, _), (_, base), _ = m.chains['vdb']
    names = m.names('vdb')
    job = f'commit-vdb-{names[1]}'
    m.d.cmd('block-commit', {'device': names[0], 'job-id': job, 'top-node': names[1], 'base-node': names[2], 'backing-file': str(base),
                             'auto-finalize': True, 'auto-dismiss': False})
    m.conclude(job)
    m.delete(number)
    del m.chains['vdb'][1]
    assert img.info(top[1], share=True)['backing-filename'] == str(base)
    m.end()


def test_snapshot_delete_in_the_middle(machine):
    """All disks' jobs stop at pending; then one after the other is finalized."""
    m = machine('vda', 'vdb')
    for name in ('s1', 's2'):
        m.snapshot(name)
    jobs = {}
    for disk, chain in m.chains.items():
        names = m.names(disk)
        jobs[disk] = f'commit-{disk}-{names[1]}'
        m.d.cmd('block-commit', {'device': names[0], 'job-id': jobs[disk], 'top-node': names[1], 'base-node': names[2],
                                 'backing-file': str(chain[2][1]), 'auto-finalize': False, 'auto-dismiss': False})
    for job in jobs.values():
        wait_status(m.d, job, 'pending')
        assert 'BLOCK_JOB_PENDING' in events_of(m.d, job) or m.d.qmp.event('BLOCK_JOB_PENDING')
    for disk, job in jobs.items():
        assert m.d.qmp.execute('job-finalize', {'id': job}) == {'return': {}}
        m.conclude(job)
        m.nodes()
        m.delete(m.chains[disk].pop(1)[0])
    m.end()


def test_snapshot_delete_of_the_last(machine):
    m = machine('vda', 'vdb')
    m.snapshot('s1')
    jobs = {}
    for disk in m.chains:
        names = m.names(disk)
        jobs[disk] = f'commit-{disk}-{names[0]}'
        m.d.cmd('block-commit', {'device': names[0], 'job-id': jobs[disk], 'top-node': names[0], 'base-node': names[1],
                                 'auto-finalize': True, 'auto-dismiss': False})
    for job in jobs.values():
        wait_status(m.d, job, 'ready')
    for disk, job in jobs.items():
        m.d.cmd('job-complete', id=job)
        m.conclude(job)
        number, path = m.chains[disk].pop(0)
        m.delete(number)
        path.unlink()
    m.end()


@pytest.mark.parametrize('base', [None, 1])
def test_blockpull(machine, base):
    m = machine('vdb')
    for name in ('s1', 's2'):
        m.snapshot(name)
    names, chain = m.names('vdb'), m.chains['vdb']
    job = f'pull-vdb-{names[0]}'
    arguments = {'device': names[0], 'job-id': job, 'auto-finalize': True, 'auto-dismiss': False}
    if base:
        arguments.update({'base-node': names[-1], 'backing-file': str(chain[-1][1])})
    m.d.cmd('block-stream', arguments)
    m.conclude(job)
    gone = chain[1:-1] if base else chain[1:]
    for number, _ in gone:
        m.delete(number)
    m.chains['vdb'] = [p for p in chain if p not in gone]
    m.end()


def blockcopy(m, shallow=False, reuse=None, **options):
    """virsh blockcopy of vda up to ready; the number of the target and the job."""
    disk, path = 'vda', m.images / 'vda.copy'
    m.nodes()
    if reuse:
        path = reuse
    else:
        path.touch(0o600)
    number = m.storage(path)
    below = m.names(disk)[1] if shallow and len(m.chains[disk]) > 1 else None
    if not reuse:
        job = f'create-libvirt-{number}-format'
        m.d.cmd('blockdev-create', {'job-id': job, 'options': {
            'driver': 'qcow2', 'file': f'libvirt-{number}-storage', 'size': SIZE, 'cluster-size': 65536,
            **({'backing-file': str(m.chains[disk][1][1]), 'backing-fmt': 'qcow2'} if below else {})}})
        m.conclude(job)
    m.format(number, backing=None if reuse else below)
    job = f'copy-{disk}-{m.top(disk)}'
    reply = m.d.qmp.execute('blockdev-mirror', {'job-id': job, 'device': m.top(disk), 'target': f'libvirt-{number}-format',
                                                'sync': 'top' if shallow else 'full', 'auto-finalize': True, 'auto-dismiss': False, **options})
    assert reply == {'return': {}} and events_of(m.d, job)[:2] == ['created', 'running']
    (info,) = m.d.cmd('query-block-jobs')
    assert info['device'] == job and info['type'] == 'mirror' and {'speed', 'offset', 'len', 'ready'} <= set(info)
    wait_status(m.d, job, 'ready')
    assert m.d.qmp.execute('block-job-set-speed', {'device': job, 'speed': 1 << 40}) == {'return': {}}
    return number, path, job


def pivot(m, number, path, job, gone):
    """gone: numbers of the pairs that are deleted after it."""
    target = f'libvirt-{number}-format'
    bitmap = {'node': target, 'name': 'libvirt-tmp-activewrite'}
    assert m.d.qmp.execute('transaction', {'actions': [{'type': 'block-dirty-bitmap-add', 'data': {
        **bitmap, 'persistent': False, 'disabled': False}}]}) == {'return': {}}
    m.d.qmp.execute('job-complete', {'id': job})
    wait_status(m.d, job, 'concluded')
    seen = events_of(m.d, job)
    assert seen.index('waiting') < seen.index('pending') < seen.index('BLOCK_JOB_COMPLETED') < seen.index('concluded')
    assert error_of(m.d, job) is None
    m.dismiss(job)
    m.nodes()
    assert m.d.qmp.execute('transaction', {'actions': [{'type': 'block-dirty-bitmap-remove', 'data': bitmap}]}) == {'return': {}}
    for n in gone:
        m.delete(n)
    assert m.d.cmd('query-block-exports')[0]['node-name'] == target


@pytest.mark.parametrize('options', [{}, {'copy-mode': 'write-blocking', 'granularity': 65536, 'buf-size': 1 << 20}],
                         ids=['background', 'synchronous-writes'])
def test_blockcopy_pivot(machine, options):
    m = machine('vda')
    m.snapshot('s1')
    number, path, job = blockcopy(m, **options)
    pivot(m, number, path, job, [n for n, _ in m.chains['vda']])
    m.chains['vda'] = [(number, path)]
    m.end()


def test_blockcopy_finish(machine):
    m = machine('vda')
    number, path, job = blockcopy(m)
    assert m.d.qmp.execute('block-job-cancel', {'device': job}) == {'return': {}}
    m.conclude(job)
    m.delete(number)
    m.end()
    img.check(path)


def test_blockcopy_shallow(machine):
    """The copy has what the uppermost image had, on the same backing images."""
    m = machine('vda')
    for name in ('s1', 's2'):
        m.snapshot(name)
    number, path, job = blockcopy(m, shallow=True)
    top, *below = m.chains['vda']
    pivot(m, number, path, job, [top[0]])
    m.chains['vda'] = [(number, path), *below]
    m.end()


def test_blockcopy_shallow_reuse_external(machine):
    """The copy gets its backing image, a second pair of nodes for it, while the job writes to it."""
    m = machine('vda')
    m.snapshot('s1')
    base = m.chains['vda'][1][1]
    copy = img.create(m.images / 'vda.copy', str(SIZE), backing=base)
    number, path, job = blockcopy(m, shallow=True, reuse=copy)
    second = m.storage(base)
    m.add({'node-name': f'libvirt-{second}-format', 'read-only': True, 'driver': 'qcow2', 'file': f'libvirt-{second}-storage', 'backing': None})
    assert m.d.qmp.execute('transaction', {'actions': [{'type': 'blockdev-snapshot', 'data': {
        'node': f'libvirt-{second}-format', 'overlay': f'libvirt-{number}-format'}}]}) == {'return': {}}
    pivot(m, number, path, job, [n for n, _ in m.chains['vda']])
    m.chains['vda'] = [(number, path), (second, base)]
    m.end()


def test_backing_image_writable_for_a_moment(machine):
    """As for bitmaps of a backing image: reopened read-write with its full options, and back."""
    m = machine('vda')
    m.snapshot('s1')
    number, _ = m.chains['vda'][1]
    options = {'node-name': f'libvirt-{number}-format', 'read-only': False, 'driver': 'qcow2', 'file': f'libvirt-{number}-storage',
               'backing': None}
    for read_only in (False, True, False, True):
        assert m.d.qmp.execute('blockdev-reopen', {'options': [{**options, 'read-only': read_only}]}) == {'return': {}}
        assert m.node(options['node-name'])['ro'] == read_only
    m.end()


def test_after_a_restart_of_libvirt(machine):
    """It asks for blocks and jobs again, by another session; a concluded job waits for whoever started it."""
    m = machine('vda')
    m.snapshot('s1')
    names = m.names('vda')
    m.d.cmd('block-commit', {'device': names[0], 'job-id': 'j', 'top-node': names[0], 'base-node': names[1], 'auto-finalize': True,
                             'auto-dismiss': False})
    wait_status(m.d, 'j', 'ready')
    m.d.qmp.close()
    m.d.qmp = m.d.connect()
    assert m.d.cmd('query-block') == []
    (info,) = m.d.cmd('query-jobs')
    assert (info['id'], info['type'], info['status']) == ('j', 'commit', 'ready'), json.dumps(info)
    m.d.cmd('job-complete', id='j')
    m.conclude('j')
    m.delete(m.chains['vda'].pop(0)[0])
    m.end()
