# SPDX-License-Identifier: BSD-3-Clause
"""The filter preallocate: storage is there ahead of need, and gone when nobody can need it.  Judges: stat, qemu-img."""
from random import Random

import nbd
import pytest

from lib import images as img
from lib.chain import MIB, nodes
from lib.jobs import wait_status

KIB = 1024


def options(path, fmt='qcow2', **more):
    return {'driver': fmt, 'node-name': 'disk', 'file': {
        'driver': 'preallocate', 'node-name': 'filter', **more, 'file': {'driver': 'file', 'node-name': 'file', 'filename': str(path)}}}


@pytest.fixture
def disk(images):
    img.create(images / 'disk', '64M')
    return images / 'disk'


@pytest.fixture
def d(daemon, images):
    d = daemon('--object', 'iothread,id=io')
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    return d


def client(d, name='disk'):
    if not d.cmd('query-block-exports'):
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'name': 'disk', 'node-name': name, 'writable': True, 'iothread': 'io'})
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///disk?socket={d.sock}')
    return h


def size(path):
    return path.stat().st_size


def allocated(path):
    return path.stat().st_blocks * 512


def test_ahead_and_back(d, disk):
    d.cmd('blockdev-add', options(disk))
    begun = size(disk)
    assert begun < MIB
    h = client(d)
    assert size(disk) == begun
    h.pwrite(b'a' * 65536, 0)
    assert 128 * MIB < size(disk) <= 132 * MIB and size(disk) % MIB == 0
    assert allocated(disk) > 128 * MIB
    was = size(disk)
    for at in range(MIB, 48 * MIB, MIB):
        h.pwrite(b'b' * MIB, at)
    h.flush()
    assert size(disk) == was  # the file was changed once
    assert img.check(disk, share=True)['check-errors'] == 0
    assert nodes(d)['filter']['image']['virtual-size'] < 64 * MIB  # the data's end, not the file's
    h.shutdown()
    # The last writer has gone.
    d.cmd('block-export-del', id='e')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    assert size(disk) < 52 * MIB
    h = client(d)
    h.pwrite(b'c' * MIB, 50 * MIB)
    assert size(disk) > 128 * MIB
    d.stop()
    assert size(disk) < 53 * MIB
    img.check(disk)
    assert img.contents(disk, 64 * MIB) == \
        b'a' * 65536 + bytes(MIB - 65536) + b'b' * (47 * MIB) + bytes(2 * MIB) + b'c' * MIB + bytes(13 * MIB)


def test_sizes_of_steps(d, disk):
    d.cmd('blockdev-add', options(disk, **{'prealloc-size': 20 * MIB, 'prealloc-align': 5 * MIB}))
    h = client(d)
    h.pwrite(b'a' * MIB, 0)
    assert size(disk) == 25 * MIB
    h.pwrite(b'a' * (24 * MIB), MIB)
    assert size(disk) in (45 * MIB, 50 * MIB)
    other = options(disk, **{'prealloc-size': 0, 'prealloc-align': 4 * MIB})
    d.cmd('blockdev-reopen', {'options': [other]})
    assert size(disk) in (45 * MIB, 50 * MIB)  # what is there is used first
    h.pwrite(b'a' * (31 * MIB), 25 * MIB)
    assert size(disk) == 60 * MIB
    # More than a file can have: it gets what is needed.
    d.cmd('blockdev-reopen', {'options': [options(disk, **{'prealloc-size': 1 << 62})]})
    h.pwrite(b'a' * (8 * MIB), 56 * MIB)
    assert 64 * MIB < size(disk) < 66 * MIB
    d.stop()
    img.check(disk)
    assert img.contents(disk, 64 * MIB) == b'a' * (64 * MIB)


def test_bad_options(d, disk):
    def error(**more):
        return d.qmp.error('blockdev-add', options(disk, **{k.replace('_', '-'): v for k, v in more.items()}))

    for bad in 1000, 0:
        assert error(prealloc_align=bad) == 'prealloc-align parameter of preallocate filter is not aligned to 512'
    assert error(prealloc_align=-512) == "Parameter 'prealloc-align' expects a non-negative number below 2^64"
    assert error(prealloc_size=-1) == "Parameter 'prealloc-size' expects a non-negative number below 2^64"
    assert nodes(d) == {}
    d.cmd('blockdev-add', options(disk))
    assert d.qmp.error('blockdev-reopen', {'options': [options(disk, **{'prealloc-size': -1})]}).startswith("Parameter 'prealloc-size'")
    # Nobody else changes the file.
    assert 'lock' in img.run('qemu-io', '-c', 'write 0 512', disk, check=False).stderr
    assert 'Permission conflict' in d.qmp.error('block_resize', {'node-name': 'file', 'size': 2 * MIB})


def test_snapshot_and_commit(d, disk, images):
    d.cmd('blockdev-add', options(disk))
    h = client(d)
    h.pwrite(b'a' * MIB, 0)
    assert size(disk) > 128 * MIB
    d.cmd('blockdev-snapshot-sync', {'node-name': 'disk', 'snapshot-file': str(images / 'top'), 'snapshot-node-name': 'top'})
    assert size(disk) < 3 * MIB and size(images / 'top') < 64 * MIB
    assert nodes(d)['disk']['ro'] and nodes(d)['filter']['ro']
    h.pwrite(b'b' * MIB, MIB)
    d.cmd('block-commit', {'device': 'top', 'job-id': 'j', 'auto-dismiss': False})
    wait_status(d, 'j', 'ready')
    assert size(disk) > 128 * MIB
    d.cmd('job-complete', id='j')
    wait_status(d, 'j', 'concluded')
    d.cmd('job-dismiss', id='j')
    d.qmp.events.clear()
    h.pwrite(b'c' * MIB, 2 * MIB)
    assert h.pread(3 * MIB, 0) == b'a' * MIB + b'b' * MIB + b'c' * MIB
    # An intermediate commit gives back what it took.
    d.cmd('blockdev-snapshot-sync', {'node-name': 'disk', 'snapshot-file': str(images / 'mid'), 'snapshot-node-name': 'mid'})
    h.pwrite(b'd' * MIB, 3 * MIB)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'mid', 'snapshot-file': str(images / 'top2'), 'snapshot-node-name': 'top2'})
    d.cmd('block-commit', {'device': 'top2', 'top-node': 'mid', 'job-id': 'j', 'auto-dismiss': False})
    wait_status(d, 'j', 'concluded')
    assert size(disk) < 8 * MIB and nodes(d)['filter']['ro']
    d.stop()
    img.check(disk)
    assert img.contents(disk, 5 * MIB) == b'a' * MIB + b'b' * MIB + b'c' * MIB + b'd' * MIB + bytes(MIB)


def test_other_ends(d, disk):
    """Inactive, read-only, another file: nothing stays set aside; and killed: the image is whole."""
    d.cmd('blockdev-add', options(disk))
    h = client(d)
    h.pwrite(b'a' * MIB, 0)
    h.shutdown()
    assert size(disk) > 128 * MIB
    d.cmd('block-export-del', id='e', mode='hard')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    for active in False, True:
        d.cmd('blockdev-set-active', {'node-name': 'disk', 'active': active})
        assert size(disk) < 3 * MIB
    h = client(d)
    h.pwrite(b'b' * MIB, MIB)
    h.shutdown()
    d.cmd('block-export-del', id='e', mode='hard')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    d.cmd('blockdev-reopen', {'options': [{**options(disk), 'read-only': True}]})
    assert size(disk) < 4 * MIB and nodes(d)['filter']['ro']
    img.check(disk)
    d.cmd('blockdev-reopen', {'options': [options(disk)]})
    h = client(d)
    h.pwrite(b'c' * MIB, 2 * MIB)
    # The filter goes out of the way while the disk is written to.
    was = size(disk)
    assert was > 128 * MIB
    d.cmd('blockdev-reopen', {'options': [{**options(disk), 'file': 'file'}]})
    assert size(disk) < 20 * MIB
    h.pwrite(b'd' * MIB, 3 * MIB)
    h.flush()
    d.kill()
    img.check(disk)
    assert img.contents(disk, 5 * MIB) == b'a' * MIB + b'b' * MIB + b'c' * MIB + b'd' * MIB + bytes(MIB)


def test_killed(d, disk):
    d.cmd('blockdev-add', options(disk))
    h = client(d)
    h.pwrite(b'a' * MIB, 0)
    h.flush()
    d.kill()
    assert size(disk) > 128 * MIB
    img.run('qemu-img', 'check', '-r', 'leaks', disk)
    assert img.contents(disk, 2 * MIB) == b'a' * MIB + bytes(MIB)


def test_raw(d, images):
    """Who wants a size gets that size."""
    (images / 'raw').write_bytes(b'x' * 5000)
    img.run('truncate', '-s', '1M', images / 'raw')
    d.cmd('blockdev-add', options(images / 'raw', fmt='raw'))
    h = client(d)
    d.cmd('block_resize', {'node-name': 'disk', 'size': 3 * MIB})
    assert size(images / 'raw') == 3 * MIB and h.pread(5000, 0) == b'x' * 5000
    h = client(d)  # which learns the size when it connects
    h.pwrite(b'y' * MIB, 2 * MIB)
    d.cmd('block_resize', {'node-name': 'disk', 'size': 2 * MIB + 512})
    d.cmd('block_resize', {'node-name': 'disk', 'size': 4 * MIB})
    assert client(d).pread(MIB, 2 * MIB) == b'y' * 512 + bytes(MIB - 512)
    d.stop()
    assert (images / 'raw').read_bytes() == b'x' * 5000 + bytes(2 * MIB - 5000) + b'y' * 512 + bytes(2 * MIB - 512)


def test_random_load(d, disk):
    """Many requests at once, with a snapshot's worth of growing and shrinking; steps are small so that there are many."""
    d.cmd('blockdev-add', options(disk, **{'prealloc-size': 2 * MIB, 'prealloc-align': 64 * KIB}))
    h = client(d)
    rng, model = Random(1), bytearray(64 * MIB)
    for _ in range(60):
        pending = []
        for slot in rng.sample(range(64), 16):
            offset, length = slot * MIB + rng.randrange(0, MIB // 2, 512), rng.choice([512, 4096, 100000 // 512 * 512, MIB // 2])
            data = bytes([rng.randrange(256)]) * length
            if rng.random() < 0.2:
                data = bytes(length)
                pending.append(h.aio_zero(length, offset))
            else:
                pending.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset))
            model[offset:offset + length] = data
        while pending:
            pending = [c for c in pending if not h.aio_command_completed(c)]
            if pending:
                h.poll(-1)
    for at in range(0, 64 * MIB, 8 * MIB):
        assert h.pread(8 * MIB, at) == model[at:at + 8 * MIB]
    d.stop()
    img.check(disk)
    assert img.contents(disk, 64 * MIB) == model
