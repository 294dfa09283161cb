# SPDX-License-Identifier: BSD-3-Clause
"""Transactions that fail: each way leaves files, contents, graph, locks and descriptors as before (T3); and what succeeds in odd cases."""
import os
import subprocess
import time

import pytest

from lib import images as img
from lib.qmp import Qmp, QmpError


def qcow2(path, node, **more):
    text = f'driver=qcow2,node-name={node},file.driver=file,file.filename={path}'
    return text + ''.join(f',{k}={v}' for k, v in more.items())


class Setup:
    """Two disks a and b with exports, so that they have users."""

    def __init__(self, daemon, images):
        self.dir = images
        for name in 'ab':
            img.create(images / f'{name}.qcow2')
            img.qemu_io(images / f'{name}.qcow2', 'write -P 17 0 1M')
        self.d = daemon('--blockdev', qcow2(images / 'a.qcow2', 'a'), '--blockdev', qcow2(images / 'b.qcow2', 'b'),
                        '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock',
                        '--export', 'nbd,id=ea,node-name=a,name=a,writable=on',
                        '--export', 'nbd,id=eb,node-name=b,name=b,writable=on')
        self.qmp = self.d.qmp

    def sync(self, node, file, new=None, **more):
        return {'type': 'blockdev-snapshot-sync',
                'data': {'node-name': node, 'snapshot-file': str(file), 'snapshot-node-name': new or f'o{node}', **more}}

    def state(self):
        files = {}
        for p in sorted(self.dir.rglob('*')):
            if p.is_file() and p.suffix != '.sock':
                files[str(p)] = (p.read_bytes(), os.stat(p).st_ino)
        graph = self.qmp.cmd('x-debug-query-block-graph')
        nodes = [(n['node-name'], n['ro'], n['file']) for n in self.qmp.cmd('query-named-block-nodes')]
        return {'files': files, 'graph': graph, 'nodes': nodes, 'fds': self.d.descriptors(),
                'exports': self.qmp.cmd('query-block-exports')}

    def fails(self, *actions, text=None, contains=None):
        before = self.state()
        error = self.qmp.error('transaction', actions=list(actions))
        after = self.state()
        deadline = time.monotonic() + 2
        while after['fds'] != before['fds'] and time.monotonic() < deadline:
            time.sleep(0.05)  # an earlier client's connection may be closing
            before['fds'] = min(before['fds'], after['fds'], key=len)
            after['fds'] = self.d.descriptors()
        for key in before:
            assert after[key] == before[key], key
        if text:
            assert error == text
        if contains:
            assert contains in error
        self.works()
        return error

    def works(self):
        """Guests go on."""
        img.run('qemu-io', '-f', 'raw', '-c', 'read -P 17 0 64k', f'nbd+unix:///a?socket={self.dir}/nbd.sock')

    def node(self, name):
        return {n['node-name']: n for n in self.qmp.cmd('query-named-block-nodes')}[name]


@pytest.fixture
def two(daemon, images):
    return Setup(daemon, images)


def test_empty_list(two):
    assert two.qmp.cmd('transaction', actions=[]) == {}
    assert two.qmp.cmd('transaction', actions=[], properties={'completion-mode': 'grouped'}) == {}


def test_grouped_is_for_jobs(two):
    before = two.state()
    error = two.qmp.error('transaction', actions=[two.sync('a', two.dir / 'o')], properties={'completion-mode': 'grouped'})
    assert error == ("Action 'blockdev-snapshot-sync' does not support transaction property "
                             'completion-mode = grouped')
    assert two.state() == before


def test_abort_action(two):
    two.fails(two.sync('a', two.dir / 'oa'), two.sync('b', two.dir / 'ob'), {'type': 'abort', 'data': {}},
              text='Transaction aborted using Abort action')


def test_missing_directory(two):
    path = two.dir / 'none' / 'ob'
    two.fails(two.sync('a', two.dir / 'oa'), two.sync('b', path), text=f"Could not create '{path}': No such file or directory")


def test_unknown_node(two):
    two.fails(two.sync('a', two.dir / 'oa'), two.sync('zz', two.dir / 'oz'),
              text="Cannot find device='' nor node-name='zz'")


def test_names(two):
    two.fails(two.sync('a', two.dir / 'oa'), two.sync('b', two.dir / 'ob', new='oa'), text='New overlay node-name already in use')
    two.fails(two.sync('a', two.dir / 'oa', new='b'), text='New overlay node-name already in use')
    two.fails(two.sync('a', two.dir / 'oa', new='1bad'), text="Invalid node-name: '1bad'")
    two.fails(two.sync('a', two.dir / 'oa', new='x' * 32), text='Node name too long')
    data = {'node-name': 'a', 'snapshot-file': str(two.dir / 'oa')}
    two.fails({'type': 'blockdev-snapshot-sync', 'data': data}, text='New overlay node-name missing')


def test_same_file_twice(two):
    two.fails(two.sync('a', two.dir / 'o'), two.sync('b', two.dir / 'o'), text='Failed to get "write" lock')


def test_same_name_as_backing(two):
    two.fails(two.sync('a', two.dir / 'a.qcow2'),
              text='Error: Trying to create an image with the same filename as the backing file')


def test_file_of_another_disk(two):
    two.fails(two.sync('a', two.dir / 'b.qcow2'), text='Failed to get "write" lock')


def test_formats(two):
    two.fails(two.sync('a', two.dir / 'o', format='nonsense'), text="Unknown file format 'nonsense'")
    two.fails(two.sync('a', two.dir / 'o', format='raw'), text="Backing file not supported for file format 'raw'")
    two.fails(two.sync('a', two.dir / 'o', format='null-co'), text="Format driver 'null-co' does not support image creation")


def test_existing_file_is_kept_on_failure_and_replaced_on_success(two):
    target = two.dir / 'precious'
    target.write_bytes(b'precious' * 1000)
    two.fails(two.sync('a', target), {'type': 'abort', 'data': {}}, text='Transaction aborted using Abort action')
    two.qmp.cmd('transaction', actions=[two.sync('a', target)])
    assert img.info(target, share=True)['format'] == 'qcow2'
    assert not [p for p in two.dir.iterdir() if '.cutpoint-' in p.name]


def test_empty_file_is_filled_and_emptied(two):
    target = two.dir / 'empty'
    target.touch()
    two.fails(two.sync('a', target), {'type': 'abort', 'data': {}}, text='Transaction aborted using Abort action')
    inode = target.stat().st_ino
    two.qmp.cmd('transaction', actions=[two.sync('a', target)])
    assert target.stat().st_ino == inode


def test_file_in_use(two):
    img.create(two.dir / 'used.qcow2')
    with subprocess.Popen(['qemu-io', '-f', 'qcow2', two.dir / 'used.qcow2'], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as p:
        p.stdin.write(b'sleep 1\n')
        p.stdin.flush()
        p.stdout.read(8)
        two.fails(two.sync('a', two.dir / 'used.qcow2'), contains='lock')
        p.stdin.close()


def test_smaller_overlay(two):
    img.create(two.dir / 'small.qcow2', size='1M')
    two.qmp.cmd('blockdev-add', driver='qcow2', **{'node-name': 'small'},
                file={'driver': 'file', 'filename': str(two.dir / 'small.qcow2')})
    two.fails({'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'small'}}, contains='smaller')
    two.fails(two.sync('b', two.dir / 'small2'), {'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'small'}},
              contains='smaller')


def add_overlay(two, name, **options):
    img.create(two.dir / f'{name}.qcow2', **options)
    two.qmp.cmd('blockdev-add', driver='qcow2', **{'node-name': name},
                file={'driver': 'file', 'filename': str(two.dir / f'{name}.qcow2')}, backing=None)


def test_overlay_in_use(two):
    add_overlay(two, 'over')
    snapshot = {'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'over'}}
    two.fails(snapshot, {'type': 'blockdev-snapshot', 'data': {'node': 'b', 'overlay': 'over'}},
              text='The overlay is already in use')
    two.fails({'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'b'}}, text='The overlay is already in use')
    two.fails(snapshot, two.sync('a', two.dir / 'x'), text="Node 'a' is busy: node is used as backing hd of 'over'")


def test_backing_string_is_written_and_taken_back(two):
    add_overlay(two, 'over')
    snapshot = {'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'over'}}
    two.qmp.error('transaction', actions=[snapshot, {'type': 'abort', 'data': {}}])
    assert 'backing-filename' not in img.info(two.dir / 'over.qcow2', share=True)
    two.qmp.cmd('transaction', actions=[snapshot])
    info = img.info(two.dir / 'over.qcow2', share=True)
    assert info['backing-filename'] == str(two.dir / 'a.qcow2') and info['backing-filename-format'] == 'qcow2'
    two.works()


def test_stack_in_one_transaction(two):
    two.qmp.cmd('transaction', actions=[two.sync('a', two.dir / 'o1', new='o1'), two.sync('o1', two.dir / 'o2', new='o2')])
    assert [e['node-name'] for e in two.qmp.cmd('query-block-exports') if e['id'] == 'ea'] == ['o2']
    assert two.node('o1')['ro'] and two.node('a')['ro'] and two.node('o2')['backing_file_depth'] == 2
    two.works()


def test_node_without_users_keeps_its_overlay(two):
    img.create(two.dir / 'c.qcow2')
    two.qmp.cmd('blockdev-add', driver='qcow2', **{'node-name': 'c'},
                file={'driver': 'file', 'filename': str(two.dir / 'c.qcow2')})
    two.qmp.cmd('transaction', actions=[two.sync('c', two.dir / 'oc')])
    assert two.node('oc')['backing_file'] == str(two.dir / 'c.qcow2')
    two.qmp.cmd('blockdev-del', **{'node-name': 'oc'})
    two.qmp.cmd('blockdev-del', **{'node-name': 'c'})


def test_options_of_the_old_node_are_carried_over(daemon, images):
    img.create(images / 'a.qcow2')
    d = daemon('--blockdev', qcow2(images / 'a.qcow2', 'a', **{'detect-zeroes': 'unmap', 'discard': 'unmap',
                                                             'cache.direct': 'on', 'file.aio': 'io_uring'}))
    d.cmd('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-file': str(images / 'o'), 'snapshot-node-name': 'o'})
    info = {n['node-name']: n for n in d.cmd('query-named-block-nodes')}['o']
    assert info['detect_zeroes'] == 'unmap' and info['cache']['direct']


def test_file_node_below_a_format(two):
    file_node = [n['node-name'] for n in two.qmp.cmd('query-named-block-nodes') if n['drv'] == 'file'][0]
    two.fails(two.sync(file_node, two.dir / 'x', new='x'), contains='is busy: node is used as file of')


def test_full_disk(two):
    mount = two.dir / 'small'
    mount.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', mount], check=True)
    try:
        filler = mount / 'filler'
        try:
            filler.write_bytes(b'x' * 65536)
        except OSError:
            pass
        two.fails(two.sync('b', two.dir / 'ob'), two.sync('a', mount / 'oa'), contains='No space left on device')
    finally:
        subprocess.run(['umount', mount], check=True)


def test_read_only_directory(two):
    mount = two.dir / 'ro'
    mount.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro,size=64k', 'none', mount], check=True)
    try:
        two.fails(two.sync('b', two.dir / 'ob'), two.sync('a', mount / 'oa'),
                  text=f"Could not create '{mount}/oa': Read-only file system")
    finally:
        subprocess.run(['umount', mount], check=True)


def test_second_monitor_during_a_transaction(daemon, images):
    """A command on a node that a transaction uses waits for its end; other commands do not."""
    names = [f'n{i}' for i in range(24)]
    argv = ['--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock',
            '--chardev', f'socket,id=m2,path={images}/m2.sock,server=on,wait=off', '--monitor', 'm2']
    for n in names:
        img.create(images / n)
        argv += ['--blockdev', qcow2(images / n, n), '--export', f'nbd,id=e{n},node-name={n},writable=on']
    d = daemon(*argv)
    with Qmp(str(images / 'm2.sock')) as second:
        d.qmp.send('transaction', {'actions': [
            {'type': 'blockdev-snapshot-sync', 'data': {'node-name': n, 'snapshot-file': f'{images}/o{n}',
                                                        'snapshot-node-name': f'o{n}'}} for n in names]})
        second.cmd('query-version')
        nodes = [n['node-name'] for n in second.cmd('query-named-block-nodes')]
        shown = [n for n in nodes if n.startswith('on')]
        assert len(shown) in (0, len(names))  # T1
        error = second.error('blockdev-del', **{'node-name': 'n0'})
        assert 'busy' in error or 'in use' in error
        d.qmp.reply()
    nodes = [n['node-name'] for n in d.cmd('query-named-block-nodes')]
    assert len([n for n in nodes if n.startswith('on')]) == len(names)


def test_kill_in_the_middle_leaves_whole_images(daemon, images):
    """Whatever a killed daemon leaves behind: every image is whole."""
    for delay in (0.0, 0.005, 0.02, 0.05):
        for i in range(4):
            for p in (images / f'k{i}', images / f'ko{i}'):
                p.unlink(missing_ok=True)
            img.create(images / f'k{i}')
            img.qemu_io(images / f'k{i}', 'write -P 17 0 1M')
        d = daemon(*[x for i in range(4) for x in ('--blockdev', qcow2(images / f'k{i}', f'k{i}'))])
        d.qmp.send('transaction', {'actions': [
            {'type': 'blockdev-snapshot-sync', 'data': {'node-name': f'k{i}', 'snapshot-file': f'{images}/ko{i}',
                                                        'snapshot-node-name': f'ko{i}'}} for i in range(4)]})
        time.sleep(delay)
        d.kill()
        for i in range(4):
            img.check(images / f'k{i}')
            img.qemu_io(images / f'k{i}', 'read -P 17 0 1M', read_only=True)


def test_blockdev_snapshot_sync_and_snapshot_as_commands(two):
    two.qmp.cmd('blockdev-snapshot-sync', **{'node-name': 'a', 'snapshot-file': str(two.dir / 'o1'), 'snapshot-node-name': 'o1'})
    add_overlay(two, 'o2')
    two.qmp.cmd('blockdev-snapshot', node='o1', overlay='o2')
    two.works()
    with pytest.raises(QmpError):
        two.qmp.cmd('blockdev-del', **{'node-name': 'a'})
