# SPDX-License-Identifier: BSD-3-Clause
"""A mirror whose k-th call on files fails, under each policy: the job ends as the policy says, and the disk, wherever it is then, reads the same.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import errno
import os
import random
import sys
import time

import nbd
import pytest

from lib import images as img
from lib.chain import MIB, Chain
from lib.daemon import Daemon
from lib.jobs import events_of
from lib.powerfail import CrashPoint

LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '3'))


class Run:
    def __init__(self, directory, mode):
        directory.mkdir()
        self.chain = Chain(directory, 2, size=4 * MIB, writes=6)
        self.want = self.chain.contents()
        self.target = img.create(directory / 't', str(4 * MIB))
        self.mode = mode
        self.by_hand = False  # a job that is ready is completed by the test
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        self.d = Daemon(self.chain.arguments(), directory=directory, env=self.crash.environment())
        self.d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 't', 'discard': 'unmap',
                                    'file': {'driver': 'file', 'filename': str(self.target)}})

    def start(self, policy='report'):
        self.d.cmd('blockdev-mirror', {'job-id': 'j', 'device': 'n1', 'target': 't', 'sync': 'full', 'copy-mode': self.mode,
                                       'on-source-error': policy, 'on-target-error': policy, 'auto-dismiss': False})

    def until(self, *statuses):
        """Waits for one of the statuses, completes a job that is ready, after a write that has to be carried."""
        deadline = time.monotonic() + 60
        seen = len(self.d.qmp.events)
        while True:
            while seen < len(self.d.qmp.events):
                e = self.d.qmp.events[seen]
                seen += 1
                if e['event'] == 'JOB_STATUS_CHANGE':
                    if e['data']['status'] == 'ready' and 'ready' not in statuses and not self.by_hand:
                        self.d.qmp.execute('job-complete', {'id': 'j'})
                    if e['data']['status'] in statuses:
                        return e['data']['status']
            self.d.qmp.events.append(self.d.qmp.receive(max(0.001, deadline - time.monotonic())))

    def export(self):
        return self.d.cmd('query-block-exports')[0]['node-name']

    def contents(self):
        h = nbd.NBD()
        h.connect_uri(self.chain.uri)
        data = h.pread(4 * MIB, 0)
        h.shutdown()
        return data

    def close(self):
        if self.d.alive():
            self.d.process.kill()
        self.d.process.wait()
        if not self.d.stderr_file.closed:
            self.d._close_files()
        self.crash.close()


def fault_at(path, k, error, policy, mode):
    r = Run(path, mode)
    try:
        r.crash.arm(fail_at=k, error=error)
        r.start(policy)
        end = r.until('concluded', 'paused', 'standby')
        count = r.crash.count
        r.crash.disarm()
        sticky = 'stays failed' in r.d.stderr()
        if end != 'concluded':
            assert policy == 'stop' or error == errno.ENOSPC and policy == 'enospc', (end, policy)
            info = r.d.cmd('query-block-jobs')[0]
            assert info['io-status'] == ('nospace' if error == errno.ENOSPC else 'failed') and info['paused']
            r.d.cmd('job-resume', id='j')
            r.until('concluded')
        failed = r.d.cmd('query-jobs')[0].get('error')
        told = 'BLOCK_JOB_ERROR' in events_of(r.d, 'j')
        if told and policy == 'report':
            assert failed == os.strerror(error)
        if told and (end != 'concluded' or policy == 'ignore') and not sticky:
            assert failed is None, failed
        assert r.export() == ('n1' if failed else 't')
        assert r.contents() == r.want
        r.d.cmd('job-dismiss', id='j')
        if failed and not sticky:
            r.start()  # nothing stands in the way of the next
            r.until('concluded')
            assert r.d.cmd('query-jobs')[0].get('error') is None and r.export() == 't'
            assert r.contents() == r.want
        if not sticky:
            r.d.stop()
            img.check(r.target)
            assert img.contents(r.target, 4 * MIB) == r.want
        return failed, count
    except BaseException:
        print(f'# call {k} fails with {errno.errorcode[error]}, policy {policy}, {mode}', file=sys.stderr)
        if not r.d.stderr_file.closed:
            print(r.d.stderr(), file=sys.stderr)
        raise
    finally:
        r.close()


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop', 'enospc'])
def test_fault(tmp_path, mode, policy):
    failed, count = fault_at(tmp_path / '0', 0, errno.EIO, policy, mode)
    assert failed is None
    failures = 0
    for k in range(1, count + 1) if LONG else sorted(random.sample(range(1, count + 1), min(max(POINTS // 3, 1), count))):
        for error in (errno.EIO, errno.ENOSPC):
            failures += fault_at(tmp_path / f'{k}-{error}', k, error, policy, mode)[0] is not None
    if LONG and policy == 'report':
        assert failures > 0


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop'])
def test_fault_while_ready(tmp_path, mode, policy):
    """A write that a guest makes when the job is ready cannot be carried: the guest is not told, the policy decides about the job."""
    r = Run(tmp_path / 'r', mode)
    try:
        r.start(policy)
        r.by_hand = True
        r.until('ready')
        h = nbd.NBD()
        h.connect_uri(r.chain.uri)
        h.pwrite(b'\x5b' * 65536, 3 * MIB)
        while (info := r.d.cmd('query-block-jobs')[0])['offset'] != info['len']:
            time.sleep(0.01)
        time.sleep(0.3)
        # The clusters are there on both sides: the guest's write is the first call, the target's the second.
        r.crash.arm(fail_at=2, error=errno.EIO)
        h.pwrite(b'\x5c' * 65536, 3 * MIB)
        want = bytearray(r.want)
        want[3 * MIB:3 * MIB + 65536] = b'\x5c' * 65536
        assert r.d.qmp.event('BLOCK_JOB_ERROR')['data'] == {'device': 'j', 'operation': 'write', 'action': policy}
        if policy == 'report':
            r.until('concluded')
            assert r.d.cmd('query-jobs')[0].get('error') == 'Input/output error' and r.export() == 'n1'
        else:
            if policy == 'stop':
                r.until('standby')
                r.d.cmd('job-resume', id='j')
            r.d.cmd('job-complete', id='j')
            r.until('concluded')
            assert r.export() == 't'
        assert h.pread(4 * MIB, 0) == want
        h.shutdown()
    finally:
        r.close()
