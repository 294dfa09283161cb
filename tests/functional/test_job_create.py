# SPDX-License-Identifier: BSD-3-Clause
"""The job core seen through blockdev-create: events in order with replies, verbs, queries, and what the images are like."""
import os

import pytest

from lib import images as img
from lib.jobs import create, events_of, job_events, wait_status
from lib.qmp import QmpError


@pytest.fixture
def d(daemon):
    return daemon()


def add_file(d, path, node):
    return d.cmd('blockdev-add', {'driver': 'file', 'filename': str(path), 'node-name': node, 'auto-read-only': True,
                                  'discard': 'unmap'})


def qcow2(d, images, **options):
    """A qcow2 image made on a new, empty file; returns (path, error of the job)."""
    path = images / 't.qcow2'
    path.write_bytes(b'')
    add_file(d, path, 'file')
    error = create(d, {'driver': 'qcow2', 'file': 'file', **{k.replace('_', '-'): v for k, v in options.items()}})
    d.cmd('blockdev-del', node_name='file')
    return path, error


def test_events_and_queries(d, images):
    path = images / 'a.raw'
    reply = d.qmp.execute('blockdev-create', {'job-id': 'j', 'options': {'driver': 'file', 'filename': str(path), 'size': 1 << 20}})
    assert reply == {'return': {}}
    assert job_events(d) == ['created', 'running'], 'both before the reply'
    d.qmp.events.clear()
    wait_status(d, 'j', 'concluded')
    assert d.cmd('query-jobs') == [{'id': 'j', 'type': 'create', 'status': 'concluded', 'current-progress': 1, 'total-progress': 1}]
    assert d.cmd('query-block-jobs') == []
    d.qmp.events.clear()
    assert d.qmp.execute('job-dismiss', {'id': 'j'}) == {'return': {}}
    assert [e['data'] for e in d.qmp.events] == [{'id': 'j', 'status': 'null'}], 'before the reply'
    assert d.cmd('query-jobs') == []
    assert path.stat().st_size == 1 << 20


def test_sequence(d, images):
    create(d, {'driver': 'file', 'filename': str(images / 'a'), 'size': 0}, dismiss=False)
    assert events_of(d, 'j') == ['created', 'running', 'waiting', 'pending', 'concluded']


def test_failure_is_the_jobs(d, images):
    assert create(d, {'driver': 'file', 'filename': str(images / 'no' / 'a'), 'size': 0}, dismiss=False) == \
        f"Could not create '{images}/no/a': No such file or directory"
    assert events_of(d, 'j') == ['created', 'running', 'aborting', 'concluded']
    info = d.cmd('query-jobs')[0]
    assert info['status'] == 'concluded' and 'No such file' in info['error']
    d.cmd('job-dismiss', id='j')


def test_errors_of_the_command(d, images):
    options = {'driver': 'file', 'filename': str(images / 'a'), 'size': 0}
    error = d.qmp.error
    assert error('blockdev-create', {'job-id': '', 'options': options}) == "Invalid job ID ''"
    assert error('blockdev-create', {'job-id': '1x', 'options': options}) == "Invalid job ID '1x'"
    assert error('blockdev-create', {'job-id': 'j', 'options': {'driver': 'raw'}}) == \
        "Driver does not support blockdev-create"
    create(d, options, dismiss=False)
    assert error('blockdev-create', {'job-id': 'j', 'options': options}) == "Job ID 'j' already in use"
    for verb in ('pause', 'complete', 'finalize', 'cancel'):
        assert error(f'job-{verb}', id='j') == f"Job 'j' in state 'concluded' cannot accept command verb '{verb}'"
    assert error('job-resume', id='j') == "Can't resume a job that was not paused"
    for verb in ('pause', 'resume', 'complete', 'finalize', 'cancel', 'dismiss'):
        assert error(f'job-{verb}', id='none') == 'Job not found'
    for verb, member in (('pause', 'device'), ('resume', 'device'), ('complete', 'device'), ('cancel', 'device'), ('finalize', 'id'),
                         ('dismiss', 'id')):
        with pytest.raises(QmpError) as e:
            d.cmd(f'block-job-{verb}', {member: 'j'})
        assert (e.value.error_class, e.value.desc) == ('DeviceNotActive', "Block job 'j' not found"), 'create is no block job'
    d.cmd('job-dismiss', id='j')
    assert error('job-dismiss', id='j') == 'Job not found'


def test_file_sizes(d, images):
    for mode in ('off', 'falloc', 'full'):
        path = images / mode
        path.write_bytes(b'x' * 5000)
        assert create(d, {'driver': 'file', 'filename': str(path), 'size': 1 << 20, 'preallocation': mode}) is None
        assert path.stat().st_size == 1 << 20 and not any(path.read_bytes()), mode
        assert (path.stat().st_blocks * 512 >= 1 << 20) == (mode != 'off'), mode
    assert create(d, {'driver': 'file', 'filename': str(images / 'm'), 'size': 1, 'preallocation': 'metadata'}) == \
        "Unsupported preallocation mode 'metadata'"
    assert not (images / 'm').exists()
    assert 'Could not resize file' in create(d, {'driver': 'file', 'filename': str(images / 'big'), 'size': 1 << 62})
    assert not (images / 'big').exists(), 'nothing is left of what failed'
    assert 'regular file' in create(d, {'driver': 'file', 'filename': str(images), 'size': 1})


def test_file_in_use(d, images):
    path = images / 'a.qcow2'
    img.create(path, '8M')
    before = path.read_bytes()
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': str(path)}})
    assert 'lock' in create(d, {'driver': 'file', 'filename': str(path), 'size': 0})
    assert path.read_bytes() == before
    assert "Permission conflict on node" in create(
        d, {'driver': 'qcow2', 'file': d.cmd('query-named-block-nodes')[1]['node-name'], 'size': 1 << 20})
    assert path.read_bytes() == before


@pytest.mark.parametrize('options', [
    {'size': 67108864},
    {'size': 67108864, 'version': 'v2'},
    {'size': 67108864, 'cluster_size': 512},
    {'size': 67108864, 'cluster_size': 2097152, 'lazy_refcounts': True},
    {'size': 67108864, 'compression_type': 'zstd'},
    {'size': 0},
    *({'size': 1 << 30, 'refcount_bits': 1 << b, 'cluster_size': 4096} for b in range(7)),
    {'size': 67108864, 'backing_file': '/nonexistent/base.raw', 'backing_fmt': 'raw'},
])
def test_qcow2(d, images, options):
    path, error = qcow2(d, images, **options)
    assert error is None
    info = img.info(path)
    data = info['format-specific']['data']
    assert info['virtual-size'] == options['size']
    assert info['cluster-size'] == options.get('cluster_size', 65536)
    assert data['compat'] == ('0.10' if options.get('version') == 'v2' else '1.1')
    assert data['refcount-bits'] == options.get('refcount_bits', 16)
    assert info.get('backing-filename') == options.get('backing_file')
    if data['compat'] == '1.1':
        assert data['lazy-refcounts'] == options.get('lazy_refcounts', False)
        assert data['compression-type'] == options.get('compression_type', 'zlib')
    if 'backing_file' not in options:
        img.check(path)
        if options['size']:
            img.qemu_io(path, 'write -P 5 0 1M', 'read -P 5 0 1M')
            img.check(path)


@pytest.mark.parametrize('mode', ['metadata', 'falloc', 'full'])
@pytest.mark.parametrize('options', [
    {'size': 10 << 20},
    {'size': (3 << 20) + 512, 'version': 'v2'},
    {'size': 1 << 20, 'cluster_size': 512, 'refcount_bits': 64},
    {'size': 5 << 20, 'cluster_size': 4096, 'refcount_bits': 1, 'lazy_refcounts': True},
    {'size': 5 << 20, 'cluster_size': 2 << 20},
    {'size': 0},
])
def test_qcow2_preallocation(d, images, mode, options):
    path, error = qcow2(d, images, preallocation=mode, **options)
    assert error is None
    size = options['size']
    img.check(path)
    if size:
        cluster = options.get('cluster_size', 65536)
        areas = img.map_ranges(path)
        # A place for everything, one after the other.
        assert sum(a['length'] for a in areas) == size and all(a['depth'] == 0 and 'offset' in a for a in areas)
        assert all(b['offset'] == a['offset'] + a['length'] for a, b in zip(areas, areas[1:]))
        assert areas[0]['offset'] + -(-size // cluster) * cluster == path.stat().st_size, 'and nothing else'
        assert not any(img.contents(path, size))
        taken = path.stat().st_blocks * 512
        assert taken >= size if mode != 'metadata' else taken < size or cluster < 65536
        if mode == 'full':
            assert not any(a['zero'] for a in areas)
        # Writing needs no new place.
        length = path.stat().st_size
        img.qemu_io(path, f'write -P 5 0 {size}', f'read -P 5 0 {size}')
        img.check(path)
        assert path.stat().st_size == length


def test_qcow2_preallocation_large(d, images):
    """More entries than are written at a time, of each table."""
    path, error = qcow2(d, images, size=1 << 28, cluster_size=512, refcount_bits=64, preallocation='metadata')
    assert error is None
    img.check(path)
    assert sum(a['length'] for a in img.map_ranges(path)) == 1 << 28
    path, error = qcow2(d, images, size=1 << 38, preallocation='metadata')
    assert error is None
    img.check(path)


def test_qcow2_preallocation_is_used(d, images):
    """The image in use at once, by us."""
    path, error = qcow2(d, images, size=8 << 20, preallocation='falloc')
    assert error is None
    length = path.stat().st_size
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {'driver': 'file', 'filename': str(path)}})
    d.cmd('blockdev-del', node_name='q')
    img.check(path)
    assert path.stat().st_size == length


def test_qcow2_preallocation_stopped(d, images):
    """A long creation can be paused and cancelled; what it took is given back."""
    path = images / 't.qcow2'
    path.write_bytes(b'')
    add_file(d, path, 'file')
    d.cmd('blockdev-create', {'job-id': 'j', 'options': {'driver': 'qcow2', 'file': 'file', 'size': 4 << 30, 'preallocation': 'full'}})
    d.cmd('job-pause', id='j')
    wait_status(d, 'j', 'paused')
    assert d.cmd('query-jobs')[0]['status'] == 'paused'
    d.cmd('job-cancel', id='j')
    wait_status(d, 'j', 'concluded')
    assert d.cmd('query-jobs')[0]['error'] == 'Operation canceled'
    d.cmd('job-dismiss', id='j')
    d.cmd('blockdev-del', node_name='file')
    assert path.stat().st_size == 0


def test_file_hints(d, images):
    for i, options in enumerate(({'nocow': True}, {'nocow': False, 'extent-size-hint': 0}, {'nocow': True, 'extent-size-hint': 65536},
                                 {'extent-size-hint': 1, 'preallocation': 'falloc'})):
        path = images / str(i)
        assert create(d, {'driver': 'file', 'filename': str(path), 'size': 1 << 20, **options}) is None
        assert path.stat().st_size == 1 << 20
    assert create(d, {'driver': 'file', 'filename': str(images / 'x'), 'size': 1, 'extent-size-hint': 1 << 32}) == \
        'Extent size hint is too large'
    assert not (images / 'x').exists()


def test_qcow2_on_old_contents(d, images):
    path = images / 't.qcow2'
    path.write_bytes(os.urandom(3 << 20))
    add_file(d, path, 'file')
    assert create(d, {'driver': 'qcow2', 'file': 'file', 'size': 8 << 20}) is None
    d.cmd('blockdev-del', node_name='file')
    img.check(path)
    assert not any(img.contents(path, 8 << 20))


@pytest.mark.parametrize('text, options', [
    ('Image size must be a multiple of 512 bytes', {'size': 1000}),
    ('Cluster size must be a power of two between 512 and 2048k', {'size': 512, 'cluster_size': 1000}),
    ('Cluster size must be a power of two between 512 and 2048k', {'size': 512, 'cluster_size': 0}),
    ('Cluster size must be a power of two between 512 and 2048k', {'size': 512, 'cluster_size': 4194304}),
    ('Refcount width must be a power of two and may not exceed 64 bits', {'size': 512, 'refcount_bits': 7}),
    ('Refcount width must be a power of two and may not exceed 64 bits', {'size': 512, 'refcount_bits': 0}),
    ('Refcount width must be a power of two and may not exceed 64 bits', {'size': 512, 'refcount_bits': -1}),
    ('Refcount width must be a power of two and may not exceed 64 bits', {'size': 512, 'refcount_bits': 128}),
    ('Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
     {'size': 512, 'version': 'v2', 'refcount_bits': 8}),
    ('Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)',
     {'size': 512, 'version': 'v2', 'lazy_refcounts': True}),
    ('Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)',
     {'size': 512, 'version': 'v2', 'compression_type': 'zstd'}),
    ('Backing format cannot be used without backing file', {'size': 512, 'backing_fmt': 'raw'}),
    ('Backing file and preallocation can only be used at the same time if extended_l2 is on',
     {'size': 512, 'preallocation': 'metadata', 'backing_file': 'b', 'backing_fmt': 'raw'}),
    ("The image size is too large for file format 'qcow2' (try using a larger cluster size)",
     {'size': 1 << 36, 'cluster_size': 512, 'refcount_bits': 64, 'preallocation': 'metadata'}),
    ("The image size is too large for file format 'qcow2' (try using a larger cluster size)",
     {'size': 1 << 55, 'cluster_size': 512}),
])
def test_qcow2_refused(d, images, text, options):
    assert qcow2(d, images, **options)[1] == text


def test_qcow2_no_file(d):
    assert create(d, {'driver': 'qcow2', 'file': 'none', 'size': 512}) == "Cannot find device='none' nor node-name='none'"


def test_qcow2_file_defined_in_place(d, images):
    path = images / 'x'
    path.write_bytes(b'')
    assert create(d, {'driver': 'qcow2', 'file': {'driver': 'file', 'filename': str(path)}, 'size': 1 << 20}) is None
    img.check(path)
    assert img.can_write(path), 'closed when the job has concluded'


def test_many_at_once(d, images):
    n = 40
    for i in range(n):
        d.qmp.send('blockdev-create', {'job-id': f'j{i}', 'options': {'driver': 'file', 'filename': str(images / str(i)), 'size': 512}})
    for _ in range(n):
        assert d.qmp.reply() == {'return': {}}
    for i in range(n):
        wait_status(d, f'j{i}', 'concluded')
        assert events_of(d, f'j{i}') == ['created', 'running', 'waiting', 'pending', 'concluded']
    assert len(d.cmd('query-jobs')) == n
    # Not dismissed: the daemon ends all the same.
