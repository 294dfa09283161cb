# SPDX-License-Identifier: BSD-3-Clause
"""The driver nbd: our client with servers that others wrote (nbdkit, qemu-nbd), with ourselves, and with servers that are slow, go away, or break
the protocol.  Its data is looked at through an export of ours."""
import json
import os
import socket
import struct
import subprocess
import time

import nbd
import pytest

from lib import images as img
from lib.certs import Authority, psk
from lib.daemon import SLOW
from lib.nbdserver import Nbdkit, Rogue, chunk, simple
from lib.qmp import Qmp, QmpError

MIB = 1 << 20


class Client:
    """A daemon with one nbd node, `n`, and a writable export of it."""

    def __init__(self, daemon, images, address, export=True, args=(), **options):
        self.d = daemon(*args)
        self.qmp = self.d.qmp
        self.socket = str(images / 'ours.sock')
        self.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': self.socket}}})
        if address:
            self.add('n', address, **options)
            if export:
                self.export('n')

    def add(self, name, address, **options):
        self.qmp.cmd('blockdev-add', {'driver': 'nbd', 'node-name': name, 'server': address,
                                      **{k.replace('_', '-'): v for k, v in options.items()}})

    def export(self, node, writable=True):
        self.qmp.cmd('block-export-add', {'type': 'nbd', 'id': f'e-{node}', 'node-name': node, 'name': node, 'writable': writable})

    def connect(self, node='n', contexts=()):
        h = nbd.NBD()
        for c in contexts:
            h.add_meta_context(c)
        h.connect_uri(self.uri(node))
        return h

    def uri(self, node='n'):
        return f'nbd+unix:///{node}?socket={self.socket}'

    def node(self, name='n'):
        return next(n for n in self.qmp.cmd('query-named-block-nodes', {'flat': True}) if n['node-name'] == name)

    def error(self, command, arguments):
        with pytest.raises(QmpError) as e:
            self.qmp.cmd(command, arguments)
        return e.value.desc

    def add_error(self, address, **options):
        return self.error('blockdev-add', {'driver': 'nbd', 'node-name': 'x', 'server': address,
                                           **{k.replace('_', '-'): v for k, v in options.items()}})


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds * SLOW
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- data ----

def test_data_zeroes_trim_and_status(daemon, images):
    with Nbdkit(images / 's', 'memory', '16M') as s:
        c = Client(daemon, images, s.address, discard='unmap')
        h = c.connect(contexts=['base:allocation'])
        assert h.get_size() == 16 * MIB
        h.pwrite(b'\x11' * 3 * MIB, 12345)  # larger than a socket takes at once
        assert h.pread(3 * MIB, 12345) == b'\x11' * 3 * MIB
        h.zero(MIB, MIB)
        h.trim(MIB, 2 * MIB)
        h.flush()
        h.pwrite(b'\x22' * 512, 8 * MIB, nbd.CMD_FLAG_FUA)
        direct = nbd.NBD()
        direct.connect_unix(s.socket)
        assert direct.pread(16 * MIB, 0) == h.pread(16 * MIB, 0)
        assert direct.pread(512, 8 * MIB) == b'\x22' * 512
        extents = []
        h.block_status(16 * MIB, 0, lambda context, offset, entries, error: extents.extend(entries))
        at, holes = 0, []
        for length, flags in zip(extents[::2], extents[1::2]):
            if flags == 3:
                holes.append((at, length))
            at += length
        assert at == 16 * MIB and (MIB, 2 * MIB) in holes, extents
        info = c.node()
        assert info['drv'] == 'nbd' and not info['ro'] and info['file'] == f'nbd+unix://?socket={s.socket}'
        c.qmp.cmd('block-export-del', {'id': 'e-n', 'mode': 'hard'})
        c.qmp.event('BLOCK_EXPORT_DELETED')
        assert c.error('block_resize', {'node-name': 'n', 'size': 32 * MIB})
        c.qmp.cmd('blockdev-del', {'node-name': 'n'})


def test_many_requests_of_several_threads(daemon, images):
    """Two exports on threads of their own and one on the client's: answers come back on the thread that asked."""
    with Nbdkit(images / 's', 'memory', '64M') as s:
        c = Client(daemon, images, s.address)
        for i in (1, 2):
            c.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': f't{i}'})
            c.qmp.cmd('block-export-add', {'type': 'nbd', 'id': f'x{i}', 'node-name': 'n', 'name': f'x{i}', 'writable': True, 'iothread': f't{i}'})
        runs = [subprocess.Popen(['qemu-img', 'bench', '-f', 'raw', *write, '-c', '4000', '-d', '32', '-s', '64k', '-S', '65536', '-o', str(i * 16 * MIB),
                                  c.uri(name)], stdout=subprocess.DEVNULL)
                for i, (name, write) in enumerate([('n', ['-w']), ('x1', ['-w']), ('x2', [])])]
        assert [r.wait(60 * SLOW) for r in runs] == [0, 0, 0]


def test_what_the_server_cannot(daemon, images):
    """No FUA, flush, trim, zero: writes do what is missing; small block sizes are honoured."""
    with Nbdkit(images / 's', '--filter=nozero', '--filter=fua', '--filter=blocksize-policy', 'memory', '4M',
                'blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=65536', 'blocksize-error-policy=error') as s:
        c = Client(daemon, images, s.address, discard='unmap')
        h = c.connect()
        h.pwrite(b'\x33' * MIB, 100, nbd.CMD_FLAG_FUA)
        h.zero(50000, 300)
        h.flush()
        want = bytes(100) + b'\x33' * 200 + bytes(50000) + b'\x33' * (MIB - 50200)
        assert h.pread(MIB + 100, 0) == want
        limits = c.node()['image']['limits']
        assert limits['request-alignment'] == 4096 and limits['max-transfer'] == 65536


def test_overlay_group_over_nbd(daemon, images):
    """Local overlays over bases behind NBD: snapshot together, with a backing name in the header that opens again."""
    with Nbdkit(images / 's', 'pattern', '4M') as s:
        uri = f'nbd+unix:///?socket={s.socket}'
        c = Client(daemon, images, None)
        for i in (1, 2):
            img.create(images / f'o{i}.qcow2', '4M', backing=uri, backing_fmt='raw')
            c.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f'o{i}', 'file': {'driver': 'file', 'filename': str(images / f'o{i}.qcow2')}})
            c.export(f'o{i}')
        clients = [c.connect(f'o{i}') for i in (1, 2)]
        base = clients[0].pread(4 * MIB, 0)
        for h in clients:
            h.pwrite(b'\x44' * 1000, MIB + 7)
        c.qmp.cmd('transaction', {'actions': [{'type': 'blockdev-snapshot-sync', 'data': {
            'node-name': f'o{i}', 'snapshot-file': str(images / f't{i}.qcow2'), 'snapshot-node-name': f't{i}'}} for i in (1, 2)]})
        for h in clients:
            h.pwrite(b'\x55' * 10, 2 * MIB)
            want = bytearray(base)
            want[MIB + 7:MIB + 1007] = b'\x44' * 1000
            want[2 * MIB:2 * MIB + 10] = b'\x55' * 10
            assert h.pread(4 * MIB, 0) == bytes(want)
            h.shutdown()
        assert c.node('o1')['backing_file'] == f'nbd+unix://?socket={s.socket}'
        c.d.stop()
        assert img.qemu_io(images / 't1.qcow2', f'read -P 0x55 {2 * MIB} 10', f'read -P 0x44 {MIB + 7} 1000')


@pytest.mark.parametrize('form', ['json', 'old', 'unnamed'])
def test_names_in_headers(daemon, images, form):
    """Other ways to name the base; without a format in the header it is probed."""
    base = img.create(images / 'base.qcow2', '1M')
    img.qemu_io(base, 'write -P 9 0 64k')
    with Nbdkit(images / 's', 'file', base) as s:
        name = {'json': 'json:' + json.dumps({'driver': 'qcow2', 'file': {'driver': 'nbd', 'server': s.address}}),
                'old': f'nbd:unix:{s.socket}', 'unnamed': f'nbd+unix:///?socket={s.socket}'}[form]
        img.create(images / 'o.qcow2', '1M', backing=name, backing_fmt='qcow2')
        if form == 'unnamed':
            subprocess.run(['qemu-img', 'rebase', '-u', '-F', '', '-b', name, images / 'o.qcow2'], check=False)
        c = Client(daemon, images, None)
        c.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'file': {'driver': 'file', 'filename': str(images / 'o.qcow2')}})
        c.export('o')
        assert c.connect('o').pread(65536, 0) == b'\x09' * 65536


def test_filenames(daemon, images):
    """What a name stands for, and what is shown of it; QEMU's texts."""
    with Nbdkit(images / 's', 'memory', '1M') as s, Nbdkit(images / 'e', '--exportname', 'x', 'memory', '1M') as e:
        c = Client(daemon, images, s.address, export=False, read_only=True)
        c.add('m', e.address, export='x', read_only=True)
        assert c.node('m')['file'] == f'nbd+unix:///x?socket={e.socket}'
        c.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'size': 65536, 'file': 'm', 'read-only': True})
        shown = json.loads(c.node('r')['file'][len('json:'):])
        assert shown == {'driver': 'raw', 'size': 65536, 'file': {'driver': 'nbd', 'server': e.address, 'export': 'x'}}
    bad = {'nbd:foo': "error parsing address 'foo'", 'nbd://': 'No valid URL specified', 'nbd+unix:///e': 'No valid URL specified',
           'nbd+x://h': "Unknown protocol 'nbd+x'", 'nbd://h/?socket=/x': 'No valid URL specified',
           'nbd:unix:/nowhere/s:exportname=y': "Failed to connect to '/nowhere/s': No such file or directory",
           'nbd://127.0.0.1:1/x': "Failed to connect to '127.0.0.1:1': Connection refused"}
    for name, text in bad.items():
        img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-u', '-b', name, '-F', 'raw', images / 'bad.qcow2', '1M')
        assert c.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'b', 'file': {'driver': 'file', 'filename': str(images / 'bad.qcow2')}}) \
            == 'Could not open backing file: ' + text


def pass_descriptor(qmp, name, fd):
    """getfd."""
    socket.send_fds(qmp.sock, [b'{"execute": "getfd", "arguments": {"fdname": "%s"}}' % name.encode()], [fd])
    assert qmp.reply() == {'return': {}}


def test_passed_descriptor(daemon, images):
    """type fd: a name of getfd, for a child that is defined in place too; it cannot be connected again."""
    with Nbdkit(images / 's', 'memory', '1M') as s:
        c = Client(daemon, images, None)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(s.socket)
            pass_descriptor(c.qmp, 'mine', sock.fileno())
        c.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n', 'file': {'driver': 'nbd', 'reconnect-delay': 60,
                                                                               'server': {'type': 'fd', 'str': 'mine'}}})
        shown = json.loads(c.node()['image']['filename'][len('json:'):])
        assert shown['file']['server'] == {'type': 'fd', 'str': 'mine'}
        c.export('n')
        h = c.connect()
        h.pwrite(b'\x12' * 512, 512)
        assert h.pread(1024, 0) == bytes(512) + b'\x12' * 512
        s.kill()
        start = time.monotonic()
        with pytest.raises(nbd.Error):
            h.pread(512, 0)
        assert time.monotonic() - start < 5 * SLOW  # nothing to wait for


@pytest.mark.parametrize('job', ['blockdev-mirror', 'blockdev-backup'])
def test_cancelled_job_does_not_wait_for_its_target(daemon, images, job):
    base = img.create(images / 'a.qcow2', '8M')
    img.qemu_io(base, 'write -P 1 0 8M')
    with Nbdkit(images / 's', 'memory', '8M') as s:
        c = Client(daemon, images, s.address, export=False, reconnect_delay=60)
        c.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': str(base)}})
        c.qmp.cmd(job, {'job-id': 'j', 'device': 'a', 'target': 'n', 'sync': 'full', 'speed': MIB})
        wait_for(lambda: c.qmp.cmd('query-block-jobs')[0]['offset'] > 0)
        s.kill()
        c.qmp.cmd('block-job-set-speed', {'device': 'j', 'speed': 0})
        time.sleep(0.2)
        start = time.monotonic()
        c.qmp.cmd('block-job-cancel', {'device': 'j', 'force': True})
        c.qmp.event('BLOCK_JOB_CANCELLED')
        assert time.monotonic() - start < 5 * SLOW


def test_errors_of_opening(daemon, images):
    c = Client(daemon, images, None)
    assert c.add_error({'type': 'unix', 'path': '/nowhere'}) == "Failed to connect to '/nowhere': No such file or directory"
    assert c.add_error({'type': 'unix', 'path': 'x' * 200}).endswith('is too long')
    assert c.add_error({'type': 'inet', 'host': '127.0.0.1', 'port': '1'}) == "Failed to connect to '127.0.0.1:1': Connection refused"
    assert c.add_error({'type': 'inet', 'host': '127.0.0.1', 'port': 'no-port'}).startswith('address resolution failed for 127.0.0.1:no-port: ')
    assert c.add_error({'type': 'vsock', 'cid': 'x', 'port': '1'}) == "Failed to parse cid 'x'"
    assert 'nothing' in c.add_error({'type': 'fd', 'str': 'nothing'})
    assert c.add_error({'type': 'unix', 'path': '/x'}, tls_creds='none') == "No TLS credentials with id 'none'"
    assert c.add_error({'type': 'unix', 'path': '/x'}, export='x' * 5000) == 'export name too long to send to server'
    with Nbdkit(images / 's', '-r', '--exportname', 'e', 'memory', '1M') as s:
        assert c.add_error(s.address) == 'request on denied write access'
        assert c.add_error(s.address, read_only=True, x_dirty_bitmap='qemu:dirty-bitmap:b') == 'requested x-dirty-bitmap qemu:dirty-bitmap:b not found'
        c.add('ro', s.address, auto_read_only=True)
        assert c.node('ro')['ro']
    start = time.monotonic()
    assert c.add_error({'type': 'unix', 'path': '/nowhere'}, open_timeout=1)
    assert 0.5 < time.monotonic() - start < 5 * SLOW
    job = {'job-id': 'j', 'options': {'driver': 'nbd'}}
    assert c.error('blockdev-create', job) == 'Driver does not support blockdev-create'


# ---- connections that are lost ----

def test_reconnect(daemon, images):
    """Requests wait for the server to come back; without reconnect-delay they fail at once, until it has."""
    disk = images / 'd.raw'
    disk.write_bytes(b'\x66' * MIB)
    with Nbdkit(images / 's', 'file', disk) as s:
        c = Client(daemon, images, s.address, reconnect_delay=20)
        c.add('q', s.address)
        c.export('q')
        patient, hasty = c.connect('n'), c.connect('q')
        patient.pwrite(b'\x67' * 10, 0)
        s.kill()
        with pytest.raises(nbd.Error):
            hasty.pread(512, 0)
        start = time.monotonic()
        cookie = patient.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'\x68' * 512)), 512)
        time.sleep(0.3)
        s.start()
        while not patient.aio_command_completed(cookie):
            assert patient.poll(int(10000 * SLOW)) > 0
        assert 0.3 <= time.monotonic() - start < 10 * SLOW
        assert patient.pread(1024, 0) == b'\x67' * 10 + b'\x66' * 502 + b'\x68' * 512

        def back():
            try:
                return hasty.pread(512, 512) == b'\x68' * 512
            except nbd.Error:
                return False
        wait_for(back)
        patient.shutdown()
        hasty.shutdown()
        # the delay passes
        c.add('short', s.address, reconnect_delay=1)
        c.export('short')
        h = c.connect('short')
        s.kill()
        start = time.monotonic()
        with pytest.raises(nbd.Error):
            h.pread(512, 0)
        assert 0.8 < time.monotonic() - start < 5 * SLOW
        with pytest.raises(nbd.Error):
            h.pread(512, 0)  # from here on at once
        assert time.monotonic() - start < 5 * SLOW


def test_not_the_same_export(daemon, images):
    """A server that comes back with a smaller disk is not taken."""
    with Nbdkit(images / 's', 'memory', '2M') as s:
        c = Client(daemon, images, s.address)
        s.kill()
        s.args = ('memory', '1M')
        s.start()
        wait_for(lambda: 'has another export of that name now' in c.d.stderr())
        with pytest.raises(nbd.Error):
            c.connect().pread(512, 0)


def test_hung_server(daemon, images):
    """It keeps its own requests and nobody else's; the daemon ends all the same."""
    with Rogue(images / 's', on_request=lambda *a: True) as s:
        c = Client(daemon, images, s.address)
        img.create(images / 'a.qcow2', '4M')
        c.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': str(images / 'a.qcow2')}})
        c.export('a')
        hung, well = c.connect('n'), c.connect('a')
        hung.aio_pread(nbd.Buffer(512), 0)
        wait_for(lambda: s.requests)
        start = time.monotonic()
        well.pwrite(b'x' * 65536, 0, nbd.CMD_FLAG_FUA)
        c.qmp.cmd('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-file': str(images / 'b.qcow2'), 'snapshot-node-name': 'b'})
        assert well.pread(65536, 0) == b'x' * 65536
        assert time.monotonic() - start < 3 * SLOW
        c.d.stop(timeout=15)


def test_silent_server(daemon, images):
    """It accepts and says nothing: blockdev-add ends, and other monitors go on meanwhile."""
    with Rogue(images / 's', greeting=b'') as s:
        path = str(images / 'second.sock')
        c = Client(daemon, images, None, args=['--chardev', f'socket,id=m2,path={path},server=on,wait=off', '--monitor', 'chardev=m2'])
        c.qmp.send('blockdev-add', {'driver': 'nbd', 'node-name': 'x', 'server': s.address, 'open-timeout': 1})
        with Qmp(path) as other:
            start = time.monotonic()
            other.cmd('query-version')
            assert time.monotonic() - start < 0.9 * SLOW
        assert 'no handshake in time' in c.qmp.reply()['error']['desc']


# ---- servers that break the protocol ----

BROKEN_HANDSHAKES = {
    'no magic': {'greeting': b'x' * 200},
    'half a greeting': {'greeting': b'NBDMAGIC'},
    'size': {'size': (1 << 63) + 512},
    'size and blocks': {'size': 1000, 'info': struct.pack('>HIII', 3, 512, 4096, 65536)},
    'reply to another option': {'on_option': lambda o, d: struct.pack('>QIII', 0x3e889045565a9, 77, 1, 0)},
    'bad reply magic': {'on_option': lambda o, d: struct.pack('>QIII', 1, o, 1, 0)},
    'long reply': {'on_option': lambda o, d: struct.pack('>QIII', 0x3e889045565a9, o, 0x80000001, 0xffffffff)},
}


@pytest.mark.parametrize('how', BROKEN_HANDSHAKES)
def test_broken_handshake(daemon, images, how):
    with Rogue(images / 's', **BROKEN_HANDSHAKES[how]) as s:
        c = Client(daemon, images, None)
        start = time.monotonic()
        assert c.add_error(s.address, **({'open_timeout': 1} if how in ('half a greeting', 'long reply') else {}))
        assert time.monotonic() - start < 5 * SLOW
        assert c.qmp.cmd('query-named-block-nodes') == []


BROKEN_ANSWERS = {
    'bad magic': lambda k, cookie, o, n, d: b'\0' * 16,
    'unknown cookie': lambda k, cookie, o, n, d: simple(cookie + 1),
    'closed': lambda *a: False,
    'half a reply, closed': None,  # below
    'error and data': lambda k, cookie, o, n, d: simple(cookie, 5),
    'chunk outside': lambda k, cookie, o, n, d: chunk(cookie, 1, struct.pack('>Q', o + n) + bytes(n)),
    'chunk before': lambda k, cookie, o, n, d: chunk(cookie, 1, struct.pack('>Q', 0) + bytes(n)),
    'chunk too long': lambda k, cookie, o, n, d: chunk(cookie, 1, struct.pack('>Q', o) + bytes(n), length=0xfffffff0),
    'chunk too short': lambda k, cookie, o, n, d: chunk(cookie, 1, b'abc'),
    'unknown chunk': lambda k, cookie, o, n, d: chunk(cookie, 999, bytes(8)),
    'hole outside': lambda k, cookie, o, n, d: chunk(cookie, 2, struct.pack('>QI', o, n + 1)),
    'no data': lambda k, cookie, o, n, d: chunk(cookie, 0, b''),
    'strange error': lambda k, cookie, o, n, d: simple(cookie, 0xdeadbeef) if k else chunk(cookie, 0x8001, struct.pack('>IH', 0xdeadbeef, 0)),
}


def test_broken_answers(daemon, images):
    """Each is an I/O error of the request, or of the connection, which is made anew; nothing is read that the server did not send."""
    broken = [None]

    def on_request(kind, cookie, offset, length, data):
        fn, broken[0] = broken[0], None
        return fn(kind, cookie, offset, length, data) if fn else None

    with Rogue(images / 's', on_request=on_request) as s:
        c = Client(daemon, images, s.address)
        for how, fn in BROKEN_ANSWERS.items():
            h = c.connect()

            def works():
                try:
                    return h.pread(4096, 0) == bytes(4096)
                except nbd.Error:
                    return False
            wait_for(works)
            broken[0] = fn or (lambda k, cookie, o, n, d: chunk(cookie, 1, struct.pack('>Q', o) + b'ab', length=n + 8))
            if how == 'half a reply, closed':
                cookie = h.aio_pread(nbd.Buffer(4096), 8192)
                wait_for(lambda: broken[0] is None)
                s.connections[-1].shutdown(socket.SHUT_RDWR)
                with pytest.raises(nbd.Error):
                    while not h.aio_command_completed(cookie):
                        assert h.poll(int(10000 * SLOW)) > 0
            else:
                with pytest.raises(nbd.Error):
                    h.pread(4096, 8192)
            wait_for(works)
            h.shutdown()


@pytest.mark.parametrize('entries', [(0, 0), (), (1,), (0xffffffff, 0), (4096, 1 << 31)])
def test_broken_status(daemon, images, entries):
    def on_request(kind, cookie, offset, length, data):
        return chunk(cookie, 5, struct.pack(f'>I{len(entries)}I', 1, *entries)) if kind == 7 else None

    with Rogue(images / 's', on_request=on_request) as s:
        c = Client(daemon, images, s.address)
        h = c.connect(contexts=['base:allocation'])
        extents = []
        try:
            h.block_status(MIB, 0, lambda context, offset, e, error: extents.extend(e))
        except nbd.Error:
            assert len(entries) < 2 or entries[0] == 0
        assert sum(extents[::2]) <= MIB

        def works():
            try:
                return h.pread(4096, 0) == bytes(4096)
            except nbd.Error:
                return False
        wait_for(works)


def test_errors_of_the_server(daemon, images):
    with Nbdkit(images / 's', '--filter=error', 'memory', '1M', 'error-pwrite=ENOSPC', 'error-pwrite-rate=100%', 'error-zero-rate=100%',
                'error-zero=EIO') as s:
        c = Client(daemon, images, s.address)
        h = c.connect()
        with pytest.raises(nbd.Error) as e:
            h.pwrite(bytes(512), 0)
        assert e.value.errno == 'ENOSPC'
        assert h.pread(512, 0) == bytes(512)


# ---- TLS ----

@pytest.fixture(scope='module')
def pki(tmp_path_factory):
    d = tmp_path_factory.mktemp('pki')
    ca = Authority(d / 'ca')
    ca.issue(d / 'server', 'server', 'localhost')
    ca.issue(d / 'client', 'client', 'client')
    psk(d / 'psk', alice='00112233445566778899aabbccddeeff')
    return d


def test_tls(daemon, images, pki):
    with Nbdkit(images / 's', '--tls=require', f'--tls-certificates={pki}/server', '--tls-verify-peer', 'memory', '8M') as s, \
            Nbdkit(images / 'plain', 'memory', '8M') as plain:
        c = Client(daemon, images, None)
        c.qmp.cmd('object-add', {'qom-type': 'tls-creds-x509', 'id': 'tls', 'dir': str(pki / 'client'), 'endpoint': 'client'})
        assert c.add_error(s.address)
        assert c.add_error(s.address, tls_creds='tls', tls_hostname='elsewhere')
        assert c.add_error(plain.address, tls_creds='tls') == 'Denied by server for option 5 (starttls)'
        assert c.add_error(plain.address, tls_hostname='x') == 'TLS hostname requires TLS creds'
        c.add('n', s.address, tls_creds='tls', tls_hostname='localhost', reconnect_delay=10)
        c.export('n')
        h = c.connect()
        data = os.urandom(5 * MIB)
        h.pwrite(data, 1000)
        assert h.pread(5 * MIB, 1000) == data
        s.kill()
        s.start()
        assert h.pread(512, 0) == bytes(512)
        c.qmp.cmd('object-del', {'id': 'tls'})


def test_tls_between_ourselves(daemon, images, pki):
    """inet, a key for all, the host's name by default."""
    server = daemon()
    server.cmd('object-add', {'qom-type': 'tls-creds-psk', 'id': 'tls', 'dir': str(pki / 'psk'), 'endpoint': 'server'})
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    server.cmd('nbd-server-start', {'addr': {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': port}}, 'tls-creds': 'tls'})
    server.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'z', 'size': MIB, 'read-zeroes': True})
    server.cmd('block-export-add', {'type': 'nbd', 'id': 'z', 'node-name': 'z', 'writable': True})
    c = Client(daemon, images, None)
    c.qmp.cmd('object-add', {'qom-type': 'tls-creds-psk', 'id': 'tls', 'dir': str(pki / 'psk'), 'endpoint': 'client', 'username': 'alice'})
    c.add('n', {'type': 'inet', 'host': '127.0.0.1', 'port': port}, export='z', tls_creds='tls')
    c.export('n')
    assert c.node()['file'] == f'nbd://127.0.0.1:{port}/z'
    assert c.connect().pread(MIB, 0) == bytes(MIB)
    c.d.stop()
