# SPDX-License-Identifier: BSD-3-Clause
"""T4: no request waits for a file to be created, for a flush that it did not ask for, or for another disk.

No clock decides this but an order of events.  Calls all over a transaction of several disks (each creation, write, sync and rename that the
daemon makes for it, from prepare to settle) are made to hang, one after another: while one hangs, every kind of request is sent to every
disk, in the group and out of it, and all of them have to be answered before the call is let go on; another monitor is served too, and sees
all disks before the cut or all after it (T1).  A request that waited for the call would never be answered.  Exempt is a flush of the disk whose own file hangs: that is what it asks for.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import contextlib
import os
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import images
from lib.daemon import SLOW, Daemon
from lib.powerfail import CrashPoint
from lib.qmp import Qmp, QmpTimeout

N = 3
SIZE = 256 << 20
CLUSTER = 65536
LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '16'))


class Disk:
    """A client of one disk; `fresh` counts clusters that nobody has written yet."""

    def __init__(self, directory, number):
        self.number = number
        self.h = nbd.NBD()
        self.h.set_strict_mode(0)
        self.h.connect_uri(f'nbd+unix:///d{number}?socket={directory}/nbd.sock')
        self.fresh = 32
        self.h.pwrite(os.urandom(32 * CLUSTER), 0)
        self.h.flush()

    def take(self, clusters=1):
        self.fresh += clusters
        return (self.fresh - clusters) * CLUSTER

    def send(self, flush):
        """One request of each kind, all at once; [(what, cookie)]."""
        def buf(n):
            return nbd.Buffer.from_bytearray(bytearray(os.urandom(n)))

        round_ = self.fresh % 24
        return [('read', self.h.aio_pread(nbd.Buffer(4096), 0)),
                ('read of nothing', self.h.aio_pread(nbd.Buffer(4096), SIZE - CLUSTER)),
                ('write of a part of a cluster that may be in the old image', self.h.aio_pwrite(buf(4096), round_ * CLUSTER + 8192)),
                ('unaligned write', self.h.aio_pwrite(buf(1000), self.take() + 333)),
                ('write of whole clusters', self.h.aio_pwrite(buf(2 * CLUSTER), self.take(2))),
                ('write of zeroes', self.h.aio_zero(CLUSTER, (round_ + 4) * CLUSTER)),
                ('discard', self.h.aio_trim(CLUSTER, (round_ + 6) * CLUSTER))] + ([('flush', self.h.aio_flush())] if flush else [])

    def wait(self, sent, deadline):
        """What has not been answered by then."""
        waiting = dict((cookie, what) for what, cookie in sent)
        while waiting and time.monotonic() < deadline:
            self.h.poll(100)
            for cookie in list(waiting):
                if self.h.aio_command_completed(cookie):
                    del waiting[cookie]
        return sorted(waiting.values())


class Writer(threading.Thread):
    """Writes all the time to the last part of a disk, so that there is something to flush at every moment."""

    def __init__(self, directory, number):
        super().__init__(daemon=True)
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///d{number}?socket={directory}/nbd.sock')
        self.stopping = False
        self.start()

    def run(self):
        n = 0
        while not self.stopping:
            n += 1
            self.h.pwrite(n.to_bytes(8, 'little') * 512, SIZE - (2 + n % 64) * CLUSTER)
            time.sleep(0.001)

    def stop(self):
        self.stopping = True
        self.join(20 * SLOW)
        assert not self.is_alive()
        self.h.shutdown()


class Setup:
    def __init__(self, directory, loop):
        self.dir = Path(directory)
        for i in range(N + 1):
            images.create(self.dir / f'd{i}.qcow2', str(SIZE))
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        args = ['--snapshot-journal', f'{directory}/journal.db', '--object', 'iothread,id=io0', '--object', 'iothread,id=io1',
                '--nbd-server', f'addr.type=unix,addr.path={directory}/nbd.sock',
                '--chardev', f'socket,id=m2,path={directory}/m2.sock,server=on,wait=off', '--monitor', 'm2']
        for i in range(N + 1):  # the last one is not in the group
            args += ['--blockdev', f'driver=qcow2,node-name=d{i},discard=unmap,file.driver=file,file.filename={directory}/d{i}.qcow2',
                     '--export', f'nbd,id=e{i},node-name=d{i},name=d{i},writable=on,iothread=io{i % 2}']
        environment = self.crash.environment()
        environment['CUTPOINT_LOOP'] = loop
        self.d = Daemon(args, directory=directory, env=environment)
        self.second = Qmp(str(self.dir / 'm2.sock'), timeout=60 * SLOW)
        self.d.sessions.append(self.second)
        self.tops = [f'd{i}' for i in range(N)]
        self.files = [[self.dir / f'd{i}.qcow2'] for i in range(N + 1)]
        self.round = 0

    def actions(self):
        self.round += 1
        self.before = list(self.tops)
        result = []
        for i in range(N):
            file = self.dir / f's{self.round}-{i}.qcow2'
            if i == 1:
                file.touch()  # filled in place
            result.append({'type': 'blockdev-snapshot-sync', 'data': {
                'node-name': self.tops[i], 'snapshot-node-name': f's{self.round}-{i}', 'snapshot-file': str(file)}})
            self.tops[i] = f's{self.round}-{i}'
            self.files[i].append(file)
        return result

    def is_cut(self):
        """Whether the running transaction has cut; the other monitor is served meanwhile."""
        nodes = [e['node-name'] for e in self.second.cmd('query-block-exports') if e['id'] != f'e{N}']
        assert sorted(nodes) in (sorted(self.tops), sorted(self.before))  # T1
        return sorted(nodes) == sorted(self.tops)

    def disk_of(self, ino):
        """The disk that a file belongs to."""
        for i, files in enumerate(self.files):
            if any(f.exists() and f.stat().st_ino == ino for f in files):
                return i
        return None


def one(s, disks, k):
    """Holds call k of a transaction (0: none); how many calls there were, and the one that was held."""
    s.crash.arm(control_only=True, hold_at=k)
    s.d.qmp.send('transaction', {'actions': s.actions()})
    held = None
    while k and not held:
        with contextlib.suppress(QmpTimeout):
            assert s.d.qmp.reply(0.005) == {'return': {}}
            s.crash.release()
            s.crash.disarm()
            return s.crash.count, None  # it had fewer calls than the first time
        held = s.crash.held()
    trace = []
    if held:
        own, after = s.disk_of(held[1]), s.is_cut()
        trace.append(f'call {held[0]}, {held[2]}' + (f' of a file of disk {own}' if own is not None else '') + ' hangs')
        sent = [d.send(flush=d.number != own) for d in disks]
        deadline = time.monotonic() + 10 * SLOW
        for d, requests in zip(disks, sent):
            late = d.wait(requests, deadline)
            trace += [f'disk {d.number}: not answered: {what}' for what in late]
        assert s.crash.held() == held and s.is_cut() == after  # nobody has let it go meanwhile
        held = (*held, 'after the cut' if after else 'before it')
        s.crash.release()
        trace.append('it goes on')
        assert len(trace) == 2, trace
    assert s.d.qmp.reply() == {'return': {}}
    count = s.crash.count
    s.crash.disarm()
    return count, held


def test_a_request_that_hangs_in_an_old_image(tmp_path):
    """T8, T2: the transaction is answered after its settle-timeout, with success; nobody else waits; settling ends when the request does,
    and what it wrote is in the old image."""
    s = Setup(tmp_path, 'epoll')
    try:
        disks = [Disk(tmp_path, i) for i in range(N + 1)]
        s.crash.arm(hold_at=1)
        hanging = disks[0].h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'H' * 4096)), 0)
        deadline = time.monotonic() + 20 * SLOW
        while not s.crash.held() and time.monotonic() < deadline:
            disks[0].h.poll(10)
        assert s.crash.held()[2].startswith('pwrite') and s.disk_of(s.crash.held()[1]) == 0
        s.d.cmd('transaction', {'actions': s.actions(), 'properties': {'settle-timeout': 500, 'group': 'g'}})
        group = s.d.cmd('query-snapshot-groups')[0]
        assert group['id'] == 'g' and group['state'] == 'settling'
        h = disks[0].h
        sent = [('read', h.aio_pread(nbd.Buffer(4096), CLUSTER)),
                ('write', h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(CLUSTER)), 2 * CLUSTER)),
                ('copy of another cluster', h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), SIZE - CLUSTER))]
        late = disks[0].wait(sent[:2], time.monotonic() + 20 * SLOW)
        late += [x for d in disks[1:] for x in d.wait(d.send(flush=True), time.monotonic() + 20 * SLOW)]
        assert late == [] and s.crash.held()
        assert disks[0].wait([('the hanging one', hanging)], time.monotonic() + 0.2)  # still
        s.crash.release()
        assert disks[0].wait([('the hanging one', hanging), sent[2]], time.monotonic() + 20 * SLOW) == []
        assert s.d.qmp.event('SNAPSHOT_GROUP_SETTLED')['data']['id'] == 'g'
        assert s.d.cmd('query-snapshot-groups')[0]['state'] == 'settled'
        s.crash.disarm()
        for d in disks:
            d.h.shutdown()
        s.d.stop()
        assert images.contents(s.files[0][0], 4096) == b'H' * 4096
        images.check(s.files[0][0])
    finally:
        s.crash.release()
        if s.d.process.poll() is None:
            s.d.kill()
        s.crash.close()


@pytest.mark.parametrize('loop', ['io_uring', 'epoll'])
def test_no_request_waits(tmp_path, loop):
    s = Setup(tmp_path, loop)
    try:
        disks = [Disk(tmp_path, i) for i in range(N + 1)]
        writers = [Writer(tmp_path, i) for i in range(N)]
        count = max(one(s, disks, 0)[0] for _ in range(2))
        spread = {1 + i * (count - 1) // (POINTS - 1) for i in range(POINTS)}
        points = range(1, count + 1) if LONG else sorted(spread | set(range(count - 12, count, 2)))  # the last ones: after the cut
        seen = []
        for k in points:
            for d in disks:
                assert not d.wait(d.send(flush=False), time.monotonic() + 20 * SLOW)  # something to flush
            seen.append(one(s, disks, k)[1])
        kinds = {h[2] for h in seen if h}
        assert len([h for h in seen if h]) > len(points) // 2, seen
        assert kinds & {'fsync', 'fdatasync'}, kinds
        assert {h[3] for h in seen if h} == {'before it', 'after the cut'}, seen
        for w in writers:
            w.stop()
        for d in disks:
            d.h.shutdown()
        s.d.stop()
        for i in range(N):
            images.check(s.files[i][-1])
    except BaseException:
        if not s.d.stderr_file.closed:
            print(f'transaction {s.round}, exit status {s.d.process.poll()}:', s.d.stderr())
        raise
    finally:
        s.crash.release()
        if s.d.process.poll() is None:
            s.d.kill()
        s.crash.close()
