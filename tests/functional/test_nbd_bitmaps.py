# SPDX-License-Identifier: BSD-3-Clause
"""Dirty bitmaps over NBD: qemu:dirty-bitmap:NAME of exports, as nbdinfo, libnbd, qemu-img (x-dirty-bitmap) and our own client see them."""
import json
import struct
import subprocess

import nbd
import pytest

from lib import images as img
from lib.nbdwire import OPT_GO, OPT_SET_META, OPT_STRUCTURED, REP_ACK, Wire
from lib.qmp import QmpError

MIB = 1 << 20
KIB = 1024


class Server:
    """The disk a, 4 MiB, over base; `b` of a is disabled with 1 MiB at 1 MiB and 512 bytes at 3 MiB marked, `e` records, `deep` of base has 64 KiB."""

    def __init__(self, daemon, images):
        self.dir = images
        img.create(images / 'base.qcow2', '4M')
        img.create(images / 'a.qcow2', '4M', backing=images / 'base.qcow2')
        self.socket = images / 's'
        self.d = daemon('--nbd-server', f'addr.type=unix,addr.path={self.socket}',
                        '--blockdev', f'qcow2,node-name=base,file.driver=file,file.filename={images}/base.qcow2')
        self.qmp = self.d.qmp
        for node, name in [('base', 'deep')]:
            self.bitmap('add', node, name, granularity=4096)
        self.export('base', writable=True, id='w')
        self.write('w', 0, 64 * KIB)
        self.qmp.cmd('block-export-del', {'id': 'w', 'mode': 'hard'})
        self.qmp.event('BLOCK_EXPORT_DELETED')
        self.bitmap('disable', 'base', 'deep')
        self.qmp.cmd('blockdev-reopen', {'options': [{'driver': 'qcow2', 'node-name': 'base', 'read-only': True,
                                                      'file': {'driver': 'file', 'filename': f'{images}/base.qcow2'}}]})
        self.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'backing': 'base',
                                      'file': {'driver': 'file', 'filename': f'{images}/a.qcow2'}})
        self.bitmap('add', 'a', 'b', granularity=65536)
        self.bitmap('add', 'a', 'e', granularity=512)
        self.export('a', writable=True, id='w')
        self.write('w', MIB, MIB)
        self.write('w', 3 * MIB, 512)
        self.bitmap('disable', 'a', 'b')

    def bitmap(self, what, node, name, **more):
        self.qmp.cmd(f'block-dirty-bitmap-{what}', {'node': node, 'name': name, **more})

    def export(self, node, id, **more):
        self.qmp.cmd('block-export-add', {'type': 'nbd', 'id': id, 'name': id, 'node-name': node, **more})

    def uri(self, name):
        return f'nbd+unix:///{name}?socket={self.socket}'

    def connect(self, name, *contexts):
        h = nbd.NBD()
        for c in contexts:
            h.add_meta_context(c)
        h.connect_uri(self.uri(name))
        return h

    def write(self, export, offset, length):
        h = self.connect(export)
        h.pwrite(b'\x77' * length, offset)
        h.shutdown()

    def error(self, command, arguments):
        with pytest.raises(QmpError) as e:
            self.qmp.cmd(command, arguments)
        return e.value.desc

    def export_error(self, node='a', **more):
        return self.error('block-export-add', {'type': 'nbd', 'id': 'x', 'name': 'x', 'node-name': node, **more})

    def busy(self, node, name):
        info = next(n for n in self.qmp.cmd('query-named-block-nodes', {'flat': True}) if n['node-name'] == node)
        return next(b for b in info['dirty-bitmaps'] if b['name'] == name)['busy']


@pytest.fixture
def s(daemon, images):
    return Server(daemon, images)


def nbdinfo_map(s, export, context):
    text = subprocess.run(['nbdinfo', '--json', f'--map={context}', s.uri(export)], check=True, capture_output=True, text=True).stdout
    return [(e['offset'], e['length'], e['type']) for e in json.loads(text)]


MARKS = [(0, MIB, 0), (MIB, MIB, 1), (2 * MIB, MIB, 0), (3 * MIB, 64 * KIB, 1), (3 * MIB + 64 * KIB, MIB - 64 * KIB, 0)]


def test_what_clients_see(s):
    s.export('a', 'p', bitmaps=['b', 'deep'], **{'allocation-depth': True})
    assert nbdinfo_map(s, 'p', 'qemu:dirty-bitmap:b') == MARKS
    assert nbdinfo_map(s, 'p', 'qemu:dirty-bitmap:deep') == [(0, 64 * KIB, 1), (64 * KIB, 4 * MIB - 64 * KIB, 0)]
    assert nbdinfo_map(s, 'p', 'qemu:allocation-depth')[0] == (0, 64 * KIB, 2)
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_unix(str(s.socket))
    h.set_export_name('p')
    for query, want in [('qemu:', ['qemu:allocation-depth', 'qemu:dirty-bitmap:b', 'qemu:dirty-bitmap:deep']),
                        ('qemu:dirty-bitmap:', ['qemu:dirty-bitmap:b', 'qemu:dirty-bitmap:deep']), ('qemu:dirty-bitmap:b', ['qemu:dirty-bitmap:b']),
                        ('base:', ['base:allocation']), ('qemu:dirty-bitmap', []), ('qemu:dirty-bitmap:e', [])]:
        got = []
        h.clear_meta_contexts()
        h.add_meta_context(query)
        h.opt_list_meta_context(got.append)
        assert got == want, query
    h.opt_abort()
    # all at once, pieces, one extent
    h = s.connect('p', 'base:allocation', 'qemu:dirty-bitmap:b', 'qemu:dirty-bitmap:deep', 'qemu:dirty-bitmap:none')
    assert not h.can_meta_context('qemu:dirty-bitmap:none')
    got = {}
    h.block_status(MIB, MIB // 2 + 512, lambda c, at, entries, error: got.setdefault(c, entries))
    assert got['qemu:dirty-bitmap:b'] == [MIB // 2 - 512, 0, MIB // 2 + 512, 1]
    assert got['qemu:dirty-bitmap:deep'] == [MIB, 0] and set(got) == {'base:allocation', 'qemu:dirty-bitmap:b', 'qemu:dirty-bitmap:deep'}
    got.clear()
    h.block_status(4 * MIB, 0, lambda c, at, entries, error: got.setdefault(c, entries), nbd.CMD_FLAG_REQ_ONE)
    assert got['qemu:dirty-bitmap:b'] == [MIB, 0] and got['qemu:dirty-bitmap:deep'] == [64 * KIB, 1]


def test_qemu_img_reads_it(s):
    """x-dirty-bitmap: what is marked is no data."""
    s.export('a', 'p', bitmaps=['b'])
    out = img.run('qemu-img', 'map', '--output=json', '--image-opts',
                  f'driver=nbd,export=p,server.type=unix,server.path={s.socket},x-dirty-bitmap=qemu:dirty-bitmap:b')
    text = out if isinstance(out, str) else out.stdout
    assert [(e['start'], e['length'], e['data']) for e in json.loads(text)] == [(o, n, not t) for o, n, t in MARKS]


def test_our_client_reads_it(s, daemon):
    """The same by our own node with x-dirty-bitmap, shown as holes of an export of that; depth likewise."""
    s.export('a', 'p', bitmaps=['b'], **{'allocation-depth': True})
    path = s.dir / 'c'
    c = daemon('--nbd-server', f'addr.type=unix,addr.path={path}')
    for name, context in [('m', 'qemu:dirty-bitmap:b'), ('d', 'qemu:allocation-depth')]:
        c.cmd('blockdev-add', {'driver': 'nbd', 'node-name': name, 'export': 'p', 'server': {'type': 'unix', 'path': str(s.socket)},
                               'read-only': True, 'x-dirty-bitmap': context})
        c.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name})
    extents = []
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///m?socket={path}')
    h.block_status(4 * MIB, 0, lambda c, at, entries, error: extents.extend(entries))
    assert list(zip(extents[::2], extents[1::2])) == [(n, t) for _, n, t in MARKS]
    assert h.pread(MIB, MIB) == b'\x77' * MIB
    extents.clear()
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///d?socket={path}')
    h.block_status(4 * MIB, 0, lambda c, at, entries, error: extents.extend(entries))
    assert extents[:4] == [64 * KIB, 0, MIB - 64 * KIB, 3]  # in the base; nowhere


def test_life(s):
    """In use while the export is there; found along the chain; records on; survives a snapshot of its disk and its resize."""
    s.export('a', 'p', bitmaps=['b'])
    s.export('a', 'q', writable=True, bitmaps=['e', {'node': 'base', 'name': 'deep'}])
    assert s.busy('a', 'b') and s.busy('a', 'e') and s.busy('base', 'deep')
    for verb in ('remove', 'clear', 'enable'):
        assert s.error(f'block-dirty-bitmap-{verb}', {'node': 'a', 'name': 'b'}) == \
            "Bitmap 'b' is currently in use by another operation and cannot be used"
    assert s.export_error(bitmaps=['b']) == "Bitmap 'b' is currently in use by another operation and cannot be used"
    s.write('q', 2 * MIB, 1024)
    assert nbdinfo_map(s, 'q', 'qemu:dirty-bitmap:e') == [(0, MIB, 0), (MIB, MIB + 1024, 1), (2 * MIB + 1024, MIB - 1024, 0),
                                                          (3 * MIB, 512, 1), (3 * MIB + 512, MIB - 512, 0)]
    s.qmp.cmd('block_resize', {'node-name': 'a', 'size': 8 * MIB})
    h = s.connect('q', 'qemu:dirty-bitmap:e')
    got = []
    h.block_status(MIB, 3 * MIB, lambda c, at, entries, error: got.extend(entries))
    assert got == [512, 1, MIB - 512, 0]
    s.qmp.cmd('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-file': str(s.dir / 't.qcow2'), 'snapshot-node-name': 't'})
    got.clear()
    h.pwrite(b'z' * 4096, 0)  # of the overlay
    h.block_status(MIB, 0, lambda c, at, entries, error: got.extend(entries))
    assert got == [MIB, 0]
    h.shutdown()
    for e in ('p', 'q'):
        s.qmp.cmd('block-export-del', {'id': e, 'mode': 'hard'})
        s.qmp.event('BLOCK_EXPORT_DELETED')
    assert not s.busy('a', 'b') and not s.busy('base', 'deep')
    s.bitmap('remove', 'a', 'b')


def test_errors(s):
    assert s.export_error(bitmaps=['none']) == "Bitmap 'none' is not found"
    assert s.export_error(bitmaps=['e']) == "Enabled bitmap 'e' incompatible with readonly export"
    assert s.export_error(bitmaps=[{'node': 'none', 'name': 'e'}]) == "Node 'none' not found"
    assert s.export_error(bitmaps=[{'node': 'a', 'name': 'none'}]) == "Dirty bitmap 'none' not found"
    assert s.export_error(bitmaps=['b', 'none']) == "Bitmap 'none' is not found"
    assert not s.busy('a', 'b')  # given back
    assert s.export_error(name='w', bitmaps=['b']) == "NBD server already has export named 'w'"
    assert not s.busy('a', 'b')
    s.qmp.cmd('nbd-server-add', {'device': 'a', 'name': 'n', 'bitmap': 'b'})
    assert nbdinfo_map(s, 'n', 'qemu:dirty-bitmap:b') == MARKS
    assert s.error('nbd-server-add', {'device': 'a', 'name': 'n2', 'bitmap': 'e'}) == "Enabled bitmap 'e' incompatible with readonly export"


def test_contexts_are_of_one_export(s):
    """What was chosen of an export that is gone does not count for its successor of the same name."""
    s.export('a', 'p', bitmaps=['b'])
    with Wire(s.socket, handshake=False) as w:
        w.hello()
        w.option(OPT_STRUCTURED)
        query = w.string('p') + struct.pack('>I', 1) + w.string('qemu:dirty-bitmap:b')
        assert [kind for kind, _ in w.option(OPT_SET_META, query)] == [4, REP_ACK]
        s.qmp.cmd('block-export-del', {'id': 'p'})
        s.qmp.event('BLOCK_EXPORT_DELETED')
        s.export('a', 'p')
        assert w.option(OPT_GO, w.string('p') + struct.pack('>H', 0))[-1][0] == REP_ACK
        w.request(Wire.BLOCK_STATUS, 0, MIB)
        assert w.any_error() == 22
        w.request(Wire.READ, MIB, 512)
        assert w.structured_reply() == [('data', MIB, b'\x77' * 512)]
