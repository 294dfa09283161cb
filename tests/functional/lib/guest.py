# SPDX-License-Identifier: BSD-3-Clause
"""Real guests: Debian's kernel under QEMU's TCG, with tests/tools/guest-init.c as all that runs in them.

The kernel comes from scripts/setup, which unpacks Debian's package; GUEST_KERNEL_DIR: where (default: ~/.cache/cutpoint/guest-kernel).
"""
import gzip
import json
import os
import re
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from . import images
from .daemon import ROOT, SLOW

MODULES = ('virtio/virtio_ring', 'virtio/virtio', 'virtio/virtio_pci_modern_dev', 'virtio/virtio_pci_legacy_dev', 'virtio/virtio_pci',
           'block/virtio_blk')
BLOCK, MAGIC = 4096, 0x64726f6365726370
MASK = 2**64 - 1


def kernel_directory():
    default = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'cutpoint' / 'guest-kernel'
    return Path(os.environ.get('GUEST_KERNEL_DIR', default))


def kernel():
    found = sorted(kernel_directory().glob('boot/vmlinuz-*'))
    if not found:
        raise FileNotFoundError(f'no guest kernel in {kernel_directory()}: run scripts/setup')
    return found[-1]


def cpio(files):
    """An archive as the kernel's initramfs is: (name, mode, contents)."""
    out = bytearray()

    def entry(name, mode, data):
        name = name.encode() + b'\0'
        out.extend(b'070701' + b''.join(b'%08x' % n for n in (
            len(out) + 1, mode, 0, 0, 1, 0, len(data), 5, 1, 5, 1, len(name), 0)) + name)
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for name, mode, data in files:
        entry(name, mode, data)
    entry('TRAILER!!!', 0, b'')
    return bytes(out)


def initramfs(path):
    init = Path(os.environ.get('GUEST_INIT', ROOT / 'build' / 'tests' / 'tools' / 'guest-init'))
    files = [('dev', 0o040755, b''), ('modules', 0o040755, b''), ('init', 0o100755, init.read_bytes())]
    drivers = next(kernel_directory().glob('lib/modules/*/kernel/drivers'))
    for i, name in enumerate(MODULES):
        files.append((f'modules/{i:02}.ko', 0o100644, (drivers / f'{name}.ko').read_bytes()))
    path.write_bytes(gzip.compress(cpio(files), 1))
    return path


class Guest:
    """A virtual machine with disks: {'vub': socket path, options...} or {'nbd': uri}, which become vda, vdb, ... in this order.

    environment: what guest-init.c is told.  Lines that it says are kept with the time they came; pipe: called with every line that
    comes over its second serial port (its `send` answers)."""

    def __init__(self, directory, disks, environment, memory=192, cpus=2, on_line=None, name='guest'):
        self.directory, self.lines, self.stats, self.on_line = Path(directory), [], [], on_line
        self.control = self.directory / f'{name}.console'
        self.second = self.directory / f'{name}.second'
        self.qmp_path = self.directory / f'{name}.qmp'
        words = ' '.join(f'{k}={v}' for k, v in environment.items())
        argv = ['qemu-system-x86_64', '-machine', 'q35,memory-backend=mem,accel=tcg', '-cpu', 'max', '-smp', str(cpus),
                '-m', str(memory), '-object', f'memory-backend-memfd,id=mem,size={memory}M,share=on', '-nodefaults', '-no-reboot',
                '-display', 'none', '-kernel', str(kernel()), '-initrd', str(initramfs(self.directory / f'{name}.cpio.gz')),
                '-append', f'console=ttyS0 quiet panic=-1 no_timer_check {words}',
                '-chardev', f'socket,id=console,path={self.control},server=on,wait=on', '-serial', 'chardev:console',
                '-chardev', f'socket,id=second,path={self.second},server=on,wait=on', '-serial', 'chardev:second']
        for i, disk in enumerate(disks):
            options = ''.join(f',{k}={v}' for k, v in {'num-queues': 1, **disk}.items() if k not in ('vub', 'nbd'))
            if 'vub' in disk:
                argv += ['-chardev', f'socket,id=c{i},path={disk["vub"]},reconnect=1',
                         '-device', f'vhost-user-blk-pci,id=disk{i},addr={i + 4:#x},chardev=c{i}{options}']
            else:
                argv += ['-blockdev', json.dumps({'driver': 'nbd', 'node-name': f'n{i}', 'export': disk['export'], 'server': {
                            'type': 'unix', 'path': str(disk['nbd'])}}),
                         '-device', f'virtio-blk-pci,id=disk{i},addr={i + 4:#x},drive=n{i}']
        self.log = open(self.directory / f'{name}.log', 'w+', encoding='utf-8')
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.console = self._connect(self.control)
        self.pipe = self._connect(self.second)
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _connect(self, path):
        deadline = time.monotonic() + 20 * SLOW
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(str(path))
                return s
            except (FileNotFoundError, ConnectionRefusedError):
                s.close()
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(f'qemu does not start: {self.output()}') from None
                time.sleep(0.02)

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def _read(self):
        buffers = {self.console: b'', self.pipe: b''}
        while buffers:
            for s in select.select(list(buffers), [], [])[0]:
                data = s.recv(65536)
                if not data:
                    del buffers[s]
                    continue
                *lines, buffers[s] = (buffers[s] + data).split(b'\n')
                for line in lines:
                    self._line(s is self.pipe, line.decode(errors='replace').strip())
        with self.changed:
            self.lines.append((time.monotonic(), 'END'))
            self.changed.notify_all()

    def _line(self, second, line):
        if second:
            if self.on_line:
                self.on_line(line)
            return
        with self.changed:
            stat = re.search(r'STAT (\d+) (\d+) (\d+)$', line)
            if stat:
                self.stats.append((time.monotonic(), *map(int, stat.groups())))
            elif line:
                self.lines.append((time.monotonic(), line))
            self.changed.notify_all()

    def send(self, line):
        """To the second serial port; a guest that has gone hears nothing."""
        try:
            self.pipe.sendall(line.encode() + b'\n')
        except OSError:
            pass

    def said(self, what):
        return [line for _, line in self.lines if what in line]

    def check(self):
        wrong = self.said('MISMATCH') + self.said('FAILED') + self.said('error') + self.said('panic')
        assert not wrong, wrong
        assert self.process.poll() is None, self.output()

    def wait_line(self, what, timeout=60):
        deadline = time.monotonic() + timeout * SLOW
        with self.changed:
            while not self.said(what):
                assert not self.said('END') and time.monotonic() < deadline, (what, self.lines[-20:], self.output())
                self.changed.wait(1)

    def wait_requests(self, n, timeout=60):
        """Until that many more were answered."""
        deadline = time.monotonic() + timeout * SLOW
        with self.changed:
            start = len(self.stats)
            while sum(s[1] for s in self.stats[start:]) < n:
                assert not self.said('END') and time.monotonic() < deadline, (self.stats[-5:], self.lines[-20:], self.output())
                self.changed.wait(1)

    def longest(self, since=0, until=float('inf')):
        """ms of the longest request that was answered in the time, flushes included."""
        return max((max(s[2], s[3]) / 1000 for s in self.stats if since <= s[0] <= until), default=0)

    def shut_down(self, timeout=60):
        self.console.sendall(b'q')
        self.wait_line('DONE', timeout)
        self.process.wait(timeout * SLOW)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for s in (self.console, self.pipe):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.reader.join(10)
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, exc_type, *exc):
        if exc_type:
            print('--- guest ---', *(line for _, line in self.lines[-30:]), sep='\n')
            print(self.output())
        self.kill()


# ---- what guests have written ----

def sequence(data, chain):
    """Number of the record in a block; -1: none.  Fails if it is damaged."""
    magic, of_chain, seq = struct.unpack_from('<QQQ', data)
    if magic == 0:
        assert not any(data), 'a block of zeroes with something in it'
        return -1
    assert (magic, of_chain) == (MAGIC, chain), (magic, of_chain, chain)
    expect = b''.join(struct.pack('<Q', (seq * 0x9e3779b97f4a7c15 + i) & MASK) for i in (0, 1, BLOCK // 8 - 5))
    assert data[32:48] + data[-8:] == expect, f'record {seq} of chain {chain} is torn'
    return seq


def raw_copy(image, path):
    images.run('qemu-img', 'convert', '-U', '-O', 'raw', image, path)
    return path


def records(image, scratch, ext4=False):
    """The part of a disk that records are in, as bytes; with a file system: its state is checked first, after the journal's replay."""
    copy = raw_copy(image, scratch)
    if not ext4:
        with open(copy, 'rb') as f:
            f.seek(1 << 20)
            return f.read()
    replay = images.run('e2fsck', '-p', copy, check=False)
    assert replay.returncode in (0, 1), replay.stdout + replay.stderr
    check = images.run('e2fsck', '-fn', copy, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    out = Path(f'{scratch}.records')
    images.run('debugfs', '-R', f'dump /records {out}', copy)
    return out.read_bytes()


def check_cut(disks, chains, slots):
    """disks: what records() returned, of every disk.  Each chain must end at one record, with everything before it there and nothing
    after it.  Returns the last records."""
    n, last = len(disks), []
    for chain in range(chains):
        found = {}
        for d, data in enumerate(disks):
            for slot in range(slots):
                at = (chain * slots + slot) * BLOCK
                found[d, slot] = sequence(data[at:at + BLOCK], chain)
        top = max(found.values())
        for (d, slot), seq in found.items():
            expect = top - (top - (slot * n + d)) % (n * slots) if top >= slot * n + d else -1
            assert seq == expect, f'chain {chain} ends with {top}, but disk {d} slot {slot} has {seq} instead of {expect}'
        last.append(top)
    return last
