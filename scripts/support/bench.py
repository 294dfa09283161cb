# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: ratios against a peer in the same run; machines are noisy, so medians are shown, and all runs are kept in --json."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'functional'))

from lib import images  # noqa: E402
from lib.daemon import PEER, daemon_binary  # noqa: E402
from lib.disks import Disks  # noqa: E402
from lib.guest import Guest  # noqa: E402

from bench_groups import groups_run  # noqa: E402
from bench_jobs import job_run  # noqa: E402

CHAINS = 32
GROUP_DISKS = 64


def load_options(disks, hot):
    """Dependent 4 KiB writers over all disks that rewrite `hot` MiB in all: so much can be dirty in the page cache at the cut."""
    return {'mode': 'chain', 'chains': CHAINS, 'slots': max(1, hot * 256 // CHAINS // disks), 'threads': 2}


def make_files(directory, n):
    """What making n overlays asks of a file system, by another process: create, write, sync, sync the directory."""
    def one(i):
        fd = os.open(directory / f'other{i}', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        os.ftruncate(fd, 256 * 1024)
        for at, size in ((0, 1024), (65536, 512), (131072, 512)):
            os.pwrite(fd, b'x' * size, at)
        os.fsync(fd)
        os.close(fd)
    pid = os.fork()
    if pid == 0:
        threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os._exit(0)
    os.waitpid(pid, 0)


def snapshot_run(binary, directory, n, hot):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Disks(directory, n, size='1G', binary=binary) as disks:
        daemon = disks.start()
        with disks.load(**load_options(n, hot)) as load:
            time.sleep(2)
            load.begin('during')
            started = time.monotonic()
            disks.snapshot()
            took = (time.monotonic() - started) * 1000
            window = load.end()
            load.stop()
        daemon.stop()
    return {'longest_ms': window['max_ms'], 'transaction_ms': took}


def file_system_run(binary, directory, n, hot):
    """The load starts on fresh overlays of disks that it has written to before, while files are made."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with Disks(directory, n, size='1G', binary=binary) as disks:
        daemon = disks.start()
        with disks.load(**load_options(n, hot)) as load:
            time.sleep(2)
            load.stop()
        disks.snapshot()
        with disks.load(**load_options(n, hot)) as load:
            load.begin('during')
            make_files(directory, n)
            window = load.end()
            load.stop()
        daemon.stop()
    return {'longest_ms': window['max_ms']}


def io_run(binary, directory, rw):
    image, socket = directory / 'io.qcow2', directory / 'io.sock'
    socket.unlink(missing_ok=True)
    p = subprocess.Popen([binary, '--blockdev', f'driver=qcow2,node-name=d,file.driver=file,file.filename={image}',
                          '--nbd-server', f'addr.type=unix,addr.path={socket}', '--export', 'nbd,id=e,node-name=d,name=d,writable=on'])
    while not socket.exists():
        time.sleep(0.02)
    out = subprocess.run(['fio', '--name=x', '--ioengine=nbd', f'--uri=nbd+unix:///d?socket={socket}', f'--rw={rw}', '--bs=4k',
                          '--iodepth=32', '--runtime=5', '--time_based', '--size=1G', '--output-format=json'],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    fields = Path(f'/proc/{p.pid}/stat').read_text().rsplit(')', 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
    p.terminate()
    p.wait()
    job = json.loads(out[out.index('{'):])['jobs'][0]['read' if rw == 'randread' else 'write']
    return {'rate': job['iops'], 'cpu_us': cpu * 1e6 / job['total_ios'], 'p99_us': job['clat_ns']['percentile']['99.000000'] / 1000}


def guest_run(binary, directory, rw):
    """A guest's 16 requests of 4 KiB at a time to one vhost-user-blk disk, a file in the page cache."""
    image, sock = directory / 'guest.raw', directory / 'guest.sock'
    sock.unlink(missing_ok=True)
    p = subprocess.Popen([binary, '--blockdev', f'driver=raw,node-name=d,file.driver=file,file.filename={image}', '--export',
                          f'type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=unix,addr.path={sock}'])
    while not sock.exists():
        time.sleep(0.02)

    def cpu():
        fields = Path(f'/proc/{p.pid}/stat').read_text().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    with Guest(directory, [{'vub': sock}], {'DISKS': 'vda', 'BENCH': rw, 'CHAINS': 16}) as guest:
        guest.wait_line('READY')
        time.sleep(2)
        first, used, began = len(guest.stats), cpu(), time.monotonic()
        time.sleep(8)
        requests, used = sum(s[1] for s in guest.stats[first:]), cpu() - used
        took = time.monotonic() - began
        guest.check()
    p.terminate()
    p.wait()
    return {'rate': requests / took, 'cpu_us': used * 1e6 / requests}


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def show(name, unit, ours, peer, target):
    print(f'  {name:<44} {ours:>12,.1f} {peer:>14,.1f} {unit:<4} {target}')


def main():
    parser = argparse.ArgumentParser(prog='scripts/bench')
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--disks', type=int, default=32)
    parser.add_argument('--hot', type=int, nargs='+', default=[16, 256])
    parser.add_argument('--directory', default='/var/tmp')
    parser.add_argument('--json')
    parser.add_argument('--job-mib', type=int, default=4096)
    parser.add_argument('what', nargs='*', help='snapshot, io (both), groups, jobs, guest')
    args = parser.parse_args()
    what = args.what or ['snapshot', 'io']
    directory = Path(tempfile.mkdtemp(prefix='cutpoint-bench-', dir=args.directory))
    ours, peer = daemon_binary(), PEER
    results = {}
    try:
        print(f"  {'median of ' + str(args.runs) + ' runs':<44} {'cutpointd':>12} {'qemu-storage-d.':>14}")
        for hot in args.hot if 'snapshot' in what else []:
            print(f' {hot} MiB being rewritten')
            runs = {'ours': [], 'peer': [], 'file system': []}
            for _ in range(args.runs):
                runs['ours'].append(snapshot_run(ours, directory / 's', args.disks, hot))
                runs['peer'].append(snapshot_run(peer, directory / 's', args.disks, hot))
                runs['file system'].append(file_system_run(ours, directory / 's', args.disks, hot))
            results[f'snapshot {hot} MiB'] = runs
            a, b = median(runs['ours'], 'longest_ms'), median(runs['peer'], 'longest_ms')
            c = median(runs['file system'], 'longest_ms')
            show(f'longest request, {args.disks} disks', 'ms', a, b, f'1/{b / a:.0f} (target 1/50)')
            show('  the file system itself', 'ms', c, float('nan'), f'{a / c:.2f} times (target 1.5)')
            a, b = median(runs['ours'], 'transaction_ms'), median(runs['peer'], 'transaction_ms')
            show('transaction', 'ms', a, b, f'1/{b / a:.1f} (target 1/4)')
        if 'groups' in what:
            runs = results['groups'] = [groups_run(ours, directory / 'g', GROUP_DISKS) for _ in range(args.runs)]
            for key, name, target in (('prepared record', f'prepared group of {GROUP_DISKS}: the record', ''),
                                      ('prepared cut', '  from the record to the instant', '(target 1)'),
                                      ('held cut', f'held group of {GROUP_DISKS}: commit to the instant', '(target 1)'),
                                      ('expiry', '  expired, control thread stopped: late by', '(target 10)')):
                worst = max(r[key] for r in runs)
                print(f'  {name:<44} {median(runs, key):>12,.3f} {"":>14} ms   worst {worst:.3f} {target}')
        if 'io' in what:
            images.run('qemu-img', 'create', '-q', '-f', 'qcow2', directory / 'io.qcow2', '1G')
            images.run('qemu-io', '-f', 'qcow2', '-c', 'write 0 1G', directory / 'io.qcow2')
            for rw in ('randread', 'randwrite'):
                results[rw] = {'ours': [], 'peer': []}
                for _ in range(args.runs):
                    results[rw]['ours'].append(io_run(ours, directory, rw))
                    results[rw]['peer'].append(io_run(peer, directory, rw))
                for key, label, unit, target in (('rate', '4 KiB, depth 32', '/s', 'target: not lower'),
                                                 ('cpu_us', 'CPU a request', 'us', 'target: not higher'),
                                                 ('p99_us', '99th percentile', 'us', '')):
                    show(f'{rw} {label}', unit, median(results[rw]['ours'], key), median(results[rw]['peer'], key), target)
        for command in ('commit', 'active commit', 'stream', 'mirror', 'backup') if 'jobs' in what else []:
            runs = results[command] = {'ours': [], 'peer': [], 'ours with a client': []}
            for _ in range(args.runs):
                runs['ours'].append(job_run(ours, directory / 'j', args.job_mib, command, False))
                runs['peer'].append(job_run(peer, directory / 'j', args.job_mib, command, False))
                runs['ours with a client'].append(job_run(ours, directory / 'j', args.job_mib, command, True))
            a, b = median(runs['ours'], 'mib_s'), median(runs['peer'], 'mib_s')
            show(f'{command}, {args.job_mib} MiB', 'MiB/s', a, b, f'{a / b:.2f} times (target 1.2)')
            a, b = (median(runs['ours with a client'], k) for k in ('before_p99_ms', 'during_p99_ms'))
            show('  p99 of 4 KiB writes before, meanwhile', 'ms', a, b, f'{b / a:.1f} times (target 3)')
        if 'guest' in what:
            with open(directory / 'guest.raw', 'wb') as f:
                for _ in range(256):
                    f.write(os.urandom(1 << 20))
            for rw in ('read', 'write'):
                runs = results[f'guest {rw}'] = {'ours': [], 'peer': []}
                for _ in range(args.runs):
                    runs['ours'].append(guest_run(ours, directory, rw))
                    runs['peer'].append(guest_run(peer, directory, rw))
                for key, label, unit, target in (('rate', '4 KiB, 16 at a time', '/s', 'target: not lower'),
                                                 ('cpu_us', "daemon's CPU a request", 'us', 'target: 0.8')):
                    a, b = median(runs['ours'], key), median(runs['peer'], key)
                    show(f'guest {rw} {label}', unit, a, b, f'{a / b:.2f} ({target})')
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))
    return 0


if __name__ == '__main__':
    sys.exit(main())
