# SPDX-License-Identifier: BSD-3-Clause
"""Internal snapshots and a crash: the daemon is killed, or loses power, at calls all over a transaction of two internal snapshots, alone or with an
overlay in the group.  After a restart with the journal the group is wholly there or wholly not, images are whole, what was flushed is there.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import os
import random
import shutil
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import images
from lib.daemon import SLOW, Daemon
from lib.powerfail import CrashPoint, power_failure
from lib.qmp import QmpClosed

SIZE = 4 << 20
LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '6'))


class Writer(threading.Thread):
    """Writes numbered records to a disk, each flushed; `flushed` is the number of the last one that is."""

    def __init__(self, socket, disk):
        super().__init__()
        self.socket, self.disk = socket, disk
        self.flushed = self.sent = 0
        self.stopping = False

    def run(self):
        h = nbd.NBD()
        try:
            h.connect_uri(f'nbd+unix:///disk{self.disk}?socket={self.socket}')
            while not self.stopping:
                self.sent += 1
                h.pwrite(self.sent.to_bytes(8, 'little') * 512, 65536 + 4096 * (self.sent % 8))
                h.flush()
                self.flushed = self.sent
        except nbd.Error:
            pass


class Round:
    def __init__(self, directory, template, mixed):
        self.dir = Path(directory)
        self.data = self.dir / 'data'
        shutil.copytree(template, self.data)
        self.n = 3 if mixed else 2
        self.crash = CrashPoint(self.dir, os.environ['CRASHSHIM'])
        self.socket = self.dir / 'nbd.sock'

    def base(self, i):
        return self.data / f'disk{i}.qcow2'

    def arguments(self):
        argv = ['--snapshot-journal', f'path={self.dir}/journal.db,follow=on',
                '--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0']
        for i in range(self.n):
            argv += ['--blockdev', f'driver=qcow2,node-name=disk{i},file.driver=file,file.filename={self.base(i)}',
                     '--export', f'type=nbd,id=e{i},node-name=disk{i},name=disk{i},writable=on']
        return argv

    def transaction(self, qmp):
        actions = [{'type': 'blockdev-snapshot-internal-sync', 'data': {'device': f'disk{i}', 'name': 'snap'}} for i in (0, 1)]
        if self.n > 2:
            actions.append({'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'disk2', 'snapshot-node-name': 'over2',
                                                                       'snapshot-file': str(self.data / 'over2.qcow2')}})
        try:
            qmp.cmd('transaction', {'actions': actions, 'properties': {'group': 'g'}})
            return True
        except (QmpClosed, OSError):
            return False

    def run(self, at):
        """Runs until it is killed, or (at = 0) to the end; the number of calls."""
        daemon = Daemon(self.arguments(), directory=self.dir, env=self.crash.environment())
        self.writers = [Writer(self.socket, i) for i in range(self.n)]
        for w in self.writers:
            w.start()
        self.crash.arm(at)
        self.replied = self.transaction(daemon.qmp)
        if self.replied:
            self.crash.disarm()
        for w in self.writers:
            w.stopping = True
        count = self.crash.count
        if self.replied:
            daemon.process.kill()
        daemon.process.wait()
        for w in self.writers:
            w.join()
        daemon._close_files()
        return count

    def verify(self):
        """Restarts and checks; 'committed' or 'aborted'."""
        (self.dir / 'qmp.sock').unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        with Daemon(self.arguments(), directory=self.dir) as daemon:
            groups = daemon.cmd('query-snapshot-groups')
            found = {n['node-name']: n['image'] for n in daemon.cmd('query-named-block-nodes', flat=True) if n['drv'] == 'qcow2'}
            for w in self.writers:
                h = nbd.NBD()
                h.connect_uri(f'nbd+unix:///disk{w.disk}?socket={self.socket}')
                newest = max(int.from_bytes(h.pread(8, 65536 + 4096 * k), 'little') for k in range(8))
                assert w.flushed <= newest <= w.sent, (w.disk, w.flushed, newest, w.sent)
                h.shutdown()
        have = [[s['name'] for s in found[f'disk{i}'].get('snapshots', [])] for i in (0, 1)]
        committed = bool(groups) and groups[0]['state'] == 'settled'
        if self.replied:
            assert committed
        assert have == [['snap']] * 2 if committed else [[], []], (groups, have)
        if self.n > 2:
            assert ('over2' in found['disk2']['filename']) == committed
            assert (self.data / 'over2.qcow2').exists() == committed
        for i in range(self.n):
            self.judge(self.base(i), committed and i < 2)
        return 'committed' if committed else 'aborted'

    @staticmethod
    def judge(path, has_snapshot):
        text = images.run('qemu-img', 'check', path, check=False)
        errors = [line for line in (text.stdout + text.stderr).splitlines() if line.startswith('ERROR') and 'OFLAG_COPIED' not in line]
        assert not errors, errors[:5]
        if has_snapshot:
            raw = f'{path}.raw'
            images.run('qemu-img', 'convert', '-l', 'snapshot.name=snap', '-O', 'raw', path, raw)
            with open(raw, 'rb') as f:
                data = f.read()
            assert data[1 << 20:2 << 20] == bytes([7]) * (1 << 20) and len(data) == SIZE
        images.run('qemu-img', 'check', '-q', '-r', 'all', path, check=False)
        images.check(path)


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp('template')
    for i in range(3):
        images.create(path / f'disk{i}.qcow2', SIZE)
        images.qemu_io(path / f'disk{i}.qcow2', 'write -P 7 0 2M')
        images.qemu_io(path / f'disk{i}.qcow2', 'write -P 0 64k 64k')
    return path


@pytest.mark.parametrize('power', [False, True], ids=['kill', 'power'])
@pytest.mark.parametrize('mixed', [False, True], ids=['alone', 'mixed'])
def test_all_or_nothing(template, request, mixed, power):
    images_dir = request.getfixturevalue('images')
    (images_dir / '0').mkdir()
    count = Round(images_dir / '0', template, mixed).run(0)
    rng = random.Random(count)
    points = range(1, count + 1) if LONG else sorted(rng.sample(range(1, count + 1), min(POINTS, count)))
    outcomes = set()
    for at in points:
        directory = images_dir / str(at)
        directory.mkdir()
        r = Round(directory, template, mixed)
        r.run(at)
        if power:
            power_failure(r.crash, r.dir, rng)
        outcomes.add(r.verify())
        r.crash.close()
        shutil.rmtree(directory)
    assert outcomes <= {'committed', 'aborted'}


@pytest.mark.parametrize('mixed', [False, True], ids=['alone', 'mixed'])
def test_hung_write(template, request, mixed):
    """While a write hangs the instant cannot be had: other writes wait for 50 ms at most, time and again, and the snapshot comes when it can."""
    directory = request.getfixturevalue('images')
    r = Round(directory, template, mixed)
    with Daemon(r.arguments(), directory=r.dir, env=r.crash.environment()) as daemon:
        hung, other = nbd.NBD(), nbd.NBD()
        for h in (hung, other):
            h.connect_uri(f'nbd+unix:///disk0?socket={r.socket}')
        r.crash.arm(hold_at=1)
        cookie = hung.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'h' * 4096)), 1 << 20)
        while not r.crash.held():
            hung.poll(10)
        replies = []
        thread = threading.Thread(target=lambda: replies.append(r.transaction(daemon.qmp)))
        thread.start()
        longest, n, end = 0, 0, time.monotonic() + 0.7
        while time.monotonic() < end:
            before = time.monotonic()
            other.pwrite(b'o' * 4096, (2 << 20) + 65536 * (n % 8))
            longest = max(longest, time.monotonic() - before)
            n += 1
        assert not replies and n > 10
        assert 0.02 < longest < 0.5 * SLOW, longest
        r.crash.release()
        thread.join(30 * SLOW)
        assert replies == [True]
        while not hung.aio_command_completed(cookie):
            hung.poll(100)
        (group,) = daemon.cmd('query-snapshot-groups')
        assert [m['state'] for m in group['members']] == ['settled'] * r.n
        for h in (hung, other):
            h.shutdown()
    raw = f'{r.base(0)}.raw'
    images.run('qemu-img', 'convert', '-l', 'snapshot.name=snap', '-O', 'raw', r.base(0), raw)
    with open(raw, 'rb') as f:
        f.seek(1 << 20)
        assert f.read(4096) == b'h' * 4096
    images.check(r.base(0))
    r.crash.close()
