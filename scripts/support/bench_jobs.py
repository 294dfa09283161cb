# SPDX-License-Identifier: BSD-3-Clause
"""How fast jobs merge chains and copy disks, beside a peer; and what a client's requests take meanwhile."""
import subprocess
import time

from lib import images
from lib.daemon import Daemon
from lib.load import Load

CLIENT = {'mode': 'write', 'depth': 4, 'range': 64 << 20}


def make_chain(directory, mib):
    """base <- mid <- disk; mid is full of data, and in the page cache, as a disk in use is."""
    directory.mkdir(exist_ok=True)
    names = [directory / n for n in ('base', 'mid', 'disk')]
    for i, path in enumerate(names):
        path.unlink(missing_ok=True)
        images.create(path, f'{mib}M', backing=names[i - 1] if i else None)
    commands = []
    for at in range(0, mib, 1024):  # qemu-io takes less than 2 GiB at once
        commands += ['-c', f'write -P {5 + at // 1024 % 200} {at}M {min(1024, mib - at)}M']
    images.run('qemu-io', '-f', 'qcow2', *commands, names[1], timeout=600)
    subprocess.run(['sync'], check=True)
    return names


def job_run(binary, directory, mib, command, client):
    """MiB a second of a job over all data, to the event that it has concluded; with client: 99th percentiles before and meanwhile."""
    make_chain(directory, mib)
    socket = directory / 'nbd.sock'
    socket.unlink(missing_ok=True)
    argv = []
    for n, below in (('base', ''), ('mid', 'base'), ('disk', 'mid')):
        argv += ['--blockdev', f'driver=file,node-name=f{n},filename={directory}/{n},auto-read-only=on',
                 '--blockdev', f'driver=qcow2,node-name={n},file=f{n},read-only={"off" if n == "disk" else "on"},' +
                 (f'backing={below}' if below else 'backing=')]
    argv += ['--nbd-server', f'addr.type=unix,addr.path={socket}', '--export', 'nbd,id=e,node-name=disk,name=disk,writable=on']
    args = {'commit': ('block-commit', {'top-node': 'mid', 'base-node': 'base'}),
            'active commit': ('block-commit', {'base-node': 'base'}),
            'stream': ('block-stream', {}),
            'mirror': ('blockdev-mirror', {'target': 'copy', 'sync': 'full'}),
            'backup': ('blockdev-backup', {'target': 'copy', 'sync': 'full'})}[command]
    if command in ('mirror', 'backup'):
        (directory / 'copy').unlink(missing_ok=True)
        images.create(directory / 'copy', f'{mib}M')
        argv += ['--blockdev', f'driver=file,node-name=fcopy,filename={directory}/copy', '--blockdev', 'driver=qcow2,node-name=copy,file=fcopy']
    with Daemon(argv, binary=binary) as d:
        load = Load(socket, ['disk'], **CLIENT) if client else None
        result = {}
        if load:
            time.sleep(1)
            load.begin()
            time.sleep(3)
            result['before_p99_ms'] = load.end()['p99_ms']
            load.begin()
        completed = False
        start = time.monotonic()
        d.cmd(args[0], {'job-id': 'j', 'device': 'disk', 'auto-dismiss': False, **args[1]})
        while True:
            status = d.qmp.event('JOB_STATUS_CHANGE', timeout=600)['data']['status']
            if status == 'ready' and not completed:
                completed = True
                d.cmd('job-complete', id='j')
            elif status == 'concluded':
                break
        result['mib_s'] = mib / (time.monotonic() - start)
        if load:
            result['during_p99_ms'] = load.end()['p99_ms']
            load.stop()
        assert 'error' not in d.cmd('query-jobs')[0]
        d.cmd('job-dismiss', id='j')
    return result
