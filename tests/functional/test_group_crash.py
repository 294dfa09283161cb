# SPDX-License-Identifier: BSD-3-Clause
"""T1 and T7 across a crash: the daemon is killed, or loses power, at calls all over a transaction of 16 disks; after a restart the group
is wholly there or wholly not, what was flushed is there, and nobody's file is lost.

A sample of the calls is tried; STRESS_POINTS=n tries n of them, STRESS_LONG=1 every one.
"""
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbd
import pytest

from lib import images
from lib.daemon import Daemon
from lib.powerfail import CrashPoint, power_failure
from lib.qmp import QmpClosed

N = 16
FILLED, REPLACED = (3, 9, 12), (5, 10, 15)
SIZE = 4 << 20
LONG = os.environ.get('STRESS_LONG')
POINTS = int(os.environ.get('STRESS_POINTS', '7'))


class Writer(threading.Thread):
    """Writes numbered records to one disk, each flushed; `flushed` is the number of the last one that is."""

    def __init__(self, socket, disk):
        super().__init__()
        self.socket, self.disk = socket, disk
        self.flushed = 0
        self.sent = 0
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
    def __init__(self, directory, mode, kill):
        self.dir = Path(directory)
        self.mode, self.kill = mode, kill
        self.data = self.dir / 'data'
        self.data.mkdir()
        self.originals = {}
        for i in range(N):
            images.create(self.base(i), SIZE)
        for i in FILLED:
            self.overlay(i).touch()
        for i in REPLACED:
            self.overlay(i).write_bytes(b'the former file %d' % i * 100)
        for i in FILLED + REPLACED:
            self.originals[self.overlay(i)] = hashlib.sha256(self.overlay(i).read_bytes()).digest()
        self.names = set(os.listdir(self.data))
        self.crash = CrashPoint(self.dir, os.environ['CRASHSHIM'])
        self.socket = self.dir / 'nbd.sock'

    def base(self, i):
        return self.data / f'disk{i}.qcow2'

    def overlay(self, i):
        return self.data / f'over{i}.qcow2'

    def arguments(self):
        argv = ['--snapshot-journal', f'path={self.dir}/journal.db,follow=on',
                '--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0']
        for i in range(N):
            argv += ['--blockdev', f'driver=qcow2,node-name=disk{i},file.driver=file,file.filename={self.base(i)}',
                     '--export', f'type=nbd,id=e{i},node-name=disk{i},name=disk{i},writable=on']
        return argv

    def actions(self):
        return [{'type': 'blockdev-snapshot-sync', 'data': {'node-name': f'disk{i}', 'snapshot-node-name': f'over{i}',
                                                             'snapshot-file': str(self.overlay(i))}} for i in range(N)]

    def transaction(self, qmp):
        """False: it did not get its reply."""
        try:
            if self.mode == 'plain':
                qmp.cmd('transaction', {'actions': self.actions(), 'properties': {'group': 'g'}})
            else:
                qmp.cmd('transaction-prepare', {'id': 'g', 'actions': self.actions(), 'timeout': 30000})
                if self.mode == 'held':
                    qmp.cmd('transaction-hold', {'id': 'g', 'timeout': 20000})
                if self.mode == 'aborted':
                    qmp.cmd('transaction-abort', {'id': 'g'})
                else:
                    qmp.cmd('transaction-commit', {'id': 'g'})
            return True
        except (QmpClosed, OSError):
            return False

    def run(self, at):
        """Runs until it is killed, or (at = 0) to the end; the number of calls."""
        daemon = Daemon(self.arguments(), directory=self.dir, env=self.crash.environment())
        self.writers = [Writer(self.socket, i) for i in (0, 5, 9)]
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

    def lose_power(self, rng):
        return power_failure(self.crash, self.dir, rng)

    # ---- after it ----

    def verify(self):
        """Restarts and checks; 'committed' or 'aborted'."""
        (self.dir / 'qmp.sock').unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        with Daemon(self.arguments(), directory=self.dir) as daemon:
            groups = daemon.cmd('query-snapshot-groups')
            nodes = {n['node-name']: n['file'] for n in daemon.cmd('query-named-block-nodes', flat=True)}
            log = daemon.stderr()
        assert len(groups) <= 1, groups
        state = groups[0]['state'] if groups else 'none'
        committed = state in ('settled', 'degraded')
        if self.replied:
            assert committed == (self.mode != 'aborted'), (state, log)
        assert state != 'degraded', log
        names = set(os.listdir(self.data))
        if committed:
            for i in range(N):
                assert nodes[f'disk{i}'] == str(self.overlay(i)), (i, nodes)
                assert images.info(self.overlay(i))['backing-filename'] == str(self.base(i))
            assert names == self.names | {self.overlay(i).name for i in range(N)}, log
        else:
            for i in range(N):
                assert nodes[f'disk{i}'] == str(self.base(i)), (i, nodes)
            assert names == self.names, log
            for path, digest in self.originals.items():
                assert hashlib.sha256(path.read_bytes()).digest() == digest, (path, log)
        for i in range(N):
            self.check_image(self.overlay(i) if committed else self.base(i))
            if committed:
                self.check_image(self.base(i))
        for w in self.writers:
            self.check_records(w, self.overlay(w.disk) if committed else self.base(w.disk))
        return 'committed' if committed else 'aborted'

    @staticmethod
    def check_image(path):
        r = subprocess.run(['qemu-img', 'check', '-q', path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode in (0, 3), (path, r.stdout)

    @staticmethod
    def check_records(w, path):
        content = images.contents(path, 65536 + 8 * 4096)
        found = 0
        for slot in range(8):
            block = content[65536 + 4096 * slot:65536 + 4096 * (slot + 1)]
            found = max(found, int.from_bytes(block[:8], 'little'))
        assert w.flushed <= found <= w.sent, (w.disk, w.flushed, found, w.sent)

    def close(self):
        self.crash.close()
        shutil.rmtree(self.dir)


def one(tmp_path, mode, kill, at, seed):
    directory = tmp_path / f'{mode}-{kill}-{at}'
    directory.mkdir()
    r = Round(directory, mode, kill)
    try:
        count = r.run(at)
        if kill == 'power':
            r.lose_power(random.Random(seed))
        return r.verify(), count
    except BaseException:
        print(f'# mode {mode}, {kill}, call {at}, seed {seed}', file=sys.stderr)
        raise
    finally:
        r.close()


@pytest.mark.parametrize('kill', ['process', 'power'])
@pytest.mark.parametrize('mode', ['plain', 'prepared', 'held', 'aborted'])
def test_crash(tmp_path, mode, kill):
    outcome, count = one(tmp_path, mode, 'process', 0, 0)
    assert outcome == ('aborted' if mode == 'aborted' else 'committed')
    seen = set()
    seed = random.randrange(1 << 30)
    if LONG:
        points = range(1, count + 1)
    else:
        points = sorted(random.Random(seed).sample(range(1, count), POINTS))
    for at in points:
        seen.add(one(tmp_path, mode, kill, at, seed + at)[0])
    if LONG and mode != 'aborted':
        assert seen == {'committed', 'aborted'}
