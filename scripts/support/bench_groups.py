# SPDX-License-Identifier: BSD-3-Clause
"""What the commit of a prepared and of a held group takes, and how late writes go on when a hold expires with the control thread stopped."""
import shutil
import threading
import time

import nbd

from lib import images
from lib.daemon import Daemon
from lib.load import Load
from lib.threads import stop_thread

HOLD_MS = 400
WRITERS = 8
LOAD = {'mode': 'chain', 'chains': 16, 'slots': 64, 'threads': 1}


class Write(threading.Thread):
    """One write; `ended` is when it was answered."""

    def __init__(self, socket, disk):
        super().__init__()
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///disk{disk}?socket={socket}')
        self.h.pwrite(b'w' * 4096, 0)  # so that the write to come need not allocate

    def run(self):
        self.h.pwrite(b'x' * 4096, 0)
        self.ended = time.monotonic()


def expiry_ms(daemon, socket, actions):
    """From the deadline of a hold until the last of some writes went on; the control thread does not run meanwhile."""
    writers = [Write(socket, i) for i in range(WRITERS)]
    daemon.cmd('transaction-prepare', {'id': 'expiring', 'actions': actions, 'timeout': 60000})
    held = daemon.cmd('transaction-hold', {'id': 'expiring', 'timeout': HOLD_MS})
    deadline = time.monotonic() + held['remaining'] / 1000  # rounded down, so it is not later
    go_on = stop_thread(daemon.pid)
    try:
        for w in writers:
            w.start()
        for w in writers:
            w.join()
    finally:
        go_on()
    daemon.qmp.event('TRANSACTION_EXPIRED')
    while daemon.cmd('query-transactions'):
        time.sleep(0.01)
    return max(w.ended for w in writers) * 1000 - deadline * 1000


def groups_run(binary, directory, n):
    """Of one daemon with n disks under 4 KiB writes; milliseconds."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    socket = directory / 'nbd.sock'
    args = ['--snapshot-journal', directory / 'journal.db', '--nbd-server', f'addr.type=unix,addr.path={socket},max-connections=0']
    for i in range(n):
        images.create(directory / f'disk{i}', '1G')
        args += ['--blockdev', f'driver=qcow2,node-name=disk{i},file.driver=file,file.filename={directory}/disk{i}',
                 '--export', f'nbd,id=e{i},node-name=disk{i},name=disk{i},writable=on']

    def actions(name, below):
        return [{'type': 'blockdev-snapshot-sync', 'data': {'node-name': f'{below}{i}', 'snapshot-node-name': f'{name}{i}',
                                                            'snapshot-file': f'{directory}/{name}{i}'}} for i in range(n)]

    result = {}
    with Daemon(args, binary=binary) as d:
        result['expiry'] = expiry_ms(d, socket, actions('x', 'disk'))
        with Load(socket, [f'disk{i}' for i in range(n)], **LOAD) as load:
            for name, below in (('prepared', 'disk'), ('held', 'prepared')):
                d.cmd('transaction-prepare', {'id': name, 'actions': actions(name, below), 'timeout': 60000})
                if name == 'held':
                    d.cmd('transaction-hold', {'id': name, 'timeout': 10000})
                time.sleep(0.2)
                d.cmd('transaction-commit', {'id': name})
                group = d.cmd('query-snapshot-groups', {'id': name})[0]
                assert group['state'] == 'settled', group
                result[name + ' record'] = group['record-duration'] / 1e6
                result[name + ' cut'] = group['cut-duration'] / 1e6
            load.stop()
    return result
