# SPDX-License-Identifier: BSD-3-Clause
"""Backups whose target or disk fails or hangs, or whose daemon is killed: the guest goes on, and what is told is true (T4)."""
import errno
import os
import time

import nbd
import pytest

from lib import images as img
from lib.daemon import SLOW, Daemon
from lib.jobs import error_of, events_of, wait_status
from lib.powerfail import CrashPoint

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB
HUNG = 'Connection timed out'


class Setup:
    """A disk `d` of ones with an export, a target `t`; calls can be made to fail or hang."""

    def __init__(self, directory, fmt='raw', target_fmt='raw'):
        self.dir = directory
        self.disk, self.target = directory / 'd.img', directory / 't.img'
        img.create(self.disk, str(SIZE), fmt=fmt)
        img.create(self.target, str(SIZE), fmt=target_fmt)
        img.qemu_io(self.disk, f'write -P 1 0 {SIZE}', fmt=fmt)
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        self.d = Daemon(['--nbd-server', f'addr.type=unix,addr.path={directory}/nbd.sock,max-connections=0',
                         '--object', 'iothread,id=io0',
                         '--blockdev', f'driver={fmt},node-name=d,discard=unmap,file.driver=file,file.filename={self.disk}',
                         '--blockdev', f'driver={target_fmt},node-name=t,discard=unmap,file.driver=file,file.filename={self.target}',
                         '--export', 'nbd,id=e,node-name=d,name=d,writable=on,iothread=io0'],
                        directory=directory, env=self.crash.environment())
        self.h = self.connect('d')

    def connect(self, name):
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///{name}?socket={self.dir}/nbd.sock')
        return h

    def backup(self, **args):
        self.d.cmd('blockdev-backup', {'job-id': 'j', 'device': 'd', 'target': 't', 'auto-dismiss': False,
                                       **{k.replace('_', '-'): v for k, v in args.items()}})

    def finish(self, error=None):
        wait_status(self.d, 'j', 'concluded')
        assert error_of(self.d, 'j') == error
        self.d.cmd('job-dismiss', id='j')

    def __enter__(self):
        return self

    def __exit__(self, exc_type, *exc):
        self.crash.release()
        self.crash.disarm()
        if not self.d.stderr_file.closed:
            self.d.__exit__(exc_type, *exc)
        self.crash.close()


def data(byte, length=64 * KIB):
    return nbd.Buffer.from_bytearray(bytearray(byte * length))


def wait(h, cookie, seconds):
    """None: it has not ended by then; else whether it succeeded."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        h.poll(20)
        try:
            if h.aio_command_completed(cookie):
                return True
        except nbd.Error:
            return False
    return None


def held(s, cookie, path):
    """Waits until a call hangs; it must be of that file, and the request with it."""
    deadline = time.monotonic() + 10 * SLOW
    while not s.crash.held() and time.monotonic() < deadline:
        s.h.poll(10)
    assert s.crash.held() and s.crash.held()[1] == path.stat().st_ino
    assert wait(s.h, cookie, 0.05) is None


def test_a_target_that_hangs_breaks_the_backup_not_the_guest(tmp_path):
    with Setup(tmp_path) as s:
        s.backup(sync='none', cbw_timeout=1)
        s.h.pwrite(b'2' * 64 * KIB, 0)
        s.crash.arm(hold_at=1)
        cookie = s.h.aio_pwrite(data(b'3'), MIB)
        held(s, cookie, s.target)
        for done in (s.h.aio_pread(nbd.Buffer(4096), MIB), s.h.aio_pwrite(data(b'4'), 0), s.h.aio_flush()):
            assert wait(s.h, done, 10 * SLOW), 'nobody else waits'
        assert wait(s.h, cookie, 10 * SLOW), 'the write goes on after the timeout'
        began = time.monotonic()
        assert wait(s.h, s.h.aio_pwrite(data(b'5'), 2 * MIB), 10 * SLOW) and time.monotonic() - began < 0.9, 'and others wait no more'
        assert s.crash.held()
        assert s.d.cmd('query-status')['status'] == 'running', 'the monitor is served'
        s.crash.release()
        s.finish(HUNG)
        assert events_of(s.d, 'j')[-4:-1] == ['aborting', 'BLOCK_JOB_COMPLETED', 'concluded'] or \
            events_of(s.d, 'j')[-3:] == ['aborting', 'BLOCK_JOB_COMPLETED', 'concluded']
        assert s.h.pread(64 * KIB, MIB) == b'3' * 64 * KIB


def test_a_copy_waits_for_a_write_that_began_before(tmp_path):
    """T6: a write that hangs in the disk at the instant belongs to the backup; a later write to its cluster waits for it, others do not."""
    with Setup(tmp_path) as s:
        s.crash.arm(hold_at=1)
        old = s.h.aio_pwrite(data(b'o', 4 * KIB), 0)
        held(s, old, s.disk)
        s.d.cmd('transaction', properties={'settle-timeout': 200}, actions=[{'type': 'blockdev-backup', 'data': {
            'job-id': 'j', 'device': 'd', 'target': 't', 'sync': 'full', 'auto-dismiss': False}}])
        new = s.h.aio_pwrite(data(b'n', 4 * KIB), 8 * KIB)
        assert wait(s.h, s.h.aio_pread(nbd.Buffer(4096), 8 * KIB), 10 * SLOW), 'reads wait for nothing'
        assert wait(s.h, new, 0.3) is None and s.crash.held()
        s.crash.release()
        assert wait(s.h, old, 10 * SLOW) and wait(s.h, new, 10 * SLOW)
        s.finish()
        s.d.cmd('blockdev-del', {'node-name': 't'})
        assert s.target.read_bytes() == b'o' * 4 * KIB + b'\1' * (SIZE - 4 * KIB)
        assert s.h.pread(64 * KIB, 0) == b'o' * 4 * KIB + b'\1' * 4 * KIB + b'n' * 4 * KIB + b'\1' * 52 * KIB


@pytest.mark.parametrize('how', ['snapshot-access', 'overlay'])
def test_a_write_waits_for_a_reader_of_its_cluster(tmp_path, how):
    """What a reader of the snapshot reads from the disk stays as it is until it has got it."""
    with Setup(tmp_path) as s:
        d = s.d
        if how == 'overlay':
            d.cmd('blockdev-del', {'node-name': 't'})
            img.create(s.target, str(SIZE))
            d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 't', 'backing': 'd',
                                   'file': {'driver': 'file', 'filename': str(s.target)}})
        s.backup(sync='none', filter_node_name='f')
        node = 't'
        if how == 'snapshot-access':
            node = 'a'
            d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 'a', 'file': 'f'})
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'r', 'node-name': node, 'name': 'r'})
        r = s.connect('r')
        assert r.pread(4096, SIZE - 4096) == b'\1' * 4096
        with open(s.disk, 'rb') as f:  # what is in the page cache is read without a call that could hang
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        s.crash.arm(hold_at=1, reads=True)
        buf = nbd.Buffer(4096)
        reading = r.aio_pread(buf, MIB)
        deadline = time.monotonic() + 10 * SLOW
        while not s.crash.held() and time.monotonic() < deadline:
            r.poll(10)
        assert s.crash.held()[1] == s.disk.stat().st_ino
        writing = s.h.aio_pwrite(data(b'2'), MIB)
        assert wait(s.h, s.h.aio_pwrite(data(b'2'), 3 * MIB), 10 * SLOW), 'other clusters do not wait'
        assert wait(s.h, writing, 0.3) is None and s.crash.held()
        s.crash.release()
        s.crash.disarm()
        assert wait(r, reading, 10 * SLOW) and bytes(buf.to_bytearray()) == b'\1' * 4096
        assert wait(s.h, writing, 10 * SLOW) and r.pread(64 * KIB, MIB) == b'\1' * 64 * KIB
        r.shutdown()


@pytest.mark.parametrize('policy', ['break-guest-write', 'break-snapshot'])
@pytest.mark.parametrize('how', ['hangs', 'fails'])
def test_on_cbw_error(tmp_path, policy, how):
    with Setup(tmp_path) as s:
        d = s.d
        s.h.shutdown()
        d.cmd('block-export-del', id='e', mode='hard')
        d.qmp.event('BLOCK_EXPORT_DELETED')
        d.cmd('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'f', 'file': 'd', 'target': 't', 'cbw-timeout': 1,
                               'on-cbw-error': policy})
        d.cmd('blockdev-add', {'driver': 'snapshot-access', 'node-name': 'a', 'file': 'f'})
        for node in ('f', 'a'):
            d.cmd('block-export-add', {'type': 'nbd', 'id': 'e' + node, 'node-name': node, 'name': node, 'writable': node == 'f'})
        s.h = s.connect('f')
        a = s.connect('a')
        s.h.pwrite(b'2' * 4096, 0)
        if how == 'hangs':
            s.crash.arm(hold_at=1)
        else:
            s.crash.arm(fail_at=1, error=errno.EIO)
        cookie = s.h.aio_pwrite(data(b'3'), MIB)
        if how == 'hangs':
            held(s, cookie, s.target)
        assert wait(s.h, cookie, 10 * SLOW) == (policy == 'break-snapshot')
        s.crash.release()
        s.crash.disarm()
        if policy == 'break-snapshot':
            for at in (0, MIB, 2 * MIB):
                with pytest.raises(nbd.Error):
                    a.pread(512, at)
            assert s.h.pread(64 * KIB, MIB) == b'3' * 64 * KIB
        else:
            assert s.h.pread(64 * KIB, MIB) == b'\1' * 64 * KIB
            s.h.pwrite(b'3' * 64 * KIB, MIB)
            assert s.h.pread(64 * KIB, MIB) == b'3' * 64 * KIB
            assert a.pread(MIB, 0) + a.pread(MIB, MIB) == b'\1' * 2 * MIB


@pytest.mark.parametrize('policy,error', [('report', errno.EIO), ('ignore', errno.EIO), ('stop', errno.EIO), ('enospc', errno.ENOSPC),
                                          ('enospc', errno.EIO)])
def test_errors_of_the_target(tmp_path, policy, error):
    with Setup(tmp_path) as s:
        s.crash.arm(fail_at=3, error=error)
        s.backup(sync='full', on_target_error=policy, x_perf={'max-workers': 1})
        stops = policy == 'stop' or error == errno.ENOSPC
        if stops:
            wait_status(s.d, 'j', 'paused')
            info = s.d.cmd('query-block-jobs')[0]
            assert info['io-status'] == ('nospace' if error == errno.ENOSPC else 'failed') and info['offset'] < info['len']
            s.h.pwrite(b'2' * 4096, SIZE - 4096)
            s.d.cmd('block-job-resume', device='j')
        s.finish(os.strerror(error) if not stops and policy != 'ignore' else None)
        event = next(e for e in s.d.qmp.events if e['event'] == 'BLOCK_JOB_ERROR')['data']
        assert event == {'device': 'j', 'operation': 'write', 'action': 'stop' if stops else 'ignore' if policy == 'ignore' else 'report'}
        s.d.cmd('blockdev-del', {'node-name': 't'})
        if stops or policy == 'ignore':
            assert s.target.read_bytes() == b'\1' * SIZE


@pytest.mark.parametrize('policy', ['report', 'stop'])
def test_errors_of_the_disk(tmp_path, policy):
    with Setup(tmp_path) as s:
        s.crash.arm(fail_at=3, error=errno.EIO, reads=True)
        s.backup(sync='full', on_source_error=policy, on_target_error='stop')
        if policy == 'stop':
            wait_status(s.d, 'j', 'paused')
            s.d.cmd('job-resume', id='j')
        s.finish(os.strerror(errno.EIO) if policy == 'report' else None)
        event = next(e for e in s.d.qmp.events if e['event'] == 'BLOCK_JOB_ERROR')['data']
        assert event == {'device': 'j', 'operation': 'read', 'action': policy}
        s.crash.disarm()
        s.d.cmd('blockdev-del', {'node-name': 't'})
        if policy == 'stop':
            assert s.target.read_bytes() == b'\1' * SIZE


@pytest.mark.parametrize('at', [3, 9, 20])
def test_killed_during_a_backup(tmp_path, at):
    """The disk is whole: what was acknowledged and flushed is there, whatever became of the backup."""
    with Setup(tmp_path, fmt='qcow2', target_fmt='qcow2') as s:
        s.h.pwrite(b'2' * MIB, 0)
        s.h.flush()
        s.crash.arm(at=at)
        acknowledged = []
        try:
            s.d.qmp.send('blockdev-backup', {'job-id': 'j', 'device': 'd', 'target': 't', 'sync': 'full'})
            for i in range(100):
                s.h.pwrite(bytes([100 + i % 100]) * 4096, 2 * MIB + i * 8192)
                s.h.flush()
                acknowledged.append(i)
        except nbd.Error:
            pass
        assert s.d.process.wait(20) != 0
        s.d.kill()
        img.check(s.disk)
        got = img.contents(s.disk, SIZE)
        assert got[:MIB] == b'2' * MIB
        for i in acknowledged:
            assert got[2 * MIB + i * 8192:][:4096] == bytes([100 + i % 100]) * 4096
