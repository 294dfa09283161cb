# SPDX-License-Identifier: BSD-3-Clause
"""Active and inactive nodes: a disk that moves between processes which both have it open."""
import threading
import time

import nbd
import pytest

from lib import emulator
from lib import images as img

MIB = 1 << 20
EPERM = 'Operation not permitted'


def start(daemon, images, name, options='', disk='hd.qcow2', allow=True, writable=True):
    """A daemon with that disk as node `hd` and export `hd`."""
    d = daemon('--blockdev', f'driver=qcow2,node-name=hd,discard=unmap,file.driver=file,file.node-name=hd-file,'
               f'file.filename={images}/{disk}{options}')
    d.sock = f'{images}/{name}.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': d.sock}}})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'hd', 'node-name': 'hd', 'writable': writable, 'allow-inactive': allow})
    return d


def below(images, *numbers):
    """Options for the backing chain: hd<number>.qcow2 as nodes hd<number>."""
    text, at = '', ''
    for n in numbers:
        at += 'backing.'
        text += f',{at}driver=qcow2,{at}node-name=hd{n},{at}file.driver=file,{at}file.filename={images}/hd{n}.qcow2'
    return text


def client(d):
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///hd?socket={d.sock}')
    return h


def set_active(d, active, node='hd'):
    d.cmd('blockdev-set-active', {'active': active, **({'node-name': node} if node else {})})


def activity(d):
    return {n['node-name']: n['active'] for n in d.cmd('query-named-block-nodes', flat=True) if not n['node-name'].startswith('#')}


def refused(d, active, node='hd'):
    return d.qmp.error('blockdev-set-active', {'active': active, 'node-name': node})


def test_disk_moves_between_processes(daemon, images):
    """Each finds what the other wrote, by connections that were there all the time; only one of them can be active."""
    img.create(images / 'hd.qcow2', '64M')
    a, b = start(daemon, images, 'a'), start(daemon, images, 'b', ',active=off')
    ha, hb = client(a), client(b)
    assert activity(a) == {'hd': True, 'hd-file': True} and activity(b) == {'hd': False, 'hd-file': False}
    for turn in range(3):
        ha.pwrite(bytes([1 + turn]) * 3 * MIB, turn * 4 * MIB)  # in no table that b has read
        with pytest.raises(nbd.Error, match=EPERM):
            hb.pwrite(b'x' * 512, 0)
        with pytest.raises(nbd.Error, match=EPERM):
            hb.zero(65536, 0)
        with pytest.raises(nbd.Error, match=EPERM):
            hb.block_status(MIB, 0, lambda *args: 0)
        assert refused(b, True) == 'Failed to get "write" lock'
        assert not any(activity(b).values())
        set_active(a, False)
        assert img.can_write(images / 'hd.qcow2')
        assert img.check(images / 'hd.qcow2')['check-errors'] == 0
        set_active(b, True)
        assert hb.pread(3 * MIB, turn * 4 * MIB) == bytes([1 + turn]) * 3 * MIB
        hb.pwrite(bytes([0x81 + turn]) * MIB, turn * 4 * MIB + MIB)
        hb.trim(MIB, turn * 4 * MIB + 2 * MIB)
        with pytest.raises(nbd.Error, match=EPERM):
            ha.pwrite(b'x' * 512, 0)
        set_active(b, False)
        set_active(a, True)
        want = bytes([1 + turn]) * MIB + bytes([0x81 + turn]) * MIB + bytes(MIB)
        assert ha.pread(3 * MIB, turn * 4 * MIB) == want
    ha.flush()
    a.stop()
    b.stop()
    report = img.check(images / 'hd.qcow2')
    assert report['check-errors'] == 0 and 'leaks' not in report


def test_size_changes_while_inactive(daemon, images):
    """A raw image that another process made longer, and one that vanished in part."""
    (images / 'hd.raw').write_bytes(b'\1' * MIB)
    d = daemon('--blockdev', f'driver=raw,node-name=hd,file.driver=file,file.filename={images}/hd.raw,active=off')
    with open(images / 'hd.raw', 'ab') as f:
        f.write(b'\2' * MIB)
    set_active(d, True)
    size = [n['image']['virtual-size'] for n in d.cmd('query-named-block-nodes', flat=True)]
    assert size == [2 * MIB, 2 * MIB]
    set_active(d, False)
    with open(images / 'hd.raw', 'r+b') as f:
        f.truncate(512)
    set_active(d, True)
    assert {n['image']['virtual-size'] for n in d.cmd('query-named-block-nodes', flat=True)} == {512}


def test_all_or_nothing(daemon, images):
    """One node of a chain that cannot be activated or inactivated leaves all as they were."""
    for i, backing in enumerate((None, 'hd0.qcow2', 'hd1.qcow2')):
        img.create(images / f'hd{i}.qcow2', '4M', backing=backing and images / backing)
    d = start(daemon, images, 'a', below(images, 1, 0), disk='hd2.qcow2')
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'hd0', 'node-name': 'hd0'})
    before = activity(d)
    assert all(before.values()) and {'hd', 'hd1', 'hd0'} < set(before)
    assert refused(d, False) == f'Failed to inactivate node: {EPERM}'
    assert refused(d, False, 'hd1') == 'Node has active parent node'
    assert d.qmp.error('blockdev-set-active', {'active': False}) == f'Failed to inactivate node: {EPERM}'
    assert activity(d) == before
    h = client(d)
    h.pwrite(b'\7' * MIB, 0)
    d.cmd('block-export-del', id='hd0')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    set_active(d, False, None)
    assert not any(activity(d).values())

    # Somebody destroys the lowest image.
    header = (images / 'hd0.qcow2').read_bytes()
    (images / 'hd0.qcow2').write_bytes(b'\0' * 4096 + header[4096:])
    assert 'qcow2' in refused(d, True)
    assert not any(activity(d).values())
    (images / 'hd0.qcow2').write_bytes(header)
    assert img.can_write(images / 'hd2.qcow2')
    set_active(d, True)
    assert activity(d) == before
    h.pwrite(b'\7' * MIB, MIB)
    assert h.pread(2 * MIB, 0) == b'\7' * 2 * MIB
    # The backing nodes are what they were: nobody writes them, and others may read them.
    assert not img.can_write(images / 'hd2.qcow2')
    assert {n['node-name']: n['ro'] for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] in ('hd', 'hd1', 'hd0')} == {
        'hd': False, 'hd1': True, 'hd0': True}


def test_readers_and_writers_meanwhile(daemon, images):
    """A client that reads sees no error, and one that writes no other than EPERM; what was acknowledged is there."""
    img.create(images / 'hd.qcow2', '16M')
    d = start(daemon, images, 'a')
    stop = threading.Event()
    written, bad = {}, []

    def reader():
        h = client(d)
        while not stop.is_set():
            h.pread(65536, 15 * MIB)

    def writer():
        h = client(d)
        n = 0
        while not stop.is_set():
            n += 1
            place = n * 65536 % (8 * MIB)
            try:
                h.pwrite(bytes([n % 255]) * 65536, place)
                written[place] = n % 255
            except nbd.Error as e:
                if EPERM not in str(e):
                    bad.append(e)

    threads = [threading.Thread(target=f) for f in (reader, writer)]
    for t in threads:
        t.start()
    turns = 0
    while turns < 25 or (len(written) <= 3 and turns < 1000):
        set_active(d, False)
        set_active(d, True)
        time.sleep(0.002)
        turns += 1
    stop.set()
    for t in threads:
        t.join()
    assert not bad and len(written) > 3
    h = client(d)
    for place, byte in written.items():
        assert h.pread(65536, place) == bytes([byte]) * 65536
    d.stop()
    assert img.check(images / 'hd.qcow2')['check-errors'] == 0


def test_snapshot_of_an_inactive_disk(daemon, images):
    """The overlay is inactive too, also one that was made active; a transaction that fails makes that active again."""
    img.create(images / 'hd.qcow2', '4M')
    img.create(images / 'top.qcow2', '4M')
    d = start(daemon, images, 'a', ',active=off')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'backing': None,
                           'file': {'driver': 'file', 'filename': str(images / 'top.qcow2')}})
    action = {'type': 'blockdev-snapshot', 'data': {'node': 'hd', 'overlay': 'top'}}
    assert d.qmp.error('transaction', {'actions': [action, {'type': 'abort', 'data': {}}]})
    assert activity(d) == {'hd': False, 'hd-file': False, 'top': True}
    d.cmd('transaction', {'actions': [action]})
    assert activity(d)['top'] is False
    d.cmd('blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-file': str(images / 'sync.qcow2'), 'snapshot-node-name': 'sync'})
    assert not any(activity(d).values())
    set_active(d, True, 'sync')
    assert all(activity(d).values())
    h = client(d)
    h.pwrite(b'\5' * 512, 0)
    assert h.pread(512, 0) == b'\5' * 512
    ro = {n['node-name']: n['ro'] for n in d.cmd('query-named-block-nodes', flat=True)}
    assert (ro['sync'], ro['top'], ro['hd']) == (False, True, True)
    # An inactive overlay cannot go on an active disk that is written to.
    img.create(images / 'off.qcow2', '4M')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'off', 'backing': None, 'active': False,
                           'file': {'driver': 'file', 'filename': str(images / 'off.qcow2')}})
    assert d.qmp.error('blockdev-snapshot', {'node': 'sync', 'overlay': 'off'}) == "Permission 'write' unavailable on inactive node"


def test_who_needs_an_active_node(daemon, images):
    for i in range(2):
        img.create(images / f'hd{i}.qcow2', '4M', backing=images / 'hd0.qcow2' if i else None)
    d = start(daemon, images, 'a', below(images, 0), disk='hd1.qcow2')
    assert refused(d, False, 'nobody') == "Failed to find node with node-name='nobody'"
    # Jobs.
    d.cmd('block-commit', {'device': 'hd', 'job-id': 'j'})
    d.qmp.event('BLOCK_JOB_READY')
    assert refused(d, False) == f'Failed to inactivate node: {EPERM}'
    d.cmd('block-job-cancel', device='j')
    d.qmp.event('BLOCK_JOB_COMPLETED')
    set_active(d, False)
    inactive = "Inactive 'hd' can't be a {} child of active 'f'"
    assert d.qmp.error('block-commit', {'device': 'hd', 'job-id': 'j', 'filter-node-name': 'f'}) == inactive.format('backing')
    assert d.qmp.error('block-stream', {'device': 'hd', 'job-id': 'j', 'filter-node-name': 'f'}) == (
        'Could not create node: ' + inactive.format('file'))
    null = {'driver': 'null-co', 'node-name': 'null', 'size': 4 * MIB}
    d.cmd('blockdev-add', null)
    mirror = {'device': 'hd', 'target': 'null', 'sync': 'full', 'job-id': 'j', 'filter-node-name': 'f'}
    assert d.qmp.error('blockdev-mirror', mirror) == inactive.format('backing')
    assert d.qmp.error('blockdev-mirror', {**mirror, 'device': 'null', 'target': 'hd'}) == "Permission 'write' unavailable on inactive node"
    backup = {k: v for k, v in mirror.items()}
    assert d.qmp.error('blockdev-backup', backup) == 'Could not create node: ' + inactive.format('file')
    assert d.qmp.error('blockdev-backup', {**backup, 'device': 'null', 'target': 'hd'}) == 'Could not create node: ' + inactive.format('target')
    d.cmd('blockdev-del', node_name='null')
    assert d.qmp.error('block_resize', {'node-name': 'hd', 'size': 8 * MIB}) == "Permission 'resize' unavailable on inactive node"
    assert d.qmp.error('change-backing-file', {'device': 'hd', 'image-node-name': 'hd', 'backing-file': 'x'})
    # Exports.
    assert d.qmp.error('block-export-add', {'type': 'vhost-user-blk', 'id': 'v', 'node-name': 'hd', 'allow-inactive': True,
                                            'addr': {'type': 'unix', 'path': f'{images}/v.sock'}}) == (
        'Export type does not support inactive exports')
    assert not any(activity(d).values())
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'name': 'e', 'node-name': 'hd'})
    assert all(activity(d).values())
    # Options.
    d.cmd('block-export-del', id='e')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    options = {'driver': 'qcow2', 'node-name': 'hd', 'discard': 'unmap', 'active': False, 'file': 'hd-file', 'backing': 'hd0'}
    assert d.qmp.error('blockdev-reopen', {'options': [options]}) == "Cannot change the option 'active'"
    set_active(d, False)
    d.cmd('blockdev-reopen', {'options': [{**options, 'lazy-refcounts': True}]})
    assert not any(activity(d).values())
    set_active(d, True)
    client(d).pwrite(b'\1' * 512, 0)


def test_a_machine_that_runs_has_active_disks(images):
    img.create(images / 'hd.qcow2', '4M')
    disk = ['-blockdev', f'qcow2,node-name=hd,active=off,file.driver=file,file.filename={images}/hd.qcow2', '-device', 'virtio-blk,drive=hd']
    commands = [('query-named-block-nodes', {'flat': True}), ('cont',), ('query-named-block-nodes', {'flat': True})]
    before, _, after = emulator.replies(emulator.qmp(images, commands, '-S', *disk))[:3]
    assert [n['active'] for n in before['return']] == [False, False] and [n['active'] for n in after['return']] == [True, True]
    at_once = emulator.replies(emulator.qmp(images, commands[:1], *disk))[0]
    assert [n['active'] for n in at_once['return']] == [True, True]
