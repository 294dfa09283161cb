# SPDX-License-Identifier: BSD-3-Clause
"""T5 with filters: flushes reach what was written before a filter was there, judged by the order of the daemon's writes and syncs."""
import os
import struct

import nbd

from lib import images as img
from lib.daemon import Daemon
from lib.powerfail import SYNC, WRITE, CrashPoint

MIB = 1 << 20


def test_flush_through_a_new_filter(images):
    """What was written before a filter was put above the disk is durable after a flush that comes through the filter."""
    disk, target = img.create(images / 'disk', '4M'), img.create(images / 'target', '4M')
    crash = CrashPoint(images, os.environ['CRASHSHIM'])
    d = Daemon(['--blockdev', f'driver=qcow2,node-name=disk,file.driver=file,file.filename={disk}', '--blockdev',
                f'driver=qcow2,node-name=target,file.driver=file,file.filename={target}', '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock',
                '--export', 'type=nbd,id=disk,node-name=disk,writable=on'], env=crash.environment())
    try:
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///disk?socket={images}/nbd.sock')
        h.pwrite(b'x' * MIB, 0)
        h.flush()
        crash.arm()
        h.pwrite(b'y' * MIB, 0)
        d.cmd('blockdev-backup', {'device': 'disk', 'target': 'target', 'sync': 'none', 'job-id': 'j'})
        h.flush()
        kinds = [kind for kind, data in crash.records() if disk.stat().st_ino in struct.unpack_from('<QQ', data)]
        assert WRITE in kinds and kinds[-1] == SYNC, kinds
        h.shutdown()
    finally:
        d.kill()
        crash.close()
