# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that merge chains while guests write: nothing is lost, what is slow is bounded, what is asked for comes to an end.

STRESS_LONG=1: many more rounds.
"""
import os
import time

import pytest

from lib import images as img
from lib import records
from lib.chain import MIB, backing, nodes
from lib.daemon import Daemon
from lib.jobs import error_of, wait_status
from lib.load import Load

LONG = bool(os.environ.get('STRESS_LONG'))
CHAINS, SLOTS = 16, 64


class Disk:
    """One disk under a load of dependent writers, and the snapshots and jobs on its chain."""

    def __init__(self, images, iothread=False, size=64 * MIB):
        self.images = images
        self.socket = images / 'nbd.sock'
        self.names = ['base']
        self.count = 0
        img.create(images / 'base', str(size))
        thread = ',iothread=io' if iothread else ''
        self.daemon = Daemon((['--object', 'iothread,id=io'] if iothread else []) + [
            '--blockdev', f'driver=qcow2,node-name=base,discard=unmap,file.driver=file,file.filename={images}/base',
            '--nbd-server', f'addr.type=unix,addr.path={self.socket}',
            '--export', f'type=nbd,id=e,node-name=base,name=disk,writable=on{thread}'])

    def snapshot(self):
        self.count += 1
        name = f'o{self.count}'
        self.daemon.cmd('blockdev-snapshot-sync', {'node-name': self.names[-1], 'snapshot-node-name': name,
                                                   'snapshot-file': str(self.images / name)})
        self.names.append(name)

    def job(self, command, complete=False, **args):
        d = self.daemon
        d.cmd(command, {'job-id': 'j', 'device': self.names[-1], 'auto-dismiss': False,
                        **{k.replace('_', '-'): v for k, v in args.items()}})
        if complete:
            wait_status(d, 'j', 'ready')
            d.cmd('job-complete', id='j')
        wait_status(d, 'j', 'concluded')
        assert error_of(d, 'j') is None
        d.cmd('job-dismiss', id='j')
        d.qmp.events.clear()

    def drop(self, names):
        for name in names:
            if name in nodes(self.daemon):
                self.daemon.cmd('blockdev-del', node_name=name)
            self.names.remove(name)
            (self.images / name).unlink()

    def commit_active(self, base='base', **args):
        self.job('block-commit', complete=True, base_node=base, **args)
        i = self.names.index(base)
        self.drop(self.names[:i:-1])

    def commit_middle(self, top, base):
        self.job('block-commit', top_node=top, base_node=base)
        self.drop(self.names[self.names.index(top):self.names.index(base):-1])

    def stream(self, base=None):
        self.job('block-stream', **({'base_node': base} if base else {}))
        i = self.names.index(base) if base else -1
        self.drop(self.names[-2:i:-1] if i >= 0 else self.names[-2::-1])

    def check(self, total):
        self.daemon.stop()
        layout = records.Layout(1, CHAINS, SLOTS)
        for name in self.names:
            img.check(self.images / name)
        cut = records.read_cut(layout, [img.contents(self.images / self.names[-1], layout.length)])
        assert cut.consistent, cut.problems[:3]
        assert cut.last == total['completed']
        assert sum(cut.last) > 0


@pytest.mark.parametrize('iothread', [False, True])
def test_all_jobs_under_load(images, iothread):
    disk = Disk(images, iothread)
    try:
        with Load(disk.socket, ['disk'], mode='chain', chains=CHAINS, slots=SLOTS, threads=2, flush_every=50) as load:
            for _ in range(40 if LONG else 4):
                for _ in range(3):
                    disk.snapshot()
                    time.sleep(0.05)
                a = disk.names
                disk.commit_middle(a[-2], a[-3])
                assert backing(disk.daemon, disk.names[-1]) == disk.names[-2]
                disk.stream(disk.names[0])
                disk.snapshot()
                disk.commit_active(disk.names[0])
                disk.snapshot()
                disk.stream()
                assert backing(disk.daemon, disk.names[-1]) is None
            total = load.stop()
        disk.check(total)
    finally:
        if disk.daemon.alive():
            disk.daemon.kill()


def test_chain_of_two_commit_and_reads(images):
    """An I/O thread, a chain of two snapshots, commit, a client that reads, job-dismiss: again and again without a hang."""
    disk = Disk(images, True, size=4 * MIB)
    img_load = dict(mode='read', depth=8, range=4 * MIB)
    try:
        with Load(disk.socket, ['disk'], **img_load) as load:
            for _ in range(500):
                disk.snapshot()
                disk.snapshot()
                disk.commit_active()
            total = load.stop()
        assert total['requests'] > 0
        disk.daemon.stop()
    finally:
        if disk.daemon.alive():
            disk.daemon.kill()


def test_guests_faster_than_the_job(images):
    """A job that copies more slowly than guests write becomes ready nevertheless, by slowing them down; then they are fast again."""
    disk = Disk(images, True)
    d = disk.daemon
    try:
        disk.snapshot()
        with Load(disk.socket, ['disk'], mode='write', depth=16, range=24 * MIB) as load:
            load.begin()
            time.sleep(1)
            before = load.end()
            d.cmd('block-commit', {'job-id': 'j', 'device': 'o1', 'base-node': 'base', 'speed': 24 * MIB, 'auto-dismiss': False})
            wait_status(d, 'j', 'ready', timeout=120)
            time.sleep(1)  # what waits at that moment goes on
            load.begin()
            time.sleep(1)
            after = load.end()
            d.cmd('job-complete', id='j')
            wait_status(d, 'j', 'concluded', timeout=120)
            assert error_of(d, 'j') is None
            load.stop()
        assert d.cmd('query-block-exports')[0]['node-name'] == 'base'
        assert after['requests'] > before['requests'] / 20, (before, after)
        d.stop()
        img.check(images / 'base')
    finally:
        if d.alive():
            d.kill()
