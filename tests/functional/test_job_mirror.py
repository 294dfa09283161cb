# SPDX-License-Identifier: BSD-3-Clause
"""blockdev-mirror: what is copied, when users move, what guests wait for; judged by qemu-img and by the targets' files."""
import os
import time

import nbd
import pytest

from lib import images as img
from lib import records
from lib.chain import MIB, Chain, backing, nodes
from lib.jobs import error_of, events_of, wait_status
from lib.load import Load

SIZE = 16 * MIB


def mirror(d, **args):
    return d.cmd('blockdev-mirror', {'job-id': 'j', 'device': 'n2', 'target': 't', 'auto-dismiss': False,
                                     **{k.replace('_', '-'): v for k, v in args.items()}})


def finish(d, complete=True, error=None):
    if complete:
        wait_status(d, 'j', 'ready')
        d.cmd('job-complete', id='j')
    wait_status(d, 'j', 'concluded')
    assert error_of(d, 'j') == error
    d.cmd('job-dismiss', id='j')


def add_target(d, images, fmt='qcow2', options=None, backing=None, size=SIZE, discard='unmap'):
    path = images / 't'
    img.create(path, str(size), fmt=fmt, options=options)
    node = {'driver': fmt, 'node-name': 't', 'discard': 'unmap',
            'file': {'driver': 'file', 'node-name': 'tf', 'filename': str(path), 'discard': discard}}
    d.cmd('blockdev-add', {**node, 'backing': backing} if fmt == 'qcow2' else node)
    return path


def guest(chain):
    h = nbd.NBD()
    h.connect_uri(chain.uri)
    return h


def contents(path, fmt='qcow2'):
    return img.contents(path, SIZE) if fmt == 'qcow2' else path.read_bytes()


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('fmt,options', [('qcow2', None), ('raw', None), ('qcow2', 'cluster_size=512'), ('qcow2', 'cluster_size=2M')])
def test_full(daemon, images, mode, fmt, options):
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    d = daemon(*chain.arguments())
    path = add_target(d, images, fmt, options)
    mirror(d, sync='full', copy_mode=mode)
    assert events_of(d, 'j')[:2] == ['created', 'running'], 'before the reply'
    h = guest(chain)
    h.pwrite(b'\x77' * 70000, 12345)
    want[12345:82345] = b'\x77' * 70000
    wait_status(d, 'j', 'ready')
    info = d.cmd('query-block-jobs')[0]
    assert info['ready'] and info['offset'] == info['len'] > 0 and info['type'] == 'mirror'
    h.pwrite(b'\x78' * 1000, SIZE - 1000)
    want[-1000:] = b'\x78' * 1000
    h.zero(3 * MIB, 5 * MIB)
    want[5 * MIB:8 * MIB] = bytes(3 * MIB)
    finish(d)
    assert [e for e in events_of(d, 'j') if e != 'null'] == \
        ['created', 'running', 'ready', 'BLOCK_JOB_READY', 'waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
    assert d.cmd('query-block-exports')[0]['node-name'] == 't'
    h.pwrite(b'\x79' * 4096, MIB)
    for i in (2, 1, 0):
        d.cmd('blockdev-del', node_name=f'n{i}')
        d.cmd('blockdev-del', node_name=f's{i}')
    h.shutdown()
    d.stop()
    assert chain.contents() == want, 'the old disk is as it was at the pivot'
    want[MIB:MIB + 4096] = b'\x79' * 4096
    assert contents(path, fmt) == want
    if fmt == 'qcow2':
        img.check(path)


@pytest.mark.parametrize('cluster', [512, 65536, MIB])
@pytest.mark.parametrize('shared', [True, False], ids=['shared-backing', 'backing-comes-later'])
def test_top(daemon, images, cluster, shared):
    """The target gets what the uppermost image has; also where its backing node comes only when all is copied."""
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    d = daemon(*chain.arguments())
    path = add_target(d, images, options=f'cluster_size={cluster}', backing='n1' if shared else None)
    mirror(d, sync='top', granularity=4096)
    wait_status(d, 'j', 'ready')
    h = guest(chain)
    h.pwrite(b'\x55' * 700, 4 * MIB + 100)
    want[4 * MIB + 100:4 * MIB + 800] = b'\x55' * 700
    if not shared:
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'b', 'read-only': True, 'backing': None, 'file': {
            'driver': 'file', 'filename': str(chain.files[1])}})
        d.cmd('blockdev-del', node_name='b')
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'b', 'read-only': True, 'file': {
            'driver': 'file', 'filename': str(chain.files[1])}})
        d.cmd('transaction', {'actions': [{'type': 'blockdev-snapshot', 'data': {'node': 'b', 'overlay': 't'}}]})
    h.pwrite(b'\x56' * 700, 9 * MIB + 100)
    want[9 * MIB + 100:9 * MIB + 800] = b'\x56' * 700
    finish(d)
    assert backing(d, 't') == ('n1' if shared else 'b')
    assert h.pread(SIZE, 0) == want
    h.shutdown()
    d.stop()
    img.run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', chain.files[1], path)
    img.check(path)
    assert contents(path) == want == chain.contents()
    allocated = sum(e['length'] for e in img.map_ranges(path) if e['depth'] == 0)
    if cluster < MIB:
        assert allocated < SIZE * 3 // 4, 'what only backing images have was not copied'


def test_none(daemon, images):
    chain = Chain(images, 3)
    d = daemon(*chain.arguments())
    path = add_target(d, images)
    mirror(d, sync='none', granularity=65536)
    wait_status(d, 'j', 'ready')
    assert d.cmd('query-block-jobs')[0]['len'] == 0
    h = guest(chain)
    h.pwrite(b'\x55' * 65536, 65536)
    finish(d)
    h.shutdown()
    d.stop()
    assert contents(path) == bytes(65536) + b'\x55' * 65536 + bytes(SIZE - 131072)


@pytest.mark.parametrize('complete', [False, True])
def test_users_of_the_filter(daemon, images, complete):
    """What is written through the filter's node is in the target too; in the end its users use what is below it then."""
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    d = daemon(*chain.arguments())
    add_target(d, images)
    mirror(d, sync='full', filter_node_name='filter')
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'f', 'node-name': 'filter', 'name': 'f', 'writable': True})
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///f?socket={chain.socket}')
    h.pwrite(b'\x21' * 5000, 100)
    h.zero(MIB, 4 * MIB)
    want[100:5100] = b'\x21' * 5000
    want[4 * MIB:5 * MIB] = bytes(MIB)
    wait_status(d, 'j', 'ready')
    d.cmd(*('job-complete', {'id': 'j'}) if complete else ('block-job-cancel', {'device': 'j', 'force': True}))
    wait_status(d, 'j', 'concluded')
    assert {e['node-name'] for e in d.cmd('query-block-exports')} == {'t' if complete else 'n2'}
    h.pwrite(b'\x22' * 5000, 7 * MIB)
    want[7 * MIB:7 * MIB + 5000] = b'\x22' * 5000
    assert h.pread(SIZE, 0) == want and 'filter' not in nodes(d)
    h.shutdown()


@pytest.mark.parametrize('force', [False, True])
def test_cancel(daemon, images, force):
    chain = Chain(images, 3)
    want = chain.contents()
    d = daemon(*chain.arguments())
    path = add_target(d, images)
    mirror(d, sync='full', filter_node_name='filter')
    assert nodes(d)['filter']['drv'] == 'mirror_top'
    wait_status(d, 'j', 'ready')
    d.cmd('block-job-cancel', device='j', force=force)
    wait_status(d, 'j', 'concluded')
    assert events_of(d, 'j')[4:] == (['aborting', 'BLOCK_JOB_CANCELLED', 'concluded'] if force else
                                     ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded'])
    d.cmd('job-dismiss', id='j')
    assert 'filter' not in nodes(d)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n2'
    h = guest(chain)
    h.pwrite(b'\x11' * 65536, 0)
    h.shutdown()
    d.cmd('blockdev-del', node_name='t')
    img.check(path)
    if not force:
        assert contents(path) == want
    d.stop()
    assert chain.contents() == b'\x11' * 65536 + want[65536:]


def test_finalized_later(daemon, images):
    """While it is pending guests go on with the old disk; what they write then is in the target too."""
    chain = Chain(images, 3)
    want = chain.contents()
    d = daemon(*chain.arguments())
    path = add_target(d, images)
    mirror(d, sync='full', auto_finalize=False)
    wait_status(d, 'j', 'ready')
    d.cmd('job-complete', id='j')
    wait_status(d, 'j', 'pending')
    h = guest(chain)
    h.pwrite(b'\x4d' * 65536, 0)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n2'
    d.cmd('job-finalize', id='j')
    finish(d, complete=False)
    assert d.cmd('query-block-exports')[0]['node-name'] == 't'
    h.shutdown()
    d.stop()
    assert contents(path) == b'\x4d' * 65536 + want[65536:]


@pytest.mark.parametrize('preallocated', [False, True])
@pytest.mark.parametrize('discard', ['ignore', 'unmap'])
def test_holes_stay_holes(daemon, images, preallocated, discard):
    """Zeroes are written only where the target has something else, without data; its space is given back if it may be."""
    chain = Chain(images, 3, writes=0)
    img.qemu_io(chain.files[2], 'write -P 3 1M 64k')
    d = daemon(*chain.arguments())
    path = images / 't'
    with open(path, 'wb') as f:
        f.write(b'\xff' * SIZE if preallocated else b'')
        f.truncate(SIZE)
    d.cmd('blockdev-add', {'driver': 'file', 'node-name': 't', 'filename': str(path), 'discard': discard})
    mirror(d, sync='full')
    finish(d)
    d.stop()
    assert path.read_bytes() == bytes(MIB) + b'\x03' * 65536 + bytes(SIZE - MIB - 65536)
    used = path.stat().st_blocks * 512
    assert used >= SIZE if preallocated and discard == 'ignore' else used <= 128 * 1024, used


def test_target_is_zero(daemon, images):
    """Who says so is believed, and nothing is written where the disk has zeroes."""
    chain = Chain(images, 3, writes=0)
    d = daemon(*chain.arguments())
    path = images / 't'
    path.write_bytes(b'\xff' * SIZE)
    d.cmd('blockdev-add', {'driver': 'file', 'node-name': 't', 'filename': str(path)})
    mirror(d, sync='full', target_is_zero=True)
    finish(d)
    d.stop()
    assert path.read_bytes() == b'\xff' * SIZE


def synced(d, value=True):
    deadline = time.monotonic() + 20
    while d.cmd('query-block-jobs')[0]['actively-synced'] != value:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_write_blocking(daemon, images):
    """What a guest was told is written is in the target's file, at once; not so in the background; the mode can be changed."""
    chain = Chain(images, 3)
    d = daemon(*chain.arguments())
    path = add_target(d, images, 'raw')
    mirror(d, sync='full', copy_mode='write-blocking', granularity=65536)
    wait_status(d, 'j', 'ready')
    synced(d)
    h = guest(chain)
    with open(path, 'rb') as f:
        def target(offset, length):
            f.seek(offset)
            return f.read(length)

        for i in range(50):
            h.pwrite(bytes([i + 1]) * 700, i * 100003)
            assert target(i * 100003, 700) == bytes([i + 1]) * 700
        h.zero(2 * MIB, MIB)
        assert target(MIB, 2 * MIB) == bytes(2 * MIB)
        assert d.cmd('query-block-jobs')[0]['actively-synced']
        d.cmd('block-job-change', {'id': 'j', 'type': 'mirror', 'copy-mode': 'background'})
        assert not d.cmd('query-block-jobs')[0]['actively-synced']
        d.cmd('job-pause', id='j')
        wait_status(d, 'j', 'standby')
        h.pwrite(b'\x66' * 4096, 0)
        assert target(0, 4096) != b'\x66' * 4096
        d.cmd('block-job-change', {'id': 'j', 'type': 'mirror', 'copy-mode': 'write-blocking'})
        h.pwrite(b'\x67' * 4096, 8 * MIB)
        assert target(8 * MIB, 4096) == b'\x67' * 4096, 'also while the job is paused'
        assert not d.cmd('query-block-jobs')[0]['actively-synced']
        d.cmd('job-resume', id='j')
        synced(d)
        assert target(0, 4096) == b'\x66' * 4096
    assert d.qmp.error('block-job-change', {'id': 'k', 'type': 'mirror', 'copy-mode': 'background'}) == "Block job 'k' not found"
    assert d.qmp.error('block-job-change', {'id': 'j', 'type': 'commit'}) == "Job 'j' is 'mirror' job, expected 'commit'"
    h.shutdown()
    finish(d)


def test_write_blocking_is_bounded(daemon, images):
    """A target that hangs holds up one write, for target-timeout; then nobody, until it has caught up."""
    chain = Chain(images, 3)
    d = daemon(*chain.arguments())
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 't', 'size': SIZE, 'latency-ns': 1000000000})
    mirror(d, sync='none', copy_mode='write-blocking', target_timeout=200)
    wait_status(d, 'j', 'ready')
    synced(d)
    h = guest(chain)
    took = []
    for i in range(5):
        start = time.monotonic()
        h.pwrite(bytes(4096), i * 65536)
        took.append(time.monotonic() - start)
    assert 0.2 <= took[0] < 0.9 and max(took[1:]) < 0.15, took
    assert not d.cmd('query-block-jobs')[0]['actively-synced']
    synced(d)
    start = time.monotonic()
    h.pwrite(bytes(4096), MIB)
    assert time.monotonic() - start >= 0.2, 'it waits again'
    h.shutdown()
    d.cmd('job-cancel', id='j')
    wait_status(d, 'j', 'concluded')
    assert "target 't' has not taken a write for 200 ms" in d.stderr()


def test_errors(daemon, images):
    chain = Chain(images, 3, writes=2)
    img.create(images / 'c', '4M')
    d = daemon(*chain.arguments(), '--blockdev', f'driver=qcow2,node-name=c,file.driver=file,file.filename={images}/c',
               '--blockdev', f'driver=null-co,node-name=ro,size={SIZE},read-only=on')
    add_target(d, images)

    def error(**args):
        return d.qmp.error('blockdev-mirror', {'job-id': 'j', 'device': 'n2', 'target': 't', 'sync': 'full',
                                               **{k.replace('_', '-'): v for k, v in args.items()}})

    assert error(device='x') == error(target='x') == "Cannot find device='x' nor node-name='x'"
    assert error(target='n2') == "Can't mirror node into itself"
    assert error(device='s2') == error(device='n1') == 'Need a root block node'
    assert error(target='n1') == "Node 'n1' is busy: node is used as backing hd of 'n2'"
    assert error(granularity=100) == error(granularity=1 << 27) == "Parameter 'granularity' expects a value in range [512B, 64MB]"
    assert error(granularity=1536) == "Parameter 'granularity' expects a power of 2"
    assert error(buf_size=-1) == "Invalid parameter 'buf-size'"
    assert error(sync='incremental') == "Sync mode 'incremental' not supported"
    assert error(sync='bitmap') == "Sync mode 'bitmap' not supported"
    assert error(speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert error(job_id='1a') == "Invalid job ID '1a'"
    assert error(filter_node_name='1x') == "Invalid node-name: '1x'"
    assert error(filter_node_name='n1') == "Duplicate nodes with node-name='n1'"
    assert error(replaces='zz') == "Failed to find node with node-name='zz'"
    assert error(replaces='c') == error(replaces='t').replace("'t'", "'c'") == \
        "Cannot replace 'c' by a node mirrored from 'n2', because it cannot be guaranteed that doing so would not lead to an abrupt " \
        'change of visible data'
    assert d.qmp.error('blockdev-mirror', {'device': 'n2', 'target': 't', 'sync': 'full'}) == "Invalid job ID ''"
    assert d.qmp.events == []
    assert error(target='ro') == 'Block node is read-only'
    assert error(target='s2').startswith("Permission conflict on node 's2'")
    mirror(d, target='c', sync='full')
    finish(d, complete=False, error='Source and target image have different sizes')
    d.qmp.events.clear()
    mirror(d, sync='full')
    assert error(job_id='k', device='c') == "Node 't' is busy: block device is in use by block job: mirror"
    for node in ('n2', 't'):
        assert d.qmp.error('blockdev-del', node_name=node) == f"Node '{node}' is busy: block device is in use by block job: mirror"
        assert d.qmp.error('block_resize', {'node-name': node, 'size': MIB}) == f"Node '{node}' is busy: block device is in use by block job: mirror"
    assert d.qmp.error('block-export-add', {'type': 'nbd', 'id': 't', 'node-name': 't'}).startswith(
        "Permission conflict on node 't': permissions 'consistent read'")
    finish(d)


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_under_load(daemon, images, mode):
    """The disk moves from image to image while dependent writers use it: nothing is lost, and each image it left is a state it had."""
    layout = records.Layout(1, 16, 64)
    socket = images / 'nbd.sock'
    paths = [images / f'm{i}' for i in range(40 if os.environ.get('STRESS_LONG') else 4)]
    for path in paths:
        img.create(path, '32M')
    d = daemon('--object', 'iothread,id=io', '--blockdev', f'driver=qcow2,node-name=m0,file.driver=file,file.filename={paths[0]}',
               '--nbd-server', f'addr.type=unix,addr.path={socket}',
               '--export', 'type=nbd,id=e,node-name=m0,name=disk,writable=on,iothread=io')
    with Load(socket, ['disk'], mode='chain', chains=16, slots=64, threads=2, flush_every=50) as load:
        for i, path in enumerate(paths[1:], 1):
            time.sleep(0.1)
            d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f'm{i}', 'file': {'driver': 'file', 'filename': str(path)}})
            mirror(d, device=f'm{i - 1}', target=f'm{i}', sync='full', copy_mode=mode)
            wait_status(d, 'j', 'ready')
            if mode == 'write-blocking':
                synced(d)
            time.sleep(0.05)
            finish(d)
            d.qmp.events.clear()
            d.cmd('blockdev-del', node_name=f'm{i - 1}')
        total = load.stop()
    d.stop()
    last = None
    for path in paths:
        img.check(path)
        cut = records.read_cut(layout, [img.contents(path, layout.length)])
        assert cut.consistent, cut.problems[:3]
        assert last is None or all(a <= b for a, b in zip(last, cut.last))
        last = cut.last
    assert last == total['completed'] and sum(last) > 0


def test_deleted_right_after_it_was_told_to_complete(daemon, images):
    """Who does not wait for the end of the job waits in blockdev-del, if it is near."""
    chain = Chain(images, 3)
    d = daemon(*chain.arguments())
    add_target(d, images)
    mirror(d, sync='full')
    wait_status(d, 'j', 'ready')
    d.cmd('job-complete', id='j')
    d.cmd('blockdev-del', node_name='n2')
    assert events_of(d, 'j')[-1] == 'concluded', 'before the reply'
    finish(d, complete=False)


def test_replaces_under_load(daemon, images):
    """What moves is below the disk, and writes into the disk never end: they are held with those below."""
    chain = Chain(images, 3)
    d = daemon(*chain.arguments(export=False), '--blockdev', 'driver=copy-on-read,node-name=f,file=n2',
               '--nbd-server', f'addr.type=unix,addr.path={chain.socket}', '--export', 'type=nbd,id=e,node-name=f,name=disk,writable=on')
    add_target(d, images)
    with Load(chain.socket, ['disk'], mode='write', depth=16, range=8 * MIB) as load:
        mirror(d, device='f', sync='full', replaces='n2')
        finish(d)
        load.stop()
    assert nodes(d)['f']['children'] == [{'child': 'file', 'node-name': 't'}]
    assert 'will be tried again' not in d.stderr()


def test_replaces(daemon, images):
    """A node below the disk that has the same data: its users move, the disk stays."""
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    d = daemon(*chain.arguments(export=False), '--blockdev', 'driver=copy-on-read,node-name=f,file=n2',
               '--nbd-server', f'addr.type=unix,addr.path={chain.socket}', '--export', 'type=nbd,id=e,node-name=f,name=disk,writable=on')
    path = add_target(d, images)
    mirror(d, device='f', sync='full', replaces='n2')
    wait_status(d, 'j', 'ready')
    h = guest(chain)
    h.pwrite(b'\x31' * 4096, 8 * MIB)
    finish(d)
    h.pwrite(b'\x32' * 4096, 9 * MIB)
    want[8 * MIB:8 * MIB + 4096] = b'\x31' * 4096
    assert d.cmd('query-block-exports')[0]['node-name'] == 'f'
    assert nodes(d)['f']['children'] == [{'child': 'file', 'node-name': 't'}]
    d.cmd('blockdev-del', node_name='n2')
    h.shutdown()
    d.stop()
    assert chain.contents() == want
    want[9 * MIB:9 * MIB + 4096] = b'\x32' * 4096
    assert contents(path) == want


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_to_another_daemon(daemon, images, mode):
    """As for moving a guest with its storage: the target is an NBD export elsewhere."""
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    path = img.create(images / 'there.qcow2', str(SIZE))
    daemon('--blockdev', f'driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename={path}',
           '--nbd-server', f'addr.type=unix,addr.path={images}/there.sock', '--export', 'type=nbd,id=e,node-name=n,name=x,writable=on')
    d = daemon(*chain.arguments())
    d.cmd('blockdev-add', {'driver': 'nbd', 'node-name': 'tn', 'export': 'x', 'discard': 'unmap',
                           'server': {'type': 'unix', 'path': str(images / 'there.sock')}})
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 't', 'file': 'tn', 'discard': 'unmap'})
    mirror(d, sync='full', copy_mode=mode)
    h = guest(chain)
    for i in range(100):
        h.pwrite(bytes([i + 1]) * 5000, i * 150000)
        want[i * 150000:i * 150000 + 5000] = bytes([i + 1]) * 5000
    wait_status(d, 'j', 'ready')
    h.zero(2 * MIB, MIB)
    want[MIB:3 * MIB] = bytes(2 * MIB)
    if mode == 'write-blocking':
        synced(d)
        d.cmd('block-job-cancel', device='j')
        finish(d, complete=False)
        d.cmd('blockdev-del', node_name='t')
    else:
        finish(d)
        h.pwrite(b'last', 0)
        want[:4] = b'last'
    assert h.pread(SIZE, 0) == want
    h.shutdown()
    assert img.contents(path, SIZE, share=True) == want


# ---- drive-mirror ----


def drive_mirror(d, path, **args):
    d.cmd('drive-mirror', {'job-id': 'j', 'device': 'n2', 'target': str(path), 'auto-dismiss': False,
                           **{k.replace('_', '-'): v for k, v in args.items()}})


@pytest.mark.parametrize('sync,below', [('full', None), ('top', 1), ('none', 2)])
@pytest.mark.parametrize('there', [None, 'data'])
def test_drive_mirror(daemon, images, sync, below, there):
    """A new image, on top of what the mode asks for; a file with data in its place is replaced."""
    chain = Chain(images, 3)
    want = bytearray(chain.contents())
    path = images / 'target'
    if there:
        path.write_text(there)
    d = daemon(*chain.arguments())
    drive_mirror(d, path, sync=sync, node_name='t')
    wait_status(d, 'j', 'ready')
    h = guest(chain)
    h.pwrite(b'\x41' * 3000, 100)
    want[100:3100] = b'\x41' * 3000
    finish(d)
    h.pwrite(b'\x42' * 3000, 5 * MIB + 100)
    h.flush()
    want[5 * MIB + 100:5 * MIB + 3100] = b'\x42' * 3000
    assert d.cmd('query-block-exports')[0]['node-name'] == 't'
    assert backing(d, 't') == (None if below is None else f'n{below}')
    assert sync != 'none' or nodes(d)['n2']['ro']
    assert h.pread(SIZE, 0) == want
    h.shutdown()
    d.stop()
    info = img.info(path)
    assert info['format'] == 'qcow2' and info.get('backing-filename') == (None if below is None else str(chain.files[below]))
    img.check(path)
    assert contents(path) == want
    assert sorted(p.name for p in images.iterdir() if p.name.startswith('target')) == ['target']


def test_drive_mirror_existing(daemon, images):
    """The format is looked for; the backing file of the header is opened when users move, and not hidden before."""
    chain = Chain(images, 3)
    want = chain.contents()
    path = img.create(images / 'target', backing=chain.files[1], options='cluster_size=256k')
    img.qemu_io(path, 'write -P 9 3M 1M')
    d = daemon(*chain.arguments())
    drive_mirror(d, path, sync='full', mode='existing')
    wait_status(d, 'j', 'ready')
    (t,) = [n for n in nodes(d).values() if n['node-name'].startswith('#block') and n['drv'] == 'qcow2']
    assert backing(d, t['node-name']) is None
    finish(d)
    below = nodes(d)[backing(d, t['node-name'])]
    assert below['file'] == str(chain.files[1]) and below['ro'] and below['node-name'] != 'n1'
    d.stop()
    assert contents(path) == want


def test_drive_mirror_raw(daemon, images):
    chain = Chain(images, 3)
    want = chain.contents()
    d = daemon(*chain.arguments())
    drive_mirror(d, images / 'target', sync='full', format='raw')
    wait_status(d, 'j', 'ready')
    d.cmd('block-job-cancel', device='j')
    finish(d, complete=False)
    d.stop()
    assert (images / 'target').read_bytes() == want


def test_drive_mirror_errors(daemon, images):
    """What cannot be leaves no file behind, and one that was there as it was."""
    chain = Chain(images, 3, writes=2)
    d = daemon(*chain.arguments())
    path = images / 'target'
    path.write_text('precious')

    def error(**args):
        return d.qmp.error('drive-mirror', {'job-id': 'j', 'device': 'n2', 'target': str(path), 'sync': 'full',
                                            **{k.replace('_', '-'): v for k, v in args.items()}})

    assert error(device='x') == "Cannot find device='x' nor node-name='x'"
    assert error(device='n1') == 'Need a root block node'
    assert error(target='/nonexistent/t', mode='existing') == "Could not open '/nonexistent/t': No such file or directory"
    assert error(target='/nonexistent/t') == "Could not create '/nonexistent/t': No such file or directory"
    assert error(format='foo') == "Unknown file format 'foo'"
    assert error(format='foo', mode='existing') == "Unknown driver 'foo'"
    assert error(format='null-co') == "Format driver 'null-co' does not support image creation"
    assert error(format='raw', sync='top') == "Backing file not supported for file format 'raw'"
    assert error(replaces='n1') == 'a node-name must be provided when replacing a named node of the graph'
    assert error(replaces='zz', node_name='t') == "Failed to find node with node-name='zz'"
    assert error(node_name='n1') == "Duplicate nodes with node-name='n1'"
    assert error(node_name='1a') == "Invalid node-name: '1a'"
    assert error(granularity=5) == "Parameter 'granularity' expects a value in range [512B, 64MB]"
    assert error(sync='incremental') == "Sync mode 'incremental' not supported"
    assert error(target=str(chain.files[2]), sync='none') == 'Error: Trying to create an image with the same filename as the backing file'
    assert error(target=str(chain.files[2])) == 'Failed to get "write" lock'
    assert error(job_id='1a') == "Invalid job ID '1a'"
    assert error(speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert error(target='x:y', mode='existing') == "Unknown protocol 'x'"
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'c', 'size': SIZE})
    d.cmd('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'f', 'file': 'c'})
    assert error(device='f', format='qcow2', replaces='c', node_name='t', sync='none') == "Making 'f' a backing child of 't' would create a cycle"
    assert path.read_text() == 'precious' and not (images / 't').exists()
    assert [p.name for p in images.iterdir() if p.name.startswith('target')] == ['target']
    assert 't' not in nodes(d)
