# SPDX-License-Identifier: BSD-3-Clause
"""The pivot of an active commit or a mirror with a snapshot journal, and a guest that writes all the time: killed at the k-th call on files, or while the k-th
call hangs for longer than guests are held.  Afterwards exactly one of the two images can be opened for writing, and it has all that was durable; of a
mirror, whose target is nobody's disk before the pivot, the source cannot be once guests have moved.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import os
import random
import sys
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import images as img
from lib.daemon import Daemon
from lib.powerfail import CrashPoint
from lib.qmp import QmpClosed

LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '3'))
PLACES = 40
BLOCK = 65536


class Guest(threading.Thread):
    """Writes n at place n mod PLACES, durably, one after another."""

    def __init__(self, socket, name='guest'):
        super().__init__()
        self.handle = nbd.NBD()
        self.handle.connect_uri(f'nbd+unix:///{name}?socket={socket}')
        self.told = [0] * PLACES   # what is durable
        self.tried = [0] * PLACES  # what may be there
        self.n = 0
        self.stopping = False

    def run(self):
        try:
            while not self.stopping:
                n = self.n + 1
                self.tried[n % PLACES] = n
                self.handle.pwrite(n.to_bytes(8, 'little') * (BLOCK // 8), n % PLACES * BLOCK)
                self.handle.flush()
                self.told[n % PLACES] = self.n = n
        except nbd.Error:
            pass

    def end(self):
        self.stopping = True
        self.join(60)

    def judge(self, socket, name):
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///{name}?socket={socket}')
        for place in range(PLACES):
            data = h.pread(BLOCK, place * BLOCK)
            found = int.from_bytes(data[:8], 'little')
            assert data == found.to_bytes(8, 'little') * (BLOCK // 8)
            assert found in (self.told[place], self.tried[place]), (place, found, self.told[place], self.tried[place])


class Setup:
    def __init__(self, directory, base_format='qcow2', keep_top=False, mirror=False, filters=False):
        self.dir = Path(directory)
        self.dir.mkdir()
        self.format = base_format
        self.base, self.top = self.dir / 'base.img', self.dir / 'top.qcow2'
        img.create(self.base, '8M', fmt=base_format)
        self.crash = CrashPoint(self.dir, os.environ['CRASHSHIM'])
        self.d = self.start(env=self.crash.environment())
        self.d.cmd('blockdev-add', self.options('base'))
        self.disk = 'top'
        if filters:  # one below the snapshot, one above
            self.d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
            for name, below in ('middle', 'base'), ('above', 'middle'):
                self.d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': name, 'throttle-group': 'g', 'file': below})
            self.disk = 'above'
        self.serve(self.d, 'guest', 'above' if filters else 'base')
        self.guest = Guest(self.socket)
        self.guest.start()
        if mirror:
            return
        if keep_top:
            img.create(self.top, '8M', backing=self.base)
            self.d.cmd('blockdev-add', {**self.options('top'), 'backing': None})
            self.d.cmd('blockdev-snapshot', {'node': 'base', 'overlay': 'top'})
            return
        self.d.cmd('blockdev-snapshot-sync', {'node-name': 'middle' if filters else 'base', 'snapshot-file': str(self.top),
                                              'snapshot-node-name': 'top'})

    @property
    def socket(self):
        return self.dir / 'nbd.sock'

    def start(self, env=None):
        directory = self.dir / ('crashed' if env else 'again')
        directory.mkdir(exist_ok=True)
        d = Daemon(['--snapshot-journal', str(self.dir / 'journal.db')], directory=directory, env=env)
        self.socket.unlink(missing_ok=True)
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(self.socket)}}, 'max-connections': 0})
        return d

    def options(self, name):
        path, fmt = (self.base, self.format) if name == 'base' else (self.top, 'qcow2')
        return {'driver': fmt, 'node-name': name, 'file': {'driver': 'file', 'filename': str(path)}}

    def serve(self, d, export, node):
        d.cmd('block-export-add', {'type': 'nbd', 'id': export, 'name': export, 'node-name': node, 'writable': True})

    def commit(self):
        self.d.cmd('block-commit', {'device': self.disk, 'job-id': 'j', 'auto-dismiss': False})
        self.d.qmp.event('BLOCK_JOB_READY')

    def kill(self):
        self.d.process.kill()
        self.d.process.wait()
        self.guest.end()

    def judge(self, content=True):
        """Which image is the disk now?"""
        d = self.start()
        try:
            live = []
            for name in ('base', 'top'):
                if 'return' in d.qmp.execute('blockdev-add', self.options(name)):
                    self.serve(d, name, name)
                    if content:
                        self.guest.judge(self.socket, name)
                    d.cmd('block-export-del', id=name, mode='hard')
                    d.qmp.event('BLOCK_EXPORT_DELETED')
                    d.cmd('blockdev-del', node_name=name)
                    live.append(name)
            assert len(live) == 1, live
            return live[0]
        except BaseException:
            print(d.stderr(), file=sys.stderr)
            raise
        finally:
            d.stop()

    def close(self):
        self.guest.stopping = True
        if self.d.alive():
            self.d.process.kill()
        self.d.process.wait()
        if not self.d.stderr_file.closed:
            self.d._close_files()
        self.crash.close()


def points(count, least=1):
    every = range(1, count + 1)
    return every if LONG else sorted(random.sample(every, min(max(POINTS, least), count)))


def killed_at(path, k, base_format='qcow2', filters=False):
    """Returns the number of calls and the image that is the disk."""
    s = Setup(path, base_format, filters=filters)
    try:
        s.commit()
        s.crash.arm(at=k, control_only=True)
        try:
            s.d.cmd('job-complete', id='j')
            s.d.qmp.event('BLOCK_JOB_COMPLETED')
        except (QmpClosed, OSError):
            pass
        count = s.crash.count
        s.kill()
        return count, s.judge()
    except BaseException:
        print(f'# killed at call {k}', file=sys.stderr)
        raise
    finally:
        s.close()


@pytest.mark.parametrize('base_format,filters', [('qcow2', False), ('raw', False), ('qcow2', True)])
def test_killed(tmp_path, base_format, filters):
    count, live = killed_at(tmp_path / '0', 0, base_format, filters)
    assert live == 'base'
    found = {killed_at(tmp_path / str(k), k, base_format, filters)[1] for k in points(count)}
    if LONG:
        assert found == {'base', 'top'}


def hung_at(path, k, then):
    """The call hangs until guests are let go; then: the process is killed at once, or a moment after the call was made."""
    s = Setup(path)
    try:
        s.commit()
        s.crash.arm(hold_at=k, control_only=True)
        s.d.cmd('job-complete', id='j')
        deadline = time.monotonic() + 5
        while not s.crash.held() and time.monotonic() < deadline:
            time.sleep(0.002)
        if s.crash.held():
            time.sleep(0.15)
            if then >= 0:
                s.crash.release()
                time.sleep(then)
        s.kill()
        return s.judge()
    except BaseException:
        print(f'# call {k} hung, then {then}', file=sys.stderr)
        raise
    finally:
        s.close()


def test_hold_expires(tmp_path):
    count, _ = killed_at(tmp_path / '0', 0)
    for k in points(count):
        for then in (-1, 0, 0.003, 0.03) if LONG else (random.choice((-1, 0, 0.003, 0.03)),):
            hung_at(tmp_path / f'{k}-{then}', k, then)


def test_guest_goes_on_while_the_journal_hangs(tmp_path):
    """The record's call hangs: guests are let go after 50 ms, the pivot is given up, and made later."""
    s = Setup(tmp_path / 's')
    try:
        s.commit()
        journal = {p.stat().st_ino for p in s.dir.glob('journal.db*')}
        k = 0
        while True:  # the first call on the journal
            k += 1
            s.crash.arm(hold_at=k, control_only=True)
            if k == 1:
                s.d.cmd('job-complete', id='j')
            deadline = time.monotonic() + 5
            while not s.crash.held():
                assert time.monotonic() < deadline
                time.sleep(0.001)
            if s.crash.held()[1] in journal:
                break
            s.crash.arm(hold_at=k + 1, control_only=True)
            s.crash.release()
        time.sleep(0.1)
        before = s.guest.n
        time.sleep(0.2)
        assert s.guest.n > before
        s.crash.release()
        s.d.qmp.event('BLOCK_JOB_COMPLETED')
        assert 'will be tried again' in s.d.stderr()
        s.kill()
        assert s.judge() == 'base'
    finally:
        s.close()


def test_merged_image_is_used_again(tmp_path):
    """What was merged can be made anew, and can be an overlay again."""
    s = Setup(tmp_path / 's', keep_top=True)
    try:
        s.commit()
        s.d.cmd('job-complete', id='j')
        s.d.qmp.event('BLOCK_JOB_COMPLETED')
        s.d.cmd('job-dismiss', id='j')
        # As the overlay that it was, before anything is written to it.
        s.guest.end()
        s.d.cmd('blockdev-reopen', {'options': [{**s.options('top'), 'backing': None}]})
        s.d.cmd('blockdev-snapshot', {'node': 'base', 'overlay': 'top'})
        s.kill()
        assert s.judge(content=False) == 'top'
    finally:
        s.close()
    s = Setup(tmp_path / 't')
    try:
        s.commit()
        s.d.cmd('job-complete', id='j')
        s.d.qmp.event('BLOCK_JOB_COMPLETED')
        s.d.cmd('job-dismiss', id='j')
        assert 'was merged into' in s.d.qmp.error('blockdev-add', s.options('top'))
        assert 'return' in s.d.qmp.execute('blockdev-add', {**s.options('top'), 'read-only': True, 'backing': None})
        s.d.cmd('blockdev-del', node_name='top')
        img.create(s.top, '8M')
        s.d.cmd('blockdev-add', {**s.options('top'), 'backing': None})
        s.d.cmd('blockdev-snapshot', {'node': 'base', 'overlay': 'top'})
        s.kill()
        assert s.judge() == 'top'
    finally:
        s.close()


class Mirror(Setup):
    """The disk `base` is copied to `top`, an image of its own."""

    def __init__(self, directory, fmt, mode):
        super().__init__(directory, fmt, mirror=True)
        img.create(self.top, '8M')
        self.d.cmd('blockdev-add', self.options('top'))
        self.mode = mode

    def commit(self):
        self.d.cmd('blockdev-mirror', {'device': 'base', 'target': 'top', 'sync': 'full', 'job-id': 'j', 'copy-mode': self.mode,
                                       'auto-dismiss': False})
        self.d.qmp.event('BLOCK_JOB_READY')

    def judge(self, content=True):
        """The source, if it can be opened for writing, else the target, has it all."""
        d = self.start()
        try:
            reply = d.qmp.execute('blockdev-add', self.options('base'))
            live = 'base' if 'return' in reply else 'top'
            if live == 'top':
                assert 'was merged into' in reply['error']['desc']
                d.cmd('blockdev-add', self.options('top'))
            self.serve(d, 'judge', live)
            self.guest.judge(self.socket, 'judge')
            return live
        finally:
            d.stop()


def mirror_killed_at(path, k, fmt, mode, hold=None):
    """hold: the call hangs until guests were let go; then the process is killed."""
    s = Mirror(path, fmt, mode)
    try:
        s.commit()
        s.crash.arm(**({'at': k} if hold is None else {'hold_at': k}), control_only=True)
        try:
            s.d.cmd('job-complete', id='j')
            if hold is None:
                s.d.qmp.event('BLOCK_JOB_COMPLETED')
                time.sleep(0.01)
            else:
                time.sleep(0.2)
                s.crash.release()
                time.sleep(hold)
        except (QmpClosed, OSError):
            pass
        count = s.crash.count
        s.kill()
        return count, s.judge()
    except BaseException:
        print(f'# mirror, {fmt}, {mode}: call {k}, hold {hold}', file=sys.stderr)
        raise
    finally:
        s.close()


@pytest.mark.parametrize('fmt,mode', [('qcow2', 'background'), ('raw', 'write-blocking')])
def test_mirror_killed(tmp_path, fmt, mode):
    count, live = mirror_killed_at(tmp_path / '0', 0, fmt, mode)
    assert live == 'top'
    found = {mirror_killed_at(tmp_path / str(k), k, fmt, mode)[1] for k in points(count)}
    for k in points(count):
        mirror_killed_at(tmp_path / f'{k}-held', k, fmt, mode, random.choice((0, 0.003, 0.03)))
    if LONG:
        assert found == {'base', 'top'}
