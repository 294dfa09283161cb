# SPDX-License-Identifier: BSD-3-Clause
"""The demo: one snapshot of many live disks, by us and by qemu-storage-daemon, under the same load, judged from outside.

The load is that of dependent writers (tests/tools/nbdload.c): each writes record after record, every one to another disk and only when
the one before was acknowledged, so that the order of all writes is known and the set of snapshotted images can be judged.
"""
import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'functional'))

from lib import images, records  # noqa: E402
from lib.daemon import PEER, DaemonFailed, daemon_binary  # noqa: E402
from lib.disks import Disks  # noqa: E402
from lib.load import LoadFailed  # noqa: E402
from lib.qmp import QmpClosed, QmpError, QmpTimeout  # noqa: E402

CHAINS, SLOTS, THREADS = 32, 64, 2
PREPARED_SECONDS, AFTER_SECONDS = 3, 2


class Result:
    """What one daemon did."""

    def __init__(self, name):
        self.name = name
        self.problems = []
        self.checked = 0
        self.frozen = 0
        self.same = 0
        self.before = self.during = self.after = None
        self.transaction_ms = None
        self.cut = None


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def verify(result, what, good):
    if not good:
        result.problems.append(what)
    return good


def judge_files(result, disks, frozen, guest_views):
    """qemu-img's opinion of every image, and whether the frozen ones are what they were."""
    for i in range(disks.n):
        base, overlay = disks.layers[i]
        for image in (base, overlay):
            try:
                images.check(image)
                result.checked += 1
            except images.ToolFailed as e:
                result.problems.append(str(e))
        if verify(result, f'{base.name} has changed since the cut', digest(base) == frozen[i]):
            result.frozen += 1
        if verify(result, f'{overlay.name} does not read as its daemon served it', images.compare(overlay, guest_views[i])):
            result.same += 1
        backing = images.info(overlay).get('full-backing-filename')
        verify(result, f'{overlay.name} has backing file {backing}', backing == str(base))


def serve(result, disks):
    """Runs the daemon with its load and takes the snapshot; digests of the frozen files, copies of what guests see at the end."""
    with disks:
        daemon = disks.start()
        with disks.load(mode='chain', chains=CHAINS, slots=SLOTS, threads=THREADS) as load:
            load.begin('before')
            time.sleep(PREPARED_SECONDS)
            result.before = load.end()
            load.begin('during')
            started = time.monotonic()
            disks.snapshot()
            result.transaction_ms = (time.monotonic() - started) * 1000
            result.during = load.end()
            # The old files are frozen now, with the load still running.
            frozen = [digest(layers[0]) for layers in disks.layers]
            load.begin('after')
            time.sleep(AFTER_SECONDS)
            result.after = load.end()
            total = load.stop()
        views = []
        for i in range(disks.n):
            view = disks.directory / f'view{i}.raw'
            images.run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', f'nbd+unix:///{disks.exports[i]}?socket={disks.socket}',
                       view)
            views.append(view)
        daemon.stop()
    return total, frozen, views


def run_daemon(name, binary, directory, n):
    result = Result(name)
    layout = records.Layout(n, CHAINS, SLOTS)
    directory.mkdir()
    try:
        disks = Disks(directory, n, size='1G', binary=binary)
        total, frozen, views = serve(result, disks)
        judge_files(result, disks, frozen, views)
        result.cut = records.check_in_time(records.read_cut(layout, disks.contents(0, layout.length)), result.during)
        result.problems += result.cut.problems[:3]
        final = records.read_cut(layout, disks.contents(1, layout.length))
        result.problems += final.problems[:3]
        verify(result, 'an acknowledged write is missing at the end', final.last == total['completed'])
    except (DaemonFailed, LoadFailed, QmpError, QmpClosed, QmpTimeout, images.ToolFailed, subprocess.TimeoutExpired) as e:
        result.problems.append(str(e))
    return result


def ms(value):
    return f'{value:.1f} ms' if value < 1000 else f'{value / 1000:.2f} s'


def rate(window):
    return f"{window['requests'] / window['seconds']:,.0f} /s"


def print_table(results):
    rows = [('', *(r.name for r in results))]
    done = all(r.after for r in results)
    if done:
        rows += [
            ('the transaction took', *(ms(r.transaction_ms) for r in results)),
            ('longest request meanwhile', *(ms(r.during['max_ms']) for r in results)),
            ('  in the seconds before', *(ms(r.before['max_ms']) for r in results)),
            ('  in the seconds after', *(ms(r.after['max_ms']) for r in results)),
            ('writes before', *(rate(r.before) for r in results)),
            ('writes after', *(rate(r.after) for r in results)),
        ]
    n = 'n/a'
    rows += [
        ('qemu-img check: images whole', *(str(r.checked) for r in results)),
        ('old images unchanged since the cut', *(str(r.frozen) for r in results)),
        ('qemu-img compare: chain as served', *(str(r.same) for r in results)),
        ('records in the cut', *(f'{sum(r.cut.last):,}' if r.cut else n for r in results)),
        ('one consistent cut', *(('yes' if r.cut.consistent else 'NO') if r.cut else n for r in results)),
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    for k, row in enumerate(rows):
        print('  ' + row[0].ljust(widths[0]) + ''.join('   ' + cell.rjust(w) for cell, w in zip(row[1:], widths[1:])))
        if k == 0:
            print('  ' + '-' * (sum(widths) + 3 * (len(widths) - 1)))


def main():
    parser = argparse.ArgumentParser(prog='scripts/demo')
    parser.add_argument('--disks', type=int, default=8)
    parser.add_argument('--directory', type=Path)
    parser.add_argument('--keep', action='store_true')
    args = parser.parse_args()
    if not 1 <= args.disks <= 64:
        parser.error('--disks: 1 to 64')
    if args.directory:
        args.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix='cutpoint-demo-', dir=args.directory or '/var/tmp')).resolve()
    version = images.run(PEER, '--version').split()[2]
    print(f'{args.disks} qcow2 disks of 1 GiB, exported over NBD; {CHAINS} dependent writers, 4 KiB records, on all of them.')
    print('While they write, one `transaction` snapshots all disks.  The same load and the same command for both daemons.\n')
    results = []
    try:
        for name, binary in (('cutpointd', daemon_binary()), (f'qemu-storage-daemon {version}', PEER)):
            print(f'Running {name} ...', flush=True)
            results.append(run_daemon(name, binary, directory / Path(binary).name, args.disks))
    finally:
        if args.keep:
            print(f'The images are in {directory}')
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print()
    print_table(results)
    print()
    bad = 0
    for r in results:
        for problem in r.problems:
            print(f'WRONG: {r.name}: {problem}')
            bad = 1
    if not bad:
        ours, peer = results
        print(f"Every check passed.  The longest request waited {peer.during['max_ms'] / ours.during['max_ms']:.0f} times as long with "
              f'qemu-storage-daemon,\nand its transaction took {peer.transaction_ms / ours.transaction_ms:.1f} times as long.')
    return bad


if __name__ == '__main__':
    sys.exit(main())
