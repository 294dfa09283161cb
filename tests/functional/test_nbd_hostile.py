# SPDX-License-Identifier: BSD-3-Clause
"""Clients of the NBD server that are broken or hostile: they are disconnected, with one line in the log at most; nobody else notices, and
nothing is left of them."""
import os
import random
import resource
import socket
import struct
import threading
import time

import nbd
import pytest

from lib import images as img
from lib import nbdwire
from lib.daemon import SLOW
from lib.nbdwire import Wire

MIB = 1 << 20
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = (1 << 31 | n for n in (1, 2, 3, 6, 9))


class Server:
    """A daemon with a 16 MiB disk, and a client that goes on working all the time."""

    def __init__(self, daemon, images, server='', **kwargs):
        self.socket = images / 'nbd.sock'
        path = img.create(images / 'a.qcow2', '16M')
        self.d = daemon('--nbd-server', f'addr.type=unix,addr.path={self.socket}{server}',
                        '--blockdev', f'driver=qcow2,node-name=a,file.driver=file,file.filename={path}',
                        '--export', 'type=nbd,id=e,node-name=a,name=a,writable=on',
                        '--export', 'type=nbd,id=r,node-name=a,name=r', **kwargs)
        self.good = nbd.NBD()
        self.good.connect_uri(f'nbd+unix:///a?socket={self.socket}')
        self.good.pwrite(b'good' * 128, 8 * MIB)
        self.good.zero(512, 0)
        self.descriptors = self.d.descriptors()

    def raw(self):
        return Wire(self.socket, handshake=False)

    def wire(self, name='a', **options):
        return Wire(self.socket, name, **options)

    def check(self, lines=0):
        """The good client is served, hostile ones have left nothing, and the log has at most so many lines more."""
        assert self.good.pread(512, 8 * MIB) == b'good' * 128
        deadline = time.monotonic() + 20 * SLOW
        have = self.d.descriptors()
        while have != self.descriptors and time.monotonic() < deadline:
            time.sleep(0.02)
            have = self.d.descriptors()
        assert have == self.descriptors
        log = [line for line in self.d.stderr().splitlines() if 'NBD' in line]
        assert len(log) <= lines, log
        return log


@pytest.fixture
def s(daemon, images):
    server = Server(daemon, images)
    yield server
    server.good.shutdown()


# ---- handshake ----

@pytest.mark.parametrize('bad', [
    struct.pack('>I', 0xffffffff),  # flags that nobody has
    struct.pack('>I', 3) + b'IHAVENOTOPT' * 4,
    struct.pack('>I', 3) + b'GET / HTTP/1.1\r\n\r\n' * 2,
    struct.pack('>I', 3) + nbdwire.OPTION_MAGIC + struct.pack('>II', 7, 0xffffffff),
    struct.pack('>I', 3) + nbdwire.OPTION_MAGIC + struct.pack('>II', 1, 70000) + b'x' * 70000,
    struct.pack('>I', 3) + nbdwire.OPTION_MAGIC + struct.pack('>II', 1, 4) + b'none',
], ids=['flags', 'magic', 'http', 'length', 'name-length', 'unknown-name'])
def test_bad_handshake(s, bad):
    with s.raw() as w:
        try:
            w.send(bad)
        except OSError:
            pass
        assert w.closed()
    assert len(s.check(1)) == 1


def test_bad_options_are_answered(s):
    """An error each, and the handshake goes on."""
    text = Wire.string
    with s.raw() as w:
        w.hello()
        for option, data, reply in (
                (99, b'', ERR_UNSUP), (0, b'abc', ERR_UNSUP), (nbdwire.OPT_STARTTLS, b'', ERR_POLICY),
                (nbdwire.OPT_LIST, b'x', ERR_INVALID), (nbdwire.OPT_STRUCTURED, b'x', ERR_INVALID),
                (nbdwire.OPT_SET_META, text('a') + struct.pack('>I', 0), ERR_INVALID),  # before structured replies
                (nbdwire.OPT_GO, b'', ERR_INVALID), (nbdwire.OPT_GO, b'\0\0\0\5a\0\0', ERR_INVALID),
                (nbdwire.OPT_GO, b'\xff\xff\xff\xffa\0\0', ERR_INVALID), (nbdwire.OPT_GO, text('a'), ERR_INVALID),
                (nbdwire.OPT_GO, text('a') + b'\0\2\0\3', ERR_INVALID), (nbdwire.OPT_GO, text('a') + b'\0\0\0', ERR_INVALID),
                (nbdwire.OPT_INFO, text('a\0b') + b'\0\0', ERR_INVALID), (nbdwire.OPT_INFO, text('n' * 5000) + b'\0\0', ERR_INVALID),
                (nbdwire.OPT_INFO, text('none') + b'\0\0', ERR_UNKNOWN), (nbdwire.OPT_LIST, b'x' * 100000, ERR_TOO_BIG)):
            assert w.option(option, data)[-1][0] == reply, (option, data[:20])
        assert w.option(nbdwire.OPT_STRUCTURED)[-1][0] == nbdwire.REP_ACK
        for data in (b'', text('a'), text('a') + b'\0\0\0\1', text('a') + struct.pack('>I', 2) + text('base:allocation'),
                     text('a') + struct.pack('>I', 0) + b'x', text('a') + struct.pack('>I', 0xffffffff) + text('x'),
                     text('a') + struct.pack('>II', 1, 0xfffffff0) + b'x'):
            assert w.option(nbdwire.OPT_SET_META, data)[-1][0] == ERR_INVALID, data
        assert w.option(nbdwire.OPT_SET_META, text('none') + struct.pack('>I', 0))[-1][0] == ERR_UNKNOWN
        assert w.option(nbdwire.OPT_GO, text('a') + b'\0\0')[-1][0] == nbdwire.REP_ACK
        w.structured = True
        w.request(w.BLOCK_STATUS, 0, 512)  # no context was set in the end
        assert w.any_error() == 22
        w.request(w.READ, 8 * MIB, 4)
        assert w.structured_reply() == [('data', 8 * MIB, b'good')]
    s.check(0)


def test_contexts_of_another_export_do_not_count(s):
    with s.raw() as w:
        w.hello()
        w.option(nbdwire.OPT_STRUCTURED)
        w.option(nbdwire.OPT_SET_META, w.string('r') + struct.pack('>I', 1) + w.string('base:allocation'))
        w.option(nbdwire.OPT_GO, w.string('a') + b'\0\0')
        w.structured = True
        w.request(w.BLOCK_STATUS, 0, 512)
        assert w.any_error() == 22
    s.check(0)


def test_option_flood(s):
    """Options without end: each is answered, the time of a handshake ends it; one that does not read its answers waits by itself."""
    with s.raw() as w:
        w.hello()
        for _ in range(2000):
            assert len(w.option(nbdwire.OPT_LIST)) == 3
    with s.raw() as w:
        w.hello()
        w.sock.setblocking(False)
        try:
            while True:
                w.send_option(nbdwire.OPT_LIST)
        except BlockingIOError:
            pass
        assert s.good.pread(4, 8 * MIB) == b'good'
    s.check(0)


def test_slow_handshake(daemon, images):
    """A byte now and then does not keep a connection; a finished handshake is never cut off."""
    s = Server(daemon, images, server=',handshake-max-seconds=1')
    silent, dripping = s.raw(), s.raw()
    begin = time.monotonic()
    dripping.sock.settimeout(0.1)
    data = struct.pack('>I', 3) + nbdwire.OPTION_MAGIC + struct.pack('>II', 6, 60000) + bytes(60000)
    closed = False
    for i in range(len(data)):
        if time.monotonic() - begin > 30 * SLOW:
            break
        try:
            dripping.send(data[i:i + 1])
            while dripping.sock.recv(4096):
                pass
            closed = True
        except socket.timeout:
            pass
        except OSError:
            closed = True
        if closed:
            break
    assert closed and time.monotonic() - begin >= 0.9
    assert silent.closed()
    silent.close()
    dripping.close()
    assert all('no handshake in time' in line for line in s.check(2))
    s.good.shutdown()


def test_no_limit_of_the_handshake(daemon, images):
    s = Server(daemon, images, server=',handshake-max-seconds=0')
    with s.raw() as w:
        w.hello()
        time.sleep(0.5)
        assert w.option(nbdwire.OPT_LIST)[-1][0] == nbdwire.REP_ACK
    s.check(0)
    s.good.shutdown()


def test_disconnect_after_every_byte_of_the_handshake(s):
    data = struct.pack('>I', 3)
    for option, payload in ((nbdwire.OPT_STRUCTURED, b''), (nbdwire.OPT_SET_META, Wire.string('a') + struct.pack('>I', 1) +
                                                        Wire.string('base:allocation')), (nbdwire.OPT_GO, Wire.string('a') + b'\0\0')):
        data += nbdwire.OPTION_MAGIC + struct.pack('>II', option, len(payload)) + payload
    for n in range(len(data) + 1):
        with s.raw() as w:
            w.send(data[:n])
    s.check(0)


# ---- transmission ----

def test_disconnect_in_the_middle_of_requests(s):
    """At each byte of a write and its data; a request that came whole is carried out, others leave no trace."""
    for n in list(range(0, 29)) + [100, 4123, 28 + 65536 - 1]:
        with s.wire() as w:
            data = struct.pack('>IHHQQI', nbdwire.REQUEST_MAGIC, 0, w.WRITE, 1, 0, 65536) + b'\xee' * 65536
            w.send(data[:n])
    s.check(0)
    assert s.good.pread(65536, 0) == bytes(65536)


def test_reset_while_answers_are_under_way(s):
    for _ in range(20):
        w = s.wire()
        for i in range(40):
            w.request(w.READ, i * 4096, 256 * 1024)
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        w.close()
    s.check(0)


@pytest.mark.parametrize('magic', [0, 0x25609514, 0x67446698, 0xffffffff])
def test_bad_magic_of_a_request(s, magic):
    with s.wire() as w:
        w.request(w.READ, 0, 512, magic=magic)
        assert w.closed()
    assert len(s.check(1)) == 1


def test_unknown_commands_and_nonsense_are_answered(s):
    rng = random.Random(5)
    with s.wire() as w:
        for command in [8, 9, 255, 65535] + [rng.randrange(9, 65536) for _ in range(50)]:
            w.request(command, rng.randrange(1 << 64), rng.randrange(1 << 32), flags=rng.randrange(65536))
            assert w.any_error() == 22
        for command, offset, length, error in (
                (w.READ, (1 << 64) - 512, 1024, 22), (w.READ, 16 * MIB, 1, 22), (w.READ, 0, 0xffffffff, 22), (w.TRIM, 1 << 63, 1 << 31, 22),
                (w.WRITE_ZEROES, 0, 0xffffffff, 28), (w.CACHE, 0, 0xffffffff, 22), (w.BLOCK_STATUS, 0, 0, 22)):
            w.request(command, offset, length)
            assert w.any_error() == error, (command, offset, length)
        w.request(w.WRITE, 16 * MIB - 1, 2, data=b'xx')  # the data is taken, then it is an error
        assert w.any_error() == 28
        w.request(w.READ, 8 * MIB, 4)
        assert w.structured_reply() == [('data', 8 * MIB, b'good')]
    s.check(0)


def test_writes_to_a_read_only_export(s):
    with s.wire('r') as w:
        w.request(w.WRITE, 0, 5, data=b'write')
        assert w.any_error() == 1
        w.request(w.TRIM, 0, 512)
        assert w.any_error() == 1
        w.request(w.WRITE_ZEROES, 8 * MIB, 512)
        assert w.any_error() == 1
    s.check(0)


def test_client_that_does_not_read(s):
    """It asks for much and reads nothing: what is kept for it is bounded, and others are served."""
    def memory():
        with open(f'/proc/{s.d.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    s.good.pwrite(os.urandom(MIB) * 8, 0)
    before = memory()
    w = s.wire()
    w.sock.setblocking(False)
    sent = 0
    deadline = time.monotonic() + 5
    try:
        while time.monotonic() < deadline:
            w.cookie += 1
            w.send(struct.pack('>IHHQQI', nbdwire.REQUEST_MAGIC, 0, w.READ, w.cookie, 0, 8 * MIB))
            sent += 1
    except BlockingIOError:
        pass
    assert sent > 8
    for _ in range(50):
        assert s.good.pread(512, 8 * MIB) == b'good' * 128
    assert memory() - before < 400 * MIB
    w.close()
    s.good.zero(512, 0)
    s.check(0)


def test_slow_writer_does_not_hold_others(s):
    """Half of a write's data: nobody waits for the rest."""
    with s.wire() as w:
        w.send(struct.pack('>IHHQQI', nbdwire.REQUEST_MAGIC, 0, w.WRITE, 1, 0, 32 * MIB) + b'x' * MIB)
        for i in range(50):
            s.good.pwrite(bytes([i]) * 4096, 4096)
            s.good.flush()
        s.d.cmd('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-node-name': 'b', 'snapshot-file': str(s.socket) + '.qcow2'})
        assert s.good.pread(4096, 4096) == bytes([49]) * 4096
    s.descriptors = sorted([*s.descriptors, str(s.socket) + '.qcow2'])
    s.check(0)


def test_connection_flood(s):
    """More connections than may be, opened and dropped by several threads."""
    def flood():
        for i in range(300):
            c = socket.socket(socket.AF_UNIX)
            try:
                c.connect(str(s.socket))
                if i % 3:
                    c.sendall(os.urandom(i % 50))
            except OSError:
                pass
            c.close()

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for t in threads:
        t.start()
    for _ in range(100):
        assert s.good.pread(512, 8 * MIB) == b'good' * 128
    for t in threads:
        t.join()
    s.check(4 * 300)
    with s.wire() as w:
        w.request(w.READ, 8 * MIB, 4)
        assert w.structured_reply() == [('data', 8 * MIB, b'good')]


def test_log_lines_are_limited(s):
    for _ in range(300):
        with s.raw() as w:
            w.send(b'\xff' * 4)
            assert w.closed()
    assert 1 <= len(s.check(300)) <= 200  # 10 a second


def test_out_of_descriptors(daemon, images):
    """Clients wait, without a busy loop, and are served when there is room again."""
    s = Server(daemon, images, server=',max-connections=0')
    used = len(os.listdir(f'/proc/{s.d.pid}/fd'))
    before = resource.prlimit(s.d.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.d.pid, resource.RLIMIT_NOFILE, (used + 10, before[1]))
    clients = []
    for _ in range(40):
        c = socket.socket(socket.AF_UNIX)
        c.connect(str(s.socket))
        clients.append(c)
    time.sleep(0.3)
    cpu = s.d.cpu_seconds()
    time.sleep(1.5)
    assert s.d.cpu_seconds() - cpu < 0.15  # a busy loop has at least that on the most loaded machine
    assert s.good.pread(512, 8 * MIB) == b'good' * 128
    for c in clients[:30]:
        c.close()
    clients[-1].settimeout(20 * SLOW)
    assert clients[-1].recv(8) == b'NBDMAGIC'
    for c in clients[30:]:
        c.close()
    resource.prlimit(s.d.pid, resource.RLIMIT_NOFILE, before)
    s.check(100)
    s.good.shutdown()


def test_random_bytes(s):
    rng = random.Random(11)
    for i in range(200):
        with s.wire() if i % 2 else s.raw() as w:
            data = rng.randbytes(rng.randrange(1, 200))
            if i % 4 >= 2:  # a good beginning
                data = struct.pack('>I', nbdwire.REQUEST_MAGIC) + data if i % 2 else struct.pack('>I', 3) + nbdwire.OPTION_MAGIC + data
            try:
                w.send(data)
                w.sock.shutdown(socket.SHUT_WR)
                assert w.closed()
            except OSError:
                pass
    s.check(200)


def test_export_del_hard_and_shutdown_with_hostile_clients(daemon, images):
    """Clients in every phase do not hold up removing an export, the end of the server, or SIGTERM."""
    s = Server(daemon, images, server=',handshake-max-seconds=0')
    kept = [s.raw(), s.raw(), s.wire(), s.wire(), s.wire('r')]
    kept[1].hello()
    kept[1].send(nbdwire.OPTION_MAGIC)
    kept[2].send(struct.pack('>IHHQQI', nbdwire.REQUEST_MAGIC, 0, 1, 1, 0, MIB) + b'half')
    for i in range(30):
        kept[3].request(0, 0, MIB)
    s.d.cmd('block-export-del', id='e', mode='hard')
    assert s.d.qmp.event('BLOCK_EXPORT_DELETED')['data'] == {'id': 'e'}
    assert kept[2].closed()
    kept[4].request(0, 8 * MIB, 4)
    assert kept[4].structured_reply() == [('data', 8 * MIB, b'good')]
    s.d.stop()
    for w in kept:
        w.close()
