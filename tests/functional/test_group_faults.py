# SPDX-License-Identifier: BSD-3-Clause
"""The k-th call that a transaction makes on files fails, with EIO or ENOSPC: the transaction fails and everything is as before (T3), or it
succeeds for all disks (T1, T2).  Guests go on, and the next transaction works.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import errno
import os
import random
import sys
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import images
from lib.daemon import SLOW, Daemon
from lib.powerfail import CrashPoint
from lib.qmp import QmpError

N = 3
LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '12'))


class Guest(threading.Thread):
    """Writes to one disk and reads back; a request that fails is in `problem`."""

    def __init__(self, socket, disk):
        super().__init__()
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///d{disk}?socket={socket}')
        self.stopping = False
        self.last = {}
        self.problem = None

    def run(self):
        n = 0
        try:
            while not self.stopping:
                n += 1
                self.h.pwrite(n.to_bytes(8, 'little') * 512, 4096 * (n % 64))
                self.last[n % 64] = n
                back = (n * 7) % 64
                if back in self.last:
                    assert self.h.pread(8, 4096 * back) == self.last[back].to_bytes(8, 'little')
        except (nbd.Error, AssertionError) as e:
            self.problem = e

    def finish(self):
        self.stopping = True
        self.join(30)
        assert not self.is_alive() and self.problem is None, self.problem
        for slot, n in self.last.items():
            assert self.h.pread(8, 4096 * slot) == n.to_bytes(8, 'little')
        self.h.shutdown()


class Setup:
    def __init__(self, directory, journal):
        self.dir = Path(directory)
        self.dir.mkdir()
        for i in range(N):
            images.create(self.dir / f'd{i}.qcow2', '16M')
        (self.dir / 'o1-d1.qcow2').touch()  # filled
        (self.dir / 'o1-d2.qcow2').write_bytes(b'former' * 100)  # set aside
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        args = ['--snapshot-journal', f'{directory}/journal.db'] if journal else []
        args += ['--nbd-server', f'addr.type=unix,addr.path={directory}/nbd.sock']
        for i in range(N):
            args += ['--blockdev', f'driver=qcow2,node-name=d{i},file.driver=file,file.filename={directory}/d{i}.qcow2',
                     '--export', f'nbd,id=e{i},node-name=d{i},name=d{i},writable=on']
        self.d = Daemon(args, directory=directory, env=self.crash.environment())

    def actions(self, r, tops):
        return [{'type': 'blockdev-snapshot-sync', 'data': {'node-name': tops[i], 'snapshot-node-name': f'o{r}-d{i}',
                                                             'snapshot-file': f'{self.dir}/o{r}-d{i}.qcow2'}} for i in range(N)]

    def state(self):
        files = {p.name: p.read_bytes() if p.name.startswith('o') else None for p in self.dir.iterdir() if '.qcow2' in p.name}
        nodes = sorted((n['node-name'], n['ro']) for n in self.d.cmd('query-named-block-nodes'))
        return files, nodes, self.d.cmd('x-debug-query-block-graph')

    def held(self):
        """Descriptors, and the bytes of each image that are locked; what guests are connected with does not change."""
        locks = set()  # the kernel may show a lock twice while others come and go
        for line in Path('/proc/locks').read_text(encoding='ascii').splitlines():
            number, kind, _, mode, _, where, first, last = line.replace('->', '').split()[:8]
            inode = int(where.split(':')[2])
            name = next((p.name for p in self.dir.iterdir() if p.is_file() and p.stat().st_ino == inode), None)
            if kind == 'OFDLCK' and name and name.endswith('.qcow2'):
                locks.add((name, mode, first, last))
        return self.d.descriptors(), sorted(locks)

    def tops(self):
        return {e['id']: e['node-name'] for e in self.d.cmd('query-block-exports')}


def one(tmp_path, journal, k, error):
    s = Setup(tmp_path / f'{k}-{error}', journal)
    guests = [Guest(s.dir / 'nbd.sock', i) for i in range(N)]
    for g in guests:
        g.start()
    try:
        before, held = s.state(), s.held()
        assert len(held[1]) >= N
        s.crash.arm(fail_at=k, error=error, control_only=True)
        failed = None
        try:
            s.d.cmd('transaction', actions=s.actions(1, [f'd{i}' for i in range(N)]))
        except QmpError as e:
            failed = e
        count = s.crash.count
        s.crash.disarm()
        log = s.d.stderr()
        sticky, degraded = 'stays failed' in log, 'is degraded' in log
        if failed:
            assert s.state() == before, (str(failed), log)
            deadline = time.monotonic() + 20 * SLOW
            while s.held() != held and not sticky and time.monotonic() < deadline:
                time.sleep(0.05)  # what was opened is closed by workers
            assert sticky or s.held() == held
            assert s.d.cmd('query-transactions') == []
            if not sticky:
                s.d.cmd('transaction', actions=s.actions(1, [f'd{i}' for i in range(N)]))
        tops = s.tops()
        if not (failed and sticky):
            assert tops == {f'e{i}': f'o1-d{i}' for i in range(N)}, tops
            if journal:
                states = [g['state'] for g in s.d.cmd('query-snapshot-groups')]
                assert states == ['degraded' if degraded else 'settled'], (states, log)
        if not sticky:
            s.d.cmd('transaction', actions=s.actions(2, [f'o1-d{i}' for i in range(N)]))
        for g in guests:
            g.finish()
        if sticky:
            s.d.process.kill()  # a flush fails for good: it cannot end cleanly
            s.d.process.wait()
            s.d._close_files()
        else:
            s.d.stop()
            for i in range(N):
                images.check(s.dir / f'o2-d{i}.qcow2')
        return failed, count
    except BaseException:
        print(f'# call {k} fails with {errno.errorcode.get(error)}', file=sys.stderr)
        print(s.d.stderr() if not s.d.stderr_file.closed else '', file=sys.stderr)
        raise
    finally:
        for g in guests:
            g.stopping = True
        if s.d.process.poll() is None:
            s.d.process.kill()
            s.d.process.wait()
            s.d._close_files()
        s.crash.close()


@pytest.mark.parametrize('error', [errno.EIO, errno.ENOSPC], ids=['EIO', 'ENOSPC'])
@pytest.mark.parametrize('journal', [True, False], ids=['journal', 'no-journal'])
def test_fault(tmp_path, journal, error):
    failed, count = one(tmp_path, journal, 0, error)
    assert failed is None
    points = range(1, count + 1) if LONG else sorted(random.sample(range(1, count + 1), min(POINTS, count)))
    failures = 0
    for k in points:
        failures += one(tmp_path, journal, k, error)[0] is not None
    assert failures > 0
