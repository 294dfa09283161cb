# SPDX-License-Identifier: BSD-3-Clause
"""block_resize: larger and smaller, with clients connected, and who is in its way."""
import nbd
import pytest

from lib import images as img

MIB = 1 << 20


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    return d


def add(d, driver, path, name='disk', **options):
    d.cmd('blockdev-add', {'driver': driver, 'node-name': name,
                           'file': {'driver': 'file', 'filename': str(path), 'node-name': f'{name}-file'}, **options})


def export(d, name='disk'):
    d.cmd('block-export-add', {'type': 'nbd', 'id': f'e-{name}', 'node-name': name, 'writable': True})


def client(d, name='disk'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
    return h


def size(d, name='disk'):
    return next(n['image']['virtual-size'] for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == name)


def resize(d, to, name='disk'):
    d.cmd('block_resize', {'node-name': name, 'size': to})


def error(d, to, name='disk'):
    return d.qmp.error('block_resize', {'node-name': name, 'size': to})


@pytest.mark.parametrize('driver', ['qcow2', 'raw'])
def test_grows_and_shrinks(d, images, driver):
    """What was cut off never comes back; clients see the size when they connect anew."""
    path = images / 'disk'
    img.create(path, '8M', driver)
    add(d, driver, path)
    export(d)
    first = client(d)
    for i in range(8):
        first.pwrite(bytes([i + 1]) * MIB, i * MIB)
    resize(d, 16 * MIB)
    assert size(d) == 16 * MIB
    second = client(d)
    assert second.get_size() == 16 * MIB and first.get_size() == 8 * MIB
    second.pwrite(b'x' * MIB, 15 * MIB)
    assert second.pread(MIB, 8 * MIB) == bytes(MIB)
    resize(d, 4 * MIB + 512)
    assert first.pread(MIB, 3 * MIB) == b'\x04' * MIB
    with pytest.raises(nbd.Error):
        first.pread(MIB, 4 * MIB)
    resize(d, 20 * MIB)
    third = client(d)
    assert third.pread(512, 4 * MIB) == b'\x05' * 512
    assert third.pread(16 * MIB - 512, 4 * MIB + 512) == bytes(16 * MIB - 512)
    for h in (first, second, third):
        h.shutdown()
    d.stop()
    assert img.info(path)['virtual-size'] == 20 * MIB
    if driver == 'qcow2':
        img.run('qemu-img', 'check', path)


def test_above_a_larger_backing_image(d, images):
    """The backing image does not show in what a smaller disk gets when it grows."""
    base, top = images / 'base', images / 'top'
    img.create(base, '8M')
    img.run('qemu-io', '-c', 'write -P 7 0 8M', base)
    img.create(top, backing=base)
    add(d, 'qcow2', top)
    export(d)
    resize(d, 3 * MIB + 1024)
    resize(d, 8 * MIB)
    h = client(d)
    assert h.pread(3 * MIB + 1024, 0) == b'\x07' * (3 * MIB + 1024)
    assert h.pread(5 * MIB - 1024, 3 * MIB + 1024) == bytes(5 * MIB - 1024)
    h.shutdown()
    d.stop()
    img.run('qemu-img', 'check', top)


def test_errors(d, images):
    path = images / 'disk'
    img.create(path, '1M', 'raw')
    add(d, 'raw', path, size=512 * 1024)
    add(d, 'qcow2', img.create(images / 'q', '1M'), 'q')
    assert error(d, MIB, 'none') == "Cannot find device='' nor node-name='none'"
    assert d.qmp.error('block_resize', size=MIB) == "Cannot find device='' nor node-name=''"
    assert error(d, 2 * MIB) == 'Cannot resize fixed-size raw disks'
    assert error(d, 2 * MIB, 'disk-file') == (
        "Permission conflict on node 'disk-file': permissions 'resize' are both required by an unnamed block device (uses node "
        "'disk-file' as 'root' child) and unshared by node 'disk' (uses node 'disk-file' as 'file' child).")
    assert error(d, -1, 'q') == "Parameter 'size' expects a >0 size"
    assert error(d, MIB + 1, 'q') == 'The new size must be a multiple of 512'
    d.cmd('blockdev-snapshot-sync', {'node-name': 'q', 'snapshot-node-name': 'q1', 'snapshot-file': str(images / 'q1')})
    assert error(d, 2 * MIB, 'q') == "Node 'q' is busy: node is used as backing hd of 'q1'"
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'ro', 'read-only': True,
                           'file': {'driver': 'file', 'filename': str(img.create(images / 'r', '1M'))}})
    assert 'read-only' in error(d, 2 * MIB, 'ro').lower() or 'not permitted' in error(d, 2 * MIB, 'ro')
    assert size(d) == 512 * 1024 and size(d, 'q') == MIB


@pytest.mark.parametrize('offset', [None, 0, 256 * 1024])
def test_below_raw(d, images, offset):
    """A raw node follows the file below it; with a window the file below is fixed."""
    path = images / 'disk'
    img.create(path, '1M', 'raw')
    add(d, 'raw', path, **({} if offset is None else {'offset': offset}))
    export(d)
    if offset:
        assert 'unshared by node' in error(d, 2 * MIB, 'disk-file')
    else:
        resize(d, 2 * MIB, 'disk-file')
        assert size(d) == 2 * MIB
    resize(d, 3 * MIB)
    assert (size(d), size(d, 'disk-file')) == (3 * MIB, 3 * MIB + (offset or 0))
    h = client(d)
    assert h.get_size() == 3 * MIB
    h.shutdown()


def test_image_with_a_longer_l1_than_it_needs(d, images):
    """qemu-img leaves that behind when it makes an image smaller; what such entries hold is no part of the disk."""
    path = images / 'disk'
    img.create(path, '64M', options='cluster_size=1024')
    img.run('qemu-img', 'resize', '-q', '--shrink', '-f', 'qcow2', path, '32k')
    img.qemu_io(path, 'write -P 7 0 32k')
    add(d, 'qcow2', path)
    export(d)
    h = client(d)
    for to in (64 << 10, 4 * MIB, 66 * MIB):
        resize(d, to)
        h.shutdown()
        h = client(d)
        assert h.pread(32768, 0) == b'\7' * 32768 and h.pread(32768, to - 32768) == bytes(32768)
        h.pwrite(b'end', to - 32768)
        h.pwrite(bytes(3), to - 32768)
    h.shutdown()
    d.stop()
    img.check(path)
