# SPDX-License-Identifier: BSD-3-Clause
"""Random snapshots, commits and streams on a chain, with filters between its images that come and go, while a client writes, zeroes, discards and reads: it always reads what a model says.

STRESS_SEED=n begins with the same, STRESS_SECONDS=n goes on for so long, STRESS_LONG=1 for an hour.  Every wait has a limit: a hang is a failure, and tells
where the daemon's threads are.
"""
import os
import random
import signal
import sys
import time

import nbd
import pytest

from lib import images as img
from lib.chain import MIB, nodes, path
from lib.daemon import SLOW, Daemon
from lib.watchdog import Watchdog

SECONDS = 3600 if os.environ.get('STRESS_LONG') else int(os.environ.get('STRESS_SECONDS', '10'))
SIZE = 8 * MIB


class World:
    def __init__(self, images, rng):
        self.images, self.rng = images, rng
        self.model = bytearray(SIZE)
        self.names = ['n0']  # the images of the chain, oldest first
        self.count = 0
        self.job = None
        self.requests = 0
        self.log = []
        self.done = {}
        img.create(images / 'n0', str(SIZE), options='cluster_size=4096')
        on_top = rng.random() < 0.5  # a filter that the disk's user uses
        self.d = Daemon(['--object', 'iothread,id=io', '--object', 'throttle-group,id=g', '--blockdev',
                         f'driver=qcow2,node-name=n0,discard=unmap,file.driver=file,file.filename={images}/n0,file.discard=unmap',
                         '--blockdev', 'driver=throttle,node-name=top,throttle-group=g,file=n0',
                         '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock',
                         '--export', f'type=nbd,id=e,node-name={"top" if on_top else "n0"},name=disk,writable=on,iothread=io'])
        self.watchdog = Watchdog(self.d)
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///disk?socket={images}/nbd.sock')

    # ---- the client ----

    def request(self):
        rng = self.rng
        self.watchdog.beat()
        self.requests += 1
        length = rng.choice([512, 4096, 10240, 65536, 262144])
        offset = rng.randrange(0, SIZE - length, 512)
        kind = rng.random()
        name = 'write' if kind < 0.5 else 'zero' if kind < 0.6 else 'trim' if kind < 0.65 else 'flush' if kind < 0.7 else 'read'
        self.log.append((self.requests, name, offset, length))
        if kind < 0.5:
            data = bytes([rng.randrange(256)]) * length
            self.h.pwrite(data, offset)
        elif kind < 0.6:
            self.h.zero(length, offset)
            data = bytes(length)
        elif kind < 0.65:
            self.h.trim(length, offset)
            data = self.h.pread(length, offset)  # either the old data or zeroes, a cluster at a time
            for at in range(0, length, 512):
                assert data[at:at + 512] in (bytes(512), bytes(self.model[offset + at:offset + at + 512])), (offset, at)
        elif kind < 0.7:
            self.h.flush()
            return
        else:
            assert self.h.pread(length, offset) == self.model[offset:offset + length], (offset, length)
            return
        self.model[offset:offset + length] = data

    # ---- the chain ----

    def snapshot(self):
        self.count += 1
        name = f'n{self.count}'
        img.create(self.images / name, str(SIZE), backing=self.images / self.names[-1], options=self.rng.choice(
            ['cluster_size=4096', 'cluster_size=65536']))
        self.d.cmd('blockdev-add', {'driver': 'file', 'node-name': f's{self.count}', 'filename': str(self.images / name), 'discard': 'unmap'})
        self.d.cmd('blockdev-add', {**self.options(name), 'backing': None})
        self.d.cmd('blockdev-snapshot', {'node': self.names[-1], 'overlay': name})
        self.names.append(name)
        self.log.append((self.requests, 'snapshot', name))

    def options(self, name):
        return {'driver': 'qcow2', 'node-name': name, 'file': f's{name[1:]}', 'discard': 'unmap'}

    def filter(self):
        """A filter below some image, on what is there."""
        self.count += 1
        rng, name = self.rng, f'f{self.count}'
        at = rng.randrange(1, len(self.names))
        below = path(self.d, self.names[at])[1]
        driver = rng.choice(['throttle', 'copy-on-read'])
        self.log.append((self.requests, driver, name, self.names[at], below))
        self.d.cmd('blockdev-add', {'driver': driver, 'node-name': name, 'file': below, 'read-only': True,
                                    **({'throttle-group': 'g'} if driver == 'throttle' else {})})
        self.d.cmd('blockdev-reopen', {'options': [{**self.options(self.names[at]), 'backing': name, 'read-only': at < len(self.names) - 1}]})

    def stands_for(self, name):
        """That image, or a filter that stands for it."""
        names = path(self.d, self.names[-1])
        at = names.index(name)
        while self.rng.random() < 0.5 and at > 0 and names[at - 1][0] == 'f':
            at -= 1
        return names[at]

    def begin(self):
        rng, n = self.rng, len(self.names)
        kind = rng.choice(['commit', 'active', 'stream'])
        args = {'job-id': 'j', 'auto-dismiss': False, 'device': self.names[-1]}
        if rng.random() < 0.1:
            args['speed'] = 8 * MIB
        if kind == 'active':
            base = rng.randrange(n - 1)
            self.gone = self.names[base + 1:]
            command, args['base-node'] = 'block-commit', self.stands_for(self.names[base])
            if self.d.cmd('query-block-exports')[0]['node-name'] == 'top' and rng.random() < 0.5:
                args['device'] = 'top'
        elif kind == 'commit' and n > 2:
            base, top = sorted(rng.sample(range(n - 1), 2))
            self.gone = self.names[base + 1:top + 1]
            command, args['base-node'], args['top-node'] = 'block-commit', self.stands_for(self.names[base]), self.stands_for(self.names[top])
        else:
            kind = 'stream'
            device = rng.randrange(1, n)
            args['device'] = self.stands_for(self.names[device])
            base = rng.randrange(-1, device)
            if base >= 0:
                args['base-node'] = self.stands_for(self.names[base])
            self.gone = self.names[base + 1:device]
            command = 'block-stream'
        self.cancel = rng.random() < 0.15
        self.log.append((self.requests, command, args, 'cancel' if self.cancel else ''))
        self.d.cmd(command, args)
        self.job = kind
        self.seen = 0
        self.deadline = time.monotonic() + 60 * SLOW

    def look(self):
        """Takes the events that are there; goes on with the job."""
        d = self.d
        d.cmd('query-block-jobs')
        for e in d.qmp.events[self.seen:]:
            if e['event'] != 'JOB_STATUS_CHANGE':
                continue
            if e['data']['status'] == 'ready':
                if self.cancel:
                    d.cmd('block-job-cancel', device='j', force=self.rng.random() < 0.5)
                else:
                    d.cmd('job-complete', id='j')
            elif e['data']['status'] == 'concluded':
                self.end()
                return
        self.seen = len(d.qmp.events)
        if self.cancel and self.job != 'active' and self.rng.random() < 0.3:
            d.qmp.execute('job-cancel', {'id': 'j'})
        assert time.monotonic() < self.deadline, f'{self.job} hangs: {d.cmd("query-jobs")}'

    def drop(self, names):
        """Deletes nodes that stand on each other, in an order that they allow."""
        while names:
            left = [name for name in names if 'error' in self.d.qmp.execute('blockdev-del', {'node-name': name})]
            assert len(left) < len(names), (left, path(self.d, self.names[-1]))
            names = left

    def end(self):
        d = self.d
        error = d.cmd('query-jobs')[0].get('error')
        assert error is None or self.cancel and error == 'Operation canceled', error
        d.cmd('job-dismiss', id='j')
        d.qmp.events.clear()
        if error is None and not (self.job == 'active' and self.cancel):
            self.names = [name for name in self.names if name not in self.gone]
            chain = path(d, d.cmd('query-block-exports')[0]['node-name'])
            self.drop([name for name in nodes(d) if name[0] == 'f' and name not in chain or name in self.gone])
            self.drop([name for name in nodes(d) if name[0] == 's' and 'n' + name[1:] in self.gone])
            for name in self.gone:
                (self.images / name).unlink()
            self.done[self.job] = self.done.get(self.job, 0) + 1
        assert [name for name in path(d, self.names[-1]) if name[0] == 'n'] == self.names[::-1]
        self.log.append((self.requests, 'end', error))
        self.job = None

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.job:
            for _ in range(self.rng.randrange(1, 20)):
                self.request()
            if self.job:
                self.look()
            elif len(self.names) < 2 or (len(self.names) < 7 and self.rng.random() < 0.6):
                self.snapshot()
            elif self.rng.random() < 0.4:
                self.filter()
            else:
                self.begin()
        assert self.h.pread(SIZE, 0) == self.model
        self.h.shutdown()
        self.d.stop()
        for name in self.names:
            img.check(self.images / name)
        assert img.contents(self.images / self.names[-1], SIZE) == self.model


def test_random(images):
    seed = int(os.environ.get('STRESS_SEED', time.time_ns() % 1000000))
    print(f'# STRESS_SEED={seed}', file=sys.stderr)
    world = World(images, random.Random(seed))
    try:
        world.run(SECONDS)
        print(f'# {world.requests} requests, {world.done}', file=sys.stderr)
        assert world.requests > 0 and world.done
    except BaseException:
        for line in world.log[-200:]:
            print('#', *line, file=sys.stderr)
        raise
    finally:
        world.watchdog.stop()
        if world.d.alive():
            world.d.kill()


def test_watchdog(images, capfd):
    """What the test above relies on: a daemon that stands still is found, and told about, though the client waits for ever."""
    world = World(images, random.Random(1))
    world.watchdog.stop()
    world.watchdog = Watchdog(world.d, 1)
    try:
        world.d.process.send_signal(signal.SIGSTOP)
        with pytest.raises(nbd.Error):
            while True:  # the signal may come a little late, and the debugger may let it go on before it is killed
                world.h.pread(512, 0)
        assert world.watchdog.fired
        assert 'nothing has moved' in capfd.readouterr().err
    finally:
        world.watchdog.stop()
        world.d.kill()
