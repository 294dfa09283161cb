# SPDX-License-Identifier: BSD-3-Clause
"""What queries call a node: a plain name where it is enough, options where opening the file by its name would show another disk."""
import json
import os
import shutil

import pytest

from lib import images as img
from lib.jobs import error_of, wait_status

NULL = {'driver': 'null-co'}


def file(path):
    return {'driver': 'file', 'filename': str(path)}


def qcow2(path, **more):
    return {'driver': 'qcow2', 'file': file(path), **more}


def info(d, name):
    return next(n for n in d.cmd('query-named-block-nodes') if n['node-name'] == name)


def shown(d, name):
    """The filename of a node, which is one wherever it is told."""
    n = info(d, name)
    flat = next(n for n in d.cmd('query-named-block-nodes', {'flat': True}) if n['node-name'] == name)
    assert n['file'] == n['image']['filename'] == flat['file'] == flat['image']['filename']
    assert n.get('backing_file') == flat.get('backing_file') == n['image'].get('backing-image', {}).get('filename')
    return n['file']


def options(name):
    assert name.startswith('json:'), name
    return json.loads(name[len('json:'):])


def finish(d):
    wait_status(d, 'j', 'concluded')
    assert error_of(d, 'j') is None
    d.cmd('job-dismiss', id='j')


@pytest.fixture
def base(images):
    img.create(images / 'base.qcow2', '1M')
    img.run('qemu-io', '-c', 'write -P 0xb1 0 64k', images / 'base.qcow2')
    return images / 'base.qcow2'


@pytest.mark.parametrize('name', ['{}', 'file:{}', 'base.qcow2', './base.qcow2', 'json'])
def test_backing_that_the_header_names(daemon, images, base, name):
    top = images / 'top.qcow2'
    name = 'json:' + json.dumps(qcow2(base)) if name == 'json' else name.format(base)
    img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', name, '-F', 'qcow2', top)
    d = daemon()
    d.cmd('blockdev-add', qcow2(top, **{'node-name': 'top'}))
    assert shown(d, 'top') == str(top)
    image = info(d, 'top')['image']
    assert image['backing-filename'] == name
    if name.startswith('/'):
        assert image['full-backing-filename'] == name
    if name.startswith('file:'):
        assert image['full-backing-filename'] == name
    if name == 'base.qcow2':
        assert image['full-backing-filename'] == str(base)
    assert os.path.normpath(image['backing-image']['filename']) == str(base)


@pytest.mark.parametrize('name', ['{}', 'base.qcow2'])
def test_the_same_file_given_by_the_user(daemon, images, base, name):
    img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', name.format(base), '-F', 'qcow2', images / 'top.qcow2')
    d = daemon()
    d.cmd('blockdev-add', qcow2(base, **{'node-name': 'base'}))
    d.cmd('blockdev-add', qcow2(images / 'top.qcow2', backing='base', **{'node-name': 'top'}))
    assert shown(d, 'top') == str(images / 'top.qcow2')


def test_overridden(daemon, images, base):
    """Each way to have another backing than the header's; what is told opens the disk that the node shows."""
    top, other, plain = images / 'top.qcow2', images / 'other "1".qcow2', images / 'plain.qcow2'
    img.create(top, backing=base)
    shutil.copy(base, other)
    img.run('qemu-io', '-c', 'write -P 0xc2 0 64k', other)
    img.create(plain, '1M')
    d = daemon()

    def look(byte, **backing):
        d.cmd('blockdev-add', qcow2(top, **{'node-name': 'top'}, **backing))
        name = shown(d, 'top')
        d.cmd('blockdev-del', {'node-name': 'top'})
        if backing['backing'] is None or backing['backing']['driver'] != 'null-co':  # QEMU gives null-co the header's name
            img.run('qemu-io', '-r', '-c', f'read -P {byte} 0 64k', name)
        return options(name)

    assert look(0, backing=None) == qcow2(top, backing=None)
    assert look(0, backing=NULL) == qcow2(top, backing=NULL)
    small = {'driver': 'null-co', 'size': 65536, 'read-zeroes': True}
    assert look(0, backing=small) == qcow2(top, backing=small)
    assert look(0xc2, backing=qcow2(other)) == qcow2(top, backing=qcow2(other))
    deep = qcow2(plain, backing=qcow2(other))
    assert look(0xc2, backing=deep) == qcow2(top, backing=deep)
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'part', 'file': file(other), 'offset': 0, 'size': 65536})
    part = {'driver': 'raw', 'offset': 0, 'size': 65536, 'file': file(other)}
    assert options(shown(d, 'part')) == part
    d.cmd('blockdev-add', qcow2(plain, backing=qcow2(base), **{'node-name': 'has'}))
    assert options(shown(d, 'has')) == qcow2(plain, backing=qcow2(base))


def test_long_chain(daemon, images, base):
    d = daemon()
    img.create(images / 'o0.qcow2', backing=base)
    d.cmd('blockdev-add', qcow2(images / 'o0.qcow2', backing=None, **{'node-name': 'o0'}))
    depth = 60
    for i in range(1, depth):
        d.cmd('blockdev-snapshot-sync', {'node-name': f'o{i - 1}', 'snapshot-file': str(images / f'o{i}.qcow2'), 'snapshot-node-name': f'o{i}'})
    want = qcow2(images / 'o0.qcow2', backing=None)
    for i in range(1, depth):
        want = qcow2(images / f'o{i}.qcow2', backing=want)
    assert options(shown(d, f'o{depth - 1}')) == want


def test_another_name_in_the_header(daemon, images, base):
    top = images / 'top.qcow2'
    img.create(top, backing=base)
    d = daemon()
    d.cmd('blockdev-add', qcow2(top, **{'node-name': 'top'}))

    def change(name):
        d.cmd('change-backing-file', {'device': 'top', 'image-node-name': 'top', 'backing-file': name})
        assert info(d, 'top')['image']['full-backing-filename'] == name
        return shown(d, 'top')

    full = 'json:' + json.dumps(qcow2(top, backing=qcow2(base)))
    assert options(change('null-co://')) == options(full)
    assert change(str(base)) == str(top)
    # Nobody has looked whether it is the same file.
    assert options(change(f'file:{base}')) == options(full)
    assert change(str(base)) == str(top)


def test_snapshot_and_commit(daemon, images, base):
    """What these write into headers is what the nodes have: the names stay plain."""
    d = daemon()
    d.cmd('blockdev-add', qcow2(base, **{'node-name': 'base'}))
    for i, below in enumerate(['base', 'o0', 'o1']):
        d.cmd('blockdev-snapshot-sync', {'node-name': below, 'snapshot-file': str(images / f'o{i}.qcow2'), 'snapshot-node-name': f'o{i}'})
        assert shown(d, f'o{i}') == str(images / f'o{i}.qcow2')
    d.cmd('block-commit', {'job-id': 'j', 'auto-dismiss': False, 'device': 'o2', 'top-node': 'o1', 'base-node': 'base'})
    finish(d)
    assert shown(d, 'o2') == str(images / 'o2.qcow2')


def test_names_as_told_are_names_for_jobs(daemon, images, base):
    mid, top = images / 'mid.qcow2', images / 'top.qcow2'
    img.create(mid, backing=base)
    img.create(top, backing=mid)
    img.run('qemu-io', '-c', 'write -P 0x33 64k 64k', mid)
    d = daemon()
    d.cmd('blockdev-add', qcow2(top, **{'node-name': 'top'}, backing=qcow2(
        mid, **{'node-name': 'mid'}, backing=qcow2(base, **{'node-name': 'base'}, backing=NULL))))
    names = [shown(d, n) for n in ('top', 'mid', 'base')]
    assert [options(n)['file']['filename'] for n in names] == [str(p) for p in (top, mid, base)]
    d.cmd('block-commit', {'job-id': 'j', 'auto-dismiss': False, 'device': 'top', 'top': names[1], 'base': names[2]})
    finish(d)
    img.run('qemu-io', '-rU', '-c', 'read -P 0x33 64k 64k', base)
