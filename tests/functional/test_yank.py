# SPDX-License-Identifier: BSD-3-Clause
"""Cutting connections whose peers hang: yank, query-yank."""
import os
import signal
import socket
import threading
import time

import pytest

from lib import emulator
from lib.daemon import SLOW
from lib.qmp import Qmp, QmpError

MIB = 1 << 20
NODE = {'type': 'block-node', 'node-name': 'n'}


@pytest.fixture
def server(daemon, images):
    """An NBD server that can hang."""
    s = daemon()
    s.path = str(images / 'far.sock')
    s.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': s.path}}})
    s.cmd('blockdev-add', {'driver': 'null-co', 'size': MIB, 'node-name': 'far'})
    s.cmd('block-export-add', {'type': 'nbd', 'id': 'far', 'node-name': 'far', 'writable': True})
    yield s
    os.kill(s.pid, signal.SIGCONT)


@pytest.fixture
def d(daemon, tmp_path, server):
    """An emulator with an nbd node, and a socket for whoever wants to talk."""
    d = daemon(*emulator.BASE, '-qmp', f'unix:{tmp_path}/qmp.sock,server=on,wait=off',
               '-qmp', f'unix:{tmp_path}/other.sock,server=on,wait=off', '-chardev', f'socket,id=talk,path={tmp_path}/talk.sock,server=on,wait=off',
               '-qmp', f'unix:{tmp_path}/other.sock,server=on,wait=off', '-chardev', 'null,id=nothing',
               '-monitor', 'chardev:talk', monitor=False, directory=tmp_path, binary=emulator.program(tmp_path))
    d.qmp = d.connect()
    d.cmd('blockdev-add', {'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'unix', 'path': server.path}, 'export': 'far',
                           'reconnect-delay': 30})
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'n'})
    return d


def instances(d):
    return [(i['type'], i.get('id') or i.get('node-name')) for i in d.cmd('query-yank')]


READ = 'human-monitor-command', {'command-line': 'qemu-io n "read 0 512"'}


def read(d):
    """What all reads so far have said, on standard output."""
    d.cmd(*READ)
    return d.stdout()


def test_what_can_be_cut(d):
    assert [i for i in instances(d) if i[1] in ('talk', 'nothing', 'n', 'r')] == [('chardev', 'talk'), ('block-node', 'n')]
    assert d.cmd('yank', {'instances': []}) == {}
    for i in ({'type': 'block-node', 'node-name': 'r'}, {'type': 'block-node', 'node-name': 'nope'}, {'type': 'chardev', 'id': 'nothing'},
              {'type': 'chardev', 'id': 'nope'}, {'type': 'migration'}):
        with pytest.raises(QmpError) as e:
            d.cmd('yank', {'instances': [NODE, i]})
        assert (e.value.error_class, e.value.desc) == ('DeviceNotFound', 'Instance not found')
    assert 'read 512/512' in read(d), 'all or none'


def test_requests_of_a_node_whose_server_hangs_end(d, server, tmp_path):
    os.kill(server.pid, signal.SIGSTOP)
    other = Qmp(str(tmp_path / 'other.sock'))
    stuck = threading.Thread(target=other.cmd, args=READ)
    stuck.start()
    time.sleep(0.2)
    assert stuck.is_alive()
    d.cmd('yank', {'instances': [NODE]})
    stuck.join(10 * SLOW)
    assert not stuck.is_alive()
    other.close()
    assert 'read failed: Input/output error' in d.stdout()
    os.kill(server.pid, signal.SIGCONT)
    assert read(d).count('read failed') == 2, 'until it is opened anew'
    d.cmd('blockdev-del', {'node-name': 'r'})
    d.cmd('blockdev-del', {'node-name': 'n'})
    assert ('block-node', 'n') not in instances(d)


def test_a_character_device_takes_the_next_peer(d, tmp_path):
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * SLOW)
            s.connect(str(tmp_path / 'talk.sock'))
            while b'(qemu)' not in s.recv(4096):
                pass
            d.cmd('yank', {'instances': [{'type': 'chardev', 'id': 'talk'}]})
            while s.recv(4096):
                pass
    d.cmd('query-version')


def test_a_storage_daemon_has_no_such_commands(daemon):
    names = [c['name'] for c in daemon().cmd('query-commands')]
    assert 'yank' not in names and 'query-yank' not in names
