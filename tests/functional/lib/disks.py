# SPDX-License-Identifier: BSD-3-Clause
"""A daemon with a number of qcow2 disks, each exported over NBD on one Unix socket, and snapshots of all of them.

Disk i has the export `disk<i>`.  Its first node is `disk<i>`, its first file `disk<i>.qcow2`; the r-th snapshot (from 1) puts node
`snap<r>-disk<i>` in the file `snap<r>-disk<i>.qcow2` on top.  layers[i] lists the files of disk i, oldest first.
"""
from pathlib import Path

from . import images
from .daemon import Daemon
from .load import Load


class Disks:
    """The files of n disks in a directory, and the daemon that serves them once start() is called."""

    def __init__(self, directory, n, size='64M', binary=None, iothreads=0, options='', image_options=None, make=True):
        self.directory = Path(directory)
        self.n = n
        self.binary = binary
        self.iothreads = iothreads
        self.options = options
        self.socket = self.directory / 'nbd.sock'
        self.exports = [f'disk{i}' for i in range(n)]
        self.layers = [[self.directory / f'disk{i}.qcow2'] for i in range(n)]
        self.nodes = [f'disk{i}' for i in range(n)]
        self.rounds = 0
        self.daemon = None
        if make:
            for i in range(n):
                images.create(self.layers[i][0], size, options=image_options)

    def arguments(self):
        """Command line of a daemon that serves the newest layer of every disk."""
        argv = []
        for t in range(self.iothreads):
            argv += ['--object', f'iothread,id=io{t}']
        argv += ['--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0']
        for i in range(self.n):
            argv += ['--blockdev', f'driver=qcow2,node-name={self.nodes[i]},discard=unmap,file.driver=file,'
                                   f'file.filename={self.layers[i][-1]}{self.options}']
            thread = f',iothread=io{i % self.iothreads}' if self.iothreads else ''
            argv += ['--export', f'type=nbd,id=export{i},node-name={self.nodes[i]},name={self.exports[i]},'
                                 f'writable=on{thread}']
        return argv

    def start(self, **kwargs):
        self.daemon = Daemon(self.arguments(), binary=self.binary, directory=self.directory, **kwargs)
        return self.daemon

    def load(self, **options):
        return Load(self.socket, self.exports, **options)

    # ---- snapshots ----

    def _layer(self, i, r):
        return f'snap{r}-disk{i}', self.directory / f'snap{r}-disk{i}.qcow2'

    def actions(self, disks=None):
        """The actions that take the next snapshot."""
        result = []
        for i in range(self.n) if disks is None else disks:
            node, path = self._layer(i, self.rounds + 1)
            result.append({'type': 'blockdev-snapshot-sync',
                           'data': {'node-name': self.nodes[i], 'snapshot-node-name': node, 'snapshot-file': str(path)}})
        return result

    def took(self):
        """The next snapshot was taken."""
        self.rounds += 1
        for i in range(self.n):
            node, path = self._layer(i, self.rounds)
            self.nodes[i] = node
            self.layers[i].append(path)

    def snapshot(self, session=None):
        """One transaction for all disks."""
        (session or self.daemon.qmp).cmd('transaction', actions=self.actions())
        self.took()

    # ---- contents ----

    def contents(self, layer, length):
        """What the guests of all disks saw when that layer (0: the oldest) was the newest."""
        return [images.contents(self.layers[i][layer], length) for i in range(self.n)]

    def __enter__(self):
        return self

    def __exit__(self, exc_type, *exc):
        if self.daemon and not self.daemon.stderr_file.closed:
            self.daemon.__exit__(exc_type, *exc)
