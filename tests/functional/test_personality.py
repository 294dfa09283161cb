# SPDX-License-Identifier: BSD-3-Clause
"""The emulator's command line: drives, devices, names, messages, exit statuses."""
import json
import os
import socket
import subprocess

import pytest

from lib import emulator
from lib.daemon import Daemon
from lib.qmp import Qmp


def make(path, size='64M', *args):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *args, str(path), size], check=True)
    return path


@pytest.fixture
def run(images):
    return lambda *args, **kw: emulator.run(images, *args, **kw)


@pytest.fixture
def qmp(images):
    return lambda commands, *args: emulator.qmp(images, commands, *args)


# ---- before anything starts ----

def test_probes(run):
    machines = run('-machine', 'help', base=False)
    assert machines.returncode == 0
    assert [l.split()[0] for l in machines.stdout.splitlines() if ' (default)' in l] == ['pc']
    devices = run('-M', 'none', '-device', 'help').stdout.splitlines()
    assert 'name "virtio-blk-pci", bus PCI, alias "virtio-blk"' in devices
    assert 'name "scsi-hd", bus SCSI, desc "virtual SCSI disk"' in devices
    formats = run('-drive', 'format=help').stdout.splitlines()
    assert formats[0].startswith('Supported formats: ') and ' qcow2' in formats[0] and ' raw' in formats[0]
    assert formats[1].startswith('Supported formats (read-only): ')


@pytest.mark.parametrize('args, text', [
    (['-nonsense'], 'qemu-system-x86_64: -nonsense: invalid option'),
    (['-drive'], 'qemu-system-x86_64: -drive: requires an argument'),
    (['-incoming', 'tcp:0:1'], "qemu-system-x86_64: -incoming: there is no migration here: 'defer' only, which leaves disks inactive"),
    (['-preconfig'], 'qemu-system-x86_64: -preconfig: not supported'),
    (['-set', 'foo'], 'qemu-system-x86_64: -set foo: can\'t parse: "foo"'),
    (['-set', 'nic.d.x=1'], "qemu-system-x86_64: -set nic.d.x=1: There is no option group 'nic'"),
    (['-drive', 'if=none,id=a', '-set', 'drive.d.x=1'], 'qemu-system-x86_64: -set drive.d.x=1: there is no drive "d" defined'),
    (['-set', 'drive.a.format=raw', '-drive', 'if=none,id=a'],
     'qemu-system-x86_64: -set drive.a.format=raw: there is no drive "a" defined'),
    (['-drive', 'file=/nonexistent,format=foo'],
     "qemu-system-x86_64: -drive file=/nonexistent,format=foo: Unknown driver 'foo'"),
    (['-drive', 'file=/nonexistent,driver=raw,format=raw'],
     "qemu-system-x86_64: -drive file=/nonexistent,driver=raw,format=raw: Cannot specify both 'driver' and 'format'"),
    (['-drive', 'file=foo:bar'], "qemu-system-x86_64: -drive file=foo:bar: Unknown protocol 'foo'"),
    (['-drive', 'file=/nonexistent,format=raw'],
     "qemu-system-x86_64: -drive file=/nonexistent,format=raw: Could not open '/nonexistent': No such file or directory"),
    (['-drive', 'driver=null-co,if=none,cache=often'],
     'qemu-system-x86_64: -drive driver=null-co,if=none,cache=often: invalid cache option'),
    (['-drive', 'driver=null-co,if=nowhere'],
     "qemu-system-x86_64: -drive driver=null-co,if=nowhere: unsupported bus type 'nowhere'"),
    (['-drive', 'driver=null-co,readonly=on,read-only=off'],
     "qemu-system-x86_64: -drive driver=null-co,readonly=on,read-only=off: "
     "'read-only' and its alias 'readonly' can't be used at the same time"),
    (['-drive', 'driver=null-co,node-name=123foo'],
     "qemu-system-x86_64: -drive driver=null-co,node-name=123foo: Invalid node-name: '123foo'"),
    *[([*args[:-1], args[-1]], f"qemu-system-x86_64: {args[0]} {args[1]}: {text}") for args, text in [
        (['-drive', 'driver=null-co,bps_rd_max=1,throttling.bps-read-max=2'],
         "'throttling.bps-read-max' and its alias 'bps_rd_max' can't be used at the same time"),
        (['-drive', 'driver=null-co,bps=-2'], 'bps/iops/max values must be within [0, 1000000000000000]'),
        (['-drive', 'driver=null-co,iops=x'], "Parameter 'throttling.iops-total' expects a number"),
        (['-drive', 'driver=null-co,unknown_opt=on'], "Block protocol 'null-co' doesn't support the option 'unknown_opt'"),
        (['-drive', 'driver=raw,file.driver=null-co,unknown_opt='], "Block format 'raw' does not support the option 'unknown_opt'"),
        (['-drive', 'driver=raw,file.driver=null-co,file.backing.driver=null-co'], "Driver doesn't support backing files"),
        (['-drive', 'driver=file'], "The 'file' block driver requires a file name"),
        (['-drive', 'driver=raw,file.driver=file'], "The 'file' block driver requires a file name"),
        (['-drive', 'file.driver=file'], "The 'file' block driver requires a file name"),
        (['-drive', 'driver=raw'], 'A block device must be specified for "file"'),
        (['-drive', 'driver=nbd'], 'NBD server address missing'),
        (['-drive', 'foo=bar'], 'Must specify either driver or file'),
        (['-drive', 'driver=null-co,size=1x'], "Parameter 'size' expects integer"),
    ]],
    (['-drive', 'if=virtio'], 'qemu-system-x86_64: Device needs media, but drive is empty'),
    (['-drive', 'if=ide'], 'qemu-system-x86_64: Device needs media, but drive is empty'),
    (['-device', 'toaster'], "qemu-system-x86_64: -device toaster: 'toaster' is not a valid device model name"),
    (['-device', 'virtio-blk'], 'qemu-system-x86_64: -device virtio-blk: drive property not set'),
    (['-device', 'virtio-blk,drive=none'],
     "qemu-system-x86_64: -device virtio-blk,drive=none: Property 'virtio-blk-pci.drive' can't find value 'none'"),
    (['-device', 'virtio-blk,drve=x'],
     "qemu-system-x86_64: -device virtio-blk,drve=x: Property 'virtio-blk-pci.drve' not found"),
    (['-device', 'scsi-hd,drive=x'],
     "qemu-system-x86_64: -device scsi-hd,drive=x: No 'SCSI' bus found for device 'scsi-hd'"),
    (['-mon', 'chardev=m'], 'qemu-system-x86_64: -mon chardev=m: chardev "m" not found'),
    (['-blockdev', 'qcow2,node-name=n,file=f'],
     "qemu-system-x86_64: -blockdev qcow2,node-name=n,file=f: Cannot find device='f' nor node-name='f'"),
])
def test_refused(run, args, text):
    done = run(*args)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == text


def test_encrypted_drive_is_not_guessed_raw(images, run, qmp):
    luks = images / 'luks'
    luks.write_bytes(b'LUKS\xba\xbe\0\1' + bytes(1 << 20))
    done = run('-drive', f'file={luks},if=none')
    assert done.returncode == 1
    assert f"Could not open '{luks}': Image is encrypted with LUKS, which is not supported" in done.stderr.splitlines()[-1]
    assert qmp([('query-block',)], '-drive', f'file={luks},if=none,format=raw')[0]['return'][0]['inserted']['drv'] == 'raw'


def test_bytes_that_are_no_text(images):
    argv = [emulator.program(images).encode(), b'-drive', b'file=\xff\xfe,if=none']
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and b'UTF-8' in done.stderr


# ---- drives ----

def test_names_of_drives(qmp):
    drives = [arg for spec in ('if=virtio', 'if=virtio', 'if=none', 'if=none,id=mine', '', 'media=cdrom,index=2',
                               'if=floppy') for arg in ('-drive', 'driver=null-co,size=65536' + (',' + spec if spec else ''))]
    listed = qmp([('query-block',)], *drives)[0]['return']
    assert [b['device'] for b in listed] == ['virtio0', 'virtio1', 'none0', 'mine', 'ide0-hd0', 'ide1-cd0', 'floppy0']
    assert listed[0]['qdev'] == '/machine/peripheral-anon/device[0]/virtio-backend'
    assert 'qdev' not in listed[2]
    assert [b['removable'] for b in listed] == [False, False, True, True, False, True, True]


def test_options_of_drives(images, qmp):
    image = make(images / 'a,b.qcow2')
    file = str(image).replace(',', ',,')
    info = qmp([('query-block',)], '-drive', f'file={file},if=none,id=d,cache=none,aio=threads,discard=unmap,'
               'detect-zeroes=unmap,node-name=top,file.node-name=below')[0]['return'][0]['inserted']
    assert info['file'] == str(image) and info['node-name'] == 'top' and info['drv'] == 'qcow2'
    assert info['cache'] == {'writeback': True, 'direct': True, 'no-flush': False}
    assert info['detect_zeroes'] == 'unmap' and not info['ro']
    assert [c['node-name'] for c in info['children'] if c['child'] == 'file'] == ['below']
    done = qmp([('query-block',)], '-drive', f'file={file},if=none,format=qcow2,readonly=on,cache=writethrough')
    info = done[0]['return'][0]['inserted']
    assert info['ro'] and info['cache']['writeback'] is False


def test_parts_of_a_backing_chain(images, qmp):
    base = make(images / 'base.qcow2')
    mid = make(images / 'mid.qcow2', '64M', '-b', 'base.qcow2', '-F', 'qcow2')
    top = make(images / 'top.qcow2', '64M', '-b', str(mid), '-F', 'qcow2')
    nodes = qmp([('query-named-block-nodes', {'flat': True})],
                '-drive', f'file={top},if=none,node-name=t,backing.node-name=m,backing.backing.node-name=b')[0]['return']
    named = {n['node-name']: n for n in nodes}
    assert named['t']['backing_file'] == str(mid) and named['m']['backing_file'] == str(base)
    assert not named['t']['ro'] and named['m']['ro'] and named['b']['ro']
    # a node comes after its file and before what is opened below it
    order = [n['node-name'] for n in nodes if not n['node-name'].startswith('#')]
    assert order == ['b', 'm', 't']


def test_json_filename(images, qmp):
    image = make(images / 'j.qcow2')
    name = 'json:' + json.dumps({'driver': 'qcow2', 'file': {'driver': 'file', 'filename': str(image)}})
    info = qmp([('query-block',)], '-drive', 'if=none,file=' + name.replace(',', ',,'))[0]['return'][0]
    assert info['inserted']['drv'] == 'qcow2'


def test_sizes_with_suffixes(images, qmp):
    """A drive's options are older than the schema, whose sizes here are numbers."""
    image = make(images / 'a.qcow2')
    nodes = qmp([('query-named-block-nodes', {'flat': True})],
                '-drive', f'if=none,file={image},l2-cache-size=2M,refcount-cache-size=256k,node-name=q',
                '-drive', 'if=none,driver=raw,offset=1M,size=2M,file.driver=null-co,file.size=1G,node-name=r')[0]['return']
    sizes = {n['node-name']: n['image']['virtual-size'] for n in nodes}
    assert sizes['q'] == 64 << 20 and sizes['r'] == 2 << 20 and 1 << 30 in sizes.values()


def test_places_of_devices(qmp):
    """What the machine comes with has no place among the peripherals."""
    listed = qmp([('query-block',)], *[a for i in ('floppy', 'ide', 'virtio') for a in ('-drive', f'driver=null-co,if={i}')])[0]['return']
    assert [b['qdev'] for b in listed] == ['/machine/unattached/device[0]', '/machine/unattached/device[1]',
                                          '/machine/peripheral-anon/device[0]/virtio-backend']


def test_drivers_of_files_below(images, qmp):
    """What has a filename and no driver is a file, at any depth."""
    image = make(images / 'a.qcow2')
    nodes = qmp([('query-named-block-nodes', {'flat': True})], '-object', 'throttle-group,id=g', '-drive',
                f'if=none,driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename={image}')[0]['return']
    assert [n['drv'] for n in nodes] == ['throttle', 'qcow2', 'file']


# ---- drives that forget ----

def pattern(image, byte):
    done = subprocess.run(['qemu-io', '-r', '-f', 'qcow2', '-c', f'read -P {byte} 0 64k', str(image)], capture_output=True, text=True, check=False)
    assert 'read 65536/65536' in done.stdout or 'verification failed' in done.stdout, done
    return done.returncode == 0


@pytest.mark.parametrize('args, kept', [
    (['if=none,snapshot=on'], False),
    (['if=none', '-snapshot'], False),
    (['if=none,snapshot=off', '-snapshot'], True),
    (['if=none,snapshot=off'], True),
])
def test_temporary_drive(images, run, args, kept):
    image = make(images / 'a.qcow2')
    (images / 'tmp').mkdir()
    os.environ['TMPDIR'] = str(images / 'tmp')
    try:
        done = run('-monitor', 'stdio', '-drive', f'file={image},id=d,{args[0]}', *args[1:],
                   stdin='qemu-io d "write -P 7 0 64k"\nqemu-io d "read -P 7 0 64k"\ninfo block\nquit\n')
    finally:
        del os.environ['TMPDIR']
    assert done.returncode == 0 and 'read 65536/65536' in done.stdout and 'verification failed' not in done.stdout
    assert ('tmp/vl.' in done.stdout) != kept and ('ignore flushes' in done.stdout) != kept
    assert list((images / 'tmp').iterdir()) == []
    assert pattern(image, 7) == kept and pattern(image, 0) != kept


def test_temporary_drive_leaves_nothing(images):
    """Its file has no name any more when clients are served, so that a kill leaves nothing; it can be snapshotted, reopened, committed."""
    base = make(images / 'base.qcow2')
    (images / 'tmp').mkdir()
    sock = images / 'q.sock'
    d = Daemon(args=[*emulator.BASE, '-qmp', f'unix:{sock},server=on,wait=off', '-drive', f'file={base},if=none,id=d,snapshot=on,node-name=b'],
               binary=emulator.program(images), monitor=False, env={'TMPDIR': str(images / 'tmp')})
    try:
        d.monitor_path = str(sock)
        d.qmp = d.connect()
        assert list((images / 'tmp').iterdir()) == []
        d.cmd('human-monitor-command', {'command-line': 'qemu-io d "write -P 5 0 64k"'})
        info = d.cmd('query-block')[0]['inserted']
        assert info['image']['backing-image']['filename'] == str(base) and info['drv'] == 'qcow2' and not info['ro']
        assert {n['node-name'] for n in d.cmd('query-named-block-nodes')} >= {'b'}  # the name is the image's own
        d.cmd('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': str(images / 'top.qcow2')})
        d.cmd('block-commit', {'device': 'd', 'job-id': 'j', 'base-node': 'b'})
        d.qmp.event('BLOCK_JOB_READY')
        d.cmd('block-job-complete', {'device': 'j'})
        d.qmp.event('BLOCK_JOB_COMPLETED')
        assert d.cmd('query-block')[0]['inserted']['file'] == str(base)
    finally:
        d.process.kill()
        d.process.wait()
    assert pattern(base, 5) and list((images / 'tmp').iterdir()) == []


def test_temporary_drive_of_a_read_only_file(images, qmp, run):
    base = make(images / 'base.qcow2')
    info = qmp([('query-block',)], '-drive', f'file={base},if=none,id=d,snapshot=on,read-only=on')[0]['return'][0]['inserted']
    assert info['ro'] and info['backing_file'] == str(base)
    os.environ['TMPDIR'] = '/nonexistent'
    try:
        done = run('-drive', 'driver=null-co,snapshot=on')
    finally:
        del os.environ['TMPDIR']
    assert done.returncode == 1 and done.stderr.startswith(
        "qemu-system-x86_64: -drive driver=null-co,snapshot=on: Could not open temporary file '/nonexistent/vl.")
    assert done.stderr.endswith("': No such file or directory\n")


def test_empty_drive(qmp):
    out = qmp([('query-block',), ('blockdev-snapshot-sync', {'device': 'cd', 'snapshot-file': '/nowhere'})],
              '-drive', 'if=none,id=cd,media=cdrom')
    assert 'inserted' not in out[0]['return'][0]
    assert out[1]['error']['desc'] == "Device 'cd' has no medium"


def test_same_name_twice(run, qmp):
    done = run('-drive', 'driver=null-co,if=none,id=a', '-drive', 'driver=null-co,if=none,id=a')
    assert done.returncode == 1 and done.stderr.endswith("Device with id 'a' already exists\n")
    out = qmp([('blockdev-add', {'driver': 'null-co', 'node-name': 'a'})], '-drive', 'driver=null-co,if=none,id=a')
    assert out[0]['error']['desc'] == 'node-name=a is conflicting with a device id'


def test_set(qmp, images):
    file = make(images / 'a,b.qcow2')
    out = qmp([('query-block',)], '-drive', 'if=none,id=d,iops=3', '-device', 'virtio-blk,id=v,drive=x,serial=a', '-set', 'drive.d.iops=7',
              '-set', f'drive.d.file={file}', '-set', 'device.v.drive=d')
    (d,) = out[0]['return']
    assert (d['device'], d['inserted']['iops'], d['inserted']['file']) == ('d', 7, str(file))
    assert d['qdev'] == '/machine/peripheral/v/virtio-backend'


def test_names_with_options_below(qmp, images):
    base, top = make(images / 'base.qcow2'), images / 'top.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', str(base), '-F', 'qcow2', str(top)], check=True)
    nodes = qmp([('query-named-block-nodes',)], '-drive', 'if=none,file=blkdebug::null-co://,file.image.size=1M,file.image.node-name=i',
                '-drive', f'if=none,file=blkdebug::{top},format=qcow2,backing.node-name=b')[0]['return']
    by_name = {n['node-name']: n for n in nodes}
    assert by_name['i']['image']['virtual-size'] == 1 << 20
    assert by_name['b']['file'] == str(base)


def test_empty_iothread(qmp):
    out = qmp([('device_add', {'driver': 'virtio-scsi', 'id': 's', 'iothread': ''}),
               ('device_add', {'driver': 'virtio-scsi', 'id': 't', 'iothread': 'x'})])
    assert out[0] == {'return': {}} and out[1]['error']['desc'] == "Device 'x' not found"


def test_incoming(qmp, images):
    """Disks stay inactive until the machine goes on, though another process has them."""
    file = make(images / 'd.qcow2')
    holder = subprocess.Popen(['qemu-io', '-f', 'qcow2', str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdin.write(b'write 0 4k\n')
        holder.stdin.flush()
        holder.stdout.readline()
        new = {'driver': 'qcow2', 'node-name': 'n', 'file': {'driver': 'file', 'filename': str(file)}}
        out = qmp([('query-status',), ('blockdev-add', new), ('query-named-block-nodes',), ('cont',), ('query-status',)],
                  '-S', '-incoming', 'defer', '-drive', f'if=none,id=d,file={file},format=qcow2', '-device', 'virtio-blk,drive=d')
        assert out[0]['return'] == {'running': False, 'status': 'inmigrate'}
        assert out[1] == {'return': {}}
        assert [n['active'] for n in out[2]['return']] == [False] * 4
        assert 'lock' in out[3]['error']['desc'] and out[4]['return']['status'] == 'inmigrate'
    finally:
        holder.kill()
        holder.wait()
    out = qmp([('cont',), ('blockdev-add', {'driver': 'null-co', 'node-name': 'x'}), ('query-named-block-nodes',), ('query-status',)],
              '-incoming', 'defer', '-drive', f'if=none,id=d,file={file},format=qcow2', '-device', 'virtio-blk,drive=d')
    assert [n['active'] for n in [r for r in out if 'return' in r][2]['return']] == [True] * 3
    # Whoever sends the disk writes through an export; devices have their disks when it has gone.
    sock = {'type': 'unix', 'data': {'path': str(images / 'nbd.sock')}}
    out = qmp([('nbd-server-start', {'addr': sock}), ('nbd-server-add', {'device': 'd', 'writable': True}), ('stop',), ('cont',),
               ('query-status',), ('nbd-server-stop',), ('cont',), ('query-status',)],
              '-incoming', 'defer', '-drive', f'if=none,id=d,file={file},format=qcow2', '-device', 'virtio-blk,drive=d')
    out = [r for r in out if 'event' not in r]
    assert [r for r in out[:3] if 'error' in r] == []
    assert out[3]['error']['desc'].startswith('Permission conflict') and out[4]['return']['status'] == 'inmigrate'
    assert out[6] == {'return': {}} and out[7]['return']['status'] == 'running'


# ---- snapshots by device ----

def test_group_by_device(images, qmp):
    disks = [make(images / f'{i}.qcow2') for i in 'ab']
    drives = [arg for d in disks for arg in ('-drive', f'file={d},if=virtio')]
    actions = [{'type': 'blockdev-snapshot-sync', 'data': {'device': f'virtio{i}', 'snapshot-file': str(images / f'o{i}.qcow2')}}
               for i in (0, 1, 0)]
    actions[2]['data']['snapshot-file'] = str(images / 'o2.qcow2')
    out = qmp([('transaction', {'actions': actions}), ('query-block',)], *drives)
    # what was made is told in the order of the actions, and no event that an emulator does not have is sent
    assert [m for m in out if isinstance(m, str)] == [
        f"Formatting '{images}/o{o}.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=67108864 "
        f"backing_file={images}/{b}.qcow2 backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16"
        for o, b in ((0, 'a'), (1, 'b'), (2, 'o0'))]
    assert [m['event'] for m in out if 'event' in m] == ['SHUTDOWN']
    done, listed = emulator.replies(out)[:2]
    assert done == {'return': {}}
    assert [b['inserted']['file'] for b in listed['return']] == [f'{images}/o2.qcow2', f'{images}/o1.qcow2']
    assert [b['inserted']['backing_file_depth'] for b in listed['return']] == [2, 1]
    for o in range(3):
        subprocess.run(['qemu-img', 'check', '-q', str(images / f'o{o}.qcow2')], check=True)


def test_aborted_group_leaves_nothing(images, qmp):
    disk = make(images / 'a.qcow2')
    actions = [{'type': 'blockdev-snapshot-sync', 'data': {'device': 'virtio0', 'snapshot-file': str(images / 'o.qcow2')}},
               {'type': 'abort', 'data': {}}]
    out = qmp([('transaction', {'actions': actions}), ('query-block',)], '-drive', f'file={disk},if=virtio')
    assert emulator.replies(out)[0]['error']['desc'] == 'Transaction aborted using Abort action'
    assert emulator.replies(out)[1]['return'][0]['inserted']['file'] == str(disk)
    assert not (images / 'o.qcow2').exists()


def test_job_is_named_after_the_device(images, daemon):
    base = make(images / 'base.qcow2')
    top = make(images / 'top.qcow2', '64M', '-b', str(base), '-F', 'qcow2')
    d = daemon('-display', 'none', '-qmp', f'unix:{images}/q,server=on,wait=off', '-drive', f'file={top},if=none,id=disk',
               '-chardev', f'socket,id=m,path={images}/m,server=on,wait=off', '-mon', 'chardev=m,mode=control',
               binary=emulator.program(images), monitor=False)
    d.monitor_path = str(images / 'q')
    session = d.connect()
    assert Qmp(images / 'm').cmd('query-status') == {'running': True, 'status': 'running'}
    session.cmd('block-commit', device='disk')
    while True:
        event = session.event('BLOCK_JOB_READY')
        assert event['data']['device'] == 'disk'
        break
    session.cmd('block-job-complete', device='disk')
    session.event('BLOCK_JOB_COMPLETED')
    assert session.cmd('query-block')[0]['inserted']['file'] == str(base)


# ---- devices ----

def test_devices(images, qmp):
    disk = make(images / 'a.qcow2')
    out = qmp([
        ('device_add', {'driver': 'virtio-blk', 'drive': 'd', 'id': 'v0', 'iothread': 't', 'share-rw': False}),
        ('query-block',),
        ('device_add', {'driver': 'virtio-blk', 'drive': 'd', 'id': 'v1'}),
        ('device_add', {'driver': 'virtio-blk', 'drive': 'n', 'id': 'v1'}),
        ('device_add', {'driver': 'virtio-blk', 'drive': 'n', 'id': 'v1'}),
        ('object-del', {'id': 't'}),
        ('blockdev-del', {'node-name': 'n'}),
        ('device_del', {'id': 'v0'}),
        ('device_del', {'id': 'v0'}),
        ('device_del', {'id': 'v1'}),
        ('blockdev-del', {'node-name': 'n'}),
        ('object-del', {'id': 't'}),
        ('query-block',),
    ], '-object', 'iothread,id=t', '-drive', f'file={disk},if=none,id=d', '-blockdev', 'null-co,node-name=n')
    r = emulator.replies(out)
    assert r[0] == {'return': {}}
    assert r[1]['return'][0]['qdev'] == '/machine/peripheral/v0/virtio-backend'
    assert r[2]['error']['desc'] == "Drive 'd' is already in use by another block device"
    assert r[3] == {'return': {}}
    assert r[4]['error']['desc'] == "Duplicate device ID 'v1'"
    assert r[5]['error']['desc'] == "object 't' is in use, can not be deleted"
    assert r[6]['error']['desc'] == 'Node n is in use'
    assert r[7] == {'return': {}}
    assert r[8]['error'] == {'class': 'DeviceNotFound', 'desc': "Device 'v0' not found"}
    assert r[9] == r[10] == r[11] == {'return': {}}
    assert 'qdev' not in r[12]['return'][0]
    gone = [m['data'] for m in out if isinstance(m, dict) and m.get('event') == 'DEVICE_DELETED']
    assert gone == [{'path': '/machine/peripheral/v0/virtio-backend'},
                    {'device': 'v0', 'path': '/machine/peripheral/v0'},
                    {'path': '/machine/peripheral/v1/virtio-backend'},
                    {'device': 'v1', 'path': '/machine/peripheral/v1'}]


def test_device_has_its_disk_alone(images, qmp):
    disk = make(images / 'a.qcow2')
    export = {'type': 'nbd', 'id': 'e', 'node-name': 'n', 'writable': True}
    server = ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 's')}}})
    args = ['-drive', f'file={disk},if=none,id=d,node-name=n', '-device']
    out = emulator.replies(qmp([server, ('block-export-add', export)], *args, 'virtio-blk,drive=d'))
    assert out[1]['error']['desc'] == (
        "Permission conflict on node 'n': permissions 'write' are both required by an unnamed block device "
        "(uses node 'n' as 'root' child) and unshared by block device 'd' (uses node 'n' as 'root' child).")
    out = emulator.replies(qmp([server, ('block-export-add', export)], *args, 'virtio-blk,drive=d,share-rw=on'))
    assert out[1] == {'return': {}}


def test_scsi_needs_a_controller(images, qmp, run):
    disk = make(images / 'a.qcow2')
    drive = ['-drive', f'file={disk},if=none,id=d']
    listed = qmp([('query-block',)], *drive, '-device', 'virtio-scsi,id=s0', '-device', 'scsi-hd,id=h,drive=d,bus=s0.0')
    assert listed[0]['return'][0]['qdev'] == 'h'
    done = run(*drive, '-device', 'virtio-scsi,id=s0', '-device', 'scsi-hd,id=h,drive=d,bus=s1.0')
    assert done.stderr.endswith("Bus 's1.0' not found\n")
    read_only = ['-device', 'virtio-scsi', '-drive', f'file={disk},if=none,id=r,readonly=on']
    assert qmp([('query-block',)], *read_only, '-device', 'scsi-hd,drive=r,id=h')[0]['return'][0]['qdev'] == 'h'
    done = run(*read_only, '-device', 'ide-hd,drive=r')
    assert done.stderr.endswith('-device ide-hd,drive=r: Block node is read-only\n')


# ---- the machine ----

def test_run_state(qmp):
    out = qmp([('query-status',), ('cont',), ('cont',), ('stop',), ('stop',), ('query-status',), ('system_reset',)], '-S')
    assert out[0]['return'] == {'running': False, 'status': 'prelaunch'}
    assert [m['event'] for m in out if 'event' in m] == ['RESUME', 'STOP', 'RESET', 'SHUTDOWN']
    assert emulator.replies(out)[5]['return'] == {'running': False, 'status': 'paused'}
    assert out[-2]['data'] == {'guest': False, 'reason': 'host-qmp-quit'}


def test_storage_daemon_tells_no_shutdown(daemon):
    d = daemon()
    d.qmp.cmd('quit')
    assert not any(e['event'] == 'SHUTDOWN' for e in d.qmp.events)
    assert d.wait() == 0


def test_inherited_sockets_and_clock(images):
    mine, theirs = socket.socketpair()
    clock, clock_end = socket.socketpair()
    fds = (theirs.fileno(), clock_end.fileno())
    for s in (theirs, clock_end):
        os.set_inheritable(s.fileno(), True)
    p = subprocess.Popen([emulator.program(images), '-display', 'none', '-vga', 'none',
                          '-chardev', f'socket,id=mon,fd={fds[0]}', '-mon', 'chardev=mon,mode=control',
                          '-chardev', f'socket,id=qtest,fd={fds[1]}', '-qtest', 'chardev:qtest', '-accel', 'qtest'],
                         close_fds=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    theirs.close()
    clock_end.close()
    session = Qmp(mine)
    lines = clock.makefile('rw')
    for line, answer in (('clock_step 1000', 'OK 1000'), ('clock_step 5', 'OK 1005'), ('nonsense', "FAIL Unknown command 'nonsense'")):
        lines.write(line + '\n')
        lines.flush()
        assert lines.readline() == answer + '\n'
    session.cmd('quit')
    assert p.wait(60) == 0
    log = p.stderr.read().decode()
    assert log.startswith('[I 0.000000] OPENED\n') and log.rstrip().endswith('CLOSED')
    p.stderr.close()


def test_nbd_server_add(images, qmp):
    disk = make(images / 'a.qcow2')
    out = emulator.replies(qmp([
        ('nbd-server-add', {'device': 'd'}),
        ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 's')}}}),
        ('nbd-server-add', {'device': 'nosuch'}),
        ('nbd-server-add', {'device': 'd', 'writable': True}),
        ('nbd-server-add', {'device': 'd'}),
        ('nbd-server-add', {'device': 'd', 'name': 'other'}),
        ('query-block-exports',),
        ('nbd-server-remove', {'name': 'other'}),
        ('nbd-server-remove', {'name': 'nosuch'}),
        ('nbd-server-stop',),
    ], '-drive', f'file={disk},if=none,id=d'))
    assert out[0]['error']['desc'] == 'NBD server not running'
    assert out[2]['error']['desc'] == "Cannot find device='nosuch' nor node-name='nosuch'"
    assert out[3] == {'return': {}}
    assert out[4]['error']['desc'] == "Block export id 'd' is already in use"
    assert out[5] == {'return': {}}
    assert [e['id'] for e in out[6]['return']] == ['other', 'd']  # newest first
    assert out[7] == {'return': {}}
    assert out[8]['error']['desc'] == "Export 'nosuch' is not found"
    assert out[9] == {'return': {}}


def test_journal_with_drives(images):
    """-drive obeys the rule of superseded disks too."""
    disk = make(images / 'a.qcow2')
    args = ['--snapshot-journal', str(images / 'j.db'), '-drive', f'file={disk},if=none,id=d']
    emulator.qmp(images, [('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': str(images / 'o.qcow2')})], *args)
    done = emulator.run(images, '-qmp', 'stdio', *args, stdin='')
    assert done.returncode == 1 and str(images / 'o.qcow2') in done.stderr


def test_storage_daemon_keeps_its_own_command_line(images):
    with Daemon(['--blockdev', 'null-co,node-name=n']) as d:
        assert d.cmd('query-block') == []
        assert d.qmp.error('blockdev-snapshot-sync', device='n', snapshot_file=str(images / 'x')).startswith('Cannot find')
