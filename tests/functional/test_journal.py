# SPDX-License-Identifier: BSD-3-Clause
"""The snapshot journal: who may open it, what it remembers, superseded disks, damage; and that recovery touches nobody else's files."""
import os
import shutil
import sqlite3
import subprocess
import time

import pytest

from lib import images as img
from lib.daemon import Daemon, DaemonFailed
from lib.jobs import error_of, wait_status


class Setup:
    def __init__(self, images):
        self.dir = images
        self.disk, self.overlay = images / 'd.qcow2', images / 'o.qcow2'
        img.create(self.disk, '16M')
        img.qemu_io(self.disk, 'write -P 7 0 1M')
        self.journal = images / 'journal.db'
        self.daemons = []
        self.starts = 0

    def start(self, disk=None, options='', blockdev=None, journal=None):
        blockdev = blockdev or f'driver=qcow2,node-name=d,file.driver=file,file.filename={disk or self.disk}'
        args = ['--snapshot-journal', f'{journal or self.journal}{options}']
        args += ['--blockdev', blockdev] if blockdev != 'none' else []
        self.starts += 1
        directory = self.dir / f'run{self.starts}'
        directory.mkdir()
        d = Daemon(args, directory=directory)
        self.daemons.append(d)
        return d

    def refused(self, *args, **kwargs):
        with pytest.raises(DaemonFailed) as e:
            self.start(*args, **kwargs)
        return str(e.value)

    def actions(self, node='d', overlay='o', path=None):
        return [{'type': 'blockdev-snapshot-sync', 'data': {'node-name': node, 'snapshot-node-name': overlay,
                                                            'snapshot-file': str(path or self.overlay)}}]

    def prepared_and_killed(self, path=None):
        d = self.start()
        d.cmd('transaction-prepare', {'id': 'g', 'actions': self.actions(path=path), 'timeout': 60000})
        d.process.kill()
        d.process.wait()

    def recovered(self, **kwargs):
        """What a start after that says about the group, and the daemon."""
        d = self.start(**kwargs)
        return d.cmd('query-snapshot-groups')[0], d


@pytest.fixture
def s(images):
    s = Setup(images)
    yield s
    for d in s.daemons:
        if d.process.poll() is None:
            d.process.terminate()
            assert d.process.wait(30) == 0
        d._close_files()


# ---- opening it ----

def test_one_daemon_at_a_time(s):
    s.start()
    assert f"Snapshot journal '{s.journal}' is in use by another process" in s.refused(blockdev='none')
    s.daemons[0].stop()
    s.start()


def test_not_a_journal(s):
    (s.dir / 'text').write_text('no database\n' * 200)
    assert "is damaged" in s.refused(journal=s.dir / 'text')
    db = sqlite3.connect(s.dir / 'other.db')
    db.execute('CREATE TABLE t (x)')
    db.commit()
    db.close()
    assert "is a database, but no snapshot journal" in s.refused(journal=s.dir / 'other.db')
    assert 'not a regular file' in s.refused(journal=s.dir)
    assert 'Could not open' in s.refused(journal=s.dir / 'no' / 'where')
    for path in ('text', 'other.db'):
        assert (s.dir / path).exists()


def test_newer_version(s):
    s.start().stop()
    db = sqlite3.connect(s.journal)
    db.execute('PRAGMA user_version = 99')
    db.commit()
    db.close()
    assert "has version 99; this program knows version 1" in s.refused()


def test_damage(s):
    d = s.start()
    d.cmd('transaction', actions=s.actions(), properties={'group': 'g'})
    d.stop()
    content = bytearray(s.journal.read_bytes())
    content[100:3000] = b'\xa5' * 2900
    s.journal.write_bytes(content)
    text = s.refused()
    assert f"Snapshot journal '{s.journal}' is damaged" in text and 'damaged=set-aside' in text
    assert s.journal.read_bytes() == content
    d = s.start(options=',damaged=set-aside')
    assert d.cmd('query-snapshot-groups') == []
    kept = [p for p in s.dir.iterdir() if p.name.startswith('journal.db.damaged-')]
    assert [p.read_bytes() for p in kept] == [content]


def test_bad_options(s):
    assert "Parameter 'path' is missing" in s.refused(journal='follow=on')
    assert "Invalid parameter 'x'" in s.refused(options=',x=1') or "'x' is unexpected" in s.refused(options=',x=1')


def test_journal_that_cannot_be_written(s):
    """A full file system: the transaction fails before anything happened, and works when there is room again."""
    small = s.dir / 'small'
    small.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'none', small], check=True)
    try:
        d = s.start(journal=small / 'j.db')
        before = sorted(os.listdir(s.dir))
        fd = os.open(small / 'fill', os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(fd, bytes(4096))
        except OSError:
            os.close(fd)
        error = d.qmp.error('transaction', actions=s.actions(), properties={'group': 'g'})
        assert error.startswith(f"Could not write the snapshot journal '{small}/j.db'")
        assert sorted(os.listdir(s.dir)) == before
        assert d.cmd('query-snapshot-groups') == [] and d.cmd('query-transactions') == []
        (small / 'fill').unlink()
        d.cmd('transaction', actions=s.actions(), properties={'group': 'g'})
        d.stop()
        d = s.start(disk=s.overlay, journal=small / 'j.db')
        assert [g['state'] for g in d.cmd('query-snapshot-groups')] == ['settled']
        d.stop()
    finally:
        subprocess.run(['umount', '-l', small], check=True)


# ---- what it remembers ----

def test_same_answers_after_a_restart(s):
    d = s.start()
    d.cmd('transaction-prepare', {'id': 'a', 'actions': s.actions(path=s.dir / 'a.qcow2'), 'timeout': 60000})
    d.cmd('transaction-abort', {'id': 'a'})
    d.cmd('transaction-prepare', {'id': 'g', 'actions': s.actions(), 'timeout': 60000})
    d.cmd('transaction-commit', {'id': 'g'})
    before = d.cmd('query-snapshot-groups')
    d.stop()
    d = s.start(disk=s.overlay)
    after = d.cmd('query-snapshot-groups')
    assert sorted(after, key=str) == sorted(before, key=str)
    d.cmd('transaction-commit', {'id': 'g'})
    d.cmd('transaction-abort', {'id': 'a'})
    assert d.cmd('transaction-prepare', {'id': 'g', 'actions': s.actions(), 'timeout': 60000})['state'] == 'settling'
    assert d.qmp.error('transaction-commit', {'id': 'a'}) == "Transaction 'a' was aborted"
    assert d.qmp.error('transaction-prepare', {'id': 'g', 'actions': s.actions(path='/x'), 'timeout': 1}) == \
        "Snapshot group 'g' exists already"


# ---- superseded disks ----

def snapshot(s, n=1):
    d = s.start()
    for i in range(n):
        d.cmd('transaction', actions=s.actions(f'o{i - 1}' if i else 'd', f'o{i}', s.dir / f'o{i}.qcow2'), properties={'group': f'g{i}'})
    d.stop()


def test_superseded_disk_is_refused(s):
    snapshot(s, 2)
    text = s.refused()
    assert (f"Disk '{s.disk}' was superseded by '{s.dir}/o0.qcow2' in snapshot group 'g0': writing to it would damage the "
            'overlay') in text
    assert f"The newest overlay is '{s.dir}/o1.qcow2'" in text
    d = s.start(disk=s.dir / 'o1.qcow2')
    add = {'driver': 'qcow2', 'node-name': 'x', 'file': {'driver': 'file', 'filename': str(s.disk)}}
    assert 'was superseded by' in d.qmp.error('blockdev-add', add)
    assert 'was superseded by' in d.qmp.error('blockdev-add', {'driver': 'file', 'node-name': 'x', 'filename': str(s.disk)})
    assert 'was superseded by' in d.qmp.error('blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': add['file']})
    # by a node that was opened for reading, or may be written to later
    d.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(s.disk), 'auto-read-only': True, 'read-only': False})
    assert 'was superseded by' in d.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'x', 'file': 'f'})
    # under another name
    os.link(s.disk, s.dir / 'link.qcow2')
    assert 'was superseded by' in d.qmp.error('blockdev-add', {'driver': 'file', 'node-name': 'x', 'filename': f'{s.dir}/link.qcow2'})
    d.cmd('blockdev-add', dict(add, **{'read-only': True}))


def test_follow(s):
    snapshot(s, 3)
    img.qemu_io(s.dir / 'o2.qcow2', 'write -P 9 0 64k')
    d = s.start(options=',follow=on')
    node = {n['node-name']: n for n in d.cmd('query-named-block-nodes', flat=True)}['d']
    assert node['file'] == f'{s.dir}/o2.qcow2' and not node['ro']
    d.stop()
    d = s.start(options=',follow=on', blockdev=f'driver=qcow2,node-name=d,file.driver=file,file.filename={s.disk},read-only=on')
    assert {n['node-name']: n for n in d.cmd('query-named-block-nodes', flat=True)}['d']['file'] == str(s.disk)


def test_follow_of_a_raw_disk(images, s):
    raw = images / 'r.raw'
    img.create(raw, '1M', fmt='raw')
    blockdev = f'driver=raw,node-name=r,file.driver=file,file.filename={raw}'
    d = s.start(blockdev=blockdev)
    d.cmd('transaction', actions=s.actions('r', 'o'))
    d.stop()
    assert 'was superseded by' in s.refused(blockdev=blockdev)
    d = s.start(blockdev=blockdev, options=',follow=on')
    node = {n['node-name']: n for n in d.cmd('query-named-block-nodes', flat=True)}['r']
    assert node['drv'] == 'qcow2' and node['file'] == str(s.overlay)


def test_overlay_that_is_gone(s):
    snapshot(s)
    (s.dir / 'o0.qcow2').unlink()
    d = s.start()
    assert 'the overlay is not there any more' in d.stderr()


def test_base_that_is_another_file(s):
    snapshot(s)
    shutil.copy(s.disk, s.dir / 'copy')
    os.rename(s.dir / 'copy', s.disk)
    s.start()


# ---- recovery touches nobody else's files ----

def test_what_was_prepared_is_removed(s):
    s.prepared_and_killed()
    assert s.overlay.exists()
    group, d = s.recovered()
    assert group['state'] == 'aborted' and group['recovered'] and group['durable']
    assert group['messages'] == ['it was not committed', f"removed '{s.overlay}'"]
    assert 'recovery of group g' in d.stderr()
    assert not s.overlay.exists()
    assert d.qmp.error('transaction-commit', {'id': 'g'}) == "Transaction 'g' was aborted"


def stays(s, why, **kwargs):
    content, inode = s.overlay.read_bytes(), s.overlay.stat().st_ino
    group, _ = s.recovered(**kwargs)
    assert group['state'] == 'aborted'
    assert group['messages'] == ['it was not committed', f"'{s.overlay}' {why}, and stays"]
    assert s.overlay.read_bytes() == content and s.overlay.stat().st_ino == inode


def test_path_used_again(s):
    s.prepared_and_killed()
    img.create(s.dir / 'new.qcow2', '16M')
    os.rename(s.dir / 'new.qcow2', s.overlay)
    stays(s, 'is another file now')


def test_copy_in_its_place(s):
    """The same bytes, but not the file: it may be all that is left."""
    s.prepared_and_killed()
    shutil.copy(s.overlay, s.dir / 'copy')
    os.rename(s.dir / 'copy', s.overlay)
    stays(s, 'is another file now')


def test_adopted(s):
    """Somebody uses it as a disk, and wrote to it."""
    s.prepared_and_killed()
    img.qemu_io(s.overlay, 'write -P 3 0 64k')
    stays(s, 'was changed since')


def test_rewritten(s):
    s.prepared_and_killed()
    with open(s.overlay, 'r+b') as f:
        f.truncate(0)
        f.write(b'letters')
    stays(s, 'was changed since')


def test_hard_link(s):
    s.prepared_and_killed()
    os.link(s.overlay, s.dir / 'second')
    stays(s, 'has another name too')


def test_in_use(s):
    s.prepared_and_killed()
    with subprocess.Popen(['qemu-storage-daemon', '--blockdev', f'driver=qcow2,node-name=x,file.driver=file,file.filename={s.overlay},read-only=on',
                           '--nbd-server', f'addr.type=unix,addr.path={s.dir}/x.sock', '--export', 'nbd,id=e,node-name=x'],
                          stdout=subprocess.DEVNULL) as p:
        while not (s.dir / 'x.sock').exists():
            time.sleep(0.01)
        try:
            stays(s, 'is in use', blockdev='none')
        finally:
            p.kill()


def test_former_file_is_back(s):
    s.overlay.write_bytes(b'precious' * 1000)
    s.prepared_and_killed()
    assert s.overlay.read_bytes() != b'precious' * 1000
    group, _ = s.recovered()
    assert group['messages'] == ['it was not committed', f"put the former file '{s.overlay}' back"]
    assert s.overlay.read_bytes() == b'precious' * 1000
    assert not [p for p in s.dir.iterdir() if 'cutpoint-' in p.name]


def test_former_file_while_the_name_was_used_again(s):
    s.overlay.write_bytes(b'precious' * 1000)
    s.prepared_and_killed()
    s.overlay.unlink()
    s.overlay.write_bytes(b'newer')
    group, _ = s.recovered()
    aside = [p for p in s.dir.iterdir() if 'cutpoint-' in p.name]
    assert len(aside) == 1 and aside[0].read_bytes() == b'precious' * 1000
    assert s.overlay.read_bytes() == b'newer'
    assert any('is another file now' in m for m in group['messages']), group['messages']


def test_empty_file_is_empty_again(s):
    s.overlay.touch()
    s.prepared_and_killed()
    assert s.overlay.stat().st_size > 0
    group, _ = s.recovered()
    assert group['messages'] == ['it was not committed', f"emptied '{s.overlay}'"]
    assert s.overlay.stat().st_size == 0


def test_name_in_a_users_overlay_is_taken_out_again(s):
    img.create(s.overlay, '16M')
    d = s.start()
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'file': {'driver': 'file', 'filename': str(s.overlay)}, 'backing': None})
    d.cmd('transaction-prepare', {'id': 'g', 'actions': [{'type': 'blockdev-snapshot', 'data': {'node': 'd', 'overlay': 'o'}}], 'timeout': 60000})
    d.process.kill()
    d.process.wait()
    assert img.info(s.overlay)['backing-filename'] == str(s.disk)
    group, _ = s.recovered()
    assert group['state'] == 'aborted'
    assert 'backing-filename' not in img.info(s.overlay, share=True)


def test_recorded_group_is_completed(s):
    """Killed while it settles: committed, and the old image is synced before anybody is served."""
    d = s.start()
    d.cmd('transaction-prepare', {'id': 'g', 'actions': s.actions(), 'timeout': 60000, 'hold': True})
    d.process.kill()
    d.process.wait()
    d = s.start(disk=s.overlay)
    group = d.cmd('query-snapshot-groups')[0]
    assert group['state'] == 'settled' and group['recovered'], group
    assert [m['state'] for m in group['members']] == ['settled']
    d.cmd('transaction-commit', {'id': 'g'})


# ---- jobs that merge chains ----

def job(d, command, complete=False, **args):
    d.cmd(command, {'job-id': 'j', 'auto-dismiss': False, **{k.replace('_', '-'): v for k, v in args.items()}})
    if complete:
        wait_status(d, 'j', 'ready')
        d.cmd('job-complete', id='j')
    wait_status(d, 'j', 'concluded')
    assert error_of(d, 'j') is None
    d.cmd('job-dismiss', id='j')


def snapshots(d, s, n):
    node = 'd'
    for i in range(1, n + 1):
        d.cmd('transaction', actions=s.actions(node, f'o{i}', s.dir / f'o{i}.qcow2'))
        node = f'o{i}'
    return node


def test_a_disk_that_is_the_newest_again(s):
    """After an active commit the base may be written to, although the overlay's file is still there; and a new snapshot protects it again."""
    d = s.start()
    job(d, 'block-commit', complete=True, device=snapshots(d, s, 1), base_node='d')
    d.stop()
    s.start().stop()
    d = s.start(options=',follow=on')
    assert [n['image']['filename'] for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'd'] == [str(s.disk)]
    d.cmd('transaction', actions=s.actions('d', 'x', s.dir / 'x.qcow2'))
    d.stop()
    assert 'x.qcow2' in s.refused()


def test_a_disk_that_has_another_overlay_now(s):
    """An intermediate commit: the overlay above is what protects the base, though the one between is deleted."""
    d = s.start()
    job(d, 'block-commit', device=snapshots(d, s, 2), top_node='o1', base_node='d')
    d.stop()
    (s.dir / 'o1.qcow2').unlink()
    assert 'o2.qcow2' in s.refused()
    d = s.start(options=',follow=on')
    assert [n['image']['filename'] for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'd'] == [str(s.dir / 'o2.qcow2')]


def test_a_disk_that_nothing_is_on_top_of_any_more(s):
    d = s.start()
    job(d, 'block-stream', device=snapshots(d, s, 2))
    d.stop()
    s.start().stop()
    d = s.start(blockdev=f'driver=qcow2,node-name=d,file.driver=file,file.filename={s.dir}/o1.qcow2')
    d.stop()


@pytest.mark.parametrize('command,how', [('block-commit', 'by itself'), ('block-commit', 'read-only'), ('blockdev-mirror', 'blockdev-del'),
                                         ('blockdev-mirror', 'quit')])
def test_bitmaps_of_a_merged_disk(s, command, how):
    """What was merged is known when bitmaps have been stored in it, too, whenever that happens."""
    d = s.start()
    other = s.dir / 'other'
    if command == 'block-commit':
        img.create(other, '16M', backing=s.disk)
        old, new = 'other', 'd'
    else:
        img.create(other, '16M')
        old, new = 'd', 'other'

    def options(name):
        return {'driver': 'qcow2', 'node-name': name, 'file': {
            'driver': 'file', 'node-name': f'{name}-file', 'filename': str(s.disk if name == 'd' else other)}}

    files = {'other': 'other-file', 'd': [c['node-name'] for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'd'
                                          for c in n['children']][0]}
    if command == 'block-commit' and how == 'by itself':
        other.unlink()
        d.cmd('transaction', actions=s.actions('d', 'other', other))
    else:
        d.cmd('blockdev-add', {**options('other'), 'backing': None})
        if command == 'block-commit':
            d.cmd('blockdev-snapshot', {'node': 'd', 'overlay': 'other'})
    d.cmd('block-dirty-bitmap-add', {'node': old, 'name': 'b', 'persistent': True})
    if command == 'block-commit':
        job(d, command, complete=True, device='other', base_node='d')
    else:
        job(d, command, complete=True, device='d', target='other', sync='full')
    if how == 'blockdev-del':
        d.cmd('blockdev-del', node_name=old)
    elif how == 'read-only':
        d.cmd('blockdev-reopen', {'options': [{'driver': 'qcow2', 'node-name': old, 'read-only': True, 'file': files[old], **(
            {'backing': None} if old == 'other' else {})}]})
    path = other if old == 'other' else s.disk
    if how in ('by itself', 'blockdev-del'):
        assert 'was merged into' in d.qmp.error('blockdev-add', options(old))
    d.stop()
    assert [b['name'] for b in img.info(path)['format-specific']['data']['bitmaps']] == ['b']
    d = s.start(blockdev='none')
    assert 'was merged into' in d.qmp.error('blockdev-add', options(old))
    if old == 'd':  # written to by somebody who knows what he does
        img.qemu_io(path, 'write 0 512')
        d.cmd('blockdev-add', options(old))
    d.cmd('blockdev-add', options(new))
