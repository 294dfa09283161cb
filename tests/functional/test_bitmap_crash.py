# SPDX-License-Identifier: BSD-3-Clause
"""Stored dirty bitmaps, when the daemon is killed, or the machine fails, at the k-th call on files of a life of an image with a bitmap: opened,
written to, a second bitmap removed, made read-only and writable again, closed.  Afterwards the bitmap is inconsistent, or has a mark for everything
that was written since it began; never less.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import errno
import os
import random
import sys
from pathlib import Path

import nbd
import pytest

from lib import images as img
from lib.daemon import Daemon
from lib.powerfail import CrashPoint, power_failure
from lib.qmp import QmpClosed, QmpError

LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '12'))
G = 65536


def bitmaps(d):
    n = next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == 'a')
    return {b['name']: b for b in n.get('dirty-bitmaps', [])}


class Life:
    def __init__(self, directory, image):
        directory.mkdir()
        self.directory = directory
        self.crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        self.image = directory / 'image'
        img.run('cp', '--sparse=always', image, self.image)
        self.options = {'driver': 'qcow2', 'node-name': 'a', 'file': 'f'}
        self.d = Daemon(['--blockdev', f'driver=file,node-name=f,filename={self.image}'], directory=directory,
                        env=self.crash.environment())
        self.d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{directory}/nbd.sock'}}})
        self.wrote = {1}
        self.errors, self.fails = [], False

    def write(self, granule):
        self.d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'a', 'writable': True})
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///a?socket={self.directory}/nbd.sock')
        self.wrote.add(granule)
        h.pwrite(b'1', granule * G)
        h.flush()
        h.shutdown()
        self.d.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
        self.d.qmp.event('BLOCK_EXPORT_DELETED')

    def live(self, close=True):
        """True: to the end.  A command that fails is told and the next one comes."""
        steps = [lambda: self.d.cmd('blockdev-add', self.options),
                 lambda: self.write(7),
                 lambda: self.d.cmd('block-dirty-bitmap-remove', {'node': 'a', 'name': 'other'}),
                 lambda: self.d.cmd('blockdev-reopen', options=[{**self.options, 'read-only': True}]),
                 lambda: self.d.cmd('blockdev-reopen', options=[{**self.options, 'read-only': False}]),
                 lambda: self.write(30),
                 lambda: self.write(9)]
        if close:
            steps.append(lambda: self.d.cmd('blockdev-del', node_name='a'))
        try:
            for step in steps:
                try:
                    step()
                except QmpError as e:
                    self.errors.append(str(e))
            return True
        except (QmpClosed, nbd.Error, OSError, AssertionError):
            if self.fails:
                return False
            assert self.d.process.wait(30) == -9, self.d.stderr()
            return False

    def judge(self):
        done = img.run('qemu-img', 'check', self.image, check=False)
        assert done.returncode in (0, 3), done.stdout + done.stderr
        with Daemon() as d:
            d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'read-only': True,
                                   'file': {'driver': 'file', 'filename': str(self.image)}})
            found = bitmaps(d)
            assert 'x' in found and set(found) <= {'x', 'other'}
            if found['x'].get('inconsistent'):
                return
            d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
            assert found['x']['count'] >= G * len({g for g in self.wrote if self.has(g)}), (found, self.wrote)

    def has(self, granule):
        """Did the write arrive?"""
        done = img.run('qemu-io', '-r', '-f', 'qcow2', '-c', f'read -P 0x31 {granule * G} 1', self.image, check=False)
        return 'failed' not in done.stdout

    def end(self):
        self.d.kill()
        self.crash.close()


@pytest.fixture
def image(images):
    path = img.create(images / 'base', '16M')
    img.run('qemu-io', '-f', 'qcow2', '-c', f'write -P 0x30 {30 * G} 64k', path)  # written to in place later, and without a mark until then
    with Daemon() as d:
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': str(path)}})
        for name in ('x', 'other'):
            d.cmd('block-dirty-bitmap-add', {'node': 'a', 'name': name, 'persistent': True})
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'a', 'writable': True})
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///a?socket={d.directory}/nbd.sock')
        h.pwrite(b'1', G)
        h.shutdown()
    return path


@pytest.mark.parametrize('power', (False, True), ids=('kill', 'power'))
def test_at_any_call(images, image, power):
    first = Life(images / 'whole', image)
    first.crash.arm()
    assert first.live()
    calls = first.crash.count
    first.end()
    first.judge()
    assert calls > 30, 'what is to be interrupted has been counted'
    points = range(1, calls + 1) if LONG else sorted(random.sample(range(1, calls + 1), min(POINTS, calls)))
    print(f'{calls} calls; tried: {list(points)}', file=sys.stderr)
    for k in points:
        life = Life(Path(images) / f'at{k}', image)
        life.crash.arm(at=k)
        life.live()
        if power:
            life.d.kill()
            power_failure(life.crash, life.directory, random.Random(k))
        life.end()
        life.judge()


@pytest.mark.parametrize('error', (errno.EIO, errno.ENOSPC), ids=('EIO', 'ENOSPC'))
def test_any_call_fails(images, image, error):
    """Commands fail or the log tells; the bitmap is never less than what was written."""
    first = Life(images / 'whole', image)
    first.crash.arm()
    assert first.live() and not first.errors
    calls = first.crash.count
    first.end()
    points = range(1, calls + 1) if LONG else sorted(random.sample(range(1, calls + 1), min(POINTS, calls)))
    print(f'{calls} calls; tried: {list(points)}', file=sys.stderr)
    for k in points:
        life = Life(Path(images) / f'at{k}', image)
        life.crash.arm(fail_at=k, error=error)
        life.fails = True
        # Closed, or killed when it has been writable again.
        close = (k + (error == errno.EIO)) % 2
        life.live(close)
        if close:
            life.d.stop()
        else:
            life.d.kill()
        life.crash.close()
        life.judge()
