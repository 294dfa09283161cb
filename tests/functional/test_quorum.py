# SPDX-License-Identifier: BSD-3-Clause
"""The driver quorum: votes, failing children, snapshots."""
import json
from concurrent.futures import ThreadPoolExecutor

import nbd
import pytest

from lib import emulator
from lib import images as img

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.dir = images
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd.sock')}}})
    return d


def client(d, name):
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///{name}?socket={d.dir}/nbd.sock')
    return h


def places(d, contents):
    for i, content in enumerate(contents):
        (d.dir / f'c{i}').write_bytes(content)
    return [{'driver': 'file', 'filename': str(d.dir / f'c{i}'), 'node-name': f'c{i}'} for i in range(len(contents))]


def options(children, threshold, **more):
    return {'driver': 'quorum', 'node-name': 'q', 'children': children, 'vote-threshold': threshold,
            **{k.replace('_', '-'): v for k, v in more.items()}}


def quorum(d, contents, threshold, **more):
    d.cmd('blockdev-add', options(places(d, contents), threshold, **more))
    return client(d, 'q')


def differing(at, n):
    """The good data in all of n places but the last."""
    good = b'a' * SIZE
    return [good] * (n - 1) + [good[:at] + b'b' * 512 + good[at + 512:]]


def test_writes_go_to_all(d):
    h = quorum(d, [bytes(SIZE)] * 3, 2)
    h.pwrite(b'x' * 5000, 300)
    h.zero(1 * MIB, 2 * MIB)
    h.pwrite(b'y' * KIB, SIZE - KIB)
    h.flush()
    want = bytearray(SIZE)
    want[300:5300] = b'x' * 5000
    want[-KIB:] = b'y' * KIB
    assert all((d.dir / f'c{i}').read_bytes() == want for i in range(3))
    assert h.pread(SIZE, 0) == want
    h.shutdown()


@pytest.mark.parametrize('rewrite', [False, True])
def test_the_majority_wins_and_the_loser_is_told(d, rewrite):
    h = quorum(d, differing(MIB, 3), 2, rewrite_corrupted=rewrite)
    assert h.pread(2 * MIB, 0) == b'a' * 2 * MIB
    e = d.qmp.event('QUORUM_REPORT_BAD')['data']
    assert e == {'type': 'read', 'node-name': 'c2', 'sector-num': 0, 'sectors-count': 4096}
    assert (d.dir / 'c2').read_bytes() == (b'a' * SIZE if rewrite else differing(MIB, 3)[2])
    h.shutdown()


def test_no_majority(d):
    h = quorum(d, [b'a' * SIZE, b'b' * SIZE, b'c' * SIZE], 2)
    with pytest.raises(nbd.Error, match='Input/output'):
        h.pread(KIB, 4096)
    assert d.qmp.event('QUORUM_FAILURE')['data'] == {'reference': 'q', 'sector-num': 8, 'sectors-count': 2}
    h.pwrite(b'z' * KIB, 4096)
    assert h.pread(KIB, 4096) == b'z' * KIB
    h.shutdown()


def test_blkverify_finds_a_difference(d):
    h = quorum(d, differing(MIB, 2), 2, blkverify=True)
    assert h.pread(MIB, 0) == b'a' * MIB
    with pytest.raises(nbd.Error):
        h.pread(KIB, MIB)
    h.shutdown()


def test_fifo_takes_the_first(d):
    h = quorum(d, [b'b' * SIZE, b'a' * SIZE], 1, read_pattern='fifo')
    assert h.pread(KIB, 0) == b'b' * KIB
    h.shutdown()


def failing(d, n, threshold, after=1):
    """n - 1 files and a simulated disk, an operation of which fails."""
    sim = {'driver': 'simdisk', 'node-name': 's', 'size': SIZE, 'fail-after': after, 'fail-errno': 28}
    d.cmd('blockdev-add', options([*places(d, [bytes(SIZE)] * (n - 1)), sim], threshold))
    return client(d, 'q')


def test_a_write_survives_a_failing_child(d):
    h = failing(d, 3, 2)
    h.pwrite(b'x' * KIB, 0)
    e = d.qmp.event('QUORUM_REPORT_BAD')['data']
    assert e == {'type': 'write', 'error': 'No space left on device', 'node-name': 's', 'sector-num': 0, 'sectors-count': 2}
    assert h.pread(KIB, 0) == b'x' * KIB
    h.shutdown()


def test_a_write_fails_when_too_few_children_take_it(d):
    h = failing(d, 2, 2)
    with pytest.raises(nbd.Error, match='No space'):
        h.pwrite(b'x' * KIB, 0)
    assert d.qmp.event('QUORUM_FAILURE')['data']['reference'] == 'q'
    h.shutdown()


def test_a_flush_is_a_vote_too(d):
    h = failing(d, 3, 2, after=2)
    h.pwrite(b'x' * KIB, 0)
    h.flush()
    e = d.qmp.event('QUORUM_REPORT_BAD')['data']
    assert (e['type'], e['node-name'], e['sectors-count']) == ('flush', 's', 0)
    h.shutdown()


def test_overlapping_writes_leave_all_children_the_same(d):
    h = quorum(d, [bytes(SIZE)] * 3, 2, rewrite_corrupted=True)
    clients = [h] + [nbd.NBD() for _ in range(3)]
    for c in clients[1:]:
        c.connect_uri(f'nbd+unix:///q?socket={d.dir}/nbd.sock')

    def load(c, n):
        for i in range(150):
            c.pwrite(bytes([n * 50 + i % 50 + 1]) * 8192, (i * 4096) % (64 * KIB))
            c.pread(16384, 0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, clients, range(4)))
    d.cmd('query-version')
    contents = [(d.dir / f'c{i}').read_bytes() for i in range(3)]
    assert contents[0] == contents[1] == contents[2]
    assert not [e for e in d.qmp.events if e['event'].startswith('QUORUM')], 'what is being written is not bad'
    [c.shutdown() for c in clients]


def test_zeroes_are_what_all_know_to_be_zero(d):
    for i in range(2):
        img.run('qemu-img', 'create', '-f', 'qcow2', d.dir / f'z{i}', str(SIZE))
    img.run('qemu-io', '-f', 'qcow2', '-c', f'write {MIB} {MIB}', d.dir / 'z1')
    d.cmd('blockdev-add', options([{'driver': 'qcow2', 'file': {'driver': 'file', 'filename': str(d.dir / f'z{i}')}} for i in range(2)], 1))
    h = client(d, 'q')
    extents = []
    h.block_status(SIZE, 0, lambda name, offset, entries, err: extents.extend(entries))
    assert extents[:4] == [MIB, 3, MIB, 0] and sum(extents[::2]) == SIZE and extents[5] == 3
    h.shutdown()


def test_snapshot_of_a_quorum(d):
    h = quorum(d, [bytes(SIZE)] * 3, 2, rewrite_corrupted=True)
    h.pwrite(b'o' * MIB, 0)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'q', 'snapshot-node-name': 'top', 'snapshot-file': str(d.dir / 'top')})
    h.pwrite(b'n' * KIB, 0)
    h.flush()
    assert h.pread(MIB, 0) == b'n' * KIB + b'o' * (MIB - KIB)
    assert all((d.dir / f'c{i}').read_bytes() == b'o' * MIB + bytes(SIZE - MIB) for i in range(3)), 'the old disk stays as it was'
    name = json.loads(img.run('qemu-img', 'info', '-U', '--output=json', d.dir / 'top'))['backing-filename']
    o = json.loads(name[len('json:'):])
    assert o['driver'] == 'quorum' and o['vote-threshold'] == 2 and [c['filename'] for c in o['children']] == [str(d.dir / f'c{i}') for i in range(3)]
    with open(d.dir / 'c1', 'r+b') as f:
        f.seek(512 * KIB)
        f.write(b'bad')
    assert h.pread(MIB, 0) == b'n' * KIB + b'o' * (MIB - KIB)
    assert h.pread(KIB, 512 * KIB) == b'o' * KIB
    assert (d.dir / 'c1').read_bytes()[512 * KIB:][:3] == b'bad', 'an old disk is not written'
    h.shutdown()


def test_a_superseded_child_is_not_written(daemon, images):
    img.run('qemu-img', 'create', '-f', 'raw', images / 'c0', str(SIZE))
    img.run('qemu-img', 'create', '-f', 'raw', images / 'c1', str(SIZE))
    journal = ['--snapshot-journal', images / 'journal']
    d = daemon(*journal, '--blockdev', f'driver=file,node-name=c0,filename={images}/c0')
    d.cmd('transaction', {'properties': {'group': 'g'}, 'actions': [
        {'type': 'blockdev-snapshot-sync',
         'data': {'node-name': 'c0', 'snapshot-node-name': 'top', 'snapshot-file': str(images / 'top')}}]})
    d.cmd('quit')
    d.wait()
    d = daemon(*journal)
    children = [{'driver': 'file', 'filename': str(images / f'c{i}')} for i in range(2)]
    for o in (options(children, 1), {'driver': 'raw', 'node-name': 'r', 'file': options(children, 1)}):
        assert f"Disk '{images}/c0' was superseded by '{images}/top'" in d.qmp.error('blockdev-add', o)
    d.cmd('blockdev-add', options(children, 1, read_only=True))


def test_bad_options(d):
    two = places(d, [bytes(SIZE)] * 2)
    for o, text in (((two, 0), "Parameter 'vote-threshold' expects a value >= 1"),
                    ((two, 3), 'threshold may not exceed children count'),
                    (([], 1), 'Number of provided children must be 1 or more')):
        assert d.qmp.error('blockdev-add', options(*o)) == text
    assert 'exactly two files' in d.qmp.error('blockdev-add', options(two, 1, blkverify=True))
    assert 'cannot be used with blkverify' in d.qmp.error('blockdev-add', options(two, 2, blkverify=True, rewrite_corrupted=True))
    (d.dir / 'c1').write_bytes(bytes(SIZE - 512))
    assert 'differ in size' in d.qmp.error('blockdev-add', options(two, 1))
    (d.dir / 'c1').write_bytes(bytes(SIZE))
    d.cmd('blockdev-add', options(two, 1))
    d.cmd('blockdev-del', {'node-name': 'q'})
    assert not d.cmd('query-named-block-nodes'), 'nothing stays of what failed'


def test_quorum_of_a_drive(tmp_path):
    """As -drive says it: the driver of the children's files has its default."""
    option = 'if=none,id=q,driver=raw,file.driver=quorum,file.vote-threshold=2'
    for i in range(3):
        img.create(tmp_path / f'{i}', '1M')
        option += f',file.children.{i}.driver=qcow2,file.children.{i}.file.filename={tmp_path}/{i}'
    (answer,) = emulator.console(tmp_path, ['qemu-io q "write -P 7 64k 64k"'], '-drive', option)
    assert 'wrote 65536/65536 bytes' in answer
    for i in range(3):
        assert img.contents(tmp_path / f'{i}', 65536, 65536) == b'\7' * 65536
