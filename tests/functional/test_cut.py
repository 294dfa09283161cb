# SPDX-License-Identifier: BSD-3-Clause
"""Groups snapshotted under a load of dependent writers: every set of images forms one consistent cut (T1, T6), nothing is lost."""
import time

import pytest

from lib import images as img
from lib import records
from lib.disks import Disks

CHAINS, SLOTS = 16, 32


def cuts(images, disks_n, rounds, iothreads, snapshot, flush_every=0):
    """Snapshots again and again under load; the cuts, oldest first, then what is there at the end, and what was completed."""
    layout = records.Layout(disks_n, CHAINS, SLOTS)
    options = {'flush-every': flush_every} if flush_every else {}
    with Disks(images, disks_n, iothreads=iothreads) as disks:
        daemon = disks.start()
        with disks.load(mode='chain', chains=CHAINS, slots=SLOTS, threads=2, **options) as load:
            for _ in range(rounds):
                time.sleep(0.05)
                snapshot(disks)
            time.sleep(0.1)
            total = load.stop()
        daemon.stop()
        for layers in disks.layers:
            for path in layers:
                img.check(path)
        seen = [records.read_cut(layout, disks.contents(layer, layout.length)) for layer in range(rounds + 1)]
    return seen[:-1], seen[-1], total


@pytest.mark.parametrize('iothreads', [0, 3])
def test_every_round_is_one_consistent_cut(images, iothreads):
    rounds, last, total = cuts(images, 6, 20, iothreads, Disks.snapshot)
    for number, cut in enumerate(rounds):
        assert cut.consistent, (number, cut.problems[:3])
    assert last.consistent, last.problems[:3]
    assert last.last == total['completed']
    assert sum(rounds[0].last) > 0
    for older, newer in zip(rounds, rounds[1:]):
        assert all(a <= b for a, b in zip(older.last, newer.last))


def one_by_one(disks):
    for i in range(disks.n):
        disks.daemon.qmp.cmd('transaction', actions=disks.actions([i]))
    disks.took()


def test_disks_cut_one_by_one_are_found_out(images):
    """The judge can fail: separate transactions give no consistent cut."""
    rounds, last, total = cuts(images, 6, 5, 0, one_by_one)
    assert not all(cut.consistent for cut in rounds)
    assert last.consistent and last.last == total['completed']


def test_clients_keep_their_connections_and_see_the_overlay(images):
    with Disks(images, 2) as disks:
        daemon = disks.start()
        with disks.load(mode='write', depth=4, threads=1) as load:
            disks.snapshot()
            disks.snapshot()
            load.stop()
        exports = daemon.cmd('query-block-exports')
        assert sorted(e['node-name'] for e in exports) == ['snap2-disk0', 'snap2-disk1']
        nodes = {n['node-name']: n for n in daemon.cmd('query-named-block-nodes', {'flat': True})}
        for i in range(2):
            assert nodes[f'disk{i}']['ro'] and nodes[f'snap1-disk{i}']['ro']
            assert not nodes[f'snap2-disk{i}']['ro']
        # The old image can be read by others, the new one is ours.
        assert not img.can_write(disks.layers[0][2])
        img.run('qemu-img', 'info', disks.layers[0][0])
