# SPDX-License-Identifier: BSD-3-Clause
"""block-stream and change-backing-file, judged by qemu-img; events, errors, permissions."""
import pytest

from lib import images as img
from lib.chain import MIB, Chain, backing, drop, nodes
from lib.jobs import error_of, events_of, wait_status


def stream(d, **args):
    return d.cmd('block-stream', {'job-id': 'j', 'auto-dismiss': False, **{k.replace('_', '-'): v for k, v in args.items()}})


def finish(d, job='j', error=None, keep=False):
    wait_status(d, job, 'concluded')
    assert error_of(d, job) == error
    d.cmd('job-dismiss', id=job)
    d.qmp.events[:] = [e for e in d.qmp.events if keep]


@pytest.mark.parametrize('options', [None, 'compat=0.10', 'cluster_size=4096', 'cluster_size=2M'])
def test_whole_chain(daemon, images, options):
    chain = Chain(images, 4, options=options)
    want = chain.contents()
    d = daemon(*chain.arguments())
    stream(d, device='n3')
    finish(d, keep=True)
    assert [e for e in events_of(d, 'j') if e != 'null'] == \
        ['created', 'running', 'waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
    event = next(e for e in d.qmp.events if e['event'] == 'BLOCK_JOB_COMPLETED')
    assert event['data'] == {'device': 'j', 'len': chain.size, 'offset': chain.size, 'speed': 0, 'type': 'stream'}
    assert backing(d, 'n3') is None
    drop(d, 2, 1, 0)
    for i in range(3):
        chain.files[i].unlink()
    img.run('qemu-io', '-f', 'raw', '-c', 'write -P 77 0 64k', '-c', 'discard 1M 1M', chain.uri)
    d.stop()
    img.check(chain.files[3])
    assert 'backing-filename' not in img.info(chain.files[3])
    got = chain.contents()
    assert got[:65536] == b'\x4d' * 65536 and got[65536:MIB] == want[65536:MIB] and got[2 * MIB:] == want[2 * MIB:]


@pytest.mark.parametrize('how', ['base-node', 'base', 'bottom'])
def test_part_of_the_chain(daemon, images, how):
    chain = Chain(images, 5)
    want = chain.contents()
    d = daemon(*chain.arguments())
    stream(d, device='n4', **{how.replace('-', '_'): {'base-node': 'n1', 'base': str(chain.files[1]), 'bottom': 'n2'}[how]})
    finish(d)
    assert backing(d, 'n4') == 'n1'
    drop(d, 3, 2)
    for i in (2, 3):
        chain.files[i].unlink()
    d.stop()
    img.check(chain.files[4])
    assert img.info(chain.files[4])['backing-filename'] == str(chain.files[1])
    assert chain.contents() == want


def test_into_a_backing_node(daemon, images):
    """It is read-only, becomes writable for the job, and read-only again."""
    chain = Chain(images, 5)
    want = [chain.contents(i) for i in range(5)]
    d = daemon(*chain.arguments())
    stream(d, device='n3', base_node='n0', backing_file='n0.qcow2')
    finish(d)
    assert nodes(d)['n3']['ro'] and backing(d, 'n3') == 'n0' and backing(d, 'n4') == 'n3'
    drop(d, 2, 1)
    d.stop()
    assert img.info(chain.files[3])['backing-filename'] == 'n0.qcow2'
    img.check(chain.files[3])
    assert [chain.contents(i) for i in (3, 4)] == want[3:]


@pytest.mark.parametrize('said', [True, False])
def test_into_a_read_only_disk(daemon, images, said):
    """It becomes writable for the job, unless the user has said of its file that it be read-only."""
    chain = Chain(images, 2)
    want = chain.contents()
    d = daemon(*chain.arguments(top=0, export=False))
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'ro', 'read-only': True, 'backing': 'n0',
                           'file': {'driver': 'file', 'filename': str(chain.files[1]), **({'read-only': True} if said else {})}})
    if said:
        assert 'read-only' in d.qmp.error('block-stream', {'job-id': 'j', 'device': 'ro'})
    else:
        stream(d, device='ro')
        finish(d)
    d.stop()
    assert ('backing-filename' in img.info(chain.files[1])) == said and chain.contents() == want


def test_nothing_to_do(daemon, images):
    chain = Chain(images, 2)
    want = chain.contents()
    d = daemon(*chain.arguments())
    stream(d, device='n1', base_node='n0', backing_file='n0.qcow2')
    finish(d)
    stream(d, device='n1')
    finish(d)
    stream(d, device='n1')
    finish(d)
    d.stop()
    assert 'backing-filename' not in img.info(chain.files[1])
    assert chain.contents() == want


def test_short_layers(daemon, images):
    chain = Chain(images, 4, sizes=[16 * MIB, 4 * MIB, 10 * MIB, 16 * MIB])
    want = chain.contents()
    d = daemon(*chain.arguments())
    stream(d, device='n3', base_node='n0')
    finish(d)
    d.stop()
    assert chain.contents() == want
    d = daemon(*chain.arguments())
    stream(d, device='n3')
    finish(d)
    d.stop()
    assert chain.contents() == want


def test_errors(daemon, images):
    chain = Chain(images, 4, writes=2)
    d = daemon(*chain.arguments())

    def error(**args):
        return d.qmp.error('block-stream', {'job-id': 'j', **{k.replace('_', '-'): v for k, v in args.items()}})

    assert error(device='nonexistent') == "Cannot find device='nonexistent' nor node-name='nonexistent'"
    assert error(device='n3', base='x', base_node='n0') == "'base' and 'base-node' cannot be specified at the same time"
    assert error(device='n3', base='x', bottom='n0') == "'base' and 'bottom' cannot be specified at the same time"
    assert error(device='n3', bottom='x', base_node='n0') == "'bottom' and 'base-node' cannot be specified at the same time"
    assert error(device='n3', base='x') == "Can't find 'x' in the backing chain"
    assert error(device='n2', base_node='none') == "Cannot find device='' nor node-name='none'"
    assert error(device='n2', base_node='n3') == "Node 'n3' is not a backing image of 'n2'"
    assert error(device='n2', base_node='n2') == "Node 'n2' is not a backing image of 'n2'"
    assert error(device='n2', bottom='n3') == "Node 'n3' is not in a chain starting from 'n2'"
    assert error(device='n3', backing_file='x') == 'backing file specified, but streaming the entire chain'
    assert error(device='n3', speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert d.qmp.error('block-stream', device='n3') == "Invalid job ID ''"
    d.qmp.events.clear()
    stream(d, device='n3', base_node='n0', speed=1)
    for node in ('n3', 'n2', 'n1'):
        assert d.qmp.error('blockdev-del', node_name=node) == f"Node '{node}' is busy: block device is in use by block job: stream"
    assert d.qmp.error('block-stream', {'job-id': 'k', 'device': 'n2'}) == \
        "Node 'n2' is busy: block device is in use by block job: stream"
    d.cmd('block-job-set-speed', device='j', speed=0)
    finish(d)


def test_jobs_side_by_side(daemon, images):
    """A stream whose base is what a commit takes from, named by the commit's filter; whichever ends first."""
    for first in ('s', 'c'):
        (images / first).mkdir()
        chain = Chain(images / first, 6)
        want = chain.contents()
        d = daemon(*chain.arguments())
        d.cmd('block-commit', {'job-id': 'c', 'device': 'n5', 'top-node': 'n1', 'base-node': 'n0', 'filter-node-name': 'commit-filter',
                               'auto-finalize': False, 'auto-dismiss': False})
        wait_status(d, 'c', 'pending')
        d.cmd('block-stream', {'job-id': 's', 'device': 'n4', 'base-node': 'commit-filter', 'auto-finalize': False,
                               'auto-dismiss': False})
        wait_status(d, 's', 'pending')
        for job in (first, 'c' if first == 's' else 's'):
            d.cmd('job-finalize', id=job)
            wait_status(d, job, 'concluded')
            assert error_of(d, job) is None
            d.cmd('job-dismiss', id=job)
        assert backing(d, 'n4') == 'n0' and backing(d, 'n5') == 'n4'
        drop(d, 3, 2, 1)
        d.stop()
        assert img.info(chain.files[4])['backing-filename'] == str(chain.files[0])
        assert chain.contents() == want


def test_permission_of_a_writer_below(daemon, images):
    """What others write to cannot be streamed from; the job is gone without a trace (the upstream case qsd-jobs)."""
    chain = Chain(images, 2, writes=1)
    argv = chain.arguments(0)
    d = daemon(*argv, '--blockdev', f'driver=qcow2,node-name=o,file.driver=file,file.filename={chain.files[1]},backing=n0')
    assert d.qmp.error('block-stream', {'job-id': 'job0', 'device': 'o'}) == \
        "Permission conflict on node 'n0': permissions 'write' are both required by an unnamed block device (uses node 'n0' as " \
        "'root' child) and unshared by stream job 'job0' (uses node 'n0' as 'intermediate node' child)."
    assert events_of(d, 'job0') == ['created', 'null']


def test_sparse(daemon, images):
    size = 1 << 40
    base, top = images / 'base', images / 'top'
    img.create(base, str(size))
    img.create(top, str(size), backing=base)
    img.qemu_io(base, 'write -P 9 0 8M', 'write -P 0 100G 8M', 'write -z 200G 8M')
    img.qemu_io(top, 'write -z 0 4M', 'write -P 7 512G 1M')
    d = daemon('--blockdev', f'driver=qcow2,node-name=top,file.driver=file,file.filename={top}')
    stream(d, device='top')
    finish(d)
    assert [n for n in nodes(d) if n.startswith('#')] == [n for n in nodes(d) if n.startswith('#block')]
    d.stop()
    img.check(top)
    assert sum(r['length'] for r in img.map_ranges(top) if r['data']) == 5 * MIB
    assert top.stat().st_blocks * 512 < 16 * MIB
    base.unlink()
    img.qemu_io(top, 'read -P 0 0 4M', 'read -P 9 4M 4M', 'read -P 7 512G 1M', 'read -P 0 100G 8M', read_only=True)


def test_holes_inside_clusters(daemon, images):
    """A cluster of which a part was never written has holes in its file: they are no zero clusters of the image above."""
    chain = Chain(images, 5, writes=0, options='cluster_size=64k')
    img.qemu_io(chain.files[0], 'write -P 3 0 4M')
    img.qemu_io(chain.files[1], 'write -z 0 1M', 'write -z 2M 512k')
    d = daemon(*chain.arguments(2))
    img.run('qemu-io', '-f', 'raw', *[a for i in range(40) for a in ('-c', f'write -P {i + 1} {i * 65536 + i * 512} 4096')], chain.uri)
    d.stop()
    want = chain.contents()
    d = daemon(*chain.arguments())
    stream(d, device='n3', base_node='n0')
    finish(d)
    d.stop()
    assert chain.contents() == want
    img.check(chain.files[3])


def test_change_backing_file(daemon, images):
    chain = Chain(images, 3, writes=1)
    d = daemon(*chain.arguments())
    error = d.qmp.error
    assert error('change-backing-file', {'device': 'n2', 'image-node-name': 'n0', 'backing-file': 'x'}) == \
        'not allowing backing file change on an image without a backing file'
    assert error('change-backing-file', {'device': 'n1', 'image-node-name': 'n2', 'backing-file': 'x'}) == \
        "'n1' and image file are not in the same chain"
    d.cmd('change-backing-file', {'device': 'n2', 'image-node-name': 'n2', 'backing-file': 'n1.qcow2'})
    d.cmd('change-backing-file', {'device': 'n2', 'image-node-name': 'n1', 'backing-file': './n0.qcow2'})
    assert nodes(d)['n1']['ro'] and not nodes(d)['n2']['ro']
    assert nodes(d)['n2']['image']['backing-filename'] == 'n1.qcow2'
    d.stop()
    assert img.info(chain.files[2])['backing-filename'] == 'n1.qcow2'
    assert img.info(chain.files[1])['backing-filename'] == './n0.qcow2'
    assert img.info(chain.files[1])['backing-filename-format'] == 'qcow2'
