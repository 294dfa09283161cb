# SPDX-License-Identifier: BSD-3-Clause
"""BLOCK_IO_ERROR: what the storage did to requests of clients."""
import errno
import os
import time

import nbd
import pytest

from lib import images as img
from lib import vhostuser as vu
from lib.daemon import Daemon
from lib.powerfail import CrashPoint

MIB = 1 << 20


@pytest.fixture
def s(tmp_path):
    """A raw disk of 8 MiB, exported as `e` over NBD and as `v` to a virtual machine; calls can fail."""
    class Setup:
        image = tmp_path / 'd.img'
    img.create(Setup.image, '8M', fmt='raw')
    os.truncate(Setup.image, 8 * MIB)
    s = Setup()
    s.crash = CrashPoint(tmp_path, os.environ['CRASHSHIM'])
    s.d = Daemon(['--nbd-server', f'addr.type=unix,addr.path={tmp_path}/nbd.sock',
                  '--blockdev', f'driver=file,node-name=d,filename={s.image}',
                  '--export', 'nbd,id=e,node-name=d,writable=on',
                  '--export', f'type=vhost-user-blk,id=v,node-name=d,writable=on,addr.type=unix,addr.path={tmp_path}/vub.sock'],
                 directory=tmp_path, env=s.crash.environment())
    s.h = nbd.NBD()
    s.h.connect_uri(f'nbd+unix:///d?socket={tmp_path}/nbd.sock')
    s.vub = tmp_path / 'vub.sock'
    yield s
    s.crash.disarm()
    s.d.stop()
    s.crash.close()


def told(s):
    s.d.cmd('query-version')
    events = [e['data'] for e in s.d.qmp.events if e['event'] == 'BLOCK_IO_ERROR']
    s.d.qmp.events.clear()
    return events


def report(operation, reason, export='e', nospace=False):
    return {'qom-path': export, 'device': '', 'node-name': 'd', 'operation': operation, 'action': 'report', 'nospace': nospace,
            'reason': reason}


def test_nbd(s):
    for call in (lambda: s.h.pread(512, 9 * MIB), lambda: s.h.pwrite(b'x' * 512, 8 * MIB)):
        s.h.set_strict_mode(0)
        with pytest.raises(nbd.Error):
            call()
    assert told(s) == []  # they make no sense
    os.truncate(s.image, 4 * MIB)  # by somebody else
    for _ in range(20):
        with pytest.raises(nbd.Error):
            s.h.pread(4096, 6 * MIB)
    assert told(s) == [report('read', 'Input/output error')]
    time.sleep(1.2)
    assert told(s) == [report('read', 'Input/output error')]  # those that came meanwhile
    time.sleep(1.2)
    assert told(s) == []


def test_no_space(s):
    s.crash.arm(fail_at=1, error=errno.ENOSPC)
    with pytest.raises(nbd.Error) as e:
        s.h.pwrite(b'x' * 4096, 0)
    assert e.value.errno == 'ENOSPC'
    assert told(s) == [report('write', 'No space left on device', nospace=True)]
    s.h.pwrite(b'x' * 4096, 0)
    assert told(s) == []


def test_flush(s):
    s.h.pwrite(b'x' * 4096, 0)
    s.crash.arm(fail_at=1, error=errno.EIO)
    with pytest.raises(nbd.Error):
        s.h.flush()
    assert told(s) == [report('write', 'Input/output error')]


def test_vhost_user_blk(s):
    ring = vu.connect(s.vub, vu.EVENT_IDX)
    assert ring.do(vu.IN, 2**54, room=512)[0] == vu.IOERR
    assert told(s) == []
    os.truncate(s.image, 4 * MIB)
    assert ring.do(vu.IN, 6 * MIB // 512, room=512)[0] == vu.IOERR
    assert told(s) == [report('read', 'Input/output error', 'v')]
    with pytest.raises(nbd.Error):
        s.h.pread(4096, 6 * MIB)
    assert told(s) == [report('read', 'Input/output error')]  # each export for itself
