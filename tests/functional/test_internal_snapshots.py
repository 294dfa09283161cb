# SPDX-License-Identifier: BSD-3-Clause
"""Internal snapshots: states that image files keep; judged by qemu-img (list, check, convert)."""
import time

import pytest

from lib import emulator
from lib import images as img
from lib import records
from lib.disks import Disks

CHAINS, SLOTS = 8, 8


def snapshots(path):
    return img.info(path, share=True).get('snapshots', [])


def state(path, name, length=1 << 20, offset=0):
    """What the disk had when the snapshot was taken."""
    out = f'{path}.{name}.raw'
    img.run('qemu-img', 'convert', '-U', '-l', f'snapshot.name={name}', '-O', 'raw', path, out)
    with open(out, 'rb') as f:
        f.seek(offset)
        return f.read(length)


def internal(device, name):
    return {'type': 'blockdev-snapshot-internal-sync', 'data': {'device': device, 'name': name}}


def image_info(q, node):
    return {n['node-name']: n for n in q.cmd('query-named-block-nodes')}[node]['image']


def write(disks, i, *commands):
    argv = ['qemu-io', '-f', 'raw']
    for c in commands:
        argv += ['-c', c]
    out = img.run(*argv, f'nbd+unix:///disk{i}?socket={disks.socket}')
    assert 'failed' not in out


@pytest.fixture
def disks(images):
    with Disks(images, 2, size='32M') as d:
        for i in range(2):
            img.qemu_io(d.layers[i][0], f'write -P {17 + i} 0 1M')
        d.start()
        yield d


def test_one(disks):
    q, path = disks.daemon.qmp, disks.layers[0][0]
    assert q.cmd('blockdev-snapshot-internal-sync', device='disk0', name='one') == {}
    write(disks, 0, 'write -P 33 64k 128k', 'write -P 34 300k 1k', 'write -P 35 8M 64k', 'write -z 512k 64k', 'discard 640k 64k')
    q.cmd('blockdev-snapshot-internal-sync', device='disk0', name='two')
    write(disks, 0, 'write -P 44 0 1M', 'flush')

    one, two = state(path, 'one'), state(path, 'two')
    assert one == bytes([17]) * (1 << 20)
    want = bytearray(one)
    want[64 << 10:192 << 10] = bytes([33]) * (128 << 10)
    want[300 << 10:301 << 10] = bytes([34]) * 1024
    want[512 << 10:576 << 10] = bytes(64 << 10)
    want[640 << 10:704 << 10] = bytes(64 << 10)
    assert two == want
    assert state(path, 'two', 65536, 8 << 20) == bytes([35]) * 65536
    assert state(path, 'one', 65536, 8 << 20) == bytes(65536)

    seen = image_info(q, 'disk0')['snapshots']
    assert seen == snapshots(path)
    assert [(s['id'], s['name'], s['vm-state-size']) for s in seen] == [('1', 'one', 0), ('2', 'two', 0)]
    assert abs(seen[0]['date-sec'] - time.time()) < 60 and 0 <= seen[0]['date-nsec'] < 10 ** 9
    assert 'icount' not in seen[0]
    assert 'snapshots' not in image_info(q, 'disk1')

    gone = q.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', name='one')
    assert gone == seen[0]
    assert snapshots(path) == seen[1:]
    assert state(path, 'two') == want
    q.cmd('blockdev-snapshot-internal-sync', device='disk0', name='three')
    assert [s['id'] for s in snapshots(path)] == ['2', '3']
    assert q.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', id='3', name='three')['name'] == 'three'
    write(disks, 0, 'read -P 44 0 1M')
    disks.daemon.stop()
    img.check(path)
    img.run('qemu-img', 'snapshot', '-a', 'two', path)
    assert img.contents(path, 1 << 20) == want
    img.run('qemu-img', 'snapshot', '-d', 'two', path)
    img.check(path)


def test_all_gone(disks):
    """Without snapshots, the disk has everything for itself again: nothing is copied, nothing is lost."""
    q, path = disks.daemon.qmp, disks.layers[0][0]
    before = img.map_ranges(path, share=True)
    for name in 'ab':
        q.cmd('blockdev-snapshot-internal-sync', device='disk0', name=name)
    for name in 'ba':
        q.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', name=name)
    write(disks, 0, 'write -P 5 0 1M', 'flush')
    assert img.map_ranges(path, share=True) == before  # in place
    assert 'snapshots' not in image_info(q, 'disk0')
    disks.daemon.stop()
    img.check(path)


def test_of_qemu_img(disks, daemon):
    """Snapshots that were there are kept as they are, and can be removed."""
    disks.daemon.stop()
    path = disks.layers[0][0]
    img.run('qemu-img', 'snapshot', '-c', 'theirs', path)
    img.qemu_io(path, 'write -P 99 0 64k')
    before = snapshots(path)
    d = disks.start()
    q = d.qmp
    write(disks, 0, 'write -P 66 128k 64k')
    q.cmd('blockdev-snapshot-internal-sync', device='disk0', name='ours')
    write(disks, 0, 'write -P 67 0 1M')
    assert snapshots(path)[0] == before[0] and len(snapshots(path)) == 2
    assert state(path, 'theirs') == bytes([17]) * (1 << 20)
    assert state(path, 'ours', 65536) == bytes([99]) * 65536
    q.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', id='1')
    assert state(path, 'ours', 65536, 65536) == bytes([17]) * 65536
    d.stop()
    img.check(path)
    img.run('qemu-img', 'snapshot', '-d', 'ours', path)
    img.check(path)


def test_errors(disks, daemon, images):
    q = disks.daemon.qmp
    make = 'blockdev-snapshot-internal-sync'
    remove = 'blockdev-snapshot-delete-internal-sync'
    assert q.error(make, device='nobody', name='x') == "Cannot find device='nobody' nor node-name='nobody'"
    assert q.error(make, device='disk0', name='') == 'Name is empty'
    assert q.error(make, device='disk0', name='x' * 256) == 'Snapshot name is too long: at most 255 bytes'
    file = [n['node-name'] for n in q.cmd('query-named-block-nodes') if n['drv'] == 'file'][0]
    assert q.error(make, device=file, name='x') == 'Need a root block node'
    assert q.error(remove, device=file, name='x') == 'Need a root block node'
    q.cmd('blockdev-add', driver='null-co', **{'node-name': 'null'})
    assert q.error(make, device='null', name='x') == \
        "Block format 'null-co' used by device 'null' does not support internal snapshots"
    img.create(images / 'ro.qcow2')
    q.cmd('blockdev-add', driver='qcow2', file={'driver': 'file', 'filename': str(images / 'ro.qcow2')},
          **{'node-name': 'ro', 'read-only': True})
    assert q.error(make, device='ro', name='x') == "Device 'ro' is read only"
    assert q.error(remove, device='disk0') == 'Name or id must be provided'
    for members, said in (({'name': 'x'}, ('null', 'x')), ({'id': '7'}, ('7', 'null')), ({'id': '7', 'name': 'x'}, ('7', 'x'))):
        assert q.error(remove, device='disk0', **members) == \
            f"Snapshot with id '{said[0]}' and name '{said[1]}' does not exist on device 'disk0'"
    q.cmd(make, device='disk0', name='x')
    assert q.error(make, device='disk0', name='x') == "Snapshot with name 'x' already exists on device 'disk0'"
    assert q.error(remove, device='disk0', id='1', name='y') == "Snapshot with id '1' and name 'y' does not exist on device 'disk0'"
    assert q.error('transaction', actions=[internal('disk1', 'a'), internal('disk1', 'a')]) == \
        "Snapshot with name 'a' already exists on device 'disk1'"
    assert snapshots(disks.layers[1][0]) == []
    img.create(images / 'data.qcow2', options=f'data_file={images}/data.raw')
    q.cmd('blockdev-add', driver='qcow2', file={'driver': 'file', 'filename': str(images / 'data.qcow2')}, **{'node-name': 'data'})
    for command in (make, remove):
        assert q.error(command, device='data', name='x') == 'Failed to get a snapshot list: Operation not supported'
    # A refcount of one bit cannot say two.
    img.create(images / 'one.qcow2', options='refcount_bits=1')
    img.qemu_io(images / 'one.qcow2', 'write 0 1M')
    q.cmd('blockdev-add', driver='qcow2', file={'driver': 'file', 'filename': str(images / 'one.qcow2')}, **{'node-name': 'onebit'})
    assert q.error(make, device='onebit', name='x') == "Failed to create snapshot 'x' on device 'onebit': Invalid argument"
    q.cmd('blockdev-del', **{'node-name': 'onebit'})
    img.check(images / 'one.qcow2')


def test_twins(disks):
    """Several of one image in a transaction are of one state, and each is its own."""
    q, path = disks.daemon.qmp, disks.layers[0][0]
    q.cmd('transaction', actions=[internal('disk0', n) for n in 'abc'])
    write(disks, 0, 'write -P 5 0 1M')
    assert [(s['id'], s['name']) for s in snapshots(path)] == [('1', 'a'), ('2', 'b'), ('3', 'c')]
    q.error('transaction', actions=[*(internal('disk0', n) for n in 'de'), {'type': 'abort', 'data': {}}])
    for name in 'ba':
        q.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', name=name)
        write(disks, 0, 'write -P 6 0 1M', 'flush')
    assert state(path, 'c') == bytes([17]) * (1 << 20)
    disks.daemon.stop()
    img.check(path)


@pytest.mark.parametrize('options', ['extended_l2=on', 'compat=0.10', 'cluster_size=512', 'refcount_bits=64'])
def test_kinds_of_images(images, daemon, options):
    """With a stored bitmap, which goes on recording (version 3)."""
    path = img.create(images / 'a.qcow2', '8M', options=options)
    img.qemu_io(path, 'write -P 1 0 1M')
    stored = 'compat' not in options
    if stored:
        img.run('qemu-img', 'bitmap', '--add', path, 'b')
    d = daemon('--blockdev', f'driver=qcow2,node-name=disk0,file.driver=file,file.filename={path}',
               '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock', '--export', 'nbd,id=e,node-name=disk0,name=disk0,writable=on')
    disks = type('', (), {'socket': images / 'nbd.sock'})
    d.qmp.cmd('blockdev-snapshot-internal-sync', device='disk0', name='s')
    write(disks, 0, 'write -P 2 4k 4k', 'write -z 64k 64k', 'write -P 3 512k 600k')
    d.qmp.cmd('blockdev-snapshot-internal-sync', device='disk0', name='t')
    write(disks, 0, 'write -P 4 0 2M')
    assert state(path, 's') == bytes([1]) * (1 << 20)
    t = state(path, 't', 2 << 20)
    assert t[4096:8192] == bytes([2]) * 4096 and t[65536:131072] == bytes(65536) and t[512 << 10:1112 << 10] == bytes([3]) * (600 << 10)
    d.qmp.cmd('blockdev-snapshot-delete-internal-sync', device='disk0', name='s')
    write(disks, 0, 'read -P 4 0 2M')
    assert state(path, 't', 2 << 20) == t
    if stored:
        bitmaps = next(n for n in d.qmp.cmd('query-named-block-nodes') if n['node-name'] == 'disk0')['dirty-bitmaps']
        assert [(b['name'], b['persistent']) for b in bitmaps] == [('b', True)] and bitmaps[0]['count'] >= 2 << 20
    d.stop()
    img.check(path)
    info = img.info(path)
    assert [s['name'] for s in info['snapshots']] == ['t']
    if stored:
        assert [b['name'] for b in info['format-specific']['data']['bitmaps']] == ['b']
        img.run('qemu-img', 'bitmap', '--remove', path, 'b')
    img.run('qemu-img', 'snapshot', '-a', 't', path)
    assert img.contents(path, 2 << 20) == t


@pytest.mark.parametrize('what', ['abort', 'later'])
def test_undone(disks, what):
    """A transaction that fails leaves no snapshot, and the image as good as before."""
    q, path = disks.daemon.qmp, disks.layers[0][0]
    fail = {'type': 'abort', 'data': {}} if what == 'abort' else internal('disk1', '')
    before = img.map_ranges(path, share=True)
    q.error('transaction', actions=[internal('disk0', 'a'), disks.actions([1])[0], fail])
    assert snapshots(path) == []
    write(disks, 0, 'write -P 5 0 1M', 'flush')
    assert img.map_ranges(path, share=True) == before
    assert not disks._layer(1, 1)[1].exists()
    disks.daemon.stop()
    img.check(path)


def test_same_instant(images):
    """A group of internal snapshots and overlays, again and again under load: one consistent state each time, and nobody waits long."""
    rounds = 3
    layout = records.Layout(4, CHAINS, SLOTS)
    with Disks(images, 4, size='64M', iothreads=2) as disks:
        d = disks.start()
        with disks.load(mode='chain', chains=CHAINS, slots=SLOTS) as load:
            for r in range(1, rounds + 1):
                time.sleep(0.1)
                actions = [internal(disks.nodes[i], f's{r}') for i in (0, 1)] + disks.actions([2, 3])
                d.qmp.cmd('transaction', actions=actions, properties={'group': f'g{r}'})
                disks.rounds += 1
                for i in (2, 3):
                    node, path = disks._layer(i, disks.rounds)
                    disks.nodes[i] = node
                    disks.layers[i].append(path)
            load.stop()
        groups = d.qmp.cmd('query-snapshot-groups')
        for r in range(1, rounds + 1):
            raws = [state(disks.layers[i][0], f's{r}', layout.length) for i in (0, 1)]
            raws += [img.contents(disks.layers[i][r - 1], layout.length, share=True) for i in (2, 3)]
            cut = records.read_cut(layout, raws)
            assert cut.consistent and sum(cut.last) > 0, cut.problems[:3]
        members = groups[-1]['members']
        assert [(m['node'], m.get('snapshot')) for m in members[:2]] == [('disk0', f's{rounds}'), ('disk1', f's{rounds}')]
        assert all(m['state'] == 'settled' for m in members)
        assert all(m['longest-wait'] < 60_000_000 for m in members[:2]), members
        d.stop()
        for i in range(4):
            for path in disks.layers[i]:
                img.check(path)


def test_console(images):
    for name in 'ab':
        img.create(images / f'{name}.qcow2')
    lines = ['info snapshots', 'snapshot_blkdev_internal a one', 'snapshot_blkdev_internal a two', 'snapshot_blkdev_internal b two',
             'snapshot_blkdev_internal b two', 'info snapshots', 'snapshot_delete_blkdev_internal a two 1',
             'snapshot_delete_blkdev_internal a one', 'info snapshots']
    said = emulator.console(images, lines, '-drive', f'if=none,id=a,file={images}/a.qcow2', '-drive', f'if=none,id=b,file={images}/b.qcow2')
    assert said[:5] == ['There is no snapshot available.\n', '', '', '', "Error: Snapshot with name 'two' already exists on device 'b'\n"]
    head = 'ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT'
    shown = said[5].split('\n')
    assert shown[:2] == ['List of snapshots present on all disks:', head]
    assert shown[2].startswith('--      two                   0 B 20') and shown[2].endswith('         --')
    assert shown[3:6] == ['', "List of partial (non-loadable) snapshots on 'a':", head]
    assert shown[6].startswith('1       one ') and shown[7:] == ['']
    assert said[6:8] == ["Error: Snapshot with id '1' and name 'two' does not exist on device 'a'\n", '']
    assert 'two' in said[8] and 'partial' not in said[8]
    img.check(images / 'a.qcow2')
