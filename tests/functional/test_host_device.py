# SPDX-License-Identifier: BSD-3-Clause
"""The driver host_device, on loop devices."""
import os
import subprocess
import time

import nbd
import pytest

from lib import emulator
from lib import images as img
from lib import jobs
from lib.daemon import SLOW, Daemon
from lib.loop import LoopDevice, require

MIB = 1 << 20


@pytest.fixture
def loop(images):
    require()
    made = []

    def make(name, size, garbage=True, **options):
        path = images / f'{name}.loop'
        with open(path, 'wb') as f:
            if garbage:
                f.write(b'\xa5' * size)
            f.truncate(size)
        made.append(LoopDevice(path, **options))
        return made[-1]

    yield make
    for device in made:
        device.detach()


@pytest.fixture
def d(loop, daemon, images):
    """Ends before its devices are detached."""
    d = daemon()
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    return d


def host(device, name=None, **options):
    named = {'node-name': name} if name else {}
    return {'driver': 'host_device', 'filename': device.name, **named, **options}


def add(d, driver, device, name='disk', **options):
    d.cmd('blockdev-add', {'driver': driver, 'node-name': name, 'file': host(device, f'{name}-file', discard='unmap', **options),
                           'discard': 'unmap'})


def client(d, name='disk'):
    d.cmd('block-export-add', {'type': 'nbd', 'id': f'e-{name}', 'node-name': name, 'writable': True})
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
    return h


def qemu(*args):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, check=False)


def check(device):
    r = qemu('qemu-img', 'check', '-f', 'qcow2', device.name)
    assert r.returncode == 0, r.stdout + r.stderr


def node(d, name):
    return next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == name)


def create(d, device, size, **options):
    d.qmp.events.clear()
    d.cmd('blockdev-create', {'job-id': 'create', 'options': {'driver': 'qcow2', 'file': 'disk-file', 'size': size, **options}})
    jobs.wait_status(d, 'create', 'concluded')
    error = jobs.error_of(d, 'create')
    d.cmd('job-dismiss', id='create')
    return error


def test_what_is_no_device_is_refused(d, loop, images):
    device = loop('disk', MIB)
    (images / 'regular').write_bytes(bytes(512))
    for options, text in (
            ({'driver': 'file', 'filename': device.name}, f"'file' driver requires '{device.name}' to be a regular file"),
            ({'driver': 'host_device', 'filename': str(images / 'regular')},
             f"'host_device' driver requires '{images / 'regular'}' to be either a character or block device"),
            ({'driver': 'host_device', 'filename': '/dev/nothing-there'},
             "Could not open '/dev/nothing-there': No such file or directory"),
            ({'driver': 'host_device', 'filename': str(images)}, f"Could not open '{images}': Is a directory"),
            ({'driver': 'host_device', 'filename': ''}, "The 'host_device' block driver requires a file name"),
            ({'driver': 'host_device', 'filename': device.name, 'aio': 'native'},
             'aio=native was specified, but it requires cache.direct=on, which was not specified.')):
        assert d.qmp.error('blockdev-add', {'node-name': 'bad', **options}) == text
    d.cmd('blockdev-add', {'driver': 'host_device', 'node-name': 'null', 'filename': '/dev/null'})
    assert node(d, 'null')['image']['virtual-size'] == 0


@pytest.mark.parametrize('direct', [False, True])
@pytest.mark.parametrize('sector', [512, 4096])
def test_data_zeroes_and_discards(d, loop, sector, direct):
    device = loop('disk', 8 * MIB, sector=sector)
    add(d, 'raw', device, cache={'direct': direct})
    h = client(d)
    assert h.get_size() == 8 * MIB
    want = bytearray(b'\xa5' * 8 * MIB)
    for offset, size in ((0, 512), (4096 + 512, 1536), (MIB - 512, 3 * 4096), (8 * MIB - 512, 512)):
        want[offset:offset + size] = os.urandom(size)
        h.pwrite(bytes(want[offset:offset + size]), offset)
    for offset, size, flags in ((2 * MIB + 512, MIB + 1024, 0), (4 * MIB, MIB, nbd.CMD_FLAG_NO_HOLE)):
        want[offset:offset + size] = bytes(size)
        h.zero(size, offset, flags)
    h.trim(MIB, 6 * MIB)
    h.trim(512, 7 * MIB + 512)
    got = h.pread(8 * MIB, 0)
    assert got[:6 * MIB] == want[:6 * MIB] and got[7 * MIB + 4096:] == want[7 * MIB + 4096:]
    assert set(got[6 * MIB:7 * MIB]) == {0}  # what loop devices make of a discard
    h.flush()
    assert device.path.read_bytes()[:6 * MIB] == want[:6 * MIB]
    assert device.path.stat().st_blocks * 512 <= 7 * MIB  # it was given back
    own = next(s for s in d.cmd('query-blockstats', {'query-nodes': True}) if s['node-name'] == 'disk-file')['driver-specific']
    assert own['driver'] == 'host_device' and own['discard-bytes-ok'] >= MIB
    image = node(d, 'disk-file')
    assert image['drv'] == 'host_device' and image['file'] == device.name and image['image']['virtual-size'] == 8 * MIB


def test_resize_says_what_the_device_has(d, loop):
    device = loop('disk', 4 * MIB)
    add(d, 'raw', device)
    for size in (0, MIB, 4 * MIB):
        d.cmd('block_resize', {'node-name': 'disk', 'size': size})
        assert node(d, 'disk')['image']['virtual-size'] == 4 * MIB
    assert d.qmp.error('block_resize', {'node-name': 'disk', 'size': 8 * MIB}) == 'Cannot grow device files'
    device.resize(8 * MIB)
    d.cmd('block_resize', {'node-name': 'disk', 'size': 8 * MIB})
    assert node(d, 'disk')['image']['virtual-size'] == 8 * MIB
    h = client(d)
    h.pwrite(b'e' * 512, 8 * MIB - 512)
    assert h.pread(512, 8 * MIB - 512) == b'e' * 512


def test_image_goes_on_when_its_device_is_extended(d, loop):
    """As managers of logical volumes do; what has come to the device is not zero."""
    device = loop('disk', 4 * MIB)
    d.cmd('blockdev-add', host(device, 'disk-file'))
    assert create(d, device, 64 * MIB) is None
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk', 'file': 'disk-file'})
    h = client(d)
    written = 0
    with pytest.raises(nbd.Error) as e:
        for written in range(8):
            h.pwrite(bytes([written + 1]) * MIB, written * MIB)
    assert e.value.errnum == 28 and 2 <= written <= 4
    with open(device.path, 'r+b') as f:
        f.seek(4 * MIB)
        f.write(b'\xc3' * 36 * MIB)
    device.resize(40 * MIB)
    for i in range(written, 32):
        h.pwrite(bytes([i + 1]) * 1024, i * MIB)  # the rest of each cluster must read as zeroes
    for i in range(32):
        filled = MIB if i < written else 1024
        if i != written:  # part of that one had been written before
            assert h.pread(MIB, i * MIB) == bytes([i + 1]) * filled + bytes(MIB - filled), i
    h.shutdown()
    d.cmd('block-export-del', {'id': 'e-disk'})
    d.cmd('blockdev-del', {'node-name': 'disk'})
    d.cmd('blockdev-del', {'node-name': 'disk-file'})
    check(device)
    r = qemu('qemu-io', '-f', 'qcow2', '-r', '-c', 'read -P 32 31M 1024', '-c', f'read -P 0 {31 * MIB + 1024} {MIB - 1024}', device.name)
    assert r.returncode == 0 and 'verification failed' not in r.stdout, r.stdout


@pytest.mark.parametrize('preallocation', ['off', 'metadata', 'full'])
def test_an_image_is_made_on_a_device_with_old_data(d, loop, preallocation):
    device = loop('disk', 24 * MIB)
    d.cmd('blockdev-add', host(device, 'disk-file'))
    assert create(d, device, 16 * MIB, preallocation=preallocation) is None
    assert create(d, device, 1 << 40, preallocation='metadata').endswith('No space left on device')
    assert create(d, device, 16 * MIB, preallocation=preallocation) is None
    d.cmd('blockdev-del', {'node-name': 'disk-file'})
    check(device)
    assert qemu('qemu-io', '-f', 'qcow2', '-r', '-c', 'read -P 0 0 16M', device.name).stdout.count('failed') == 0


def test_devices_as_overlays_and_by_name(d, loop, images):
    """A snapshot onto a device; the name in a header leads to a device."""
    old, new = loop('old', 8 * MIB), loop('new', 8 * MIB)
    img.create(images / 'base', '4M', 'raw')
    qemu('qemu-io', '-f', 'raw', '-c', 'write -P 7 0 1M', images / 'base')
    assert qemu('qemu-img', 'create', '-f', 'qcow2', '-b', images / 'base', '-F', 'raw', old.name).returncode == 0
    assert qemu('qemu-img', 'create', '-f', 'qcow2', '-u', '-b', old.name, '-F', 'qcow2', new.name, '4M').returncode == 0
    add(d, 'qcow2', old)
    h = client(d)
    h.pwrite(b'1' * MIB, MIB)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'disk', 'snapshot-file': new.name, 'snapshot-node-name': 'top', 'format': 'qcow2',
                                     'mode': 'existing'})
    h.pwrite(b'2' * MIB, 2 * MIB)
    want = b'\x07' * MIB + b'1' * MIB + b'2' * MIB + bytes(MIB)
    assert h.pread(4 * MIB, 0) == want
    assert {n['drv'] for n in d.cmd('query-named-block-nodes', flat=True) if n['file'] == new.name} == {'qcow2', 'host_device'}
    fails = d.qmp.error('blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-file': old.name, 'snapshot-node-name': 'x'})
    assert fails == f"Could not create '{old.name}': it exists and is not a regular file"
    h.shutdown()
    d.cmd('block-export-del', {'id': 'e-disk'})
    end = time.monotonic() + 20 * SLOW
    while 'top' in d.qmp.execute('blockdev-del', {'node-name': 'disk'}).get('error', {}).get('desc', ''):
        assert time.monotonic() < end
        time.sleep(0.01)  # nobody uses it any more: it closes by itself
    add(d, 'qcow2', new, 'again')
    assert client(d, 'again').pread(4 * MIB, 0) == want
    assert sorted(n['drv'] for n in d.cmd('query-named-block-nodes', flat=True)) == ['file', 'host_device', 'host_device', 'qcow2', 'qcow2',
                                                                                    'raw']


@pytest.mark.parametrize('job', ['mirror', 'backup', 'commit'])
def test_jobs_onto_a_device_with_old_data(d, loop, images, job):
    device = loop('target', 8 * MIB)
    if job == 'commit':  # of an overlay that is longer than its base was
        with open(device.path, 'r+b') as f:
            f.truncate(4 * MIB)
        device.resize(4 * MIB)
        add(d, 'raw', device, 'target')
        with open(device.path, 'r+b') as f:
            f.seek(4 * MIB)
            f.write(b'\xc3' * 4 * MIB)
        device.resize(8 * MIB)
        assert qemu('qemu-img', 'create', '-f', 'qcow2', '-u', '-b', device.name, '-F', 'raw', images / 'source', '8M').returncode == 0
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'source', 'backing': 'target',
                               'file': {'driver': 'file', 'filename': str(images / 'source')}})
    else:
        add(d, 'raw', device, 'target')
        img.create(images / 'source', '8M', 'qcow2')
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'source', 'file': {'driver': 'file', 'filename': str(images / 'source')}})
    h = client(d, 'source')
    h.pwrite(b's' * MIB, 6 * MIB)
    want = bytearray(h.pread(8 * MIB, 0))
    if job == 'commit':
        assert want[:4 * MIB] == b'\xa5' * 4 * MIB and not any(want[4 * MIB:6 * MIB])
        d.cmd('block-commit', {'device': 'source', 'job-id': 'j'})
    else:
        d.cmd(f'blockdev-{job}', {'device': 'source', 'target': 'target', 'job-id': 'j', 'sync': 'full'})
    if job != 'backup':
        d.qmp.event('BLOCK_JOB_READY')
        d.cmd('block-job-complete', {'device': 'j'})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    h.flush()
    assert device.path.read_bytes() == want


def test_locks_and_read_only(d, loop):
    device = loop('disk', MIB)
    qemu('qemu-img', 'create', '-f', 'qcow2', device.name, '512k')
    add(d, 'qcow2', device)
    client(d)
    r = qemu('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', device.name)
    assert r.returncode != 0 and 'Failed to get' in r.stderr
    with Daemon() as other:
        assert other.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk',
                                                'file': host(device)}).startswith('Failed to get')
    read_only = loop('ro', MIB, read_only=True)
    d.cmd('blockdev-add', host(read_only, 'auto', **{'auto-read-only': True}))
    assert node(d, 'auto')['ro']
    assert d.qmp.error('blockdev-add', host(read_only, 'rw')) == 'The device is not writable: Permission denied'


def test_drives_of_the_emulator_know_devices(loop, tmp_path):
    image, other = loop('disk', 4 * MIB), loop('b', MIB)
    qemu('qemu-img', 'create', '-f', 'qcow2', image.name, '2M')
    drives, nodes = (m['return'] for m in emulator.replies(emulator.qmp(
        tmp_path, [('query-block',), ('query-named-block-nodes', {'flat': True})],
        '-drive', f'file={image.name},if=none,id=d0', '-drive', f'file=host_device:{other.name},format=raw,if=none,id=d1'))[:2])
    drives = {b['device']: b['inserted'] for b in drives if b.get('inserted')}
    assert drives['d0']['drv'] == 'qcow2' and drives['d0']['file'] == image.name and drives['d1']['drv'] == 'raw'
    assert sorted(n['drv'] for n in nodes) == ['host_device', 'host_device', 'qcow2', 'raw']


def test_journal_knows_devices(loop, daemon, images):
    """After a crash the disk that a group has superseded is not written to."""
    old, new = loop('old', 8 * MIB), loop('new', 8 * MIB)
    qemu('qemu-img', 'create', '-f', 'qcow2', old.name, '4M')
    qemu('qemu-img', 'create', '-f', 'qcow2', '-u', '-b', old.name, '-F', 'qcow2', new.name, '4M')
    d = daemon('--snapshot-journal', str(images / 'journal'))
    add(d, 'qcow2', old)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'disk', 'snapshot-file': new.name, 'snapshot-node-name': 'top', 'format': 'qcow2',
                                     'mode': 'existing'})
    d.kill()
    d = daemon('--snapshot-journal', str(images / 'journal'))
    error = d.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk', 'file': host(old)})
    assert error.startswith(f"Disk '{old.name}' was superseded by '{new.name}' in snapshot group ")
    add(d, 'qcow2', new)
    assert {n['file'] for n in d.cmd('query-named-block-nodes', flat=True)} == {old.name, new.name}


def test_drive_jobs_onto_names_of_devices(d, loop, images):
    mirror, backup = loop('mirror', 4 * MIB), loop('backup', 4 * MIB)
    img.create(images / 'source', '4M', 'qcow2')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'source', 'file': {'driver': 'file', 'filename': str(images / 'source')}})
    client(d, 'source').pwrite(b's' * MIB, MIB)
    want = bytes(MIB) + b's' * MIB + bytes(2 * MIB)
    args = {'job-id': 'j', 'sync': 'full', 'mode': 'existing', 'format': 'raw'}
    assert d.qmp.error('drive-mirror', {**args, 'device': 'source', 'target': mirror.name, 'mode': 'absolute-paths'}) == \
        f"Protocol driver of '{mirror.name}' does not support image creation"
    d.cmd('drive-backup', {**args, 'device': 'source', 'target': backup.name})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    assert backup.path.read_bytes() == want
    d.cmd('drive-mirror', {**args, 'device': 'source', 'target': mirror.name})
    d.qmp.event('BLOCK_JOB_READY')
    d.cmd('block-job-complete', {'device': 'j'})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    assert mirror.path.read_bytes() == want
