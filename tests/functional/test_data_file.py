# SPDX-License-Identifier: BSD-3-Clause
"""qcow2 images whose data is in another file: made by us and by qemu-img, written to by both, judged by qemu-img; the raw file of a raw one reads the
same as the disk."""
import random

import nbd
import pytest

from lib import images as img
from lib import jobs

MIB = 1 << 20
G = 65536
SIZE = 8 * MIB


def client(d, name='q'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.directory}/nbd.sock')
    return h


def serve(d, name='q'):
    if not getattr(d, 'serves', False):
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
        d.serves = True
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})
    return client(d, name)


def unserve(d, h, name='q'):
    h.shutdown()
    d.cmd('block-export-del', {'id': name, 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')


def add(d, path, node='q', **options):
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': node, 'discard': 'unmap', 'file': {'driver': 'file', 'filename': str(path)},
                           **options})


def facts(d, node='q'):
    n = next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == node)
    return n['image']['format-specific']['data']


def make(d, images, name='q', create=None, **options):
    """blockdev-create of an image and its data file; the error."""
    for f in (f'{name}.qcow2', f'{name}.data'):
        (images / f).touch()
    return jobs.create(d, {'driver': 'qcow2', 'size': SIZE, 'file': {'driver': 'file', 'filename': str(images / f'{name}.qcow2')},
                           'data-file': {'driver': 'file', 'filename': str(images / f'{name}.data')}, **options})


def judge(images, want, raw, name='q'):
    image, data = images / f'{name}.qcow2', images / f'{name}.data'
    report = img.check(image)
    assert not report.get('leaks') and not report.get('corruptions') and not report.get('check-errors'), report
    assert img.contents(image, len(want)) == want
    if raw:
        assert data.read_bytes() == want, 'the data file is the disk'


def fuzz(h, want, seed, requests=150, cluster=G):
    rng = random.Random(seed)
    for i in range(requests):
        at, n = rng.randrange(0, len(want) // 512) * 512, 512 * rng.randrange(1, 400)
        n = min(n, len(want) - at)
        what = rng.randrange(6)
        if what == 0:
            h.zero(n, at, nbd.CMD_FLAG_NO_HOLE if i % 2 else 0)
            want[at:at + n] = bytes(n)
        elif what == 1 and h.can_trim():
            start, end = (at + cluster - 1) // cluster * cluster, (at + n) // cluster * cluster
            if start < end:
                h.trim(end - start, start)
                want[start:end] = bytes(end - start)
        elif what == 2:
            assert h.pread(n, at) == want[at:at + n]
        else:
            data = bytes([rng.randrange(1, 256)]) * n
            h.pwrite(data, at)
            want[at:at + n] = data
        if i % 40 == 39:
            h.flush()
    assert h.pread(len(want), 0) == want


@pytest.mark.parametrize('options', ({}, {'data-file-raw': True}, {'preallocation': 'metadata'}, {'preallocation': 'full'},
                                     {'data-file-raw': True, 'preallocation': 'falloc', 'cluster-size': 4096},
                                     {'cluster-size': 2 * MIB, 'compression-type': 'zstd'}), ids=str)
def test_made_written_and_read(daemon, images, options):
    d = daemon()
    (images / 'q.data').write_bytes(b'\x55' * MIB)
    assert make(d, images, **options) is None
    raw = options.get('data-file-raw', False)
    want = bytearray(b'\x55' * MIB + bytes(SIZE - MIB)) if raw else bytearray(SIZE)
    if raw or options.get('preallocation'):
        judge(images, want, raw)
    assert (images / 'q.data').stat().st_size == SIZE
    if options.get('preallocation') in ('full', 'falloc'):
        assert (images / 'q.data').stat().st_blocks * 512 >= SIZE - MIB
    add(d, images / 'q.qcow2')
    f = facts(d)
    assert f['data-file'] == str(images / 'q.data') and f['data-file-raw'] == raw
    h = serve(d)
    before = (images / 'q.qcow2').stat().st_blocks
    fuzz(h, want, str(options), cluster=options.get('cluster-size', G))
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images, want, raw)
    assert (images / 'q.qcow2').stat().st_blocks - before < 2000, 'no data in the image'
    info = img.info(images / 'q.qcow2')['format-specific']['data']
    assert info['data-file'] == str(images / 'q.data') and info['data-file-raw'] == raw
    add(d, images / 'q.qcow2')
    h = serve(d)
    assert h.pread(SIZE, 0) == want
    unserve(d, h)


@pytest.mark.parametrize('raw', (False, True))
def test_of_qemu_img(daemon, images, raw):
    """QEMU goes on with what we wrote and we with what it wrote."""
    img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', f"data_file={images / 'q.data'},data_file_raw={'on' if raw else 'off'}",
            images / 'q.qcow2', str(SIZE))
    d = daemon()
    want = bytearray(SIZE)
    for i in range(2):
        add(d, images / 'q.qcow2')
        h = serve(d)
        fuzz(h, want, i, 60)
        unserve(d, h)
        d.cmd('blockdev-del', node_name='q')
        judge(images, want, raw)
        img.run('qemu-io', '-f', 'qcow2', '-c', f'write -P {i + 1} {i * MIB} 100k', '-c', f'write -z {3 * MIB} 200k', '-c', f'discard {5 * MIB} 1M',
                images / 'q.qcow2')
        want[i * MIB:i * MIB + 102400] = bytes([i + 1]) * 102400
        want[3 * MIB:3 * MIB + 204800] = bytes(204800)
        want[5 * MIB:6 * MIB] = bytes(MIB)
    add(d, images / 'q.qcow2')
    h = serve(d)
    assert h.pread(SIZE, 0) == want
    unserve(d, h)


@pytest.mark.parametrize('raw', (False, True))
def test_resize(daemon, images, raw):
    d = daemon()
    assert make(d, images, **{'data-file-raw': raw}) is None
    add(d, images / 'q.qcow2')
    h = serve(d)
    h.pwrite(b'1' * SIZE, 0)
    for size in (SIZE + MIB + 512, MIB + 512, 2 * MIB):
        d.cmd('block_resize', {'node-name': 'q', 'size': size})
        c = client(d)
        assert c.get_size() == size
        n = min(size, MIB + 512) if size != SIZE + MIB + 512 else SIZE
        assert c.pread(size, 0) == b'1' * n + bytes(size - n)
        c.shutdown()
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images, b'1' * (MIB + 512) + bytes(MIB - 512), raw)


def test_with_backing_snapshot_and_commit(daemon, images):
    """A base and an overlay with data files; the overlay gets an overlay of its own, which is committed into it."""
    d = daemon()
    img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', f"data_file={images / 'base.data'}", images / 'base', str(SIZE))
    img.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 8M', images / 'base')
    assert make(d, images, **{'backing-file': str(images / 'base'), 'backing-fmt': 'qcow2'}) is None
    add(d, images / 'q.qcow2')
    want = bytearray(b'\7' * SIZE)
    h = serve(d)
    fuzz(h, want, 'chain', 40)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'q', 'snapshot-file': str(images / 'top'), 'snapshot-node-name': 'top'})
    fuzz(h, want, 'top', 40)
    d.cmd('block-commit', {'job-id': 'j', 'device': 'top', 'base-node': 'q', 'auto-dismiss': False})
    jobs.wait_status(d, 'j', 'ready')
    fuzz(h, want, 'more', 40)
    d.cmd('job-complete', id='j')
    jobs.wait_status(d, 'j', 'concluded')
    assert jobs.error_of(d, 'j') is None
    fuzz(h, want, 'last', 40)
    h.shutdown()
    d.stop()
    judge(images, want, False)


def test_errors(daemon, images):
    d = daemon()
    backing = {'backing-file': 'b', 'backing-fmt': 'raw'}
    for options, text in (
            ({'version': 'v2'}, 'External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)'),
            ({'data-file-raw': True, **backing}, 'Backing file and data-file-raw cannot be used at the same time'),
            ({'data-file': 'nonsense'}, "Cannot find device='nonsense' nor node-name='nonsense'")):
        assert make(d, images, **options) == text
    (images / 'x').touch()
    assert jobs.create(d, {'driver': 'qcow2', 'size': SIZE, 'file': {'driver': 'file', 'filename': str(images / 'x')}, 'data-file-raw': True}) == \
        'data-file-raw requires data-file'
    img.create(images / 'plain', '1M')
    file = {'driver': 'file', 'filename': str(images / 'plain')}
    assert d.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': file, 'data-file': file}) == \
        "'data-file' can only be set for images with an external data file"
    assert make(d, images) is None
    image = bytearray((images / 'q.qcow2').read_bytes())
    at = image.index(b'DATA')
    image[at:at + 4] = b'ATAD'
    (images / 'q.qcow2').write_bytes(image)
    file['filename'] = str(images / 'q.qcow2')
    options = {'driver': 'qcow2', 'node-name': 'q', 'file': file}
    assert d.qmp.error('blockdev-add', options) == "'data-file' is required for this image"
    d.cmd('blockdev-add', {**options, 'data-file': {'driver': 'file', 'filename': str(images / 'q.data')}})
    d.cmd('blockdev-del', node_name='q')
    (images / 'q.data').unlink()
    assert 'No such file or directory' in d.qmp.error('blockdev-add', {**options, 'data-file': {'driver': 'file', 'filename': str(images / 'q.data')}})


def test_internal_snapshots_are_refused(daemon, images):
    d = daemon()
    assert make(d, images) is None
    add(d, images / 'q.qcow2')
    assert d.qmp.error('blockdev-snapshot-internal-sync', {'device': 'q', 'name': 's'}).endswith('Operation not supported')
    d.cmd('blockdev-del', node_name='q')
    assert 'snapshots' not in img.info(images / 'q.qcow2')


def test_a_cluster_in_another_place(daemon, images):
    d = daemon()
    assert make(d, images, preallocation='metadata') is None
    image = bytearray((images / 'q.qcow2').read_bytes())
    at = image.index((1 << 63 | 5 * G).to_bytes(8, 'big'))
    image[at:at + 8] = (1 << 63 | 6 * G).to_bytes(8, 'big')
    (images / 'q.qcow2').write_bytes(image)
    add(d, images / 'q.qcow2', **{'read-only': True})
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'q', 'node-name': 'q'})
    h = client(d)
    with pytest.raises(nbd.Error):
        h.pread(512, 5 * G)
    assert h.pread(512, 6 * G) == bytes(512)
    h.shutdown()
