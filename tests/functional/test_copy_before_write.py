# SPDX-License-Identifier: BSD-3-Clause
"""The filters copy-before-write and snapshot-access: what a disk was stays readable while it is written to, and no write waits for ever."""
import hashlib
import os
import random
import threading
import time

import nbd
import pytest

from lib import images as img
from lib.daemon import SLOW
from lib.powerfail import CrashPoint

MIB = 1 << 20
SIZE = 8 * MIB


class Fleecing:
    """A disk `d` with random contents, a target `t`; nothing between them yet."""

    def __init__(self, directory, daemon, target='qcow2', size=SIZE, **kwargs):
        self.dir = directory
        self.disk, self.temp = directory / 'd.qcow2', directory / 't.img'
        self.before = random.Random(1).randbytes(size // 2) + bytes(size // 2)
        raw = directory / 'raw'
        raw.write_bytes(self.before)
        img.run('qemu-img', 'convert', '-O', 'qcow2', raw, self.disk)
        img.create(self.temp, str(size), fmt=target)
        self.socket = directory / 'nbd.sock'
        self.d = daemon('--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0',
                        '--object', 'iothread,id=io0', '--object', 'iothread,id=io1',
                        '--blockdev', f'driver=qcow2,node-name=d,discard=unmap,file.driver=file,file.filename={self.disk}',
                        '--blockdev', f'driver={target},node-name=t,discard=unmap,file.driver=file,file.filename={self.temp}', **kwargs)

    def add(self, discards=False, **options):
        """The filter `f` and the reader `s` of its snapshot, both exported under their names."""
        self.d.cmd('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 't',
                                    **{k.replace('_', '-'): v for k, v in options.items()}})
        self.d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 's', 'file': 'f', 'discard': 'unmap'})
        self.export('f', writable=True, iothread='io0')
        self.export('s', writable=discards, iothread='io1')
        return self

    def export(self, node, writable=False, **options):
        self.d.cmd('block-export-add', {'type': 'nbd', 'id': 'e-' + node, 'node-name': node, 'name': node, 'writable': writable,
                                        **options})

    def uri(self, name):
        return f'nbd+unix:///{name}?socket={self.socket}'

    def connect(self, name):
        h = nbd.NBD()
        h.set_strict_mode(0)
        h.connect_uri(self.uri(name))
        return h

    def read(self, name):
        h = self.connect(name)
        data = b''.join(h.pread(MIB, at) for at in range(0, h.get_size(), MIB))
        h.shutdown()
        return data


def requests(h, rng, count, size=SIZE):
    """Random requests that change a disk, some at a time."""
    cookies = []
    for _ in range(count):
        length = rng.choice([512, 4096, 65536, 200000])
        at = rng.randrange(0, size - length) & ~511
        length &= ~511
        kind = rng.random()
        if kind < 0.7:
            cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(rng.randbytes(length))), at))
        elif kind < 0.85:
            cookies.append(h.aio_zero(length, at))
        else:
            cookies.append(h.aio_trim(length, at))
        while len(cookies) > 8:
            h.poll(-1)
            cookies = [c for c in cookies if not h.aio_command_completed(c)]
    while cookies:
        h.poll(-1)
        cookies = [c for c in cookies if not h.aio_command_completed(c)]


@pytest.mark.parametrize('target', ['qcow2', 'raw'])
def test_snapshot_stays_as_it_was(daemon, images, target):
    """While a client writes, others read the snapshot again and again, through nbdcopy too, which asks for holes."""
    f = Fleecing(images, daemon, target).add()
    stop = threading.Event()
    writers = 0

    def write():
        nonlocal writers
        h, rng = f.connect('f'), random.Random(2)
        while not stop.is_set():
            requests(h, rng, 20)
            writers += 1
        h.shutdown()

    t = threading.Thread(target=write)
    t.start()
    try:
        for _ in range(3):
            assert hashlib.sha256(f.read('s')).digest() == hashlib.sha256(f.before).digest()
        img.run('nbdcopy', f.uri('s'), images / 'copy')
        assert (images / 'copy').read_bytes() == f.before
    finally:
        stop.set()
        t.join()
    assert writers > 3
    assert f.read('f') != f.before
    now = f.read('f')
    f.d.stop()
    assert img.contents(f.disk, SIZE) == now
    img.check(f.disk)


def test_fleecing_overlay(daemon, images):
    """The target has the disk as its backing node, as for libvirt's pull backups: readers of the target see the snapshot."""
    f = Fleecing(images, daemon)
    d = f.d
    d.cmd('blockdev-del', {'node-name': 't'})
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 't', 'backing': 'd', 'file': {'driver': 'file', 'filename': str(f.temp)}})
    d.cmd('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 't'})
    f.export('f', writable=True, iothread='io0')
    f.export('t', iothread='io1')
    stop = threading.Event()

    def write():
        h, rng = f.connect('f'), random.Random(3)
        while not stop.is_set():
            requests(h, rng, 20)
        h.shutdown()

    t = threading.Thread(target=write)
    t.start()
    try:
        for i in range(4):
            assert f.read('t') == f.before, i
            img.run('nbdcopy', f.uri('t'), images / 'copy')
            assert (images / 'copy').read_bytes() == f.before, i
    finally:
        stop.set()
        t.join()
    assert f.read('f') != f.before


def test_bitmap(daemon, images):
    """Only what the bitmap marks is kept."""
    f = Fleecing(images, daemon)
    d = f.d
    d.cmd('block-dirty-bitmap-add', node='d', name='b')
    f.export('d', writable=True)
    h = f.connect('d')
    h.pwrite(b'1' * 65536, 0)
    h.pwrite(b'2' * 512, 2 * 65536)
    h.shutdown()
    d.cmd('block-export-del', id='e-d')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    f.add(discards=True, bitmap={'node': 'd', 'name': 'b'})
    h, s = f.connect('f'), f.connect('s')
    h.pwrite(b'3' * 3 * 65536, 0)
    assert s.pread(65536, 0) == b'1' * 65536
    assert s.pread(65536, 2 * 65536) == b'2' * 512 + f.before[2 * 65536 + 512:3 * 65536]
    for at, length in ((65536, 512), (0, 65537), (4 * MIB, 4096)):
        with pytest.raises(nbd.Error):
            s.pread(length, at)
    s.trim(65536, 0)
    with pytest.raises(nbd.Error):
        s.pread(512, 0)
    h.shutdown()
    s.shutdown()


def test_reopen_inserts_the_filter(daemon, images):
    """A disk in use gets the filter, and loses it again, by blockdev-reopen of a node above."""
    f = Fleecing(images, daemon)
    d = f.d
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'top', 'file': 'd'})
    f.export('top', writable=True)
    h = f.connect('top')
    h.pwrite(b'a' * 65536, 0)
    d.cmd('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 't'})
    d.cmd('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'top', 'file': 'f'}])
    d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 's', 'file': 'f'})
    f.export('s')
    h.pwrite(b'b' * 65536, 0)
    assert f.read('s') == b'a' * 65536 + f.before[65536:]
    assert d.qmp.error('block_resize', {'node-name': 'd', 'size': 16 * MIB}).startswith("Permission conflict on node 'd'")
    d.cmd('block-export-del', id='e-s')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    d.cmd('blockdev-del', {'node-name': 's'})
    d.cmd('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'top', 'file': 'd'}])
    d.cmd('blockdev-del', {'node-name': 'f'})
    assert h.pread(65536, 0) == b'b' * 65536
    h.shutdown()


def test_errors(daemon, images):
    f = Fleecing(images, daemon)
    d = f.d
    base = {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 't'}
    assert d.qmp.error('blockdev-add', {**base, 'min-cluster-size': 3}) == 'min-cluster-size needs to be a power of 2'
    assert d.qmp.error('blockdev-add', {**base, 'bitmap': {'node': 'd', 'name': 'x'}}) == "Dirty bitmap 'x' not found"
    assert d.qmp.error('blockdev-add', {**base, 'target': 'd'}) == 'Source and target cannot be the same'
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'small', 'size': MIB})
    assert d.qmp.error('blockdev-add', {**base, 'target': 'small'}) == "Target 'small' is smaller than node 'd'"
    d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 's', 'file': 'd'})
    f.export('s')
    h = f.connect('s')
    with pytest.raises(nbd.Error):
        h.pread(512, 0)
    h.shutdown()


def test_timeout_is_for_each_piece(daemon, images):
    """A long write to a slow target: it takes longer than the timeout, and no piece of it does."""
    f = Fleecing(images, daemon)
    d = f.d
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'bps-write': 2 * MIB}})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 'slow', 'throttle-group': 'g', 'file': 't'})
    d.cmd('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 'slow', 'cbw-timeout': 1,
                           'on-cbw-error': 'break-snapshot'})
    d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 's', 'file': 'f'})
    f.export('f', writable=True)
    f.export('s')
    h = f.connect('f')
    began = time.monotonic()
    h.zero(4 * MIB, 0)
    assert time.monotonic() - began > 1.2
    h.shutdown()
    assert f.read('s') == f.before
