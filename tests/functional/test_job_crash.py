# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that merge chains, killed or failed by a power failure at their k-th call on files: the chain that the headers name is whole.  And the
k-th call fails, under each policy: the job ends as the policy says, the disk reads the same.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import errno
import os
import random
import sys
import time
from pathlib import Path

import pytest

from lib import images as img
from lib.chain import MIB, Chain, nodes
from lib.daemon import Daemon
from lib.jobs import error_of, events_of, wait_status
from lib.powerfail import CrashPoint, power_failure
from lib.qmp import QmpClosed, QmpError

LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '3'))

JOBS = {
    'middle': ('block-commit', {'device': 'n3', 'top-node': 'n2', 'base-node': 'n0'}),
    'active': ('block-commit', {'device': 'n3', 'base-node': 'n1'}),
    'stream': ('block-stream', {'device': 'n3', 'base-node': 'n0'}),
    'whole': ('block-stream', {'device': 'n3'}),
    'below': ('block-stream', {'device': 'n2', 'base-node': 'n0'}),
    # With filters between the images.
    'middle-filters': ('block-commit', {'device': 'f3', 'top-node': 'n2', 'base-node': 'n0'}),
    'active-filters': ('block-commit', {'device': 'f3', 'base-node': 'f1'}),
    'stream-filters': ('block-stream', {'device': 'f3', 'base-node': 'f0'}),
}
FILTERS = {0: 'throttle', 1: 'copy-on-read', 2: 'throttle', 3: 'copy-on-read'}
OPERATIONS = set()  # that BLOCK_JOB_ERROR told of


class Run:
    """A chain, and a daemon that has it open, whose calls are counted."""

    def __init__(self, directory, kind):
        directory = Path(directory)
        directory.mkdir()
        self.chain = Chain(directory, 4, size=4 * MIB, writes=6)
        self.want = [self.chain.contents(i) for i in range(4)]
        self.command, self.args = JOBS[kind]
        self.kind = kind.removesuffix('-filters')
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        self.directory = directory
        self.d = Daemon(self.chain.arguments(filters=FILTERS if kind.endswith('-filters') else ()), directory=directory,
                        env=self.crash.environment())

    def start(self, **args):
        self.d.cmd(self.command, {'job-id': 'j', 'auto-dismiss': False, **self.args, **args})

    def until(self, *statuses, timeout=60):
        """Waits for one of the statuses to be the latest event; completes a job that is ready.  A status or, if the daemon is gone, None."""
        deadline = time.monotonic() + timeout
        seen = len(self.d.qmp.events)
        while True:
            while seen < len(self.d.qmp.events):
                e = self.d.qmp.events[seen]
                seen += 1
                if e['event'] == 'JOB_STATUS_CHANGE':
                    if e['data']['status'] == 'ready':
                        self.d.cmd('job-complete', id='j')
                    if e['data']['status'] in statuses:
                        return e['data']['status']
            self.d.qmp.events.append(self.d.qmp.receive(max(0.001, deadline - time.monotonic())))

    def told(self, what):
        return {e['data'][what] for e in self.d.qmp.events if e['event'] == 'BLOCK_JOB_ERROR'}

    def top(self, pivoted=False):
        return 1 if pivoted and self.kind == 'active' else 3

    def judge(self, pivoted=False):
        """By the headers alone."""
        for i in range(4):
            done = img.run('qemu-img', 'check', self.chain.files[i], check=False)
            assert done.returncode in (0, 3), done.stdout + done.stderr
        assert img.contents(self.chain.files[3], self.chain.size) == self.want[3]
        if pivoted:
            assert img.contents(self.chain.files[self.top(True)], self.chain.size) == self.want[3]
        if self.kind == 'below':
            assert img.contents(self.chain.files[2], self.chain.size) == self.want[2]

    def close(self):
        if self.d.alive():
            self.d.process.kill()
        self.d.process.wait()
        if not self.d.stderr_file.closed:
            self.d._close_files()
        self.crash.close()


def crash_at(path, kind, k, power):
    r = Run(path, kind)
    done = False
    try:
        r.crash.arm(at=k)
        try:
            r.start()
            done = r.until('concluded') == 'concluded'
        except (QmpClosed, OSError):
            r.d.process.wait(30)
        count = r.crash.count
        if k == 0:
            assert done
            r.d.stop()
        else:
            r.d.process.kill()
            r.d.process.wait()
        if power:
            power_failure(r.crash, r.directory)
        r.judge(pivoted=done)
        return count
    except BaseException:
        print(f'# {kind}: call {k}, power failure: {power}', file=sys.stderr)
        raise
    finally:
        r.close()


@pytest.mark.parametrize('kind', JOBS)
@pytest.mark.parametrize('power', [False, True], ids=['killed', 'power-failure'])
def test_crash(tmp_path, kind, power):
    count = crash_at(tmp_path / '0', kind, 0, False)
    for k in range(1, count + 1) if LONG else sorted(random.sample(range(1, count + 1), min(POINTS, count))):
        crash_at(tmp_path / str(k), kind, k, power)


def fault_at(path, kind, k, error, policy, reads=False):
    """Call k fails; without k: how many there are.  What the job failed with, and the calls."""
    r = Run(path, kind)
    try:
        r.crash.arm(fail_at=k, error=error, reads=reads)
        try:
            r.start(**{'on-error': policy})
        except QmpError as e:  # it did not even begin
            r.crash.disarm()
            assert os.strerror(error) in str(e)
            r.start()
            assert r.until('concluded') == 'concluded' and error_of(r.d, 'j') is None
            return os.strerror(error), 0
        end = r.until('concluded', 'paused', 'standby')
        count = r.crash.count
        r.crash.disarm()
        stopped = end != 'concluded'
        if stopped:
            assert policy == 'stop' or error == errno.ENOSPC and policy in ('enospc', 'auto'), (end, policy)
            info = r.d.cmd('query-block-jobs')[0]
            assert info['io-status'] == ('nospace' if error == errno.ENOSPC else 'failed') and info['paused']
            r.d.cmd('job-resume', id='j')
            r.until('concluded')
        failed = r.d.cmd('query-jobs')[0].get('error')
        told = 'BLOCK_JOB_ERROR' in events_of(r.d, 'j')
        sticky = 'stays failed' in r.d.stderr()
        if reads and told:
            # Where the target cannot read its own tables, it is writing that fails.
            OPERATIONS.update(r.told('operation'))
            assert r.told('operation') <= {'read', 'write'} and r.told('action') == {
                {'report': 'report', 'ignore': 'ignore', 'stop': 'stop'}.get(policy, 'stop' if error == errno.ENOSPC else 'report')}
        if told and (policy == 'report' or policy in ('enospc', 'auto') and error != errno.ENOSPC):
            assert failed == os.strerror(error)
        if told and (stopped or policy == 'ignore') and not sticky and r.kind in ('middle', 'active'):
            assert failed is None, failed
        r.d.cmd('job-dismiss', id='j')
        pivoted = failed is None
        if failed and not sticky:
            r.start()  # nothing stands in the way of the next
            r.until('concluded')
            assert r.d.cmd('query-jobs')[0].get('error') is None
            r.d.cmd('job-dismiss', id='j')
            pivoted = True
        assert nodes(r.d)['n0']['ro'] or r.kind == 'active'
        if sticky:
            r.d.process.kill()
            r.d.process.wait()
        else:
            r.d.stop()
        r.judge(pivoted=pivoted and not sticky)
        return failed, count
    except BaseException:
        print(f'# {kind}: call {k} fails with {errno.errorcode[error]}, on-error={policy}', file=sys.stderr)
        if not r.d.stderr_file.closed:
            print(r.d.stderr(), file=sys.stderr)
        raise
    finally:
        r.close()


@pytest.mark.parametrize('kind', JOBS)
@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop', 'enospc'])
def test_fault(tmp_path, kind, policy):
    policy = random.choice(('enospc', 'auto')) if policy == 'enospc' else policy  # the same for jobs
    failed, count = fault_at(tmp_path / '0', kind, 0, errno.EIO, policy)
    assert failed is None
    failures = 0
    points = range(1, count + 1) if LONG else sorted(random.sample(range(1, count + 1), min(max(POINTS // 3, 1), count)))
    for k in points:
        for error in (errno.EIO, errno.ENOSPC):
            failures += fault_at(tmp_path / f'{k}-{error}', kind, k, error, policy)[0] is not None
    if LONG and policy == 'report':
        assert failures > 0


@pytest.mark.parametrize('kind', JOBS)
def test_read_fault(tmp_path, kind):
    """Reading the source fails, under each policy."""
    failed, count = fault_at(tmp_path / '0', kind, 0, errno.EIO, 'report', reads=True)
    assert failed is None and count > 5
    told = []
    cases = [('report', errno.EIO), ('ignore', errno.EIO), ('stop', errno.EIO), ('enospc', errno.ENOSPC), ('auto', errno.EIO)]
    for policy, error in cases if LONG or POINTS > 3 else random.sample(cases, 2):
        for k in range(1, count + 1) if LONG else random.sample(range(1, count + 1), min(max(POINTS // 3, 1), count)):
            told.append(fault_at(tmp_path / f'{policy}-{k}', kind, k, error, policy, reads=True)[0])
    if LONG:
        assert os.strerror(errno.EIO) in told and 'read' in OPERATIONS


def create_fault(path, fmt, k, error):
    """The file is there already (qcow2) or not (file)."""
    path.mkdir()
    crash = CrashPoint(path, os.environ['CRASHSHIM'])
    image = path / 'image'
    d = Daemon(directory=path, env=crash.environment())
    options = {'driver': 'file', 'filename': str(image), 'size': 4 * MIB}
    if fmt == 'qcow2':
        image.touch()
        d.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(image)})
        options = {'driver': 'qcow2', 'file': 'f', 'size': 4 * MIB, 'preallocation': 'falloc'}
    try:
        for at in (k, 0):  # the second time nothing is in its way
            job = f'j{at}'
            crash.arm(fail_at=at, error=error)
            d.cmd('blockdev-create', {'job-id': job, 'options': options})
            wait_status(d, job, 'concluded')
            count = crash.count
            crash.disarm()
            failed = error_of(d, job)
            d.cmd('job-dismiss', id=job)
            if failed and fmt == 'file':
                assert not image.exists()
            elif failed and 'stays failed' not in d.stderr():
                assert image.stat().st_size == 0
            if not failed:
                break
            if 'stays failed' in d.stderr():
                return failed, count  # a file whose data may be lost is no use any more
        assert not failed
        d.stop()
        if fmt == 'qcow2':
            assert img.check(image)['check-errors'] == 0
        return failed, count
    except BaseException:
        print(f'# {fmt}: call {k} fails with {errno.errorcode[error]}', file=sys.stderr)
        raise
    finally:
        if d.alive():
            d.kill()
        crash.close()


@pytest.mark.parametrize('fmt', ['file', 'qcow2'])
def test_create_fault(tmp_path, fmt):
    _, count = create_fault(tmp_path / '0', fmt, 0, errno.EIO)
    for k in range(1, count + 1) if LONG else sorted(random.sample(range(1, count + 1), min(POINTS, count))):
        create_fault(tmp_path / str(k), fmt, k, random.choice((errno.EIO, errno.ENOSPC)))


def grouped_fault(path, k):
    """Two backups that finalize together, one call fails: both succeed, or one fails and the other is cancelled, and nothing stays held."""
    path.mkdir()
    crash = CrashPoint(path, os.environ['CRASHSHIM'])
    for i in range(2):
        img.create(path / f'disk{i}', '2M')
        img.qemu_io(path / f'disk{i}', f'write -P {i + 1} 0 1M')
        img.create(path / f'target{i}', '2M')
    d = Daemon([a for name in ('disk0', 'disk1', 'target0', 'target1') for a in (
        '--blockdev', f'driver=qcow2,node-name={name},file.driver=file,file.filename={path / name}')], directory=path, env=crash.environment())
    actions = [{'type': 'blockdev-backup', 'data': {'device': f'disk{i}', 'target': f'target{i}', 'sync': 'full', 'job-id': f'j{i}',
                                                    'auto-dismiss': False}} for i in range(2)]
    try:
        crash.arm(fail_at=k, error=errno.EIO)
        error = None
        try:
            d.cmd('transaction', {'actions': actions, 'properties': {'completion-mode': 'grouped'}})
            for i in range(2):
                wait_status(d, f'j{i}', 'concluded')
            errors = [error_of(d, f'j{i}') for i in range(2)]
            ends = sorted('BLOCK_JOB_CANCELLED' if 'BLOCK_JOB_CANCELLED' in events_of(d, f'j{i}') else errors[i] or '' for i in range(2))
            assert ends == ['', ''] or (ends[0] == 'BLOCK_JOB_CANCELLED' and ends[1].endswith(os.strerror(errno.EIO))), ends
            error = ends[1]
            for i in range(2):
                d.cmd('job-dismiss', id=f'j{i}')
        except QmpError as e:
            error = str(e)
        count = crash.count
        crash.disarm()
        assert d.cmd('query-jobs') == []
        for i in range(2):
            d.cmd('blockdev-del', node_name=f'disk{i}')
            d.cmd('blockdev-del', node_name=f'target{i}')
        if not error:
            for i in range(2):
                assert img.contents(path / f'disk{i}', 2 * MIB) == img.contents(path / f'target{i}', 2 * MIB)
        return count, error
    except BaseException:
        print(f'# call {k} fails', file=sys.stderr)
        raise
    finally:
        if d.alive():
            d.kill()
        crash.close()


def test_grouped_fault(tmp_path):
    count, error = grouped_fault(tmp_path / '0', 0)
    assert not error
    errors = {grouped_fault(tmp_path / str(k), k)[1] for k in (range(1, count + 1) if LONG else random.sample(range(1, count + 1), min(POINTS, count)))}
    assert not LONG or any(errors)
