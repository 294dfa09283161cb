# SPDX-License-Identifier: BSD-3-Clause
"""vhost-user-blk exports, driven by a front end of our own: both kinds of rings, what is kept over restarts, and bad guests."""
import itertools
import os
import signal
import struct
import time

import pytest

from lib import images
from lib import vhostuser as vu
from lib.daemon import Daemon

RINGS = [pytest.param(packed | indirect | event, id=f'{"packed" if packed else "split"}{"-indirect" if indirect else ""}'
                      f'{"-event" if event else ""}')
         for packed, indirect, event in itertools.product((0, vu.PACKED), (0, vu.INDIRECT), (0, vu.EVENT_IDX))]
BOTH = [pytest.param(0, id='split'), pytest.param(vu.PACKED, id='packed')]
USUAL = vu.FLUSH | vu.CONFIG_WCE | vu.DISCARD | vu.WRITE_ZEROES


def blockdev(path, fmt='raw', node='d', **options):
    more = ''.join(f',{k}={v}' for k, v in options.items())
    return ['--blockdev', f'driver={fmt},node-name={node},file.driver=file,file.filename={path},discard=unmap{more}']


def export(path, node='d', ident='e', **options):
    options.setdefault('writable', 'on')
    more = ''.join(f',{k.replace("_", "-")}={v}' for k, v in options.items())
    return ['--export', f'type=vhost-user-blk,id={ident},node-name={node},addr.type=unix,addr.path={path}{more}']


@pytest.fixture
def disk(images, daemon):
    """A function: a daemon with one raw disk of 16 MiB; its socket."""
    def make(fmt='raw', **options):
        image = images / 'd.img'
        if not image.exists():
            images_create(image, fmt)
        d = daemon(*blockdev(image, fmt), *export(images / 'vub.sock', **options))
        make.daemon, make.image = d, image
        return images / 'vub.sock'
    return make


def images_create(path, fmt, size='16M'):
    images.create(path, size, fmt)


def pattern(n, seed=1):
    return bytes((i * 31 + seed * 7) & 0xff for i in range(n))


@pytest.mark.parametrize('features', RINGS)
def test_requests(disk, features):
    """Every request, on every kind of ring, often enough to wrap it."""
    ring = vu.connect(disk(serial='disk-007'), features | USUAL, num=16 if features & vu.PACKED else 32)
    assert ring.do(vu.OUT, 8, pattern(8192))[0] == vu.OK
    assert ring.do(vu.IN, 8, room=8192) == (vu.OK, pattern(8192))
    assert ring.do(vu.T_FLUSH)[0] == vu.OK
    assert ring.do(vu.GET_ID, room=20) == (vu.OK, b'disk-007'.ljust(20, b'\0'))
    assert ring.do(vu.T_WRITE_ZEROES, 0, struct.pack('<QII', 8, 8, 1))[0] == vu.OK
    assert ring.do(vu.IN, 8, room=8192) == (vu.OK, bytes(4096) + pattern(8192)[4096:])
    assert ring.do(vu.T_DISCARD, 0, struct.pack('<QII', 16, 8, 0))[0] == vu.OK
    for i in range(100):
        assert ring.do(vu.OUT, i, pattern(512, i))[0] == vu.OK
    for i in range(100):
        assert ring.do(vu.IN, i, room=512) == (vu.OK, pattern(512, i))


@pytest.mark.parametrize('features', RINGS)
def test_many_at_once(disk, features):
    """As many as fit, made available with one kick, answered in any order."""
    ring = vu.connect(disk(), features | USUAL, num=64)
    depth = 16
    for batch in range(20):
        slots = {ring.submit(vu.OUT, 128 * i, pattern(4096, batch + i), kick=False): i for i in range(depth)}
        ring.kick()
        for _ in range(depth):
            slot, _, status, _ = ring.wait()
            assert status == vu.OK
            slots.pop(slot)
        assert not slots
    slots = {ring.submit(vu.IN, 128 * i, room=4096, kick=False): i for i in range(depth)}
    ring.kick()
    for _ in range(depth):
        slot, length, status, data = ring.wait()
        assert (status, length) == (vu.OK, 4097)
        assert data == pattern(4096, 19 + slots[slot])


def test_wrong_requests(disk):
    """A request that makes no sense fails alone."""
    ring = vu.connect(disk(), USUAL)
    end = (16 << 20) // 512
    for kind, sector, out, room, status in [
            (vu.IN, end, b'', 512, vu.IOERR),
            (vu.IN, end - 1, b'', 1024, vu.IOERR),
            (vu.IN, 2**64 - 1, b'', 512, vu.IOERR),
            (vu.IN, 2**55 - 1, b'', 512, vu.IOERR),
            (vu.IN, 0, b'', 511, vu.IOERR),
            (vu.OUT, 0, b'x' * 513, 0, vu.IOERR),
            (vu.OUT, end, b'x' * 512, 0, vu.IOERR),
            (2, 0, b'', 512, vu.UNSUPP),
            (99, 0, b'', 512, vu.UNSUPP),
            (vu.T_DISCARD, 0, b'x' * 15, 0, vu.IOERR),
            (vu.T_DISCARD, 0, struct.pack('<QII', 0, 8, 1), 0, vu.UNSUPP),
            (vu.T_WRITE_ZEROES, 0, struct.pack('<QII', 0, 8, 2), 0, vu.UNSUPP),
            (vu.T_WRITE_ZEROES, 0, struct.pack('<QII', end, 8, 0), 0, vu.IOERR),
            (vu.T_WRITE_ZEROES, 0, struct.pack('<QII', 2**63, 8, 0), 0, vu.IOERR),
            (vu.T_DISCARD, 0, struct.pack('<QII', 0, 2**32 - 1, 0), 0, vu.IOERR),
            (vu.IN, 0, b'', 512, vu.OK)]:
        assert ring.do(kind, sector, out, room)[0] == status, (kind, sector, len(out), room)


def test_read_only(disk):
    ring = vu.connect(disk(writable='off'), vu.RO | USUAL)
    assert ring.front.offered & vu.RO
    for kind, out in ((vu.OUT, b'x' * 512), (vu.T_DISCARD, struct.pack('<QII', 0, 8, 0)),
                      (vu.T_WRITE_ZEROES, struct.pack('<QII', 0, 8, 0))):
        assert ring.do(kind, 0, out)[0] == vu.IOERR
    assert ring.do(vu.IN, 0, room=512) == (vu.OK, bytes(512))
    assert ring.do(vu.T_FLUSH)[0] == vu.OK


def test_write_cache(images, daemon):
    """On at start; turned off, writes are durable when answered: seen on a disk that counts what is not."""
    image = images / 'd.img'
    images_create(image, 'raw')
    log = images / 'd.log'
    d = daemon('--blockdev', f'driver=simdisk,node-name=d,filename={image},log={log}', *export(images / 's'))
    ring = vu.connect(images / 's', USUAL)

    def flushes():
        return log.stat().st_size

    assert ring.front.config(32, 1) == b'\x01'
    ring.do(vu.OUT, 0, b'a' * 4096)
    cached = flushes()
    ring.do(vu.OUT, 0, b'b' * 4096)
    one_write = flushes() - cached
    ring.front.must(25, struct.pack('<III', 32, 1, 0) + b'\0')
    assert ring.front.config(32, 1) == b'\0'
    before = flushes()
    ring.do(vu.OUT, 0, b'c' * 4096)
    assert flushes() - before != one_write  # a flush as well, or a write marked durable
    ring.front.close()
    assert d.alive()


def test_config(disk):
    front = vu.Front(disk(logical_block_size=4096, num_queues=3)).negotiate(USUAL)
    assert front.capacity() == 16 << 20
    config = front.config()
    assert struct.unpack_from('<I', config, 12)[0] == 126  # seg_max
    assert struct.unpack_from('<I', config, 20)[0] == 4096  # blk_size
    assert struct.unpack_from('<H', config, 34)[0] == 3  # num_queues
    assert struct.unpack('<Q', front.ask(17))[0] == 3
    assert front.ask(24, struct.pack('<III', 250, 10, 0) + bytes(10)) == b''  # beyond its end
    assert front.tell(25, struct.pack('<III', 0, 8, 0) + bytes(8)) == 1  # capacity cannot be changed
    with pytest.raises(vu.Gone):
        front.receive()


def test_memory_slots(disk):
    """Regions come and go while the ring runs; what is gone is not reached any more."""
    front = vu.Front(disk(), size=8 << 20).negotiate(USUAL)
    assert struct.unpack('<Q', front.ask(36))[0] >= 8
    half = 4 << 20
    slot = struct.pack('<Q', 0)
    front.must(37, slot + front.region(size=half), [front.fd])
    ring = vu.Ring(front).start()
    assert ring.do(vu.OUT, 0, b'x' * 512)[0] == vu.OK
    second = front.region(vu.GUEST + half, vu.USER + half, half, half)
    front.must(37, slot + second, [front.fd])
    header = vu.GUEST + ring.headers
    # A piece of data that reaches over the edge between the regions.
    chain = [(header + 32 * ring.free[-1], 16, 0), (vu.GUEST + half - 1024, 2048, vu.WRITE),
             (header + 32 * ring.free[-1] + 16, 1, vu.WRITE)]
    ring.header(ring.free[-1], vu.IN, 0)
    ring.submit(vu.IN, chain=chain)
    assert ring.wait()[2] == vu.OK
    assert front.memory[half - 1024:half - 512] == b'x' * 512
    front.must(38, slot + second)
    ring.header(ring.free[-1], vu.IN, 0)
    ring.submit(vu.IN, chain=chain)
    assert ring.broken()


def test_log(disk):
    """Live migration: pages that requests write are marked, and so is the used ring."""
    front = vu.Front(disk()).negotiate(USUAL)
    front.share()
    fd = os.memfd_create('log')
    os.ftruncate(fd, 4096)
    assert front.ask(6, struct.pack('<QQ', 4096, 0), [fd]) == b''
    ring = vu.Ring(front).start()

    def dirty():
        bits = os.pread(fd, 4096, 0)
        os.pwrite(fd, bytes(4096), 0)
        return {page for page in range(8 * 4096) if bits[page // 8] >> page % 8 & 1}

    def page(at):
        return (vu.GUEST + at) // 4096

    assert ring.do(vu.IN, 0, room=8192)[0] == vu.OK
    assert not dirty()
    front.must(2, struct.pack('<Q', front.features | vu.LOG_ALL))
    ring.set_addr(log=vu.GUEST + ring.used)
    slot = ring.submit(vu.IN, 0, room=8192)
    ring.wait()
    assert dirty() == {page(ring.used), page(ring.headers), page(ring.data(slot)), page(ring.data(slot)) + 1}
    slot = ring.submit(vu.OUT, 0, b'x' * 512)
    ring.wait()
    assert dirty() == {page(ring.used), page(ring.headers)}
    front.must(2, struct.pack('<Q', front.features))
    ring.set_addr()
    ring.do(vu.IN, 0, room=512)
    assert not dirty()


def test_stop_and_go_on(disk):
    """GET_VRING_BASE says where to go on, on both kinds of rings."""
    path = disk()
    for features in (0, vu.PACKED):
        ring = vu.connect(path, features | USUAL, num=16)
        for i in range(21):
            ring.do(vu.OUT, i, pattern(512, i))
        base = ring.stop()
        again = vu.Ring(ring.front, num=16, base=base, resume=ring)
        again.sizes = getattr(ring, 'sizes', {})
        again.start()
        for i in range(21):
            assert again.do(vu.IN, i, room=512) == (vu.OK, pattern(512, i))
        ring.front.close()


def test_several_threads(images, daemon):
    image = images / 'd.img'
    images_create(image, 'raw')
    daemon('--object', 'iothread,id=a', '--object', 'iothread,id=b', *blockdev(image),
           *export(images / 's', num_queues=4, **{'iothread.0': 'a', 'iothread.1': 'b'}))
    front = vu.Front(images / 's', size=64 << 20).negotiate(USUAL | vu.MQ | vu.EVENT_IDX)
    front.share()
    rings = [vu.Ring(front, i, 32, at=i * (8 << 20)).start() for i in range(4)]
    for n in range(50):
        for i, ring in enumerate(rings):
            ring.submit(vu.OUT, 8 * (i * 50 + n), pattern(4096, i * 50 + n))
        for ring in rings:
            assert ring.wait()[2] == vu.OK
    for i, ring in enumerate(rings):
        for n in range(50):
            assert rings[3 - i].do(vu.IN, 8 * (i * 50 + n), room=4096) == (vu.OK, pattern(4096, i * 50 + n))


# ---- bad guests ----

def chain_of(*descriptors):
    return lambda ring: [d(ring) if callable(d) else d for d in descriptors]


def good_header(ring):
    return (vu.GUEST + ring.headers + 32 * ring.free[-1], 16, 0)


def good_status(ring):
    return (vu.GUEST + ring.headers + 32 * ring.free[-1] + 16, 1, vu.WRITE)


BAD_CHAINS = {
    'outside': chain_of(good_header, (0x10, 512, vu.WRITE), good_status),
    'over the end': chain_of(good_header, (vu.GUEST + (8 << 20) - 256, 512, vu.WRITE), good_status),
    'wraps': chain_of(good_header, (2**64 - 16, 64, vu.WRITE), good_status),
    'no status': chain_of(good_header),
    'no header': chain_of(good_status),
    'short header': chain_of((vu.GUEST, 8, 0), good_status),
    'wrong order': chain_of(good_status, good_header),
    'nested table': chain_of(good_header, (vu.GUEST, 64, vu.INDIRECT_FLAG), good_status),
}


@pytest.mark.parametrize('packed', BOTH)
@pytest.mark.parametrize('indirect', [0, vu.INDIRECT], ids=['direct', 'indirect'])
@pytest.mark.parametrize('name', BAD_CHAINS)
def test_bad_chain(disk, packed, indirect, name):
    path = disk()
    ring = vu.connect(path, packed | indirect | USUAL)
    ring.submit(0, chain=BAD_CHAINS[name](ring))
    assert ring.broken()
    assert disk.daemon.stderr().count('broke queue') == 1
    ring.kick()
    ring.stop()
    ring.front.close()
    # The next one is served.
    assert vu.connect(path, USUAL).do(vu.IN, 0, room=512)[0] == vu.OK


def test_bad_rings(disk):
    path = disk()

    def endless(ring):
        ring.put('QIHH', ring.desc, vu.GUEST, 16, vu.NEXT, 1)
        ring.put('QIHH', ring.desc + 16, vu.GUEST, 16, vu.NEXT, 0)
        ring.put('HHH', ring.avail, 0, 1, 0)

    def too_many(ring):
        ring.put('HH', ring.avail, 0, 4000)

    def head(ring):
        ring.put('HHH', ring.avail, 0, 1, 128)

    def next_one(ring):
        ring.put('QIHH', ring.desc, vu.GUEST, 16, vu.NEXT, 60000)
        ring.put('HHH', ring.avail, 0, 1, 0)

    def table(length):
        def make(ring):
            ring.put('QIHH', ring.desc, vu.GUEST + ring.tables, length, vu.INDIRECT_FLAG, 0)
            ring.put('HHH', ring.avail, 0, 1, 0)
        return make

    for bad in (endless, too_many, head, next_one, table(0), table(17), table(1 << 20), table(0xfffffff0)):
        ring = vu.connect(path, USUAL | vu.INDIRECT)
        bad(ring)
        ring.kick()
        assert ring.broken(), bad
        ring.front.close()
    assert vu.connect(path, USUAL).do(vu.IN, 0, room=512)[0] == vu.OK


def message_cases():
    q = struct.pack
    yield 'version', lambda f: f.send(1, flags=2)
    yield 'reply', lambda f: f.send(1, flags=5)
    yield 'long', lambda f: f.send(1, size=2**31)
    yield 'short', lambda f: f.send(2, b'1234')
    yield 'unknown', lambda f: f.send(200)
    yield 'features', lambda f: f.send(2, q('<Q', 2**63))
    yield 'queue', lambda f: f.send(8, q('<II', 77, 16))
    yield 'size 0', lambda f: f.send(8, q('<II', 0, 0))
    yield 'size', lambda f: f.send(8, q('<II', 0, 40000))
    yield 'regions', lambda f: f.send(5, q('<II', 9, 0) + bytes(288))
    yield 'no descriptors', lambda f: f.send(5, q('<II', 1, 0) + f.region())
    yield 'outside the file', lambda f: f.send(5, q('<II', 1, 0) + f.region(size=1 << 40), [f.fd])
    yield 'offset', lambda f: f.send(5, q('<II', 1, 0) + f.region(offset=2**64 - 4096), [f.fd])
    yield 'wraps', lambda f: f.send(5, q('<II', 1, 0) + f.region(guest=2**64 - 4096), [f.fd])
    yield 'overlap', lambda f: f.send(5, q('<II', 2, 0) + f.region() + f.region(user=0), [f.fd, f.fd])
    yield 'directory', lambda f: f.send(5, q('<II', 1, 0) + f.region(), [os.open('/', os.O_RDONLY)])
    yield 'no region', lambda f: f.send(38, bytes(40))
    yield 'kick', lambda f: f.send(12, q('<Q', 0), [os.pipe()[0]])
    yield 'polling', lambda f: f.send(12, q('<Q', 0x100))
    yield 'kick without', lambda f: f.send(12, q('<Q', 0))
    yield 'inflight', lambda f: f.send(32, q('<QQHHI', 4096, 0, 1, 128, 0), [f.fd])
    yield 'inflight for none', lambda f: f.send(31, q('<QQHHI', 0, 0, 0, 128, 0))
    yield 'log', lambda f: f.send(6, q('<QQ', 1 << 50, 0), [f.fd])
    yield 'base of none', lambda f: f.send(11, q('<II', 9, 0))


@pytest.mark.parametrize('case', [c[1] for c in message_cases()], ids=[c[0] for c in message_cases()])
def test_bad_message(disk, case):
    """The connection ends with a line in the log; nothing stays open; the next front end is served."""
    path = disk()
    vu.connect(path, USUAL).front.close()
    front = vu.Front(path).negotiate(USUAL)
    before = len(disk.daemon.descriptors())
    case(front)
    with pytest.raises(vu.Gone):
        front.receive()
    assert 'disconnected' in disk.daemon.stderr()
    assert vu.connect(path, USUAL).do(vu.IN, 0, room=512)[0] == vu.OK
    assert len(disk.daemon.descriptors()) <= before + 4  # what a running queue has


def test_memory_goes_away(disk):
    """A front end that makes its memory shorter does not take the daemon down."""
    path = disk()
    for features in (0, vu.PACKED):
        ring = vu.connect(path, features | USUAL)
        assert ring.do(vu.IN, 0, room=512)[0] == vu.OK
        ring.front.memory.close()
        os.ftruncate(ring.front.fd, 0)
        for _ in range(10):
            ring.kick()
            time.sleep(0.01)
        ring.stop()
        ring.front.close()
    assert vu.connect(path, USUAL).do(vu.IN, 0, room=512)[0] == vu.OK


def test_removed_under_a_guest(disk):
    path = disk()
    ring = vu.connect(path, USUAL)
    d = disk.daemon
    assert d.qmp.error('block-export-del', {'id': 'e'}) == "export 'e' still in use"
    d.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
    with pytest.raises((vu.Gone, OSError)):
        ring.front.receive()
    d.qmp.event('BLOCK_EXPORT_DELETED')
    assert not path.exists()


def test_front_end_that_does_not_read(disk):
    """Its answers fill the socket; the export ends all the same."""
    path = disk()
    front = vu.Front(path).negotiate(USUAL)
    front.socket.settimeout(2)
    with pytest.raises(TimeoutError):
        while True:
            front.send(1)
    d = disk.daemon
    d.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')


# ---- restart under a guest ----

def restarted(images, fmt, features, kill, options=None, other=None, left_running=0, write=True):
    """A guest that had written, its daemon ended by `kill`, a new one; the new front end with the old one's memory."""
    image = images / 'd.img'
    if not image.exists():
        images_create(image, fmt)
    d = Daemon([*blockdev(image, fmt), *export(images / 's', **(options or {}))])
    ring = vu.connect(images / 's', features | USUAL, num=32, inflight=True)
    for i in range(10):
        if write:
            assert ring.do(vu.OUT, 128 * i, pattern(4096, i))[0] == vu.OK
    for i in range(left_running):
        ring.submit(vu.IN, 128 * i, room=4096, kick=False)  # not seen by the first daemon: it is stopped
    d.process.send_signal(kill)
    d.process.wait()
    text = d.stderr()
    d._close_files()
    d = Daemon([*blockdev(other or image, fmt), *export(images / 's', **(options or {}))])
    front = vu.Front(images / 's', ring.front.size, kept=ring.front).negotiate(features | USUAL)
    return d, front, ring, text


def go_on(front, ring, features):
    base = ring.used_next & 0xffff if not features & vu.PACKED else 0x80008000
    again = vu.Ring(front, 0, 32, base=base, resume=ring)
    again.sizes = getattr(ring, 'sizes', {})
    front.share()
    return again.start()


@pytest.mark.parametrize('features', BOTH)
@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_restart(images, fmt, features):
    """SIGTERM: nothing is lost, what was available is done."""
    d, front, ring, _ = restarted(images, fmt, features, signal.SIGTERM, left_running=3)
    assert front.set_inflight(ring.front) == 0
    again = go_on(front, ring, features)
    for _ in range(3):
        assert again.wait()[2] == vu.OK
    for i in range(10):
        assert again.do(vu.IN, 128 * i, room=4096) == (vu.OK, pattern(4096, i))
    d.stop()


@pytest.mark.parametrize('features', BOTH)
def test_killed_raw(images, features):
    d, front, ring, _ = restarted(images, 'raw', features, signal.SIGKILL)
    assert front.set_inflight(ring.front) == 0
    again = go_on(front, ring, features)
    for i in range(10):
        assert again.do(vu.IN, 128 * i, room=4096) == (vu.OK, pattern(4096, i))
    d.stop()


@pytest.mark.parametrize('features', BOTH)
def test_killed_with_requests_in_flight(images, features):
    """What was taken and not answered is done again by the next process, once and in order; what follows too."""
    def start(latency):
        return Daemon(['--blockdev', f'driver=null-co,node-name=d,read-zeroes=on,latency-ns={latency}', *export(images / 's')])

    d = start(10**12)
    ring = vu.connect(images / 's', features | USUAL, num=32, inflight=True)
    for i in range(5):
        ring.submit(vu.IN, i, room=512)
    assert ring.do(vu.GET_ID, room=20)[0] == vu.OK  # overtakes them
    d.process.kill()
    d.process.wait()
    d._close_files()
    for _ in range(2 if features & vu.PACKED else 3):
        ring.submit(vu.IN, 8, room=512, kick=False)
    d = start(0)
    front = vu.Front(images / 's', ring.front.size, kept=ring.front).negotiate(features | USUAL)
    assert front.set_inflight(ring.front) == 0
    again = go_on(front, ring, features)
    for _ in range(len(again.running)):
        assert again.wait()[2] == vu.OK
    assert not again.running
    assert '5 requests of the former process' in d.stderr()
    for i in range(50):
        assert again.do(vu.IN, i, room=512) == (vu.OK, bytes(512))
    d.stop()


def test_killed_with_metadata_in_memory(images):
    """What was answered may be forgotten: the guest is refused, with a line that says so."""
    d, front, ring, _ = restarted(images, 'qcow2', 0, signal.SIGKILL)
    assert front.set_inflight(ring.front) == 1
    with pytest.raises(vu.Gone):
        front.receive()
    assert 'not connected again' in d.stderr()
    assert vu.connect(images / 's', USUAL).do(vu.IN, 0, room=512)[0] == vu.OK  # a guest that was reset
    d.stop()


@pytest.mark.parametrize('features', BOTH)
def test_killed_metadata_writethrough(images, features):
    d, front, ring, _ = restarted(images, 'qcow2', features, signal.SIGKILL, {'metadata_writethrough': 'on'})
    assert front.set_inflight(ring.front) == 0
    again = go_on(front, ring, features)
    for i in range(10):
        assert again.do(vu.IN, 128 * i, room=4096) == (vu.OK, pattern(4096, i))
    d.stop()


def test_other_image(images):
    """A successor that serves an image which the guest has not written to."""
    images_create(images / 'other.img', 'raw')
    d, front, ring, _ = restarted(images, 'raw', 0, signal.SIGTERM, other=images / 'other.img')
    assert front.set_inflight(ring.front) == 1
    with pytest.raises(vu.Gone):
        front.receive()
    assert 'another image' in d.stderr()
    d.stop()


@pytest.mark.parametrize('serves', ['overlay', 'base'])
def test_killed_after_a_snapshot(images, serves):
    """Writes after a snapshot went to the overlay: only who serves that may go on."""
    images_create(images / 'd.img', 'qcow2')
    d = Daemon([*blockdev(images / 'd.img', 'qcow2'), *export(images / 's', metadata_writethrough='on')])
    ring = vu.connect(images / 's', USUAL, num=32, inflight=True)
    assert ring.do(vu.OUT, 0, pattern(4096, 1))[0] == vu.OK
    d.cmd('blockdev-snapshot-sync', {'node-name': 'd', 'snapshot-file': str(images / 'o.img'), 'snapshot-node-name': 'o'})
    assert ring.do(vu.OUT, 0, pattern(4096, 2))[0] == vu.OK
    d.process.kill()
    d.process.wait()
    d._close_files()
    image = images / ('o.img' if serves == 'overlay' else 'd.img')
    d = Daemon([*blockdev(image, 'qcow2'), *export(images / 's', metadata_writethrough='on')])
    front = vu.Front(images / 's', ring.front.size, kept=ring.front).negotiate(USUAL)
    if serves == 'base':
        assert front.set_inflight(ring.front) == 1
        with pytest.raises(vu.Gone):
            front.receive()
        assert 'another image' in d.stderr()
    else:
        assert front.set_inflight(ring.front) == 0
        assert go_on(front, ring, 0).do(vu.IN, 0, room=4096) == (vu.OK, pattern(4096, 2))
    d.stop()


def test_write_cache_is_kept(images):
    """A guest that turned the cache off goes on without flushes after a restart, so it must stay off."""
    image = images / 'd.img'
    images_create(image, 'raw')
    d = Daemon([*blockdev(image), *export(images / 's')])
    ring = vu.connect(images / 's', USUAL, num=32, inflight=True)
    ring.front.must(25, struct.pack('<III', 32, 1, 0) + b'\0')
    d.stop()
    d = Daemon([*blockdev(image), *export(images / 's')])
    front = vu.Front(images / 's', ring.front.size, kept=ring.front).negotiate(USUAL)
    assert front.config(32, 1) == b'\x01'
    assert front.set_inflight(ring.front) == 0
    assert front.config(32, 1) == b'\0'
    d.stop()
