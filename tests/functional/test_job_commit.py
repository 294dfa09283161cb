# SPDX-License-Identifier: BSD-3-Clause
"""block-commit: intermediate and active, judged by qemu-img; events, errors, permissions."""
import pytest

from lib import images as img
from lib.chain import MIB, Chain, backing, drop, nodes
from lib.jobs import error_of, events_of, wait_status
from lib.load import Load
from lib.qmp import QmpError


def finish(d, job='j', complete=False, error=None):
    """Waits for the end of a job as libvirt does it."""
    if complete:
        wait_status(d, job, 'ready')
        d.cmd('job-complete', id=job)
    wait_status(d, job, 'concluded')
    assert error_of(d, job) == error
    d.cmd('job-dismiss', id=job)


def commit(d, **args):
    return d.cmd('block-commit', {'job-id': 'j', 'auto-dismiss': False, **{k.replace('_', '-'): v for k, v in args.items()}})


@pytest.mark.parametrize('top,base', [(1, 0), (2, 1), (2, 0), (3, 1)])
def test_intermediate(daemon, images, top, base):
    chain = Chain(images, 5)
    want = [chain.contents(i) for i in range(5)]
    d = daemon(*chain.arguments())
    commit(d, device='n4', top_node=f'n{top}', base_node=f'n{base}')
    assert events_of(d, 'j')[:2] == ['created', 'running'], 'before the reply'
    finish(d)
    assert [e for e in events_of(d, 'j') if e != 'null'] == \
        ['created', 'running', 'waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
    event = next(e for e in d.qmp.events if e['event'] == 'BLOCK_JOB_COMPLETED')
    assert event['data'] == {'device': 'j', 'len': chain.size, 'offset': chain.size, 'speed': 0, 'type': 'commit'}
    assert backing(d, f'n{top + 1}') == f'n{base}'
    assert all(nodes(d)[f'n{i}']['ro'] for i in range(4)) and not nodes(d)['n4']['ro']
    drop(d, *range(top, base, -1))
    d.stop()
    info = img.info(chain.files[top + 1])
    assert info['backing-filename'] == str(chain.files[base]) and info['backing-filename-format'] == 'qcow2'
    assert chain.contents(4) == want[4] and chain.contents(base) == want[top] and chain.contents(top + 1) == want[top + 1]
    for i in (base, top + 1, 4):
        img.check(chain.files[i])


def test_active(daemon, images):
    chain = Chain(images, 4)
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n3', base_node='n1', top_node='n3')
    wait_status(d, 'j', 'ready')
    info = d.cmd('query-block-jobs')[0]
    assert info['ready'] and info['offset'] == info['len'] > 0 and info['type'] == 'commit'
    finish(d, complete=True)
    assert [e for e in events_of(d, 'j') if e != 'null'] == \
        ['created', 'running', 'ready', 'BLOCK_JOB_READY', 'waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n1'
    assert not nodes(d)['n1']['ro']
    drop(d, 3, 2)
    img.run('qemu-io', '-f', 'raw', '-c', 'write -P 77 0 64k', chain.uri)
    d.stop()
    img.check(chain.files[1])
    assert chain.contents(1) == b'\x4d' * 65536 + want[65536:]


def test_active_finalized_later(daemon, images):
    """While it is pending guests go on; what they write then is in base too."""
    chain = Chain(images, 3)
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n2', base_node='n0', auto_finalize=False)
    wait_status(d, 'j', 'ready')
    d.cmd('job-complete', id='j')
    wait_status(d, 'j', 'pending')
    assert d.qmp.error('job-complete', id='j') == "Job 'j' in state 'pending' cannot accept command verb 'complete'"
    img.run('qemu-io', '-f', 'raw', '-c', 'write -P 77 0 64k', '-c', 'write -P 78 8M 4k', chain.uri)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n2'
    d.cmd('job-finalize', id='j')
    finish(d)
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n0'
    d.stop()
    assert chain.contents(0) == b'\x4d' * 65536 + want[65536:8 * MIB] + b'\x4e' * 4096 + want[8 * MIB + 4096:]


@pytest.mark.parametrize('force', [False, True])
def test_active_cancelled(daemon, images, force):
    chain = Chain(images, 3)
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n2', base_node='n0')
    wait_status(d, 'j', 'ready')
    d.cmd('block-job-cancel', device='j', force=force)
    wait_status(d, 'j', 'concluded')
    assert events_of(d, 'j')[4:] == (['aborting', 'BLOCK_JOB_CANCELLED', 'concluded'] if force else
                                     ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded'])
    d.cmd('job-dismiss', id='j')
    assert d.cmd('query-block-exports')[0]['node-name'] == 'n2' and nodes(d)['n0']['ro']
    d.stop()
    for path in chain.files:
        img.check(path)
    assert chain.contents() == want
    if not force:
        assert chain.contents(0) == want


def test_errors(daemon, images):
    chain = Chain(images, 4, writes=2)
    d = daemon(*chain.arguments())

    def error(**args):
        return d.qmp.error('block-commit', {'job-id': 'j', **{k.replace('_', '-'): v for k, v in args.items()}})

    with pytest.raises(QmpError) as e:
        commit(d, device='nonexistent')
    assert (e.value.error_class, e.value.desc) == ('DeviceNotFound', "Device 'nonexistent' not found")
    assert error(device='n3', top_node='n1', top=str(chain.files[1])) == "'top-node' and 'top' are mutually exclusive"
    assert error(device='n3', base_node='n1', base=str(chain.files[1])) == "'base-node' and 'base' are mutually exclusive"
    assert error(device='n3', top_node='none') == "Cannot find device='' nor node-name='none'"
    assert error(device='n3', base_node='s0') == "'s0' is not in this backing file chain"
    assert error(device='n3', top_node='s0') == "'s0' is not in this backing file chain"
    assert error(device='n3', top_node='n1', base_node='n2') == "'n2' is not in this backing file chain"
    assert error(device='n3', top='badfile') == 'Top image file badfile not found'
    assert error(device='n3', base='badfile') == "Can't find 'badfile' in the backing chain"
    assert error(device='n3', top_node='n1', base_node='n1') == 'cannot commit an image into itself'
    assert error(device='n3', top_node='n0') == 'There is no backing image'
    assert error(device='n3', backing_file='x') == "'backing-file' specified, but 'top' is the active layer"
    assert error(device='n2') == 'Need a root block node'
    assert error(device='n3', speed=-1) == "Parameter 'speed' expects a non-negative value"
    assert error(device='n3', filter_node_name='1234') == "Invalid node-name: '1234'"
    assert error(device='n3', filter_node_name='n1') == "Duplicate nodes with node-name='n1'"
    assert d.qmp.error('block-commit', device='n3') == "Invalid job ID ''"
    assert d.cmd('query-jobs') == []
    assert all(nodes(d)[f'n{i}']['ro'] for i in range(3))


def test_names_of_files(daemon, images):
    """The older way to say it; a name may be as a header has it, relative to the overlay."""
    chain = Chain(images, 4)
    want = chain.contents()
    d = daemon(*chain.arguments())
    d.cmd('block-commit', {'job-id': 'j', 'device': 'n3', 'top': str(chain.files[2]), 'base': 'n1.qcow2',
                           'backing-file': 'n1.qcow2', 'auto-dismiss': False})
    finish(d)
    d.stop()
    assert img.info(chain.files[3])['backing-filename'] == 'n1.qcow2'
    assert chain.contents() == want


def test_busy_both_ways(daemon, images):
    chain = Chain(images, 5)
    d = daemon(*chain.arguments())
    commit(d, device='n4', top_node='n2', base_node='n1', speed=1, filter_node_name='filter')
    assert nodes(d)['filter']['drv'] == 'commit_top'
    for node, text in (('n4', 'block device is in use by block job: commit'), ('n3', "node is used as backing hd of 'n4'")):
        assert d.qmp.error('blockdev-snapshot-sync', {'node-name': node, 'snapshot-node-name': 's', 'snapshot-file':
                                                      str(images / 's.qcow2')}) == f"Node '{node}' is busy: {text}"
    for node in ('n4', 'n2', 'n1'):
        assert d.qmp.error('blockdev-del', node_name=node) == f"Node '{node}' is busy: block device is in use by block job: commit"
    assert d.qmp.error('block-commit', {'job-id': 'k', 'device': 'n4', 'top-node': 'n1'}) == \
        "Node 'n4' is busy: block device is in use by block job: commit"
    d.cmd('job-cancel', id='j')
    wait_status(d, 'j', 'concluded')
    assert 'filter' not in nodes(d)
    assert d.cmd('query-jobs')[0]['error'] == 'Operation canceled'
    d.cmd('job-dismiss', id='j')
    d.cmd('transaction-prepare', {'id': 'g', 'timeout': 30000, 'actions': [
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'n4', 'snapshot-node-name': 's',
                                                    'snapshot-file': str(images / 's.qcow2')}}]})
    assert d.qmp.error('block-commit', {'job-id': 'k', 'device': 'n4', 'top-node': 'n1'}) == \
        "Node 'n4' is busy: it is in use by a transaction"
    d.cmd('transaction-abort', id='g')


def test_other_readers_of_the_chain_are_in_the_way(daemon, images):
    """Nobody may see base change: another overlay of it, or a reader of a node in between, refuses the job."""
    chain = Chain(images, 4)
    img.create(images / 'o.qcow2', str(chain.size), backing=chain.files[0])
    d = daemon(*chain.arguments(), '--blockdev', f'driver=qcow2,node-name=o,file.driver=file,file.filename={images}/o.qcow2,backing=n0',
               '--export', 'type=nbd,id=o,node-name=o,name=o')
    assert d.qmp.error('block-commit', {'job-id': 'j', 'device': 'n3', 'top-node': 'n2', 'base-node': 'n0'}).startswith(
        "Permission conflict on node 'n0': permissions 'write' are both required by commit job 'j'")
    assert [e['data']['status'] for e in d.qmp.events if e['event'] == 'JOB_STATUS_CHANGE'] == ['created', 'null']
    assert nodes(d)['n0']['ro']
    d.cmd('block-export-del', id='o')
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'm', 'node-name': 'n1', 'name': 'm'})
    assert d.qmp.error('block-commit', {'job-id': 'j', 'device': 'n3', 'top-node': 'n2', 'base-node': 'n0'}).startswith(
        "Permission conflict on node 'n1': permissions 'consistent read'")
    d.cmd('block-export-del', id='m')
    commit(d, device='n3', top_node='n2', base_node='n0')
    finish(d)


def test_two_overlays_of_top(daemon, images):
    """Both get base as their backing node, in memory and in their headers."""
    chain = Chain(images, 3)
    img.create(images / 'o.qcow2', str(chain.size), backing=chain.files[1])
    want = chain.contents()
    d = daemon(*chain.arguments(), '--blockdev', f'driver=qcow2,node-name=o,file.driver=file,file.filename={images}/o.qcow2,backing=n1',
               '--export', 'type=nbd,id=o,node-name=o,name=o')
    commit(d, device='n2', top_node='n1', base_node='n0')
    finish(d)
    assert backing(d, 'n2') == backing(d, 'o') == 'n0'
    drop(d, 1)
    d.stop()
    assert img.info(images / 'o.qcow2')['backing-filename'] == img.info(chain.files[2])['backing-filename'] == str(chain.files[0])
    assert chain.contents() == want


@pytest.mark.parametrize('active', [False, True])
def test_sizes(daemon, images, active):
    """A short base grows; what a short layer hides stays hidden."""
    chain = Chain(images, 4, sizes=[6 * MIB, 4 * MIB, 10 * MIB, 16 * MIB])
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n3', base_node='n1', **({} if active else {'top_node': 'n2'}))
    finish(d, complete=active)
    d.stop()
    assert img.info(chain.files[1])['virtual-size'] == (16 if active else 10) * MIB
    assert (chain.contents(1) if active else chain.contents()) == want
    img.check(chain.files[1])


def test_long_base_short_top(daemon, images):
    chain = Chain(images, 3, sizes=[16 * MIB, 4 * MIB, 16 * MIB])
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n2', top_node='n1', base_node='n0')
    finish(d)
    d.stop()
    assert chain.contents() == want


@pytest.mark.parametrize('active', [False, True])
def test_raw_base(daemon, images, active):
    chain = Chain(images, 3, base_format='raw')
    want = chain.contents()
    d = daemon(*chain.arguments())
    commit(d, device='n2', base_node='n0', **({} if active else {'top_node': 'n1'}))
    finish(d, complete=active)
    if active:
        img.run('qemu-io', '-f', 'raw', '-c', 'write -P 77 0 64k', chain.uri)
        want = b'\x4d' * 65536 + want[65536:]
    d.stop()
    assert (chain.contents(0) if active else chain.contents()) == want


def test_protocol_base(daemon, images):
    """A file node as base: its format in the header is masked if that is asked for."""
    base = images / 'base.raw'
    base.write_bytes(b'\x11' * (4 * MIB))
    for name, below, fmt in (('a', base, 'raw'), ('b', images / 'a', 'qcow2')):
        img.create(images / name, str(4 * MIB), backing=below, backing_fmt=fmt)
    img.qemu_io(images / 'a', 'write -P 5 1M 1M')
    want = img.contents(images / 'b', 4 * MIB)
    d = daemon('--blockdev', f'driver=file,node-name=base,filename={base},auto-read-only=on,read-only=on',
               '--blockdev', f'driver=qcow2,node-name=a,read-only=on,file.driver=file,file.filename={images}/a,backing=base',
               '--blockdev', f'driver=qcow2,node-name=b,file.driver=file,file.filename={images}/b,backing=a')
    commit(d, device='b', top_node='a', base_node='base', backing_mask_protocol=True)
    finish(d)
    d.stop()
    assert img.info(images / 'b')['backing-filename-format'] == 'raw'
    assert img.contents(images / 'b', 4 * MIB) == want


def test_holes_stay_holes(daemon, images):
    """Zeroes and what is unallocated cost no space in base; a sparse image costs time for its data only."""
    size = 1 << 40
    base, top, over = (images / n for n in ('base', 'top', 'over'))
    img.create(base, str(size))
    img.create(top, str(size), backing=base)
    img.create(over, str(size), backing=top)
    img.qemu_io(base, 'write -P 9 0 8M')
    img.qemu_io(top, 'write -z 0 4M', 'write -P 7 512G 1M', 'write -P 0 100G 8M')
    d = daemon(*[a for n, b in (('base', ''), ('top', 'base'), ('over', 'top')) for a in (
        '--blockdev', f'driver=qcow2,node-name={n},discard=unmap,file.driver=file,file.filename={images}/{n},file.discard=unmap,'
                      f'read-only={"off" if n == "over" else "on"},backing={b}')])
    commit(d, device='over', top_node='top', base_node='base')
    finish(d)
    d.stop()
    img.check(base)
    data = [r for r in img.map_ranges(base) if r['data']]
    assert sum(r['length'] for r in data) == 5 * MIB, data
    assert base.stat().st_blocks * 512 < 16 * MIB
    img.qemu_io(over, 'read -P 0 0 4M', 'read -P 9 4M 4M', 'read -P 7 512G 1M', 'read -P 0 100G 8M', read_only=True)


def test_base_that_stays_writable_does_not_stay_longer(daemon, images):
    """The file is grown ahead of what is written; the rest is given back when the job does not write any more."""
    base, mid, top = (images / f'{n}.qcow2' for n in ('base', 'mid', 'top'))
    img.create(base, '64M')
    img.create(mid, backing=base)
    img.create(top, backing=mid)
    img.run('qemu-io', '-c', 'write -P 0x55 1M 1M', mid)
    d = daemon()
    below = None
    for path in (base, mid, top):
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': path.stem, 'file': {'driver': 'file', 'filename': str(path)}, 'backing': below})
        below = path.stem
    commit(d, device='top', top_node='mid', base_node='base')
    finish(d)
    assert not nodes(d)['base']['ro']
    assert base.stat().st_size <= mid.stat().st_size + 2 * 65536
    # And it is written to again.
    d.cmd('blockdev-del', {'node-name': 'top'})
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd')}}})
    for i in range(3):
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'base', 'writable': True})
        before = base.stat().st_size
        img.run('qemu-io', '-f', 'raw', '-c', f'write -P {0x60 + i} {4 + i}M 1M', f'nbd+unix:///base?socket={images}/nbd')
        assert base.stat().st_size > before + MIB
        d.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
        d.qmp.event('BLOCK_EXPORT_DELETED')
        d.qmp.events.clear()
        assert base.stat().st_size <= before + MIB + 2 * 65536
    d.stop()
    img.check(base)
    img.run('qemu-io', '-c', 'read -P 0x55 1M 1M', *(a for i in range(3) for a in ('-c', f'read -P {0x60 + i} {4 + i}M 1M')), base)
