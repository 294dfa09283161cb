# SPDX-License-Identifier: BSD-3-Clause
"""A start just after a kill: the kernel gives up a dead process's locks late, and what it still holds is waited for; but not at any other time."""
import fcntl
import os
import sqlite3
import struct
import threading
import time

import pytest

from lib import images as img
from lib.daemon import Daemon, DaemonFailed

UNSHARED_WRITE = 201  # the byte by which QEMU's tools say that nobody else may write


class Holder:
    """Holds a lock on an image as a dead process does whose descriptors the kernel has not given up yet."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, os.SEEK_SET, UNSHARED_WRITE, 1, 0))

    def release(self):
        os.close(self.fd)


def release_later(holder, seconds=0.7):
    t = threading.Timer(seconds, holder.release)
    t.start()
    return t


def node(path):
    return ['--blockdev', f'driver=qcow2,node-name=d,file.driver=file,file.filename={path}']


def test_image(images):
    path = img.create(images / 'd.qcow2', '1M')
    t = release_later(Holder(path))
    with Daemon(node(path)) as d:
        assert not t.is_alive()
        assert [n['node-name'] for n in d.cmd('query-named-block-nodes') if n['drv'] == 'qcow2'] == ['d']
    t.join()


def test_image_for_an_export(images):
    """A raw file is opened without a conflict; the export wants to write."""
    path = images / 'd.raw'
    path.write_bytes(bytes(1 << 20))
    t = release_later(Holder(path))
    with Daemon(['--blockdev', f'driver=file,node-name=d,filename={path}', '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock',
                 '--export', 'nbd,id=e,node-name=d,writable=on']) as d:
        assert not t.is_alive()
        assert [e['id'] for e in d.cmd('query-block-exports')] == ['e']
    t.join()


def test_journal_and_recovery(images):
    """The journal is open in another process, and the overlay that recovery removes is locked."""
    path, overlay, journal = img.create(images / 'd.qcow2', '1M'), images / 'o.qcow2', images / 'journal.db'
    args = ['--snapshot-journal', journal, *node(path)]
    d = Daemon(args)
    d.cmd('transaction-prepare', {'id': 'g', 'timeout': 60000, 'actions': [
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'd', 'snapshot-node-name': 'o', 'snapshot-file': str(overlay)}}]})
    d.kill()
    while True:  # the dead one's locks are gone
        try:
            db = sqlite3.connect(journal, isolation_level=None, check_same_thread=False)
            db.execute('BEGIN EXCLUSIVE')
            break
        except sqlite3.OperationalError:
            db.close()
            time.sleep(0.02)
    released = []

    def let_go():
        released.append('journal')
        db.rollback()
        db.close()
        time.sleep(0.7)
        released.append('overlay')
        holder.release()

    holder = Holder(overlay)
    t = threading.Timer(0.7, let_go)
    t.start()
    with Daemon(args) as d:
        assert released == ['journal', 'overlay']
        assert d.cmd('query-snapshot-groups')[0]['messages'] == ['it was not committed', f"removed '{overlay}'"]
    t.join()
    assert not overlay.exists()


def test_not_for_ever(images):
    """Somebody who really uses the image: the error, after a while; a signal does not wait for it."""
    path = img.create(images / 'd.qcow2', '1M')
    holder = Holder(path)
    began = time.monotonic()
    with pytest.raises(DaemonFailed, match='Failed to get "write" lock'):
        Daemon(node(path))
    assert time.monotonic() - began >= 4
    d = Daemon(['--pidfile', images / 'pid', *node(path)], monitor=False)
    time.sleep(0.5)
    assert d.alive()
    began = time.monotonic()
    d.stop()
    assert time.monotonic() - began < 3
    holder.release()


def test_commands_do_not_wait(images):
    path = img.create(images / 'd.qcow2', '1M')
    with Daemon() as d:
        holder = Holder(path)
        began = time.monotonic()
        assert d.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'd', 'file': {'driver': 'file', 'filename': str(path)}}) \
            == 'Failed to get "write" lock'
        assert time.monotonic() - began < 3
        holder.release()
