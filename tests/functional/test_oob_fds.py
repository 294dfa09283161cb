# SPDX-License-Identifier: BSD-3-Clause
"""Out-of-band execution, and descriptors that clients pass."""
import array
import json
import os
import socket
import time

import nbd
import pytest

from lib import images as img
from lib.qmp import Qmp

LATENCY = 1_000_000_000


@pytest.fixture
def d(daemon, images):
    """A daemon with two monitors: each serves one client at a time."""
    d = daemon('--chardev', f'socket,id=c2,path={images}/two.sock,server=on,wait=off', '--monitor', 'c2')
    d.two = images / 'two.sock'
    return d


# ---- out of band ----

@pytest.fixture
def slow(d, images):
    """A function that sends a command in band that takes a while: a snapshot is answered when the writes before it have ended."""
    client = nbd.NBD()

    def start(session):
        d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'slow', 'size': 1 << 20, 'latency-ns': LATENCY})
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd')}}})
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'slow', 'writable': True})
        client.set_export_name('slow')
        client.connect_unix(str(images / 'nbd'))
        client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 0)
        time.sleep(0.2)  # the write has begun
        session.send('blockdev-snapshot-sync', {'node-name': 'slow', 'snapshot-node-name': 'top',
                                                'snapshot-file': str(images / 'top.qcow2')}, id='slow')
    return start


def ids(session, n):
    return [session.reply()['id'] for _ in range(n)]


def negotiated(d, enable=('oob',)):
    s = Qmp(d.two, negotiate=False)
    assert s.receive()['QMP']['capabilities'] == ['oob']
    s.cmd('qmp_capabilities', {'enable': list(enable)})
    return s


def oob(session, command, id, arguments=None):
    session.send_raw(json.dumps({'exec-oob': command, 'arguments': arguments or {}, 'id': id}))


def test_overtakes(d, slow):
    s = negotiated(d, ('oob', 'oob'))
    slow(s)
    s.send('query-version', id='queued')
    oob(s, 'query-transactions', 'first')
    assert ids(s, 3) == ['first', 'slow', 'queued']


def test_in_band_stays_in_order(d, slow):
    s = negotiated(d)
    slow(s)
    for i in range(20):
        s.send('query-version', id=i)
    assert ids(s, 21) == ['slow', *range(20)]


def test_queue_is_bounded(d, slow):
    """Eight wait behind the one that runs; what follows is not read before one of them has begun."""
    s = negotiated(d)
    slow(s)
    for i in range(8):
        s.send('query-version', id=i)
    oob(s, 'query-transactions', 'late')
    order = ids(s, 10)
    assert order[0] == 'slow' and [i for i in order[1:] if i != 'late'] == list(range(8))


def test_errors(d):
    s = negotiated(d)
    oob(s, 'query-version', 1)
    assert s.receive() == {'id': 1, 'error': {'class': 'GenericError',
                                              'desc': 'The command query-version does not support OOB'}}
    oob(s, 'nonsense', 2)
    assert s.receive()['error'] == {'class': 'CommandNotFound', 'desc': 'The command nonsense has not been found'}
    s.send_raw('{"exec-oob": "query-transactions", "execute": "query-version"}')
    assert 'clashes with' in s.receive()['error']['desc']
    oob(s, 'transaction-abort', 3, {'id': 'none'})
    assert s.receive()['error']['class'] == 'GenericError'


def test_only_if_negotiated(d):
    oob(d.qmp, 'query-transactions', 1)
    assert d.qmp.receive()['error']['desc'] == "QMP input member 'exec-oob' is unexpected"
    assert d.qmp.error('qmp_capabilities', enable=['oob']) == 'Capabilities negotiation is already complete, command ignored'
    s = negotiated(d)
    s.close()
    s = Qmp(d.two)  # a new client begins anew
    oob(s, 'query-transactions', 1)
    assert s.receive()['error']['desc'] == "QMP input member 'exec-oob' is unexpected"


def test_client_leaves_while_both_lanes_work(d, slow):
    s = negotiated(d)
    slow(s)
    for i in range(30):
        oob(s, 'query-transactions', i)
    s.close()
    s = Qmp(d.two)
    assert s.cmd('query-version')
    time.sleep(LATENCY / 1e9)
    assert s.cmd('query-version')


# ---- descriptors ----

def send_fds(session, fds, data):
    session.sock.sendmsg([data.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])


def with_fd(session, path_or_fd, command, flags=os.O_RDWR, **arguments):
    fd = path_or_fd if isinstance(path_or_fd, int) else os.open(path_or_fd, flags)
    arguments = {k.replace('_', '-'): v for k, v in arguments.items()}
    send_fds(session, [fd], json.dumps({'execute': command, 'arguments': arguments}))
    os.close(fd)
    return session.reply()


def test_sets(d, images):
    q, path = d.qmp, img.create(images / 'a.qcow2')
    assert q.error('add-fd') == 'No file descriptor supplied via SCM_RIGHTS'
    before = d.descriptors()
    assert 'non-negative' in with_fd(q, path, 'add-fd', fdset_id=-1)['error']['desc']
    assert d.descriptors() == before
    assert with_fd(q, path, 'add-fd', fdset_id=1, opaque='x:r', flags=os.O_RDONLY)['return']['fdset-id'] == 1
    assert with_fd(q, path, 'add-fd')['return']['fdset-id'] == 0
    assert with_fd(q, path, 'add-fd', fdset_id=1)['return']['fdset-id'] == 1
    assert with_fd(q, path, 'add-fd')['return']['fdset-id'] == 2
    sets = q.cmd('query-fdsets')
    assert [s['fdset-id'] for s in sets] == [2, 1, 0]
    assert [f.get('opaque') for f in sets[1]['fds']] == ['x:r', None]
    first = sets[1]['fds'][0]['fd']
    assert q.error('remove-fd', fdset_id=1, fd=999) == "File descriptor named 'fdset-id:1, fd:999' not found"
    assert q.error('remove-fd', fdset_id=1, fd=-1) == "File descriptor named 'fdset-id:1, fd:-1' not found"
    assert q.error('remove-fd', fdset_id=5) == "File descriptor named 'fdset-id:5' not found"
    q.cmd('remove-fd', fdset_id=1, fd=first)
    assert [f['fd'] for f in q.cmd('query-fdsets')[1]['fds']] != [first]
    for s in (0, 1, 2):
        q.cmd('remove-fd', fdset_id=s)
    assert q.cmd('query-fdsets') == []
    assert d.descriptors() == before


def test_image_from_a_set(d, images):
    """The name is gone; the image is read, written, snapshotted and becomes read-only through the set."""
    q, path = d.qmp, img.create(images / 'a.qcow2')
    before = d.descriptors()
    with_fd(q, path, 'add-fd', fdset_id=7)
    hidden = images / 'hidden'
    path.rename(hidden)
    q.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': '/dev/fdset/7'}})
    assert not img.can_write(hidden)
    q.cmd('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-node-name': 'b', 'snapshot-file': str(images / 'b.qcow2')})
    assert {n['node-name']: n['ro'] for n in q.cmd('query-named-block-nodes')}['a'] is True
    assert q.error('blockdev-add', {'driver': 'file', 'node-name': 'x', 'filename': '/dev/fdset/8'}) == \
        "Could not open '/dev/fdset/8': No such file or directory"
    q.cmd('remove-fd', fdset_id=7)
    q.cmd('blockdev-del', {'node-name': 'b'})
    q.cmd('blockdev-del', {'node-name': 'a'})
    assert img.can_write(hidden)
    assert d.descriptors() == before


def test_read_only_set(d, images):
    q, path = d.qmp, img.create(images / 'a.qcow2')
    with_fd(q, path, 'add-fd', fdset_id=1, flags=os.O_RDONLY)
    node = {'driver': 'file', 'node-name': 'f', 'filename': '/dev/fdset/1'}
    assert q.error('blockdev-add', node) == "Could not open '/dev/fdset/1': Permission denied"
    q.cmd('blockdev-add', {**node, 'auto-read-only': True})
    assert q.cmd('query-named-block-nodes')[0]['ro'] is True
    q.cmd('blockdev-del', {'node-name': 'f'})
    with_fd(q, path, 'add-fd', fdset_id=1)
    q.cmd('blockdev-add', {**node, 'auto-read-only': True})
    assert q.cmd('query-named-block-nodes')[0]['ro'] is False


def test_descriptor_before_the_command(d):
    """As clients do that write the descriptor with a blank of its own."""
    r, w = os.pipe()
    send_fds(d.qmp, [r], ' ')
    d.cmd('getfd', {'fdname': 'x:y'})
    d.cmd('closefd', {'fdname': 'x:y'})
    assert d.qmp.error('closefd', fdname='x:y') == "File descriptor named 'x:y' not found"
    os.close(r)
    with pytest.raises(BrokenPipeError):
        os.write(w, b'x')
    os.close(w)


def test_names(d, images):
    q = d.qmp
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(images / 'nbd'))
    listener.listen()
    assert with_fd(q, os.dup(listener.fileno()), 'getfd', fdname='0x')['error']['desc'] == \
        "Parameter 'fdname' expects a name not starting with a digit"
    assert with_fd(q, os.dup(listener.fileno()), 'getfd', fdname='nbd')['return'] == {}
    address = {'type': 'fd', 'data': {'str': 'nbd'}}
    other = Qmp(d.two)
    assert other.error('nbd-server-start', addr=address) == "File descriptor named 'nbd' has not been found"
    q.cmd('nbd-server-start', addr=address)
    q.cmd('nbd-server-stop')
    assert q.error('nbd-server-start', addr=address) == "File descriptor named 'nbd' has not been found"
    other.close()


def test_pipelined(d, images):
    """Each command gets the descriptor that came with it."""
    pipes = [os.pipe() for _ in range(5)]
    for i, (r, _) in enumerate(pipes):
        send_fds(d.qmp, [r], json.dumps({'execute': 'add-fd', 'arguments': {'fdset-id': i, 'opaque': str(i)}}))
        os.close(r)
    assert [d.qmp.reply()['return']['fdset-id'] for _ in pipes] == list(range(5))
    for i, (_, w) in enumerate(pipes):
        os.write(w, b'x')
        d.cmd('remove-fd', {'fdset-id': i})
        with pytest.raises(BrokenPipeError):
            os.write(w, b'x')
        os.close(w)


def test_masses(d):
    """More than are wanted, and wanted by nobody: nothing stays."""
    r, w = os.pipe()
    before = d.descriptors()
    for _ in range(50):
        send_fds(d.qmp, [r] * 30, ' ')
    d.cmd('query-version')
    assert len(d.descriptors()) <= len(before) + 64
    d.qmp.close()
    d.qmp = d.connect()
    assert d.descriptors() == before
    os.close(r)
    os.close(w)
