# SPDX-License-Identifier: BSD-3-Clause
"""A backing chain of qcow2 images with known contents, opened node by node as libvirt does it.

Image i (0: the base) is `n<i>.qcow2` with the nodes `s<i>` (file) and `n<i>` (format); the last one is the disk.
"""
import random
from pathlib import Path

from . import images as img

MIB = 1 << 20


class Chain:
    """n images of `size` bytes; each is written to at places of its own and at places of those below it."""

    def __init__(self, directory, n, size=16 * MIB, seed=1, options=None, sizes=None, base_format='qcow2', writes=24):
        self.directory = Path(directory)
        self.n = n
        self.size = size
        self.files = [self.directory / f'n{i}.qcow2' for i in range(n)]
        rng = random.Random(seed)
        self.formats = [base_format] + ['qcow2'] * (n - 1)
        for i, path in enumerate(self.files):
            s = sizes[i] if sizes else size
            img.create(path, str(s), fmt=self.formats[i], backing=self.files[i - 1] if i else None,
                       backing_fmt=self.formats[i - 1] if i else None, options=options if self.formats[i] == 'qcow2' else None)
            commands = []
            for _ in range(writes):
                length = rng.choice([512, 4096, 65536, 3 * 65536, 10000 // 512 * 512, MIB])
                offset = rng.randrange(0, s - length, 512) if s > length else 0
                if i and rng.random() < 0.2:
                    commands.append(f'write -z {"-u" if rng.random() < 0.5 else ""} {offset} {min(length, s)}')
                else:
                    commands.append(f'write -P {rng.randrange(1, 255)} {offset} {min(length, s)}')
            img.qemu_io(path, *commands, fmt=self.formats[i])

    def contents(self, i=-1):
        return img.contents(self.files[i], self.size) if self.formats[i] == 'qcow2' else self.files[i].read_bytes()

    def arguments(self, top=None, export=True, iothread=None, options='', filters=()):
        """Command line of a daemon with the chain up to image `top`.  filters: {i: driver}, the node `f<i>` between image i and its user."""
        top = self.n - 1 if top is None else top
        argv = ['--object', 'throttle-group,id=g'] if filters else []

        def user(i):
            return f'f{i}' if i in filters else f'n{i}'
        for i in range(top + 1):
            argv += ['--blockdev', f'driver=file,node-name=s{i},filename={self.files[i]},auto-read-only=on,discard=unmap{options}']
            argv += ['--blockdev', f'driver={self.formats[i]},node-name=n{i},file=s{i},discard=unmap,'
                                   f'read-only={"off" if i == top else "on"}' +
                     (f',backing={user(i - 1)}' if i else ',backing=' if self.formats[i] == 'qcow2' else '')]
            if i in filters:
                argv += ['--blockdev', f'driver={filters[i]},node-name=f{i},file=n{i},read-only={"off" if i == top else "on"}' +
                         (',throttle-group=g' if filters[i] == 'throttle' else '')]
        if export:
            if iothread:
                argv += ['--object', f'iothread,id={iothread}']
            argv += ['--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0',
                     '--export', f'type=nbd,id=e,node-name={user(top)},name=disk,writable=on' +
                     (f',iothread={iothread}' if iothread else '')]
        return argv

    @property
    def socket(self):
        return self.directory / 'nbd.sock'

    @property
    def uri(self):
        return f'nbd+unix:///disk?socket={self.socket}'


def nodes(d):
    return {n['node-name']: n for n in d.cmd('query-named-block-nodes', {'flat': True})}


def backing(d, name):
    """Name of the backing node; None: there is none."""
    for child in nodes(d)[name]['children']:
        if child['child'] == 'backing':
            return child['node-name']
    return None


def path(d, name):
    """Names from that node down: images and the filters between them."""
    names, all_nodes = [], nodes(d)
    while name:
        names.append(name)
        n = all_nodes[name]
        below = {c['child']: c['node-name'] for c in n['children']}
        name = below.get('backing') if n['drv'] in ('qcow2', 'raw') else below.get('file')
    return names


def drop(d, *numbers):
    """Deletes nodes as libvirt does it right after a job: format, then storage."""
    for i in numbers:
        d.cmd('blockdev-del', node_name=f'n{i}')
        d.cmd('blockdev-del', node_name=f's{i}')
