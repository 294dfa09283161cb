# SPDX-License-Identifier: BSD-3-Clause
"""Quorums that change while they are used: children added, removed and replaced, snapshots of the quorum and of its children, read-only ones."""
import json
import os
import signal
import threading
import time

import nbd
import pytest

from lib import emulator, jobs
from lib import images as img
from lib.daemon import SLOW

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB
BLOCK = 16 * KIB


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.dir = images
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd.sock')}}})
    return d


def place(d, i, content=bytes(SIZE), **more):
    """A file, as a child."""
    (d.dir / f'c{i}').write_bytes(content)
    return {'driver': 'file', 'filename': str(d.dir / f'c{i}'), 'node-name': f'c{i}', **more}


def quorum(d, children, threshold, **more):
    d.cmd('blockdev-add', {'driver': 'quorum', 'node-name': 'q', 'children': children, 'vote-threshold': threshold,
                           **{k.replace('_', '-'): v for k, v in more.items()}})


def by_name(d, n, threshold, **more):
    """A quorum of nodes of their own."""
    for i in range(n):
        d.cmd('blockdev-add', place(d, i))
    quorum(d, [f'c{i}' for i in range(n)], threshold, **more)


def connect(d, name='q'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.dir}/nbd.sock')
    return h


def export(d, name='q', writable=True):
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': writable})
    return connect(d, name)


def children(d):
    (q,) = [n for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'q']
    return {c['child']: c['node-name'] for c in q['children']}


def contents(d, n):
    return [(d.dir / f'c{i}').read_bytes() for i in range(n)]


class Writers:
    """Clients that write to places of their own, and read what they wrote, until the end."""

    def __init__(self, d, count=3):
        self.want, self.longest, self.errors, self.over = {}, 0, [], False
        self.threads = [threading.Thread(target=self.run, args=(connect(d), i, count)) for i in range(count)]
        for t in self.threads:
            t.start()

    def run(self, h, me, count):
        n = 0
        try:
            while not self.over:
                n += 1
                at = ((n * 7) % (SIZE // BLOCK // count) * count + me) * BLOCK
                data = bytes([n % 251 + 1]) * BLOCK
                begun = time.monotonic()
                h.pwrite(data, at)
                self.want[at] = data
                assert h.pread(BLOCK, at) == data
                self.longest = max(self.longest, time.monotonic() - begun)
                time.sleep(0.001)
            h.flush()
            h.shutdown()
        except Exception as e:
            self.errors.append(e)

    def end(self):
        self.over = True
        [t.join() for t in self.threads]
        assert not self.errors
        assert len(self.want) > 3
        return self.want


def check(h, want):
    for at, data in want.items():
        assert h.pread(BLOCK, at) == data


def test_children_come_and_go_while_clients_write(d):
    by_name(d, 3, 2, rewrite_corrupted=True)
    h = export(d)
    load = Writers(d)
    for i in range(30):
        d.cmd('x-blockdev-change', {'parent': 'q', 'child': 'children.2'})
        assert children(d) == {'children.0': 'c0', 'children.1': 'c1'}
        if i % 2:
            d.cmd('blockdev-del', {'node-name': 'c2'})
            d.cmd('blockdev-add', {'driver': 'file', 'filename': str(d.dir / 'c2'), 'node-name': 'c2'})
        d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c2'})
        assert children(d)['children.2'] == 'c2'
    want = load.end()
    assert load.longest < 1 * SLOW, 'nobody waits'
    check(h, want)
    h.pread(SIZE, 0)
    a, b, c = contents(d, 3)
    assert a == b == c, 'what the new child lacked is in it once it was read'
    assert all(a[at:at + BLOCK] == data for at, data in want.items())
    assert not [e for e in d.qmp.events if e['event'] == 'QUORUM_FAILURE']
    h.shutdown()


def test_a_new_child_misses_no_write_that_overlaps_others(d):
    """All clients write to the same place: in the end the children, those from the beginning and the new one, have the same there."""
    by_name(d, 2, 1)
    d.cmd('blockdev-add', place(d, 2))
    export(d).shutdown()
    over = []

    def write(me):
        h, n = connect(d), 0
        while not over:
            n += 1
            h.pwrite(bytes([(me * 60 + n % 60) % 255 + 1]) * BLOCK, 0)
        h.shutdown()

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    for _ in range(20):
        d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c2'})
        time.sleep(0.005)
        d.cmd('x-blockdev-change', {'parent': 'q', 'child': 'children.2'})
    d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c2'})
    time.sleep(0.02)
    over.append(True)
    [t.join() for t in threads]
    a, b, c = contents(d, 3)
    assert a[:BLOCK] == b[:BLOCK] == c[:BLOCK] != bytes(BLOCK)


@pytest.fixture
def far(daemon, d):
    """A server of the disk far; options of a child that has it."""
    server = daemon()
    server.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.dir / 'far.sock')}}})
    (d.dir / 'far').write_bytes(b'g' * SIZE)
    server.cmd('blockdev-add', {'driver': 'file', 'filename': str(d.dir / 'far'), 'node-name': 'far'})
    server.cmd('block-export-add', {'type': 'nbd', 'id': 'far', 'node-name': 'far', 'writable': True})
    server.options = {'driver': 'nbd', 'node-name': 'r', 'server': {'type': 'unix', 'path': str(d.dir / 'far.sock')}, 'export': 'far'}
    server.hang = lambda: os.kill(server.pid, signal.SIGSTOP)
    server.go_on = lambda: os.kill(server.pid, signal.SIGCONT)
    yield server
    server.go_on()


def until(condition, timeout=10):
    deadline = time.monotonic() + timeout * SLOW
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def begin(function, *args):
    t = threading.Thread(target=function, args=args)
    t.start()
    return t


def requests(d, name, kind):
    """How many a node has had, those that hang too."""
    (stats,) = [s for s in d.cmd('query-blockstats', {'query-nodes': True}) if s['node-name'] == name]
    return stats['stats'][kind]


def test_a_write_whose_turn_comes_later_goes_to_the_new_child(d, far):
    """Else one that overlaps it and is already with the new child could come before it there, and after it elsewhere."""
    quorum(d, [place(d, 0, b'g' * SIZE), far.options], 1)
    d.cmd('blockdev-add', place(d, 2, b'g' * SIZE))
    first, second = export(d), connect(d)
    far.hang()
    a = begin(first.pwrite, b'1' * KIB, 0)
    until(lambda: (d.dir / 'c0').read_bytes()[0] == ord('1'))
    before = requests(d, 'q', 'wr_operations')
    b = begin(second.pwrite, b'2' * KIB, 0)
    until(lambda: requests(d, 'q', 'wr_operations') > before)
    time.sleep(0.01)
    d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c2'})
    far.go_on()
    a.join()
    b.join()
    assert [x[:KIB] for x in ((d.dir / n).read_bytes() for n in ('c0', 'far', 'c2'))] == [b'2' * KIB] * 3
    first.shutdown()
    second.shutdown()


def test_a_read_that_looks_again_sees_the_present_children(d, far):
    """It began before its children were snapshotted, and finds damage; what it looks at then, and puts right, is what there is now."""
    for i in (0, 1):
        d.cmd('blockdev-add', place(d, i, (b'g' if i == 0 else b'b') * SIZE))
    quorum(d, ['c0', 'c1', far.options], 2, rewrite_corrupted=True)
    reader, writer, got = export(d), connect(d), []
    far.hang()
    r = begin(lambda: got.append(reader.pread(KIB, 0)))
    until(lambda: requests(d, 'c1', 'rd_operations') > 0)
    d.cmd('transaction', {'actions': [
        {'type': 'blockdev-snapshot-sync',
         'data': {'node-name': f'c{i}', 'snapshot-node-name': f's{i}', 'snapshot-file': str(d.dir / f's{i}')}} for i in (0, 1)]})
    before = requests(d, 's0', 'wr_operations')
    w = begin(writer.pwrite, b'n' * KIB, 0)
    until(lambda: requests(d, 's0', 'wr_operations') > before)
    far.go_on()
    r.join()
    w.join()
    assert got == [b'n' * KIB]
    assert [x[:KIB] for x in ((d.dir / n).read_bytes() for n in ('c0', 'c1', 'far'))] == [b'g' * KIB, b'b' * KIB, b'n' * KIB]
    assert writer.pread(KIB, 0) == b'n' * KIB
    reader.shutdown()
    writer.shutdown()


def test_a_child_that_hangs_is_removed(d, far):
    quorum(d, [place(d, 0), place(d, 1), far.options], 2)
    h = export(d)
    far.hang()
    try:
        stuck = begin(h.pwrite, b'x' * KIB, 0)
        until(lambda: (d.dir / 'c0').read_bytes()[0] == ord('x'))
        begun = time.monotonic()
        d.cmd('x-blockdev-change', {'parent': 'q', 'child': 'children.2'})
        assert time.monotonic() - begun < 3 * SLOW
        assert children(d) == {'children.0': 'c0', 'children.1': 'c1'}
        other = connect(d)
        other.pwrite(b'y' * KIB, MIB)
        other.flush()
        assert other.pread(KIB, MIB) == b'y' * KIB
        assert 'r' in [n['node-name'] for n in d.cmd('query-named-block-nodes')]
    finally:
        far.go_on()
    stuck.join()
    until(lambda: 'r' not in [n['node-name'] for n in d.cmd('query-named-block-nodes')])  # gone when its request has ended
    other.shutdown()
    h.shutdown()
    d.cmd('block-export-del', {'id': 'q'})
    d.cmd('blockdev-del', {'node-name': 'q'})
    assert not d.cmd('query-named-block-nodes')


def test_what_cannot_be_changed(d):
    by_name(d, 2, 2)
    for i in (3, 4):
        d.cmd('blockdev-add', place(d, i, bytes(SIZE if i == 3 else 2 * SIZE)))
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'raw', 'file': place(d, 5)})
    for arguments, text in (
            ({}, 'Either child or node must be specified'),
            ({'child': 'children.0', 'node': 'c3'}, 'The parameters child and node are in conflict'),
            ({'child': 'nope'}, "Node 'q' does not have child 'nope'"),
            ({'node': 'nope'}, "Node 'nope' not found"),
            ({'node': 'c0'}, 'The node c0 already has a parent'),
            ({'node': 'q'}, "Making 'q' a children.2 child of 'q' would create a cycle"),
            ({'node': 'c4'}, "Children 'c0' and 'c4' of a quorum differ in size"),
            ({'child': 'children.0'}, 'The number of children cannot be lower than the vote threshold 2'),
            ({'parent': 'nope', 'node': 'c3'}, "Cannot find device='nope' nor node-name='nope'"),
            ({'parent': 'raw', 'node': 'c3'}, 'The node raw does not support adding a child'),
            ({'parent': 'raw', 'child': 'file'}, 'The node raw does not support removing a child')):
        assert d.qmp.error('x-blockdev-change', {'parent': 'q', **arguments}) == text
    assert children(d) == {'children.0': 'c0', 'children.1': 'c1'}
    d.cmd('blockdev-add', {'driver': 'file', 'filename': str(d.dir / 'c3'), 'node-name': 'ro', 'read-only': True})
    h = export(d)
    assert d.qmp.error('x-blockdev-change', {'parent': 'q', 'node': 'ro'}) == 'Block node is read-only'
    h.pwrite(b'x' * KIB, 0)
    d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c3'})
    h.pwrite(b'y' * KIB, KIB)
    assert (d.dir / 'c3').read_bytes()[:2 * KIB] == bytes(KIB) + b'y' * KIB
    h.shutdown()


def test_no_child_for_blkverify(d):
    by_name(d, 2, 2, blkverify=True)
    d.cmd('blockdev-add', place(d, 2))
    assert d.qmp.error('x-blockdev-change', {'parent': 'q', 'node': 'c2'}) == 'Cannot add a child to a quorum in blkverify mode'
    assert 'vote threshold 2' in d.qmp.error('x-blockdev-change', {'parent': 'q', 'child': 'children.0'})


def test_names_of_children_and_of_the_disk(d):
    by_name(d, 3, 1)
    d.cmd('x-blockdev-change', {'parent': 'q', 'child': 'children.1'})
    d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c1'})
    assert children(d) == {'children.0': 'c0', 'children.2': 'c2', 'children.3': 'c1'}
    d.cmd('x-blockdev-change', {'parent': 'q', 'child': 'children.3'})
    d.cmd('x-blockdev-change', {'parent': 'q', 'node': 'c1'})
    assert children(d) == {'children.0': 'c0', 'children.2': 'c2', 'children.3': 'c1'}
    (q,) = [n for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'q']
    o = json.loads(q['file'][len('json:'):])
    assert [c['filename'] for c in o['children']] == [str(d.dir / f'c{i}') for i in (0, 2, 1)]


def test_lists_of_nodes_have_the_quorum_before_its_children(d):
    quorum(d, [place(d, 0), {'driver': 'raw', 'node-name': 'r1', 'file': place(d, 1)}], 1)
    assert [n['node-name'] for n in d.cmd('query-named-block-nodes')] == ['r1', 'c1', 'c0', 'q'], 'the newest first'


def test_all_children_in_one_group(d):
    """The old children are of the same instant, whatever clients write, and nothing old comes back by what is put right."""
    good = b'g' * SIZE
    bad = bytearray(good)
    for at in range(0, SIZE, 32 * KIB):
        bad[at:at + KIB] = b'b' * KIB
    for i in range(3):
        d.cmd('blockdev-add', place(d, i, bytes(bad) if i == 2 else good))
    quorum(d, ['c0', 'c1', 'c2'], 2, rewrite_corrupted=True)
    h = export(d)
    load = Writers(d)
    readers = threading.Thread(target=lambda: [connect(d).pread(256 * KIB, i % 16 * 256 * KIB) for i in range(100)])
    readers.start()
    time.sleep(0.05)
    d.cmd('transaction', {'actions': [
        {'type': 'blockdev-snapshot-sync',
         'data': {'node-name': f'c{i}', 'snapshot-node-name': f's{i}', 'snapshot-file': str(d.dir / f's{i}')}} for i in range(3)]})
    assert children(d) == {f'children.{i}': f's{i}' for i in range(3)}
    old = contents(d, 3)
    time.sleep(0.1)
    readers.join()
    want = load.end()
    assert contents(d, 3) == old, 'old children stay as they are'
    assert old[0] == old[1]
    for at in range(0, SIZE, 512):
        if old[2][at:at + 512] != old[0][at:at + 512]:
            assert old[2][at:at + 512] == b'b' * 512, 'it differs by the old damage only'
    check(h, want)
    assert load.longest < 1 * SLOW
    h.shutdown()
    d.cmd('block-export-del', {'id': 'q'})
    d.cmd('blockdev-del', {'node-name': 'q'})
    for i in range(2):
        img.run('qemu-img', 'check', '-U', d.dir / f's{i}')
        now = img.contents(d.dir / f's{i}', SIZE, share=True)
        assert all(now[at:at + BLOCK] == data for at, data in want.items())


def test_a_snapshot_makes_the_children_read_only(d):
    """Those that are defined in place; nodes of the user's own keep their flag, as below other disks."""
    d.cmd('blockdev-add', place(d, 2))
    quorum(d, [{'driver': 'raw', 'node-name': f'r{i}', 'file': place(d, i)} for i in range(2)] + ['c2'], 2)
    h = export(d)
    h.pwrite(b'x' * KIB, 0)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'q', 'snapshot-node-name': 'top', 'snapshot-file': str(d.dir / 'top')})
    ro = {n['node-name']: n['ro'] for n in d.cmd('query-named-block-nodes')}
    assert {n: ro[n] for n in ('q', 'r0', 'r1', 'c0', 'c1', 'c2', 'top')} == {
        'q': True, 'r0': True, 'r1': True, 'c0': True, 'c1': True, 'c2': False, 'top': False}
    h.pwrite(b'y' * KIB, KIB)
    d.cmd('block-commit', {'device': 'top', 'job-id': 'j'})
    jobs.wait_status(d, 'j', 'ready')
    d.cmd('block-job-complete', {'device': 'j'})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    ro = {n['node-name']: n['ro'] for n in d.cmd('query-named-block-nodes')}
    assert not any(ro[n] for n in ('q', 'r0', 'r1', 'c0', 'c1')), 'it is the disk again'
    h.pwrite(b'z' * KIB, 2 * KIB)
    h.flush()
    assert all(c[:3 * KIB] == b'x' * KIB + b'y' * KIB + b'z' * KIB for c in contents(d, 3))
    h.shutdown()


def test_a_read_only_quorum_puts_right_what_is_bad(d):
    for i in range(3):
        d.cmd('blockdev-add', place(d, i, b'a' * SIZE if i < 2 else b'a' * MIB + b'b' * KIB + b'a' * (SIZE - MIB - KIB),
                                    **{'auto-read-only': True}))
    quorum(d, ['c0', 'c1', 'c2'], 2, rewrite_corrupted=True, read_only=True)
    h = export(d, writable=False)
    assert h.pread(SIZE, 0) == b'a' * SIZE
    assert d.qmp.event('QUORUM_REPORT_BAD')['data']['node-name'] == 'c2'
    assert (d.dir / 'c2').read_bytes() == b'a' * SIZE
    h.shutdown()


def test_the_event_comes_before_the_reply(tmp_path):
    for i, content in enumerate((b'a', b'a', b'b')):
        (tmp_path / f'{i}').write_bytes(content * MIB)
    q = {'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 2,
         'children': [{'driver': 'file', 'filename': str(tmp_path / f'{i}')} for i in range(3)]}
    got = emulator.qmp(tmp_path, [('human-monitor-command', {'command-line': 'qemu-io -d disk "read 0 64k"'})],
                       '-blockdev', json.dumps(q), '-device', 'virtio-scsi', '-device', 'scsi-hd,id=disk,drive=q')
    names = [m.get('event', 'reply') if isinstance(m, dict) else 'text' for m in got]
    assert names.index('QUORUM_REPORT_BAD') < names.index('reply')


@pytest.mark.parametrize('copy_mode', ['background', 'write-blocking'])
def test_a_child_is_replaced_by_a_mirror(d, copy_mode):
    by_name(d, 3, 2)
    h = export(d)
    d.cmd('blockdev-add', place(d, 3, b'?' * SIZE))
    load = Writers(d)
    d.cmd('blockdev-mirror', {'job-id': 'j', 'device': 'q', 'target': 'c3', 'sync': 'full', 'replaces': 'c1', 'copy-mode': copy_mode})
    assert 'is busy: block device is in use by block job: mirror' in d.qmp.error('x-blockdev-change', {'parent': 'q', 'child': 'children.1'})
    jobs.wait_status(d, 'j', 'ready')
    d.cmd('block-job-complete', {'device': 'j'})
    assert 'error' not in d.qmp.event('BLOCK_JOB_COMPLETED')['data']
    assert children(d) == {'children.0': 'c0', 'children.1': 'c3', 'children.2': 'c2'}
    time.sleep(0.05)
    want = load.end()
    check(h, want)
    a, _, b, c = contents(d, 4)
    assert a == b == c
    assert not [e for e in d.qmp.events if e['event'].startswith('QUORUM')]
    h.shutdown()


def test_a_child_that_others_read_is_not_replaced(d):
    by_name(d, 3, 2)
    d.cmd('blockdev-add', place(d, 3))
    arguments = {'job-id': 'j', 'device': 'q', 'target': 'c3', 'sync': 'full', 'replaces': 'c1'}
    export(d, 'c1', writable=False).shutdown()
    assert 'abrupt change of visible data' in d.qmp.error('blockdev-mirror', arguments)
    d.cmd('block-export-del', {'id': 'c1'})
    d.cmd('blockdev-mirror', arguments)
    jobs.wait_status(d, 'j', 'ready')
    export(d, 'c1', writable=False).shutdown()
    d.cmd('block-job-complete', {'device': 'j'})
    assert d.qmp.event('BLOCK_JOB_COMPLETED')['data']['error'] == 'Operation not permitted'
    assert children(d)['children.1'] == 'c1'


def test_the_formats_of_children_of_a_drive_are_probed(tmp_path):
    options = ['if=none,id=q,driver=quorum,vote-threshold=2']
    for i in range(2):
        img.create(tmp_path / f'{i}', '1M')
        options.append(f'children.{i}.file.filename={tmp_path}/{i},children.{i}.node-name=n{i}')
    answers = emulator.console(tmp_path, ['qemu-io q "write -P 7 0 64k"', 'info block -v'], '-drive', ','.join(options))
    assert 'wrote 65536/65536 bytes' in answers[0]
    assert img.contents(tmp_path / '0', 65536) == b'\7' * 65536


def snap(d, name):
    return {'type': 'blockdev-snapshot-sync',
            'data': {'node-name': name, 'snapshot-node-name': f's{name}', 'snapshot-file': str(d.dir / f's{name}')}}




def test_a_quorum_and_its_child_are_not_one_group(d):
    by_name(d, 2, 2)
    for pair in (('q', 'c0'), ('c0', 'q')):
        assert 'of the same transaction' in d.qmp.error('transaction', {'actions': [snap(d, name) for name in pair]})
    assert len(d.cmd('query-named-block-nodes')) == 3


def test_layers_of_children_are_merged_while_clients_write(d):
    by_name(d, 3, 2, rewrite_corrupted=True)
    h = export(d)
    load = Writers(d)
    for r in range(2):
        d.cmd('transaction', {'actions': [snap(d, f'c{i}') for i in range(3)]})
        for i in range(3):
            d.cmd('block-commit', {'device': f'sc{i}', 'job-id': f'j{r}{i}'})
        for i in range(3):
            jobs.wait_status(d, f'j{r}{i}', 'ready')
        for i in range(3):
            d.cmd('block-job-complete', {'device': f'j{r}{i}'})
        for i in range(3):
            e = d.qmp.event('BLOCK_JOB_COMPLETED')
            assert 'error' not in e['data'], e
        for i in range(3):
            os.remove(d.dir / f'sc{i}')
    assert children(d) == {f'children.{i}': f'c{i}' for i in range(3)}
    want = load.end()
    check(h, want)
    h.pread(SIZE, 0)
    a, b, c = contents(d, 3)
    assert a == b == c
    assert not [e for e in d.qmp.events if e['event'].startswith('QUORUM')]


def test_an_image_that_lies_in_a_quorum(d):
    for i in range(3):
        img.create(d.dir / f'c{i}', '16M')
    o = {'driver': 'qcow2', 'node-name': 'q', 'file': {'driver': 'quorum', 'node-name': 'qq', 'vote-threshold': 2, 'children': [
        {'driver': 'file', 'filename': str(d.dir / f'c{i}'), 'node-name': f'c{i}'} for i in range(3)]}}
    d.cmd('blockdev-add', o)
    h = export(d)
    load = Writers(d)
    time.sleep(0.1)
    d.cmd('transaction', {'actions': [snap(d, 'q')]})
    time.sleep(0.05)
    ro = {n['node-name']: n['ro'] for n in d.cmd('query-named-block-nodes')}
    assert not ro['sq'] and all(ro[n] for n in ('q', 'qq', 'c0', 'c1', 'c2'))
    d.cmd('block-commit', {'device': 'sq', 'job-id': 'j'})
    jobs.wait_status(d, 'j', 'ready')
    d.cmd('block-job-complete', {'device': 'j'})
    assert 'error' not in d.qmp.event('BLOCK_JOB_COMPLETED')['data']
    d.cmd('x-blockdev-change', {'parent': 'qq', 'child': 'children.1'})
    want = load.end()
    check(h, want)
    h.shutdown()
    d.cmd('block-export-del', {'id': 'q'})
    d.cmd('blockdev-del', {'node-name': 'q'})
    a, b, c = contents(d, 3)
    assert a == c
    img.run('qemu-img', 'check', d.dir / 'c0')


def test_a_quorum_has_another_size_and_is_inactive(d):
    for i in range(2):
        img.create(d.dir / f'c{i}', '16M')
    quorum(d, [{'driver': 'qcow2', 'node-name': f'n{i}', 'file': {'driver': 'file', 'filename': str(d.dir / f'c{i}')}} for i in range(2)], 2)
    for size in (32 * MIB, 8 * MIB):
        d.cmd('block_resize', {'node-name': 'q', 'size': size})
        info = {n['node-name']: n['image'] for n in d.cmd('query-named-block-nodes')}
        assert [info[n]['virtual-size'] for n in ('q', 'n0', 'n1')] == [size] * 3
        assert info['q']['actual-size'] == info['n0']['actual-size'] + info['n1']['actual-size']
    d.cmd('blockdev-set-active', {'node-name': 'q', 'active': False})
    assert not any(n['active'] for n in d.cmd('query-named-block-nodes'))
    d.cmd('blockdev-set-active', {'node-name': 'q', 'active': True})
    h = export(d)
    h.pwrite(b'x' * KIB, 0)
    h.shutdown()
