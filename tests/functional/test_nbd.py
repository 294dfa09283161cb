# SPDX-License-Identifier: BSD-3-Clause
"""The NBD server with clients that others wrote: libnbd, nbdinfo, nbdcopy, fio, qemu-img, qemu-io.  What is not of their making is in
test_nbd_hostile.py."""
import contextlib
import errno
import json
import os
import random
import threading
from pathlib import Path

import nbd
import pytest

from lib import images as img
from lib.daemon import SLOW, Daemon, daemon_binary
from lib.nbdwire import Wire

MIB = 1 << 20


def disk(path, node, **more):
    text = f'driver=qcow2,node-name={node},discard=unmap,file.driver=file,file.filename={path}'
    return ['--blockdev', text + ''.join(f',{k}={v}' for k, v in more.items())]


def export(node, **more):
    return ['--export', f'type=nbd,id=e-{node},node-name={node}' + ''.join(f",{k.replace('_', '-')}={v}" for k, v in more.items())]


class Server:
    """A daemon with the disk a, 64 MiB: 2 MiB of 17 at 1 MiB, 1 MiB of allocated zeroes at 4 MiB, 64 KiB of 19 at the end."""

    def __init__(self, daemon, directory, *args, server='', image_options=None, **export_options):
        self.dir = directory
        self.path = img.create(directory / 'a.qcow2', options=image_options)
        img.qemu_io(self.path, 'write -P 17 1M 2M', 'write -P 18 4M 1M', 'write -z 4M 1M', f'write -P 19 {64 * MIB - 65536} 64k')
        self.socket = directory / 'nbd.sock'
        self.d = daemon('--nbd-server', f'addr.type=unix,addr.path={self.socket}{server}', *disk(self.path, 'a'),
                        *export('a', name='a', **{'writable': 'on', **export_options}), *args)
        self.qmp = self.d.qmp

    def uri(self, name='a'):
        return f'nbd+unix:///{name}?socket={self.socket}'

    @contextlib.contextmanager
    def client(self, name='a', contexts=(), structured=True):
        h = nbd.NBD()
        h.set_request_structured_replies(structured)
        for c in contexts:
            h.add_meta_context(c)
        h.connect_uri(self.uri(name))
        try:
            yield h
        finally:
            with contextlib.suppress(nbd.Error):
                h.shutdown()

    def wire(self, name='a', **options):
        return Wire(self.socket, name, **options)


@pytest.fixture
def s(daemon, images):
    return Server(daemon, images)


# ---- what is offered ----

def test_list_and_info(daemon, images):
    img.create(images / 'b.qcow2', '1M')
    s = Server(daemon, images, *disk(images / 'b.qcow2', 'b', **{'read-only': 'on'}), *export('b', description='a second one'),
               description='the first')
    listed = json.loads(img.run('nbdinfo', '--list', '--json', f'nbd+unix:///?socket={s.socket}'))['exports']
    assert {(e['export-name'], e.get('description'), e['export-size'], e['is_read_only']) for e in listed} == {
        ('a', 'the first', 64 * MIB, False), ('b', 'a second one', MIB, True)}
    a = next(e for e in listed if e['export-name'] == 'a')
    assert [a[k] for k in ('can_cache', 'can_df', 'can_fast_zero', 'can_flush', 'can_fua', 'can_multi_conn', 'can_trim', 'can_zero')] \
        == [True] * 8
    assert (a['block_size_minimum'], a['block_size_maximum']) == (1, 32 * MIB)
    assert a['contexts'] == ['base:allocation']
    b = next(e for e in listed if e['export-name'] == 'b')
    assert not b['can_trim'] and not b['can_zero']
    out = img.run('qemu-img', 'info', '--output=json', s.uri())
    assert json.loads(out)['virtual-size'] == 64 * MIB


def test_names(s):
    with s.client('a') as h:
        assert h.get_size() == 64 * MIB
    with pytest.raises(nbd.Error) as e:
        with s.client('none'):
            pass
    assert e.value.errnum in (errno.ENOENT, 0) or 'no such export' in e.value.string
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(s.uri('none'))
    with pytest.raises(nbd.Error):
        h.opt_info()
    h.set_export_name('a')
    h.opt_info()  # the connection goes on after an unknown name
    assert h.get_size() == 64 * MIB
    names = []
    h.opt_list(lambda name, description: names.append((name, description)))
    assert names == [('a', '')]
    contexts = []
    h.add_meta_context('base:')
    h.opt_list_meta_context(contexts.append)
    assert contexts == ['base:allocation']
    h.opt_go()
    assert h.pread(4, MIB) == b'\x11' * 4
    h.shutdown()
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(s.uri())
    h.opt_abort()


def test_oldstyle_options(s):
    """EXPORT_NAME, with and without the 124 zeroes: qemu-io and nbd-client of long ago."""
    for no_zeroes in (False, True):
        with s.wire(handshake=False) as w:
            w.hello(fixed=True, no_zeroes=no_zeroes)
            w.option_export_name('a', no_zeroes)
            assert w.size == 64 * MIB
            w.request(w.READ, MIB, 512)
            assert w.simple_reply(512) == b'\x11' * 512
    with s.wire(handshake=False) as w:
        w.hello(fixed=False, no_zeroes=False)  # one that knows no fixed newstyle
        w.option_export_name('a', False)
        w.request(w.READ, 0, 512)
        assert w.simple_reply(512) == bytes(512)


# ---- data ----

@pytest.mark.parametrize('structured', [True, False])
def test_reads_and_writes(s, structured):
    rng = random.Random(1)
    model = bytearray(64 * MIB)
    model[MIB:3 * MIB] = b'\x11' * (2 * MIB)
    model[-65536:] = b'\x13' * 65536
    with s.client(structured=structured) as h:
        assert h.get_structured_replies_negotiated() == structured
        for _ in range(150):
            length = rng.choice([1, 511, 512, 4096, 5000, 65536, 300000])
            offset = rng.randrange(0, 64 * MIB - length)
            kind = rng.randrange(5)
            if kind == 0:
                data = rng.randbytes(length)
                h.pwrite(data, offset, nbd.CMD_FLAG_FUA if rng.random() < 0.1 else 0)
                model[offset:offset + length] = data
            elif kind == 1:
                h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE if rng.random() < 0.5 else 0)
                model[offset:offset + length] = bytes(length)
            elif kind == 2 and rng.random() < 0.3:
                h.flush()
            else:
                assert h.pread(length, offset) == model[offset:offset + length]
        assert h.pread(64 * MIB // 4, 0) == model[:16 * MIB]
        h.flush()
    s.d.stop()
    assert img.contents(s.path, 64 * MIB) == model
    img.check(s.path)


def test_32_mib_requests_and_beyond(s):
    with s.client() as h:
        h.set_strict_mode(0)
        data = os.urandom(MIB) * 32
        h.pwrite(data, 7)
        assert h.pread(32 * MIB, 7) == data
        assert h.pread(0, 5) == b'' if h.get_strict_mode() == 0 else True
        h.zero(33 * MIB, 0)  # no data: any length
        h.trim(64 * MIB, 0)
        h.cache(64 * MIB, 0)
        assert h.pread(32 * MIB, 0) == bytes(32 * MIB)
    with s.wire() as w:  # libnbd itself refuses to send these
        w.request(w.READ, 0, 32 * MIB + 1)
        assert w.structured_reply() == [('error', errno.EINVAL)]
        w.request(w.READ, 0, 512)
        assert w.structured_reply() == [('hole', 0, 512)]  # it goes on
        w.request(w.WRITE, 0, 32 * MIB + 1)
        assert w.closed()  # what follows cannot be told from requests


def test_holes_are_not_sent(s):
    with s.wire() as w:
        w.request(w.READ, 0, MIB)
        assert w.structured_reply() == [('hole', 0, MIB)]
        w.request(w.READ, 0, MIB, flags=w.DF)
        assert w.structured_reply() == [('hole', 0, MIB)]
        w.request(w.READ, MIB, 4096)
        assert w.structured_reply() == [('data', MIB, b'\x11' * 4096)]
        w.request(w.READ, MIB - 1, 2)
        assert w.structured_reply() == [('data', MIB - 1, b'\0\x11')]
        w.request(w.READ, 0, 0)
        assert w.structured_reply() == [('none',)]
    with s.wire(structured=False) as w:
        w.request(w.READ, 0, 1024)
        assert w.simple_reply(1024) == bytes(1024)


def test_beyond_the_end(s):
    with s.client() as h:
        h.set_strict_mode(0)
        for call, error in ((lambda: h.pread(512, 64 * MIB - 511), errno.EINVAL), (lambda: h.pwrite(b'x' * 512, 64 * MIB), errno.ENOSPC),
                            (lambda: h.zero(1, 64 * MIB), errno.ENOSPC), (lambda: h.trim(MIB, 64 * MIB - 1), errno.EINVAL),
                            (lambda: h.cache(1, 1 << 62), errno.EINVAL), (lambda: h.pread(1, (1 << 64) - 1), errno.EINVAL)):
            with pytest.raises(nbd.Error) as e:
                call()
            assert e.value.errnum == error
        assert h.pread(512, 64 * MIB - 512) == b'\x13' * 512


def test_flags_that_a_command_does_not_have(s):
    with s.wire() as w:
        for command, flags in ((w.READ, 1 << 4), (w.WRITE_ZEROES, 1 << 3), (w.FLUSH, 1 << 15), (w.BLOCK_STATUS, 1 << 1), (77, 0)):
            w.request(command, 0, 0 if command == w.FLUSH else 512, flags=flags)
            assert w.any_error() == errno.EINVAL, (command, flags)


# ---- status ----

def extents(h, context, offset, length, flags=0):
    got = []
    h.block_status(length, offset, lambda name, at, entries, err: got.append(entries) if name == context else None, flags)
    return list(zip(got[0][0::2], got[0][1::2]))


def test_block_status_is_what_qemu_img_maps(s):
    mapped = [(e['start'], e['length'], e['data'], e['zero']) for e in img.map_ranges(s.path, share=True)]
    ours, at = [], 0
    with s.client(contexts=['base:allocation']) as h:
        assert h.can_meta_context('base:allocation')
        while at < 64 * MIB:
            for length, flags in extents(h, 'base:allocation', at, 64 * MIB - at):
                ours.append((at, length, not flags & nbd.STATE_HOLE, bool(flags & nbd.STATE_ZERO)))
                at += length
    merged = []
    for start, length, data, zero in mapped:  # qemu-img tells allocated zeroes apart
        if merged and merged[-1][2:] == (data, zero):
            merged[-1] = (merged[-1][0], merged[-1][1] + length, data, zero)
        else:
            merged.append((start, length, data, zero))
    assert ours == merged
    assert [(e['offset'], e['length'], e['type']) for e in json.loads(img.run('nbdinfo', '--map', '--json', s.uri()))] == \
        [(o[0], o[1], 0 if o[2] else 3) for o in ours]
    out = json.loads(img.run('qemu-img', 'map', '--output=json', '-f', 'raw', s.uri()))
    assert [(e['start'], e['length'], e['zero']) for e in out] == [(o[0], o[1], o[3]) for o in ours]


def test_block_status_of_one_extent_and_through_a_chain(daemon, images):
    base = img.create(images / 'base.qcow2', '8M')
    img.qemu_io(base, 'write 0 1M')
    top = img.create(images / 'top.qcow2', '8M', backing=base)
    img.qemu_io(top, 'write 4M 64k', 'write -z 512k 64k')
    d = daemon('--nbd-server', f'addr.type=unix,addr.path={images}/n', *disk(top, 't'),
               *export('t', name='t', allocation_depth='on'))
    assert d.alive()
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.add_meta_context('qemu:allocation-depth')
    h.connect_uri(f'nbd+unix:///t?socket={images}/n')
    k = 1024
    assert extents(h, 'base:allocation', 0, 8 * MIB) == [(512 * k, 0), (64 * k, 3), (448 * k, 0), (3 * MIB, 3), (64 * k, 0),
                                                        (4 * MIB - 64 * k, 3)]
    assert extents(h, 'qemu:allocation-depth', 0, 8 * MIB) == [(512 * k, 2), (64 * k, 1), (448 * k, 2), (3 * MIB, 0), (64 * k, 1),
                                                              (4 * MIB - 64 * k, 0)]
    assert extents(h, 'base:allocation', 100, 8 * MIB - 100, nbd.CMD_FLAG_REQ_ONE) == [(512 * k - 100, 0)]
    h.shutdown()


def test_status_without_context(s):
    with s.client() as h:
        h.set_strict_mode(0)
        with pytest.raises(nbd.Error):
            h.block_status(512, 0, lambda *a: None)
        assert h.pread(4, MIB) == b'\x11' * 4


# ---- zeroes, trim, cache, flush ----

def test_zero_trim_cache(s):
    with s.client(contexts=['base:allocation']) as h:
        h.trim(MIB, MIB)
        assert h.pread(MIB, MIB) == bytes(MIB)
        assert extents(h, 'base:allocation', MIB, MIB) == [(MIB, 3)]
        h.zero(65536, 2 * MIB)
        assert extents(h, 'base:allocation', 2 * MIB, 65536) == [(65536, 3)]
        h.zero(65536, 8 * MIB, nbd.CMD_FLAG_NO_HOLE)
        h.zero(65536, 9 * MIB, nbd.CMD_FLAG_FAST_ZERO)  # whole clusters: quick
        assert h.pread(2 * MIB, 8 * MIB) == bytes(2 * MIB)
        h.pwrite(b'x' * 1000, 10 * MIB)
        with pytest.raises(nbd.Error) as e:
            h.zero(100, 10 * MIB + 100, nbd.CMD_FLAG_FAST_ZERO)  # a part of one: it would have to be written
        assert e.value.errnum == errno.ENOTSUP
        assert h.pread(1000, 10 * MIB) == b'x' * 1000  # nothing was done
        h.zero(100, 10 * MIB + 100)
        assert h.pread(1000, 10 * MIB) == b'x' * 100 + bytes(100) + b'x' * 800
        h.cache(4 * MIB, 0)
        h.trim(1, 10 * MIB, nbd.CMD_FLAG_FUA)
        h.flush()
    s.d.stop()
    img.check(s.path)


def test_no_hole_keeps_clusters(daemon, images):
    s = Server(daemon, images)
    with s.client() as h:
        h.zero(2 * MIB, MIB, nbd.CMD_FLAG_NO_HOLE)
        h.flush()
    assert s.d.cmd('query-named-block-nodes')
    s.d.stop()
    with_clusters = os.stat(s.path).st_blocks
    s2 = daemon('--nbd-server', f'addr.type=unix,addr.path={s.socket}', *disk(s.path, 'a'), *export('a', name='a', writable='on'))
    with s.client() as h:
        h.zero(2 * MIB, MIB)
    s2.stop()
    assert os.stat(s.path).st_blocks < with_clusters
    img.check(s.path)


def test_flush_and_fua_are_durable(images):
    """Whether a flush reaches the storage, which is a simulated disk that writes down what it is asked for."""
    if b'simdisk' not in Path(daemon_binary()).read_bytes():
        pytest.fail('the daemon was built without test drivers: -Dtest_drivers=true')
    for how, kept in (('nothing', False), ('fua', True), ('flush', True), ('other', True), ('trim-fua', True), ('writethrough', True)):
        raw = images / f'disk-{how}'
        img.create(raw, '1M', fmt='raw')
        through = ',writethrough=on' if how == 'writethrough' else ''
        d = Daemon(['--nbd-server', f'addr.type=unix,addr.path={images}/n', '--blockdev', f'simdisk,node-name=d,filename={raw},log={raw}.log',
                    '--export', f'nbd,id=e,node-name=d,name=d,writable=on{through}'])
        h, other = nbd.NBD(), nbd.NBD()
        h.connect_uri(f'nbd+unix:///d?socket={images}/n')
        other.connect_uri(f'nbd+unix:///d?socket={images}/n')
        h.pwrite(b'k' * 4096, 0, nbd.CMD_FLAG_FUA if how == 'fua' else 0)
        if how == 'flush':
            h.flush()
        elif how == 'other':  # CAN_MULTI_CONN: a flush of one connection covers the writes of another
            other.flush()
        elif how == 'trim-fua':
            h.trim(512, 8192, nbd.CMD_FLAG_FUA)
        log = (images / f'disk-{how}.log').read_text()
        assert ('flush' in log) == kept, (how, log)
        h.shutdown()
        other.shutdown()
        d.stop()


def test_read_only_export(daemon, images):
    s = Server(daemon, images, writable='off')
    with s.client() as h:
        assert h.is_read_only() and not h.can_trim() and not h.can_zero()
        h.set_strict_mode(0)
        for call in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
            with pytest.raises(nbd.Error) as e:
                call()
            assert e.value.errnum == errno.EPERM
        h.flush()
        assert h.pread(512, MIB) == b'\x11' * 512


def test_writable_export_of_a_read_only_node(daemon, images):
    s = Server(daemon, images, '--blockdev', 'null-co,node-name=z,size=1048576,read-only=on')
    error = s.qmp.error('block-export-add', {'type': 'nbd', 'id': 'z', 'node-name': 'z', 'writable': True})
    assert 'read-only' in error or 'read only' in error


# ---- several clients and exports ----

def test_many_clients_and_exports(daemon, images):
    """Each writes what it alone knows; all of it is there."""
    n, each = 4, 3
    args = []
    for i in range(n):
        img.create(images / f'{i}.qcow2', '16M')
        args += disk(images / f'{i}.qcow2', f'd{i}') + ['--export', f'nbd,id=x{i},node-name=d{i},writable=on,iothread=io{i % 2}']
    d = daemon('--object', 'iothread,id=io0', '--object', 'iothread,id=io1',
               '--nbd-server', f'addr.type=unix,addr.path={images}/n', *args)
    problems = []

    def work(i, j):
        try:
            h = nbd.NBD()
            h.connect_uri(f'nbd+unix:///d{i}?socket={images}/n')
            assert h.can_multi_conn()
            for k in range(60):
                block = bytes([i * 16 + j + 1]) * 7000
                h.pwrite(block, (k * each + j) * 7000)
                assert h.pread(7000, (k * each + j) * 7000) == block
            h.shutdown()
        except (nbd.Error, AssertionError) as e:
            problems.append(e)

    threads = [threading.Thread(target=work, args=(i, j)) for i in range(n) for j in range(each)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems
    d.stop()
    for i in range(n):
        data = img.contents(images / f'{i}.qcow2', 60 * each * 7000)
        for k in range(60 * each):
            assert data[k * 7000:(k + 1) * 7000] == bytes([i * 16 + k % each + 1]) * 7000
        img.check(images / f'{i}.qcow2')


def test_one_connection_is_no_multi_conn(daemon, images):
    s = Server(daemon, images, server=',max-connections=1')
    for _ in range(5):  # the next one waits until the server has noticed the end of the last
        with s.client() as h:
            assert not h.can_multi_conn()
            assert h.pread(4, MIB) == b'\x11' * 4


def test_connection_limit(daemon, images):
    """Who comes too much waits, and is served when there is room."""
    s = Server(daemon, images, server=',max-connections=2')
    first, second = nbd.NBD(), nbd.NBD()
    first.connect_uri(s.uri())
    second.connect_uri(s.uri())
    done = threading.Event()

    def third():
        with s.client() as h:
            h.pread(512, 0)
        done.set()

    t = threading.Thread(target=third)
    t.start()
    assert not done.wait(0.3)
    assert second.pread(4, MIB) == b'\x11' * 4
    first.shutdown()
    assert done.wait(20 * SLOW)
    t.join()
    second.shutdown()
    assert s.qmp.error('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(images / 'n2')}}) == 'NBD server already running'


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost'])
def test_tcp(daemon, images, host):
    img.create(images / 'a.qcow2', '4M')
    d = daemon(*disk(images / 'a.qcow2', 'a'), '--nbd-server', f'addr.type=inet,addr.host={host},addr.port=31700,addr.to=31799',
               *export('a', writable='on'))
    ports = [int(line.split()[3].rsplit(':', 1)[1]) for line in img.run('ss', '-tlnpH').splitlines() if f'pid={d.pid},' in line]
    assert ports
    h = nbd.NBD()
    h.connect_uri(f'nbd://{host}:{ports[0]}/a')
    h.pwrite(b'tcp', 0)
    assert h.pread(3, 0) == b'tcp'
    h.shutdown()


def test_inherited_socket(daemon, images):
    import socket
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(images / 'inherited'))
    listening.listen()
    os.set_inheritable(listening.fileno(), True)
    img.create(images / 'a.qcow2', '4M')
    d = daemon(*disk(images / 'a.qcow2', 'a'), '--nbd-server', f'addr.type=fd,addr.str={listening.fileno()}', *export('a'),
               wrapper=(), pass_fds=(listening.fileno(),))
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///a?socket={images}/inherited')
    assert h.get_size() == 4 * MIB
    h.shutdown()
    assert d.qmp.error('nbd-server-start', addr={'type': 'fd', 'data': {'str': '0'}}) == 'NBD server already running'
    d.cmd('nbd-server-stop')
    assert 'not a socket' in d.qmp.error('nbd-server-start', addr={'type': 'fd', 'data': {'str': '0'}})
    listening.close()


# ---- exports come and go ----

def test_connection_is_kept_over_snapshots(s):
    with s.client(contexts=['base:allocation']) as h:
        for r in range(3):
            h.pwrite(bytes([r + 1]) * 5000, r * 100000)
            s.qmp.cmd('transaction', actions=[{'type': 'blockdev-snapshot-sync', 'data': {
                'node-name': f's{r}' if r else 'a', 'snapshot-node-name': f's{r + 1}', 'snapshot-file': str(s.dir / f's{r + 1}')}}])
            assert h.pread(5000, r * 100000) == bytes([r + 1]) * 5000
            h.flush()
        assert extents(h, 'base:allocation', MIB, MIB) == [(MIB, 0)]  # three layers down
        assert s.qmp.cmd('query-block-exports') == [{'id': 'e-a', 'node-name': 's3', 'shutting-down': False, 'type': 'nbd'}]
    s.d.stop()
    for r in range(3):
        img.check(s.dir / f's{r + 1}')
    assert img.contents(s.dir / 's3', 5000, 200000) == b'\3' * 5000
    assert img.contents(s.dir / 's2', 5000, 200000) == b'\3' * 5000
    assert img.contents(s.dir / 's1', 5000, 200000) == bytes(5000)


def test_export_del(s):
    with s.client() as h:
        error = s.qmp.error('block-export-del', id='e-a')
        assert error.startswith("export 'e-a' still in use")
        assert s.qmp.error('block-export-del', id='none') == "Export 'none' is not found"
        assert h.pread(4, MIB) == b'\x11' * 4
        s.qmp.cmd('block-export-del', id='e-a', mode='hard')
        assert s.qmp.event('BLOCK_EXPORT_DELETED')['data'] == {'id': 'e-a'}
        with pytest.raises(nbd.Error):
            h.pread(4, MIB)
    s.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e-a', 'node-name': 'a', 'name': 'a'})
    assert 'in use' in s.qmp.error('block-export-add', {'type': 'nbd', 'id': 'e-a', 'node-name': 'a', 'name': 'b'})
    assert 'already has export' in s.qmp.error('block-export-add', {'type': 'nbd', 'id': 'e-b', 'node-name': 'a', 'name': 'a'})
    with s.client() as h:
        assert h.is_read_only()
    for _ in range(200):  # the client's end may be noticed a moment later
        reply = s.qmp.execute('block-export-del', {'id': 'e-a'})
        if 'return' in reply:
            break
    assert 'return' in reply
    s.qmp.event('BLOCK_EXPORT_DELETED')
    s.qmp.cmd('blockdev-del', node_name='a')


def test_server_stop_and_start(s):
    with s.client() as h:
        s.qmp.cmd('nbd-server-stop')
        assert s.qmp.cmd('query-block-exports') == []
        with pytest.raises(nbd.Error):
            h.pread(4, MIB)
    assert not s.socket.exists()
    assert s.qmp.error('nbd-server-stop') == 'NBD server not running'
    assert s.qmp.error('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'a'}) == 'NBD server not running'
    s.qmp.cmd('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(s.socket)}})
    s.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'a', 'name': 'a'})
    with s.client() as h:
        assert h.pread(4, MIB) == b'\x11' * 4


def test_files_in_the_way_of_the_socket(s):
    s.qmp.cmd('nbd-server-stop')
    (s.dir / 'precious').write_text('data')
    error = s.qmp.error('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(s.dir / 'precious')}})
    assert error == f"Failed to bind socket to {s.dir / 'precious'}: Address already in use"
    assert (s.dir / 'precious').read_text() == 'data'
    assert 'too long' in s.qmp.error('nbd-server-start', addr={'type': 'unix', 'data': {'path': '/x' * 100}})
    assert s.qmp.error('nbd-server-start', addr={'type': 'unix', 'data': {'path': '/nonexistent/x'}}) \
        == 'Failed to bind socket to /nonexistent/x: No such file or directory'
    s.qmp.cmd('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(s.dir / 'sock')}})
    (s.dir / 'sock').unlink()
    (s.dir / 'sock').write_text('not ours any more')
    s.qmp.cmd('nbd-server-stop')
    assert (s.dir / 'sock').exists()


# ---- tools ----

def test_nbdcopy_and_qemu_img(s):
    source = s.dir / 'source.raw'
    rng = random.Random(3)
    with open(source, 'wb') as f:
        f.truncate(64 * MIB)
        for _ in range(40):
            f.seek(rng.randrange(0, 63 * MIB))
            f.write(rng.randbytes(rng.randrange(1, 300000)))
    img.run('nbdcopy', '--connections=4', '--flush', source, s.uri())
    back = s.dir / 'back.raw'
    img.run('nbdcopy', s.uri(), back)
    assert img.compare(source, back)
    img.run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, s.uri())
    out = s.dir / 'out.qcow2'
    img.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', s.uri(), out)
    assert img.compare(source, out)
    img.run('qemu-img', 'convert', '-n', '-f', 'qcow2', '-O', 'raw', out, s.uri())
    img.run('qemu-io', '-f', 'raw', '-c', 'discard 0 1M', '-c', 'write -z -u 1M 64k', '-c', 'writev -P 5 3M 4k 8k', '-c', 'aio_write -P 6 5M 1M',
            '-c', 'aio_flush', '-c', 'flush', '-c', 'read -P 5 3M 12k', '-c', 'read -P 6 5M 1M', '-c', 'read -P 0 0 1M', s.uri())
    img.run('qemu-img', 'bench', '-f', 'raw', '-c', '2000', '-w', '-d', '32', '--flush-interval=100', s.uri())
    s.d.stop()
    img.check(s.path)


def test_fio_verifies(s):
    job = ['fio', '--name=v', '--ioengine=nbd', f'--uri={s.uri()}', '--rw=randrw', '--bsrange=512-64k', '--bs_unaligned=1', '--size=32M',
           '--io_size=24M', '--iodepth=32', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--randseed=7', '--output-format=json',
           '--fsync=50', '--trim_percentage=10', '--verify_state_save=0']
    done = img.run(*job, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout[done.stdout.index('{'):])['jobs'][0]
    assert report['error'] == 0 and report['write']['total_ios'] > 100
    s.d.stop()
    img.check(s.path)
