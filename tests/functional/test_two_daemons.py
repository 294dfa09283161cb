# SPDX-License-Identifier: BSD-3-Clause
"""One cut over two daemons, by the coordinator of docs/groups.md: dependent writers across both, and crashes in between."""
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import images as img
from lib.daemon import SLOW, Daemon

COORDINATOR = Path(__file__).resolve().parents[2] / 'docs' / 'examples' / 'cut-across-daemons'
DISKS = 4  # of each of two daemons
CHAINS = 6
BLOCK = 512
SIZE = 64 << 20
HOLD = 20000  # ms; long, since a busy machine must not let it expire


class Chain(threading.Thread):
    """Writes record n to disk n mod 8 only when record n - 1 was acknowledged; every record has a place of its own.

    durable: each is durable when it is acknowledged, as guests do it that depend on it: what was not flushed may go with a daemon."""

    def __init__(self, setup, number, durable):
        super().__init__()
        self.flags = nbd.CMD_FLAG_FUA if durable else 0
        self.number = number
        self.acknowledged = 0
        self.stopping = False
        self.handles = []
        for d in range(2 * DISKS):
            h = nbd.NBD()
            h.connect_uri(f'nbd+unix:///disk{d}?socket={setup.nbd_socket(d // DISKS)}')
            self.handles.append(h)

    def run(self):
        n = 0
        try:
            while not self.stopping:
                n += 1
                self.handles[n % (2 * DISKS)].pwrite(n.to_bytes(8, 'little') * (BLOCK // 8), place(self.number, n), self.flags)
                self.acknowledged = n
        except nbd.Error:
            pass  # its daemon was killed


def place(chain, n):
    return (n // (2 * DISKS) * CHAINS + chain) * BLOCK


class Setup:
    def __init__(self, directory):
        self.dir = Path(directory)
        self.daemons = [None, None]
        for d in range(2 * DISKS):
            img.create(self.base(d), SIZE)
        for i in range(2):
            actions = [{'type': 'blockdev-snapshot-sync',
                        'data': {'node-name': f'disk{d}', 'snapshot-node-name': f'{{name}}-{d}', 'snapshot-file': f'{self.dir}/{{name}}-{d}.qcow2'}}
                       for d in self.disks(i)]
            (self.dir / f'actions{i}.json').write_text(json.dumps(actions))

    def base(self, d):
        return self.dir / f'disk{d}.qcow2'

    def disks(self, i):
        return range(i * DISKS, (i + 1) * DISKS)

    def nbd_socket(self, i):
        return self.dir / f'nbd{i}.sock'

    def start(self, i):
        directory = self.dir / f'daemon{i}'
        directory.mkdir(exist_ok=True)
        for p in (directory / 'qmp.sock', directory / 'own.sock', self.nbd_socket(i)):
            p.unlink(missing_ok=True)
        args = ['--snapshot-journal', f'{directory}/journal.db,follow=on',
                '--chardev', f'socket,id=own,path={directory}/own.sock,server=on,wait=off', '--monitor', 'own',
                '--nbd-server', f'addr.type=unix,addr.path={self.nbd_socket(i)},max-connections=0']
        for d in self.disks(i):
            args += ['--blockdev', f'driver=qcow2,node-name=disk{d},file.driver=file,file.filename={self.base(d)}',
                     '--export', f'nbd,id=e{d},node-name=disk{d},name=disk{d},writable=on']
        self.daemons[i] = Daemon(args, directory=directory)

    def kill(self, i):
        self.daemons[i].process.kill()
        self.daemons[i].process.wait()
        self.daemons[i]._close_files()
        self.daemons[i] = None

    def coordinator(self, name, *options, wait=True):
        argv = [sys.executable, str(COORDINATOR), '--state', str(self.dir), '--hold', str(HOLD), *options, name,
                *(f'{self.dir}/daemon{i}/own.sock={self.dir}/actions{i}.json' for i in range(2))]
        p = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not wait:
            return p
        out, err = p.communicate(timeout=60 * SLOW)
        return p.returncode, out.strip(), err

    def chains(self, durable=False):
        chains = [Chain(self, c, durable) for c in range(CHAINS)]
        for c in chains:
            c.start()
        return chains

    def stop(self):
        for i in range(2):
            if self.daemons[i]:
                self.daemons[i].stop()

    def check_cut(self, name, least=None):
        """What was below the overlays of group `name` is one consistent cut."""
        contents = []
        for d in range(2 * DISKS):
            below = img.info(self.dir / f'{name}-{d}.qcow2')['backing-filename']
            contents.append(img.contents(below, SIZE))
        for c in range(CHAINS):
            n = 1
            while contents[n % (2 * DISKS)][place(c, n):place(c, n) + 8] == n.to_bytes(8, 'little'):
                n += 1
            last = n - 1
            # nothing behind the first gap, on any disk
            for later in range(n, n + 40 * 2 * DISKS):
                at = place(c, later)
                assert contents[later % (2 * DISKS)][at:at + 8] == bytes(8), (name, c, last, later)
            if least:
                assert last >= least[c], (name, c, last, least[c])


@pytest.fixture
def setup(images):
    s = Setup(images)
    for i in range(2):
        s.start(i)
    yield s
    for d in s.daemons:
        if d and d.process.poll() is None:
            d.process.kill()
            d.process.wait()
            d._close_files()


def advance(chains, records=4 * 2 * DISKS):
    """Waits until each chain has written so many more: several on every disk."""
    goals = [c.acknowledged + records for c in chains]
    deadline = time.monotonic() + 30 * SLOW
    while any(c.acknowledged < g for c, g in zip(chains, goals)):
        assert all(c.is_alive() for c in chains) and time.monotonic() < deadline, [(c.acknowledged, g) for c, g in zip(chains, goals)]
        time.sleep(0.005)


def stop_chains(chains):
    for c in chains:
        c.stopping = True
    for c in chains:
        c.join(20)
        assert not c.is_alive()
        for h in c.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass


def test_one_cut(setup):
    chains = setup.chains()
    least = []
    for r in range(4):
        advance(chains)
        least.append([c.acknowledged for c in chains])
        code, out, err = setup.coordinator(f'r{r}')
        assert (code, out) == (0, f'r{r}'), err
        # the actions name the first nodes; from here on the newest ones
        for i in range(2):
            path = setup.dir / f'actions{i}.json'
            actions = json.loads(path.read_text())
            for d, a in zip(setup.disks(i), actions):
                a['data']['node-name'] = f'r{r}-{d}'
            path.write_text(json.dumps(actions))
    stop_chains(chains)
    setup.stop()
    for r in range(4):
        setup.check_cut(f'r{r}', least[r])
    # the whole of it: all records are somewhere in the chains
    tops = [img.contents(setup.dir / f'r3-{d}.qcow2', SIZE) for d in range(2 * DISKS)]
    for c in chains:
        for n in range(1, c.acknowledged + 1):
            at = place(c.number, n)
            assert tops[n % (2 * DISKS)][at:at + 8] == n.to_bytes(8, 'little')


def test_without_holds_it_is_none(setup):
    """The test can fail: commits one after another, without holds, are no consistent cut."""
    chains = setup.chains()
    advance(chains)
    for i in range(2):
        actions = json.loads((setup.dir / f'actions{i}.json').read_text().replace('{name}', 'u'))
        setup.daemons[i].cmd('transaction', actions=actions)
        advance(chains)  # records that are in the second daemon's old images, but not all in the first one's
    stop_chains(chains)
    setup.stop()
    with pytest.raises(AssertionError):
        setup.check_cut('u')


@pytest.mark.parametrize('victim', ['first', 'second', 'coordinator'])
@pytest.mark.parametrize('moment', ['prepared', 'held', 'half'])
def test_crash_in_between(setup, victim, moment):
    """Something dies when all is prepared, when all is held, or when one of two is committed; the coordinator, run again, repairs."""
    chains = setup.chains(durable=True)
    advance(chains, 2 * DISKS)
    for i in range(2):
        actions = json.loads((setup.dir / f'actions{i}.json').read_text().replace('{name}', 'g'))
        setup.daemons[i].cmd('transaction-prepare', {'id': 'g', 'actions': actions, 'timeout': 60000})
    if moment != 'prepared':
        for d in setup.daemons:
            d.cmd('transaction-hold', {'id': 'g', 'timeout': HOLD})
    if moment == 'half':
        (setup.dir / 'g.decision').write_text('commit\n')
        setup.daemons[0].cmd('transaction-commit', {'id': 'g'})
    # the coordinator that did this is gone now, whatever else is
    if victim != 'coordinator':
        i = ['first', 'second'].index(victim)
        setup.kill(i)
        setup.start(i)
    code, out, err = setup.coordinator('g')
    assert code == 0, err
    stop_chains(chains)
    for d in setup.daemons:
        assert d.cmd('query-transactions') == []
        assert {g['id']: g['state'] for g in d.cmd('query-snapshot-groups')}[out] == 'settled'
    setup.stop()
    setup.check_cut(out)
    for d in range(2 * DISKS):
        checked = img.run('qemu-img', 'check', '-q', setup.dir / f'{out}-{d}.qcow2', check=False)
        assert checked.returncode in (0, 3), checked.stdout  # 3: leaks


def test_expired_half(setup):
    """One is cut, the other's time runs out before the coordinator comes back: no cut; a new group is made."""
    chains = setup.chains()
    advance(chains, 2 * DISKS)
    for i in range(2):
        actions = json.loads((setup.dir / f'actions{i}.json').read_text().replace('{name}', 'g'))
        setup.daemons[i].cmd('transaction-prepare', {'id': 'g', 'actions': actions, 'timeout': 60000})
    for d, timeout in zip(setup.daemons, (HOLD, 300)):
        d.cmd('transaction-hold', {'id': 'g', 'timeout': timeout})
    (setup.dir / 'g.decision').write_text('commit\n')
    setup.daemons[0].cmd('transaction-commit', {'id': 'g'})
    setup.daemons[1].qmp.event('TRANSACTION_EXPIRED')
    # the first daemon's disks have an overlay now
    actions = json.loads((setup.dir / 'actions0.json').read_text())
    for d, a in zip(setup.disks(0), actions):
        a['data']['node-name'] = f'g-{d}'
    (setup.dir / 'actions0.json').write_text(json.dumps(actions))
    code, out, err = setup.coordinator('g')
    assert (code, out) == (0, 'g.1'), err
    stop_chains(chains)
    setup.stop()
