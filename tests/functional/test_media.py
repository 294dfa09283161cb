# SPDX-License-Identifier: BSD-3-Clause
"""Removable media: trays, ejecting, inserting, changing; only under an emulator's name."""
import json
import subprocess
import time

import nbd
import pytest

from lib import emulator
from lib.daemon import Daemon
from lib.qmp import Qmp

NAMES = {'eject', 'blockdev-open-tray', 'blockdev-close-tray', 'blockdev-remove-medium', 'blockdev-insert-medium',
         'blockdev-change-medium'}


def make(path, size='1440k', fmt='qcow2'):
    subprocess.run(['qemu-img', 'create', '-q', '-f', fmt, str(path), size], check=True)
    return path


@pytest.fixture
def machine(images):
    """A machine with: a CD drive with a disk and one without, a floppy drive, a virtio disk, a place without a device."""
    machines = []

    def run(*extra):
        sock = images / 'q.sock'
        d = Daemon(args=[*emulator.BASE, '-qmp', f'unix:{sock},server=on,wait=off',
                         '-drive', f'file={make(images / "cd.qcow2")},if=none,id=c,media=cdrom,node-name=cn',
                         '-drive', f'file={make(images / "f.qcow2")},if=none,id=f,node-name=fn,cache=none',
                         '-drive', f'file={make(images / "v.qcow2")},if=none,id=v,node-name=vn',
                         '-drive', f'file={make(images / "p.qcow2")},if=none,id=place,node-name=pn',
                         '-device', 'ide-cd,drive=c,id=cd', '-device', 'floppy,drive=f,id=floppy',
                         '-device', 'virtio-blk,drive=v,id=disk', '-device', 'virtio-scsi', '-device', 'scsi-cd,id=empty', *extra],
                   binary=emulator.program(images), monitor=False)
        d.monitor_path = str(sock)
        machines.append(d)
        d.qmp = d.connect()
        return d
    yield run
    for d in machines:
        d.stop()


def place(d, qdev):
    return [b for b in d.cmd('query-block') if b.get('qdev', '').split('/')[-1] == qdev or b['device'] == qdev][0]


def trays(d):
    """Moves since the last time: (device, id, open)."""
    d.cmd('query-status')
    moved = [e['data'] for e in d.qmp.events if e['event'] == 'DEVICE_TRAY_MOVED']
    d.qmp.events.clear()
    return [(m['device'], m['id'], m['tray-open']) for m in moved]


def fails(d, command, text, error_class='GenericError', **args):
    reply = d.qmp.execute(command, {k.replace('_', '-'): v for k, v in args.items()})
    assert reply['error'] == {'class': error_class, 'desc': text}


def test_storage_daemon_has_none_of_it(daemon):
    d = daemon()
    names = {e['name'] for e in d.cmd('query-qmp-schema')}
    assert not names & (NAMES | {'DEVICE_TRAY_MOVED'})
    assert not {c['name'] for c in d.cmd('query-commands')} & NAMES
    fails(d, 'eject', 'The command eject has not been found', 'CommandNotFound', id='x')
    assert d.cmd('human-monitor-command', {'command-line': 'eject x'}) == "unknown command: 'eject'\r\n"


def test_an_emulator_has_all_of_it(machine):
    d = machine()
    names = {e['name'] for e in d.cmd('query-qmp-schema')}
    assert names >= NAMES | {'DEVICE_TRAY_MOVED'} and {c['name'] for c in d.cmd('query-commands')} >= NAMES
    for name in NAMES:
        assert d.qmp.execute(name, {'no-such-member': 1})['error']['class'] == 'GenericError'


def test_query(machine):
    d = machine()
    cd, floppy, disk, empty = (place(d, q) for q in ('cd', 'floppy', 'virtio-backend', 'empty'))
    assert cd['removable'] and cd['tray_open'] is False and not cd['locked'] and cd['inserted']['ro']
    assert floppy['removable'] and 'tray_open' not in floppy and not floppy['inserted']['ro']
    assert not disk['removable'] and 'tray_open' not in disk
    assert empty['removable'] and empty['tray_open'] is False and 'inserted' not in empty
    assert place(d, 'place')['removable'] and 'tray_open' not in place(d, 'place')


@pytest.mark.parametrize('command, args, text, error_class', [
    ('eject', {}, "Need exactly one of 'device' and 'id'", 'GenericError'),
    ('eject', {'device': 'c', 'id': 'cd'}, "Need exactly one of 'device' and 'id'", 'GenericError'),
    ('eject', {'id': 'nosuch'}, "Device 'nosuch' not found", 'DeviceNotFound'),
    ('eject', {'device': 'nosuch'}, "Device 'nosuch' not found", 'DeviceNotFound'),
    ('eject', {'device': 'cn'}, "Device 'cn' not found", 'DeviceNotFound'),  # a node is no device
    ('eject', {'id': 'disk'}, "Device 'disk' is not removable", 'GenericError'),
    ('blockdev-open-tray', {'id': 'disk'}, "Device 'disk' is not removable", 'GenericError'),
    ('blockdev-close-tray', {'device': 'v'}, "Device 'v' is not removable", 'GenericError'),
    ('blockdev-remove-medium', {'id': 'disk'}, "Device 'disk' is not removable", 'GenericError'),
    ('blockdev-remove-medium', {'id': 'cd'}, "Tray of device 'cd' is not open", 'GenericError'),
    ('blockdev-remove-medium', {'id': 'hba'}, 'Device does not have a block device backend', 'GenericError'),
    ('blockdev-insert-medium', {'id': 'disk', 'node-name': 'spare'}, 'Device is not removable', 'GenericError'),
    ('blockdev-insert-medium', {'id': 'cd', 'node-name': 'spare'}, 'Tray of the device is not open', 'GenericError'),
    ('blockdev-insert-medium', {'id': 'floppy', 'node-name': 'spare'}, 'There already is a medium in the device', 'GenericError'),
    ('blockdev-insert-medium', {'id': 'cd', 'node-name': 'nosuch'}, "Node 'nosuch' not found", 'GenericError'),
    ('blockdev-insert-medium', {'id': 'cd', 'node-name': 'vn'}, "Node 'vn' is already in use", 'GenericError'),
    ('blockdev-change-medium', {'id': 'cd', 'filename': '/nonexistent'}, "Could not open '/nonexistent': No such file or directory",
     'GenericError'),
    ('blockdev-change-medium', {'id': 'cd', 'filename': '/x', 'format': 'nosuch'}, "Unknown driver 'nosuch'", 'GenericError'),
    ('blockdev-change-medium', {'id': 'cd', 'filename': ''}, "Parameter 'filename' names no image", 'GenericError'),
    ('blockdev-change-medium', {'id': 'cd', 'filename': '/x', 'read-only-mode': 'maybe'},
     "Parameter 'read-only-mode' does not accept value 'maybe'", 'GenericError'),
])
def test_refused(errors_machine, command, args, text, error_class):
    d = errors_machine
    before = d.cmd('query-block')
    fails(d, command, text, error_class, **args)
    assert d.cmd('query-block') == before and trays(d) == []


@pytest.fixture(scope='module')
def errors_machine(tmp_path_factory):
    """One for all refusals, since they change nothing."""
    images = tmp_path_factory.mktemp('media')
    sock = images / 'q.sock'
    with Daemon(args=[*emulator.BASE, '-qmp', f'unix:{sock},server=on,wait=off', '-blockdev', 'null-co,node-name=spare,read-only=on',
                      '-drive', 'driver=null-co,if=none,id=c,media=cdrom,node-name=cn', '-device', 'ide-cd,drive=c,id=cd',
                      '-drive', 'driver=null-co,if=none,id=f', '-device', 'floppy,drive=f,id=floppy',
                      '-drive', 'driver=null-co,if=none,id=v,node-name=vn', '-device', 'virtio-blk,drive=v,id=disk',
                      '-device', 'virtio-scsi,id=hba'],
                binary=emulator.program(images), monitor=False) as d:
        d.monitor_path = str(sock)
        d.qmp = d.connect()
        yield d


def test_tray(machine):
    d = machine()
    d.cmd('blockdev-close-tray', id='cd')
    assert trays(d) == []
    d.cmd('blockdev-open-tray', id='cd')
    d.cmd('blockdev-open-tray', id='cd', force=True)
    assert trays(d) == [('c', 'cd', True)]
    assert place(d, 'cd')['tray_open'] and place(d, 'cd')['inserted']['node-name'] == 'cn'
    d.cmd('blockdev-close-tray', device='c')
    assert trays(d) == [('c', 'cd', False)] and not place(d, 'cd')['tray_open']
    # without a tray nothing moves
    for command in ('blockdev-open-tray', 'blockdev-close-tray'):
        d.cmd(command, id='floppy')
        d.cmd(command, device='place')
    assert trays(d) == []


def test_eject_and_insert(images, machine):
    d = machine()
    d.cmd('eject', id='cd')
    assert trays(d) == [('c', 'cd', True)] and 'inserted' not in place(d, 'cd')
    make(images / 'cd.qcow2')  # the file is closed: another process can have it
    d.cmd('blockdev-remove-medium', id='cd')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'next', 'read-only': True,
                           'file': {'driver': 'file', 'filename': str(images / 'cd.qcow2')}})
    d.cmd('blockdev-insert-medium', {'id': 'cd', 'node-name': 'next'})
    fails(d, 'blockdev-insert-medium', "Node 'next' is already in use", id='cd', node_name='next')
    fails(d, 'blockdev-del', 'Node next is in use', node_name='next')
    assert place(d, 'cd')['tray_open'] and place(d, 'cd')['inserted']['node-name'] == 'next'
    d.cmd('blockdev-close-tray', id='cd')
    assert trays(d) == [('c', 'cd', False)]
    d.cmd('eject', device='c')
    d.cmd('blockdev-del', {'node-name': 'next'})  # it is still the monitor's
    # a path names a device too; a place without one can be emptied at any time
    d.cmd('blockdev-remove-medium', id='/machine/peripheral/floppy')
    d.cmd('eject', device='place')
    assert 'inserted' not in place(d, 'floppy') and 'inserted' not in place(d, 'place')
    d.cmd('eject', device='place')


def test_change(images, machine):
    d = machine()
    new, raw = make(images / 'new.qcow2'), make(images / 'new.raw', fmt='raw')
    d.cmd('blockdev-change-medium', {'id': 'cd', 'filename': str(new)})
    assert trays(d) == [('c', 'cd', True), ('c', 'cd', False)]
    now = place(d, 'cd')['inserted']
    assert now['file'] == str(new) and now['drv'] == 'qcow2' and now['ro']  # as the medium before it
    d.cmd('blockdev-change-medium', {'id': 'cd', 'filename': str(raw), 'format': 'raw', 'read-only-mode': 'read-write'})
    now = place(d, 'cd')['inserted']
    assert now['file'] == str(raw) and now['drv'] == 'raw' and not now['ro']
    # an empty one: what it had last is kept in mind
    d.cmd('eject', id='floppy')
    d.cmd('blockdev-change-medium', {'id': 'floppy', 'filename': str(new), 'format': 'qcow2'})
    now = place(d, 'floppy')['inserted']
    assert now['cache'] == {'writeback': True, 'direct': True, 'no-flush': False} and not now['ro']
    d.cmd('blockdev-change-medium', {'id': 'floppy', 'filename': str(images / 'f.qcow2'), 'read-only-mode': 'read-only'})
    assert place(d, 'floppy')['inserted']['ro']
    d.cmd('blockdev-change-medium', {'id': 'empty', 'filename': str(new)})
    assert place(d, 'empty')['inserted']['file'] == str(new) and trays(d)[-1] == ('', 'empty', False)


def test_floppy_takes_its_medium_with_the_change(images, machine):
    """A drive without a tray has a disk from the moment it is put in; a disk that it cannot have is not put in, and the old one stays."""
    d = machine()
    raw = make(images / 'x.raw', fmt='raw')
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'blank', 'size': 1474560})
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'below', 'size': 1474560})
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'above', 'file': 'below'})
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'other', 'file': {'driver': 'file', 'filename': str(raw)}})
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 's')}}})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'o', 'node-name': 'other', 'writable': True})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'a', 'node-name': 'above', 'writable': True})
    change = {'id': 'floppy', 'filename': str(raw), 'format': 'file'}
    reply = d.qmp.execute('blockdev-change-medium', change)
    assert reply['error']['desc'] == 'Failed to get shared "write" lock' and place(d, 'floppy')['inserted']['node-name'] == 'fn'
    d.cmd('eject', id='floppy')
    reply = d.qmp.execute('blockdev-insert-medium', {'id': 'floppy', 'node-name': 'below'})
    assert reply['error']['desc'].startswith("Permission conflict on node 'below': permissions 'write' are both required by")
    assert 'inserted' not in place(d, 'floppy')
    d.cmd('blockdev-insert-medium', {'id': 'floppy', 'node-name': 'blank'})
    fails(d, 'block-export-add', "Permission conflict on node 'blank': permissions 'write' are both required by an unnamed block device "
          "(uses node 'blank' as 'root' child) and unshared by block device 'f' (uses node 'blank' as 'root' child).",
          type='nbd', id='w', node_name='blank', writable=True)
    d.cmd('eject', id='floppy')
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'w', 'node-name': 'blank', 'writable': True})
    fails(d, 'blockdev-insert-medium', "Node 'blank' is already in use", id='floppy', node_name='blank')


def test_closing_needs_what_the_device_needs(images, machine):
    """With its tray open a drive takes nothing of its medium; it stays open if others have the medium in a way that it cannot bear."""
    d = machine()
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 's')}}})
    d.cmd('blockdev-change-medium', {'id': 'cd', 'filename': str(make(images / 'new.qcow2')), 'read-only-mode': 'read-write'})
    node = place(d, 'cd')['inserted']['node-name']
    trays(d)
    d.cmd('blockdev-open-tray', id='cd')
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'w', 'node-name': node, 'writable': True})
    refused = d.qmp.execute('blockdev-close-tray', {'id': 'cd'})
    assert refused['error']['desc'].startswith(f"Permission conflict on node '{node}': permissions 'write' are both required by")
    assert place(d, 'cd')['tray_open'] and trays(d) == [('c', 'cd', True)]
    d.cmd('block-export-del', {'id': 'w'})
    d.cmd('blockdev-close-tray', id='cd')
    assert trays(d) == [('c', 'cd', False)]


def test_jobs_and_transactions_keep_their_disk(images, machine):
    d = machine()
    d.cmd('blockdev-snapshot-sync', {'device': 'place', 'snapshot-file': str(images / 'top.qcow2')})
    d.cmd('block-commit', {'device': 'place', 'job-id': 'j'})
    d.qmp.event('BLOCK_JOB_READY')
    node = place(d, 'place')['inserted']['node-name']
    fails(d, 'eject', f"Node '{node}' is busy: block device is in use by block job: commit", device='place')
    d.cmd('block-job-cancel', {'device': 'j'})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    d.cmd('transaction-prepare', {'id': 'g', 'timeout': 60000, 'actions': [
        {'type': 'blockdev-snapshot-sync', 'data': {'device': 'f', 'snapshot-file': str(images / 'top2.qcow2')}}]})
    fails(d, 'eject', "Node 'fn' is busy: it is in use by a transaction", id='floppy')
    d.cmd('transaction-commit', {'id': 'g'})
    d.cmd('eject', id='floppy')
    d.cmd('eject', device='place')
    subprocess.run(['qemu-img', 'check', '-q', str(images / 'top2.qcow2')], check=True)


def test_requests_under_way(images, machine):
    """What a console has asked for goes on in the medium that was taken out."""
    d = machine()
    for _ in range(20):
        d.cmd('human-monitor-command', {'command-line': 'qemu-io place "aio_write -q -P 0x33 0 1M"'})
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'other'})
    d.cmd('eject', device='place')
    assert d.cmd('human-monitor-command', {'command-line': 'qemu-io f aio_flush'}) == ''
    io = subprocess.run(['qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 0x33 0 1M', str(images / 'p.qcow2')], capture_output=True,
                        text=True, check=True)
    assert 'verification failed' not in io.stdout


def test_requests_under_way_at_the_end(images):
    """The daemon ends when they have, and images are whole."""
    image = make(images / 'slow.qcow2', '8M')
    group = json.dumps({'qom-type': 'throttle-group', 'id': 'g', 'limits': {'bps-write': 1 << 20}})
    started = time.monotonic()
    out = emulator.console(images, ['qemu-io d "aio_write -P 0x55 0 1M"', 'qemu-io d "aio_write -P 0x66 1M 1M"'], '-object', group, '-drive',
                           f'if=none,id=d,driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename={image}')
    assert time.monotonic() - started > 0.5 and len(out) == 2  # they were slow
    subprocess.run(['qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 0x55 0 1M', '-c', 'read -P 0x66 1M 1M', str(image)], check=True,
                   stdout=subprocess.DEVNULL)
    assert 'leak' not in subprocess.run(['qemu-img', 'check', str(image)], capture_output=True, text=True, check=True).stdout.lower()


def test_device_removed_meanwhile(images, machine):
    """Two monitors: one changes media, the other removes and adds the device; nobody is harmed, and each gets an answer."""
    second = images / 'second.sock'
    d = machine('-qmp', f'unix:{second},server=on,wait=off')
    make(images / 'new.qcow2')
    with Qmp(second) as other:
        for _ in range(15):
            d.qmp.send('blockdev-change-medium', {'id': 'cd', 'filename': str(images / 'new.qcow2'), 'format': 'qcow2'})
            other.cmd('device_del', {'id': 'cd'})
            reply = d.qmp.reply()
            assert 'return' in reply or reply['error']['desc'] in ("Device 'cd' not found", 'The device was removed'), reply
            other.cmd('device_add', {'driver': 'ide-cd', 'drive': 'c', 'id': 'cd'})
    d.cmd('eject', id='cd')


def test_console(images, machine):
    d = machine()

    def hmp(line):
        return d.cmd('human-monitor-command', {'command-line': line})
    new = make(images / 'new.qcow2')
    assert hmp('eject v') == "Error: Device 'v' is not removable\r\n"
    assert hmp('eject nosuch') == "Error: Device 'nosuch' not found\r\n"
    assert hmp('eject') == 'eject: block device name expected\r\nTry "help eject" for more information\r\n'
    assert hmp('eject -f c') == '' and trays(d) == [('c', 'cd', True)]
    assert 'c: [not inserted]\r\n' in hmp('info block c') and 'tray open' in hmp('info block c')
    assert hmp(f'change c -f {new} qcow2 read-only') == '' and trays(d) == [('c', 'cd', False)]
    assert f'{new} (qcow2, read-only)' in hmp('info block c')
    assert hmp(f'change f {new} qcow2 sometimes') == "Error: Parameter 'read-only-mode' does not accept value 'sometimes'\r\n"
    assert hmp('change f') == 'change: filename expected\r\nTry "help change" for more information\r\n'
    assert hmp('change f /nonexistent') == "Error: Could not open '/nonexistent': No such file or directory\r\n"


def test_superseded_disks_are_not_written_to(images):
    """A medium is opened as a drive's is: a disk that a recorded group has left behind is refused."""
    base, journal = make(images / 'base.qcow2'), images / 'journal'
    args = ['-snapshot-journal', journal, '-drive', 'if=none,id=f', '-device', 'floppy,drive=f,id=floppy']
    drive = ['-drive', f'file={base},if=none,id=d']
    first = emulator.qmp(images, [('transaction', {'properties': {'group': 'g'}, 'actions': [
        {'type': 'blockdev-snapshot-sync', 'data': {'device': 'd', 'snapshot-file': str(images / 'top.qcow2')}}]})], *args, *drive)
    assert 'error' not in json.dumps(first)
    out = emulator.replies(emulator.qmp(images, [
        ('blockdev-change-medium', {'id': 'floppy', 'filename': str(base)}),
        ('blockdev-change-medium', {'id': 'floppy', 'filename': str(base), 'read-only-mode': 'read-only'})], *args))
    assert str(images / 'top.qcow2') in out[0]['error']['desc'] and out[1] == {'return': {}}


def test_exports_of_a_device_go_with_its_medium(machine, images):
    d = machine()
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd.sock')}}})
    for name, device in (('a', 'c'), ('b', 'c'), ('n', 'cn'), ('p', 'place')):
        d.cmd('nbd-server-add', {'device': device, 'name': name})
    uri = f'nbd+unix:///{{}}?socket={images}/nbd.sock'
    client = nbd.NBD()
    client.connect_uri(uri.format('a'))
    d.cmd('eject', id='cd')
    deadline = time.monotonic() + 10
    while len(d.cmd('query-block-exports')) > 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {e['id'] for e in d.cmd('query-block-exports')} == {'n', 'p'}  # that of the node stays
    d.cmd('human-monitor-command', {'command-line': 'drive_del place'})
    assert {e['id'] for e in d.cmd('query-block-exports')} == {'n'}
