# SPDX-License-Identifier: BSD-3-Clause
"""blockdev-backup: every sync mode judged against the disk at the instant, under load; bitmaps, groups of jobs, errors, events."""
import random
import time

import nbd
import pytest

from lib import images as img
from lib import records
from lib.disks import Disks
from lib.jobs import error_of, events_of, wait_status

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB
CHAINS, SLOTS = 8, 16


def backup(d, **args):
    return d.cmd('blockdev-backup', {'auto-dismiss': False, 'job-id': 'j', 'device': 'd', 'target': 't',
                                     **{k.replace('_', '-'): v for k, v in args.items()}})


def finish(d, job='j', error=None):
    wait_status(d, job, 'concluded')
    assert error_of(d, job) == error
    d.cmd('job-dismiss', id=job)


class Disk:
    """A disk `d` (an overlay over `base`) with an export, targets on demand."""

    def __init__(self, directory, daemon, size=SIZE, extra=(), **kwargs):
        self.dir, self.size = directory, size
        img.create(directory / 'base.qcow2', str(size))
        img.qemu_io(directory / 'base.qcow2', 'write -P 1 0 4M', 'write -P 2 9M 100k')
        img.create(directory / 'd.qcow2', str(size), backing=directory / 'base.qcow2')
        img.qemu_io(directory / 'd.qcow2', 'write -P 3 1M 300k', 'write -z 2M 64k', 'write -P 4 12M 64k')
        self.socket = directory / 'nbd.sock'
        self.d = daemon('--nbd-server', f'addr.type=unix,addr.path={self.socket},max-connections=0', '--object', 'iothread,id=io0',
                        *extra, '--blockdev', f'driver=qcow2,node-name=d,discard=unmap,file.driver=file,file.filename={directory}/d.qcow2',
                        '--export', 'nbd,id=e,node-name=d,name=d,writable=on,iothread=io0', **kwargs)
        self.targets = {}

    def target(self, name='t', fmt='qcow2', backing=None, size=None, node_backing=None):
        path = self.dir / f'{name}.img'
        img.create(path, str(size or self.size), fmt=fmt, backing=backing)
        self.d.cmd('blockdev-add', {'driver': fmt, 'node-name': name, 'discard': 'unmap',
                                    **({'backing': node_backing} if fmt == 'qcow2' else {}),
                                    'file': {'driver': 'file', 'filename': str(path)}})
        self.targets[name] = path
        return path

    def connect(self, name='d'):
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///{name}?socket={self.socket}')
        return h

    def contents(self):
        h = self.connect()
        data = b''.join(h.pread(MIB, at) for at in range(0, self.size, MIB))
        h.shutdown()
        return data

    def bitmap(self, name='b', node='d'):
        for n in self.d.cmd('query-named-block-nodes', {'flat': True}):
            if n['node-name'] == node:
                return next(b for b in n['dirty-bitmaps'] if b.get('name') == name)
        raise AssertionError(name)


def scribble(h, rng, count, size=SIZE):
    for _ in range(count):
        length = rng.choice([512, 4096, 70000, 200000]) & ~511
        h.pwrite(rng.randbytes(length), rng.randrange(0, size - length) & ~511)


@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
@pytest.mark.parametrize('sync', ['full', 'top'])
def test_sync_full_and_top(daemon, images, sync, fmt):
    if sync == 'top' and fmt == 'raw':
        fmt = 'qcow2'
    disk = Disk(images, daemon)
    d = disk.d
    path = disk.target(fmt=fmt, backing=images / 'base.qcow2' if sync == 'top' else None)
    want = disk.contents()
    backup(d, sync=sync, speed=4 * MIB)
    assert events_of(d, 'j')[:2] == ['created', 'running'], 'before the reply'
    h = disk.connect()
    scribble(h, random.Random(1), 60)
    d.cmd('block-job-set-speed', device='j', speed=0)
    info = d.cmd('query-block-jobs')[0]
    assert info['type'] == 'backup' and info['device'] == 'j'
    finish(d)
    assert [e for e in events_of(d, 'j') if e != 'null'] == \
        ['created', 'running', 'waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
    event = next(e for e in d.qmp.events if e['event'] == 'BLOCK_JOB_COMPLETED')['data']
    assert event['len'] == event['offset'] and event['type'] == 'backup' and 'error' not in event
    assert event['len'] == SIZE if sync == 'full' else 0 < event['len'] < SIZE
    assert d.cmd('query-block-exports')[0]['node-name'] == 'd', 'the filter has gone'
    assert disk.contents() != want
    h.shutdown()
    d.stop()
    (images / 'want').write_bytes(want)
    img.run('qemu-img', 'compare', '-f', 'raw', '-F', fmt, images / 'want', path)
    if fmt == 'qcow2':
        img.check(path)


def test_zeroes_stay_holes(daemon, images):
    disk = Disk(images, daemon)
    path = disk.target()
    backup(disk.d, sync='full')
    finish(disk.d)
    disk.d.stop()
    data = sum(r['length'] for r in img.map_ranges(path) if r['data'])
    assert data <= 6 * MIB


def test_compress(daemon, images):
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    disk.target('r', fmt='raw')
    assert d.qmp.error('blockdev-backup', {'job-id': 'j', 'device': 'd', 'target': 'r', 'sync': 'full', 'compress': True}) == \
        'Compression is not supported for this drive r'
    path = disk.target()
    h.pwrite(random.Random(7).randbytes(1000) * 300, 5 * MIB)
    want = disk.contents()
    backup(d, sync='full', compress=True, speed=4 * MIB)
    scribble(h, random.Random(8), 20)
    d.cmd('block-job-set-speed', device='j', speed=0)
    finish(d)
    h.shutdown()
    d.stop()
    assert img.contents(path, SIZE) == want
    assert img.check(path)['compressed-clusters'] > 40
    assert path.stat().st_blocks * 512 < 3 * MIB


def add_bitmap(disk, name='b'):
    disk.d.cmd('block-dirty-bitmap-add', node='d', name=name)


@pytest.mark.parametrize('mode,cancelled,copied_out', [
    ('on-success', False, True), ('on-success', True, False), ('never', False, False), ('always', True, True)])
def test_sync_bitmap(daemon, images, mode, cancelled, copied_out):
    """An incremental backup on top of a full one; what becomes of the bitmap when the job ends well or is cancelled at the end."""
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    full = disk.target('full')
    d.cmd('transaction', actions=[
        {'type': 'block-dirty-bitmap-add', 'data': {'node': 'd', 'name': 'b'}},
        {'type': 'blockdev-backup', 'data': {'device': 'd', 'target': 'full', 'sync': 'full', 'job-id': 'j', 'auto-dismiss': False}}])
    finish(d)
    d.cmd('blockdev-del', {'node-name': 'full'})
    d.qmp.events.clear()
    h.pwrite(b'x' * 100000, 3 * MIB)
    h.pwrite(b'y' * 512, 11 * MIB)
    path = disk.target('t', backing=full)
    want = disk.contents()
    backup(d, sync='bitmap', bitmap='b', bitmap_mode=mode, auto_finalize=False)
    h.pwrite(b'z' * 65536, 3 * MIB)
    h.pwrite(b'z' * 65536, 5 * MIB)
    wait_status(d, 'j', 'pending')
    assert disk.bitmap()['busy'] and disk.bitmap()['recording'] and disk.bitmap()['count'] == 3 * 65536
    assert d.qmp.error('block-dirty-bitmap-clear', node='d', name='b') == \
        "Bitmap 'b' is currently in use by another operation and cannot be used"
    d.cmd('job-cancel' if cancelled else 'job-finalize', id='j')
    finish(d, error='Operation canceled' if cancelled else None)
    event = next(e for e in d.qmp.events if e['event'] == ('BLOCK_JOB_CANCELLED' if cancelled else 'BLOCK_JOB_COMPLETED'))
    assert event['data']['offset'] == event['data']['len'] == 3 * 65536
    b = disk.bitmap()
    assert not b['busy'] and b['recording'] and b['count'] == (2 if copied_out else 4) * 65536
    h.pwrite(b'w' * 512, 7 * MIB)
    assert disk.bitmap()['count'] == (3 if copied_out else 5) * 65536
    h.shutdown()
    d.stop()
    (images / 'want').write_bytes(want)
    img.run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', images / 'want', path)


def test_sync_none_fleecing(daemon, images):
    """libvirt's pull backup: the target is an overlay of the disk, exported while the guest writes."""
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    disk.target(node_backing='d')
    want = disk.contents()
    d.cmd('transaction', actions=[{'type': 'blockdev-backup', 'data': {
        'device': 'd', 'target': 't', 'sync': 'none', 'job-id': 'j', 'auto-dismiss': False}}])
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'et', 'node-name': 't', 'name': 't', 'writable': False})
    scribble(h, random.Random(2), 60)
    img.run('nbdcopy', f'nbd+unix:///t?socket={disk.socket}', images / 'copy')
    assert (images / 'copy').read_bytes() == want
    info = d.cmd('query-block-jobs')[0]
    assert info['len'] == SIZE and 0 < info['offset'] <= SIZE
    d.cmd('block-job-cancel', device='j', force=True)
    wait_status(d, 'j', 'concluded')
    assert events_of(d, 'j')[-3:] == ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded']
    d.cmd('job-dismiss', id='j')
    d.cmd('block-export-del', id='et')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    d.cmd('blockdev-del', {'node-name': 't'})
    now = disk.contents()
    h.shutdown()
    d.stop()
    assert img.contents(images / 'd.qcow2', SIZE) == now != want
    img.check(images / 'd.qcow2')


@pytest.mark.parametrize('iothreads', [0, 3])
def test_backups_and_snapshots_of_one_transaction_are_one_cut(images, iothreads):
    """Dependent writers on all disks: targets of backups, and an old image of a snapshot, form one consistent cut."""
    n, layout = 4, records.Layout(4, CHAINS, SLOTS)
    with Disks(images, n, iothreads=iothreads, size='16M') as disks:
        d = disks.start()
        cuts = []
        with disks.load(mode='chain', chains=CHAINS, slots=SLOTS, threads=2) as load:
            for r in range(6):
                time.sleep(0.05)
                actions, paths = disks.actions([0]), [disks.layers[0][-1]]
                for i in range(1, n):
                    path = images / f't{r}-{i}.qcow2'
                    img.create(path, '16M')
                    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f't{r}-{i}',
                                           'file': {'driver': 'file', 'filename': str(path)}})
                    actions.append({'type': 'blockdev-backup', 'data': {
                        'device': f'disk{i}', 'target': f't{r}-{i}', 'sync': 'full', 'job-id': f'j{i}', 'auto-dismiss': False}})
                    paths.append(path)
                d.cmd('transaction', actions=actions, properties={'completion-mode': 'individual'})
                disks.rounds += 1
                disks.nodes[0] = f'snap{disks.rounds}-disk0'
                disks.layers[0].append(images / f'snap{disks.rounds}-disk0.qcow2')
                for i in range(1, n):
                    finish(d, f'j{i}')
                    d.cmd('blockdev-del', {'node-name': f't{r}-{i}'})
                cuts.append(paths)
                d.qmp.events.clear()
            total = load.stop()
        assert sum(total['completed']) > 0
        d.stop()
        for number, paths in enumerate(cuts):
            cut = records.read_cut(layout, [img.contents(p, layout.length) for p in paths])
            assert cut.consistent, (number, cut.problems[:3])
        for path in (*cuts[0], disks.layers[0][-1], disks.layers[1][0]):
            img.check(path)


def test_grouped(daemon, images):
    """One of two jobs fails: the other one, which has done its work, is cancelled, and both bitmaps keep their marks."""
    disk = Disk(images, daemon)
    d = disk.d
    img.create(images / 'd2.qcow2', str(SIZE))
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'd2', 'file': {'driver': 'file', 'filename': str(images / 'd2.qcow2')}})
    disk.target('t1')
    disk.target('t2')
    for node in ('d', 'd2'):
        d.cmd('block-dirty-bitmap-add', node=node, name='b')
    h = disk.connect()
    h.pwrite(b'x' * MIB, 0)
    h.shutdown()

    def go(sync):
        d.qmp.events.clear()
        d.cmd('transaction', properties={'completion-mode': 'grouped'}, actions=[
            {'type': 'blockdev-backup', 'data': {'device': 'd', 'target': 't1', 'sync': 'incremental', 'bitmap': 'b', 'job-id': 'j1',
                                                 'auto-dismiss': False}},
            {'type': 'blockdev-backup', 'data': {'device': 'd2', 'target': 't2', 'job-id': 'j2', 'auto-dismiss': False, **sync}}])

    go({'sync': 'none'})
    running = [(e['data']['id'], e['data']['status']) for e in d.qmp.events if e['event'] == 'JOB_STATUS_CHANGE']
    assert running[:4] == [('j1', 'created'), ('j2', 'created'), ('j2', 'running'), ('j1', 'running')]
    wait_status(d, 'j1', 'waiting')
    d.cmd('job-cancel', id='j2')
    wait_status(d, 'j1', 'concluded')
    wait_status(d, 'j2', 'concluded')
    assert 'BLOCK_JOB_CANCELLED' in events_of(d, 'j1') and 'BLOCK_JOB_CANCELLED' in events_of(d, 'j2')
    for job in ('j1', 'j2'):
        d.cmd('job-dismiss', id=job)
    assert disk.bitmap()['count'] == MIB
    go({'sync': 'incremental', 'bitmap': 'b'})
    wait_status(d, 'j1', 'concluded')
    wait_status(d, 'j2', 'concluded')
    for job in ('j1', 'j2'):
        assert error_of(d, job) is None
        d.cmd('job-dismiss', id=job)
    assert disk.bitmap()['count'] == 0
    assert d.qmp.error('transaction', properties={'completion-mode': 'grouped'}, actions=[
        {'type': 'abort', 'data': {}}]) == "Action 'abort' does not support transaction property completion-mode = grouped"


def test_aborted_transaction_leaves_nothing(daemon, images):
    disk = Disk(images, daemon)
    d = disk.d
    disk.target()
    add_bitmap(disk)
    backup(d, sync='full')  # jobs have a thread of their own, from the first one on
    finish(d)
    before = (d.cmd('query-named-block-nodes'), d.cmd('x-debug-query-block-graph'), d.descriptors())
    assert d.qmp.error('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {'device': 'd', 'target': 't', 'sync': 'incremental', 'bitmap': 'b', 'job-id': 'j'}},
        {'type': 'abort', 'data': {}}]) == 'Transaction aborted using Abort action'
    assert d.cmd('query-jobs') == []
    assert (d.cmd('query-named-block-nodes'), d.cmd('x-debug-query-block-graph'), d.descriptors()) == before
    h = disk.connect()
    h.pwrite(b'x' * 4096, 0)
    h.shutdown()
    assert disk.bitmap()['count'] == 65536


def test_errors(daemon, images):
    disk = Disk(images, daemon)
    d = disk.d
    disk.target()
    disk.target('small', size=MIB)
    disk.target('t2')
    add_bitmap(disk)

    def error(**args):
        return d.qmp.error('blockdev-backup', {'job-id': 'j', 'device': 'd', 'target': 't', 'sync': 'full',
                                               **{k.replace('_', '-'): v for k, v in args.items()}})

    assert error(device='x') == "Cannot find device='x' nor node-name='x'"
    assert error(target='x') == "Cannot find device='x' nor node-name='x'"
    assert error(target='d') == 'Source and target cannot be the same'
    assert error(target='small') == 'Source and target image have different sizes'
    assert error(speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert d.qmp.error('blockdev-backup', device='d', target='t', sync='full') == "Invalid job ID ''"
    for sync in ('incremental', 'bitmap'):
        assert error(sync=sync) == f"must provide a valid bitmap name for '{sync}' sync mode"
    assert error(sync='incremental', bitmap='b', bitmap_mode='never') == \
        "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
    assert error(bitmap='x') == "Bitmap 'x' could not be found"
    assert error(bitmap='b') == 'Bitmap sync mode must be given when providing a bitmap'
    assert error(bitmap='b', sync='none', bitmap_mode='always') == "sync mode 'none' does not produce meaningful bitmap outputs"
    assert error(bitmap='b', bitmap_mode='never') == \
        "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'full'"
    assert error(bitmap_mode='never') == 'Cannot specify bitmap sync mode without a bitmap'
    assert error(x_perf={'max-workers': 0}) == 'max-workers must be between 1 and 2147483647'
    assert error(x_perf={'max-chunk': -1}) == 'max-chunk must be zero (which means no limit) or positive'
    assert error(x_perf={'max-chunk': 4096}) == 'Required max-chunk (4096) is less than backup cluster size (65536)'
    assert error(x_perf={'min-cluster-size': 5}) == 'min-cluster-size needs to be a power of 2'
    assert error(filter_node_name='d') == "Duplicate nodes with node-name='d'"
    d.qmp.events.clear()
    backup(d, sync='none', filter_node_name='f')
    assert error(target='t2') == "Job ID 'j' already in use"
    assert error(job_id='k') == "Node 't' is busy: block device is in use by block job: backup"
    assert error(job_id='k', device='f', target='t2') == "Node 'f' is busy: block device is in use by block job: backup"
    assert d.qmp.error('blockdev-del', {'node-name': 'f'}).startswith("Node 'f' is busy")
    assert d.qmp.error('block_resize', {'node-name': 'd', 'size': 32 * MIB}) == \
        "Permission conflict on node 'd': permissions 'resize' are both required by an unnamed block device (uses node 'd' as 'root' " \
        "child) and unshared by node 'f' (uses node 'd' as 'file' child)."
    d.cmd('block-job-cancel', device='j')
    finish(d, error='Operation canceled')
    assert all(n['node-name'] != 'f' for n in d.cmd('query-named-block-nodes'))


def test_snapshot_below_the_filter(daemon, images):
    """A snapshot while a backup runs puts its overlay between filter and disk; the backup is of its instant all the same."""
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    path = disk.target()
    want = disk.contents()
    backup(d, sync='full', speed=MIB)
    scribble(h, random.Random(3), 10)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'd', 'snapshot-node-name': 'o', 'snapshot-file': str(images / 'o.qcow2')})
    scribble(h, random.Random(4), 10)
    d.cmd('block-job-set-speed', device='j', speed=0)
    finish(d)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'o'
    now = disk.contents()
    h.shutdown()
    d.stop()
    assert img.contents(path, SIZE) == want
    assert img.contents(images / 'o.qcow2', SIZE) == now


def test_snapshot_and_backup_of_one_disk(daemon, images):
    """[snapshot, backup by the overlay's name] in one transaction: the filter is above the overlay."""
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    path = disk.target()
    want = disk.contents()
    d.cmd('transaction', actions=[
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'd', 'snapshot-node-name': 'o', 'snapshot-file': str(images / 'o.qcow2')}},
        {'type': 'blockdev-backup', 'data': {'device': 'o', 'target': 't', 'sync': 'full', 'job-id': 'j', 'auto-dismiss': False,
                                             'filter-node-name': 'f', 'speed': MIB}}])
    assert d.cmd('query-block-exports')[0]['node-name'] == 'f'
    scribble(h, random.Random(5), 20)
    d.cmd('block-job-set-speed', device='j', speed=0)
    finish(d)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'o'
    h.shutdown()
    d.stop()
    assert img.contents(path, SIZE) == want == img.contents(images / 'd.qcow2', SIZE)


def drive(d, target, **args):
    return d.cmd('drive-backup', {'auto-dismiss': False, 'job-id': 'j', 'device': 'd', 'target': str(target), 'sync': 'full',
                                  **{k.replace('_', '-'): v for k, v in args.items()}})


@pytest.mark.parametrize('sync,fmt', [('full', None), ('full', 'raw'), ('top', None), ('none', None)])
def test_drive_backup(daemon, images, sync, fmt):
    disk = Disk(images, daemon)
    d, h = disk.d, disk.connect()
    want = disk.contents()
    path = images / 'new.img'
    path.write_bytes(b'in the way')
    drive(d, path, sync=sync, **({'format': fmt} if fmt else {}))
    assert path.stat().st_size > 1000 and len(list(images.glob('new.img*'))) == 1
    scribble(h, random.Random(6), 10)
    if sync == 'none':
        now = disk.contents()
        d.cmd('job-cancel', id='j')
        finish(d, error='Operation canceled')
        h.shutdown()
        d.stop()
        assert img.info(path)['full-backing-filename'] == str(images / 'd.qcow2') and img.check(path)
        assert img.contents(images / 'd.qcow2', SIZE) == now
        return
    finish(d)
    h.shutdown()
    assert [n['node-name'] for n in d.cmd('query-named-block-nodes') if n['file'] == str(path)] == []
    d.stop()
    assert img.info(path)['format'] == (fmt or 'qcow2')
    assert ('backing-filename' in img.info(path)) == (sync == 'top')
    (images / 'want').write_bytes(want)
    img.run('qemu-img', 'compare', '-f', 'raw', '-F', fmt or 'qcow2', images / 'want', path)


def test_drive_backup_existing_and_errors(daemon, images):
    disk = Disk(images, daemon)
    d = disk.d
    assert d.qmp.error('drive-backup', {'job-id': 'j', 'device': 'd', 'target': str(images / 'none'), 'sync': 'full', 'mode': 'existing'}) == \
        f"Could not open '{images}/none': No such file or directory"
    assert d.qmp.error('drive-backup', {'job-id': 'j', 'device': 'd', 'target': str(images / 'new'), 'sync': 'full', 'format': 'spaghetti'}) == \
        "Unknown file format 'spaghetti'"
    assert d.qmp.error('transaction', actions=[
        {'type': 'drive-backup', 'data': {'job-id': 'j', 'device': 'd', 'target': str(images / 'new'), 'sync': 'full'}},
        {'type': 'abort', 'data': {}}]) == 'Transaction aborted using Abort action'
    assert not (images / 'new').exists()
    d.qmp.events.clear()
    img.create(images / 'old', str(SIZE))
    want = disk.contents()
    drive(d, images / 'old', mode='existing')
    finish(d)
    d.stop()
    assert img.contents(images / 'old', SIZE) == want


def test_drive_backup_with_a_journal(daemon, images):
    """The file is announced; it stays what it is over a restart, and a transaction that fails leaves nothing."""
    disk = Disk(images, daemon, extra=('--snapshot-journal', str(images / 'journal.db')))
    d = disk.d
    want = disk.contents()
    assert d.qmp.error('transaction', actions=[
        {'type': 'drive-backup', 'data': {'job-id': 'j', 'device': 'd', 'target': str(images / 'gone'), 'sync': 'full'}},
        {'type': 'abort', 'data': {}}]) == 'Transaction aborted using Abort action'
    assert not list(images.glob('gone*')) and d.cmd('query-snapshot-groups') == []
    d.qmp.events.clear()
    drive(d, images / 'new')
    finish(d)
    group = d.cmd('query-snapshot-groups')[0]
    assert group['state'] == 'settled' and group['durable']
    assert group['members'][0]['node'] == 'd' and group['members'][0]['overlay-file'] == str(images / 'new')
    assert 'file' not in group['members'][0]
    d.stop()
    assert img.contents(images / 'new', SIZE) == want
    (images / 'new').rename(images / 'elsewhere')
    again = daemon('--snapshot-journal', images / 'journal.db', '--blockdev',
                   f'driver=qcow2,node-name=d,file.driver=file,file.filename={images}/d.qcow2')
    group = again.cmd('query-snapshot-groups')[0]
    assert group['state'] == 'settled' and group['messages'] == []


def test_cancelled_before_it_began(daemon, images):
    """A job whose transaction has not settled yet is cancelled: it ends when that has, and the disk goes on."""
    disk = Disk(images, daemon)
    d = disk.d
    disk.target()
    info = d.cmd('transaction-prepare', {'id': 'g', 'timeout': 60000, 'actions': [
        {'type': 'blockdev-backup', 'data': {'device': 'd', 'target': 't', 'sync': 'full', 'job-id': 'j', 'auto-dismiss': False}}]})
    assert info['state'] == 'prepared' and d.cmd('query-jobs')[0]['status'] == 'created'
    d.cmd('job-cancel', id='j')
    d.cmd('transaction-commit', id='g')
    finish(d, error='Operation canceled')
    assert d.cmd('query-block-exports')[0]['node-name'] == 'd'
    d.qmp.events.clear()
    d.cmd('transaction-prepare', {'id': 'h', 'timeout': 60000, 'actions': [
        {'type': 'blockdev-backup', 'data': {'device': 'd', 'target': 't', 'sync': 'full', 'job-id': 'j', 'auto-dismiss': False}}]})
    d.cmd('transaction-abort', id='h')
    assert d.cmd('query-jobs') == []
    backup(d, sync='full')
    d.qmp.events.clear()
    finish(d)
