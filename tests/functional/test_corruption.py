# SPDX-License-Identifier: BSD-3-Clause
"""Images that turn out to be damaged while they are in use: told once, marked, and not made worse."""
import struct

import nbd
import pytest

from lib import images as img

CORRUPT = 2  # bit of the incompatible features


def poke(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)


def peek(path, offset, fmt):
    with open(path, 'rb') as f:
        f.seek(offset)
        return struct.unpack('>' + fmt, f.read(struct.calcsize(fmt)))[0]


class Disk:
    def __init__(self, daemon, path, read_only=False):
        self.path = path
        self.d = daemon('--blockdev', f'driver=qcow2,node-name=q,file.driver=file,file.filename={path}' + (',read-only=on' if read_only else ''),
                        '--nbd-server', f'addr.type=unix,addr.path={path}.sock',
                        '--export', 'nbd,id=e,node-name=q,name=q' + ('' if read_only else ',writable=on'))
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///q?socket={path}.sock')

    def fails(self, call, *args):
        with pytest.raises(nbd.Error) as e:
            call(*args)
        assert e.value.errno == 'EIO'

    def events(self):
        self.d.cmd('query-version')
        return [e['data'] for e in self.d.qmp.events if e['event'] == 'BLOCK_IMAGE_CORRUPTED']

    def end(self):
        self.h.shutdown()
        self.d.stop()


@pytest.fixture
def path(images):
    p = images / 'a.qcow2'
    img.create(p, '64M')
    img.qemu_io(p, 'write -P 3 0 128k')
    return p


def test_refcounts_are_gone(daemon, path):
    """A new cluster would be one that tables lie in."""
    poke(path, peek(path, 48, 'Q'), bytes(8))  # the refcount table's first entry
    s = Disk(daemon, path)
    for _ in range(3):
        s.fails(s.h.pwrite, b'x' * 512, 32 << 20)
    assert s.h.pread(65536, 0) == bytes([3]) * 65536, 'what is there can be read'
    s.fails(s.h.pwrite, b'x' * 512, 0)
    assert s.events() == [{'device': '', 'node-name': 'q', 'msg': 'Preventing invalid write on metadata (overlaps with refcount table)',
                           'offset': 65536, 'size': 65536, 'fatal': True}]
    assert peek(path, 72, 'Q') & CORRUPT
    info = {n['node-name']: n['image'] for n in s.d.cmd('query-named-block-nodes')}['q']
    assert info['format-specific']['data']['corrupt'] is True
    assert s.d.stderr().count('Marking image as corrupt') == 1
    s.end()


def test_data_over_tables(daemon, path):
    """An entry leads a write into the L1 table."""
    l1 = peek(path, 40, 'Q')
    l2 = peek(path, l1, 'Q') & 0x00fffffffffffe00
    poke(path, l2, struct.pack('>Q', l1 | 1 << 63))
    before = path.read_bytes()[l1:l1 + 512]
    s = Disk(daemon, path)
    s.fails(s.h.pwrite, b'x' * 4096, 0)
    assert [(e['msg'], e['offset'], e['size']) for e in s.events()] == \
        [('Preventing invalid write on metadata (overlaps with active L1 table)', l1, 4096)]
    s.end()
    assert path.read_bytes()[l1:l1 + 512] == before


@pytest.mark.parametrize('read_only', [False, True])
@pytest.mark.parametrize('where', ['l1', 'l2'])
def test_reads(daemon, path, where, read_only):
    l1 = peek(path, 40, 'Q')
    l2 = peek(path, l1, 'Q') & 0x00fffffffffffe00
    poke(path, l1 if where == 'l1' else l2, struct.pack('>Q', 1 << 63 | 0x2a2a2a00))
    s = Disk(daemon, path, read_only)
    for _ in range(2):
        s.fails(s.h.pread, 512, 0)
    text = 'L2 table offset 0x2a2a2a00 unaligned (L1 index: 0)' if where == 'l1' else \
        f'Cluster allocation offset 0x2a2a2a00 unaligned (L2 offset: {l2:#x}, L2 index: 0)'
    assert s.events() == [{'device': '', 'node-name': 'q', 'msg': text, 'fatal': not read_only}]
    s.end()
    assert bool(peek(path, 72, 'Q') & CORRUPT) == (not read_only)
    if not read_only:
        d = daemon()
        assert d.qmp.error('blockdev-add', driver='qcow2', file={'driver': 'file', 'filename': str(path)}, **{'node-name': 'again'}) == \
            'qcow2: Image is corrupt; cannot be opened read/write'
