# SPDX-License-Identifier: BSD-3-Clause
"""Jobs and snapshots over chains that have filters between the images: data is that of the images, and which filters stay and which go is as with QEMU:
whose users move is the node that was named, where they move to is the node that was named, what lies between goes."""

import nbd
import pytest

from lib import images as img
from lib.chain import MIB, Chain, backing, nodes, path
from lib.jobs import error_of, wait_status

FILTERS = {0: 'throttle', 1: 'copy-on-read', 2: 'throttle', 3: 'throttle'}
ALL = ['f3', 'n3', 'f2', 'n2', 'f1', 'n1', 'f0', 'n0']


@pytest.fixture
def chain(images):
    c = Chain(images, 4, size=4 * MIB, writes=5)
    c.want = [c.contents(i) for i in range(4)]
    return c


@pytest.fixture
def d(daemon, chain):
    return daemon(*chain.arguments(filters=FILTERS))


def connect(chain):
    h = nbd.NBD()
    h.connect_uri(chain.uri)
    return h


def finish(d, job='j'):
    wait_status(d, job, 'concluded')
    error = error_of(d, job)
    d.cmd('job-dismiss', id=job)
    assert error is None
    d.qmp.events.clear()


def exported(d):
    (e,) = d.cmd('query-block-exports')
    return e['node-name']


COMMIT, STREAM = 'block-commit', 'block-stream'
# command, arguments, what the disk's chain is afterwards, {image: what its header names}
CASES = {
    'commit, images': (COMMIT, {'device': 'f3', 'top-node': 'n2', 'base-node': 'n0'}, ['f3', 'n3', 'f2', 'n0'], {3: 0}),
    'commit, filters': (COMMIT, {'device': 'f3', 'top-node': 'f2', 'base-node': 'f0'}, ['f3', 'n3', 'f0', 'n0'], {3: 0}),
    'commit, base filter': (COMMIT, {'device': 'f3', 'top-node': 'n2', 'base-node': 'f1'}, ['f3', 'n3', 'f2', 'f1', 'n1', 'f0', 'n0'], {3: 1}),
    'commit, files': (COMMIT, {'device': 'n3', 'top': 'n1.qcow2', 'base': 'n0.qcow2'}, ['f3', 'n3', 'f2', 'n2', 'f1', 'n0'], {2: 0}),
    'stream, image': (STREAM, {'device': 'f3', 'base-node': 'n1'}, ['f3', 'n3', 'n1', 'f0', 'n0'], {3: 1}),
    'stream, filter': (STREAM, {'device': 'n3', 'base-node': 'f1'}, ['f3', 'n3', 'f1', 'n1', 'f0', 'n0'], {3: 1}),
    'stream, bottom': (STREAM, {'device': 'n3', 'bottom': 'n2'}, ['f3', 'n3', 'f1', 'n1', 'f0', 'n0'], {3: 1}),
    'stream, file': (STREAM, {'device': 'n3', 'base': 'n0.qcow2'}, ['f3', 'n3', 'n0'], {3: 0}),
    'stream, below': (STREAM, {'device': 'f2', 'base-node': 'f0'}, ['f3', 'n3', 'f2', 'n2', 'f0', 'n0'], {2: 0}),
    'stream, only a filter goes': (STREAM, {'device': 'n3', 'base-node': 'n2'}, ['f3', 'n3', 'n2', 'f1', 'n1', 'f0', 'n0'], {3: 2}),
    'stream, only the name': (STREAM, {'device': 'n3', 'base-node': 'f2'}, ALL, {3: 2}),
    'stream, all': (STREAM, {'device': 'f3'}, ['f3', 'n3'], {3: None}),
}


@pytest.mark.parametrize('case', CASES)
def test_job(d, chain, images, case):
    command, args, after, headers = CASES[case]
    args = {k: str(images / v) if k in ('top', 'base') else v for k, v in args.items()}
    want = chain.want[3]
    h = connect(chain)
    assert path(d, 'f3') == ALL
    d.cmd(command, {'job-id': 'j', 'auto-dismiss': False, **args})
    finish(d)
    assert path(d, 'f3') == after
    assert h.pread(chain.size, 0) == want
    for name in ('n0', 'n1', 'n2', 'f0', 'f1', 'f2'):
        assert nodes(d)[name]['ro'], name
    for name in [name for name in ALL if name not in after]:
        d.cmd('blockdev-del', node_name=name)
    h.pwrite(b'end', 5)
    h.shutdown()
    d.stop()
    want = want[:5] + b'end' + want[8:]
    for i, below in headers.items():
        assert img.info(chain.files[i]).get('backing-filename') == (str(chain.files[below]) if below is not None else None)
    for name in set(after) & {'n0', 'n1', 'n2', 'n3'}:
        img.check(chain.files[int(name[1])])
    assert chain.contents() == want


ACTIVE = {
    'filter': ({'device': 'f3'}, ['n0'], 0),
    'image': ({'device': 'f3', 'top-node': 'n3'}, ['f3', 'n0'], 0),
    'into a filter': ({'device': 'f3', 'top-node': 'n3', 'base-node': 'f1'}, ['f3', 'f1', 'n1', 'f0', 'n0'], 1),
    'filter into a filter': ({'device': 'f3', 'base-node': 'f2'}, ['f2', 'n2', 'f1', 'n1', 'f0', 'n0'], 2),
}


@pytest.mark.parametrize('case', ACTIVE)
@pytest.mark.parametrize('end', ['job-complete', 'job-cancel'])
def test_active_commit(d, chain, case, end):
    args, after, base = ACTIVE[case]
    model = bytearray(chain.want[3])
    h = connect(chain)
    d.cmd('block-commit', {'job-id': 'j', 'auto-dismiss': False, **args})
    wait_status(d, 'j', 'ready')
    for i, at in enumerate(range(0, chain.size, 300000)):
        data = bytes([i + 1]) * min(70000, chain.size - at)
        h.pwrite(data, at)
        model[at:at + len(data)] = data
    if end == 'job-complete':
        d.cmd('job-complete', id='j')
        finish(d)
        assert path(d, exported(d)) == after
        assert not nodes(d)[after[0]]['ro'] and not nodes(d)[f'n{base}']['ro']
    else:
        d.cmd('job-cancel', id='j')
        wait_status(d, 'j', 'concluded')
        assert path(d, exported(d)) == ALL
        assert nodes(d)[f'n{base}']['ro'] and nodes(d)[f'f{base}']['ro']
        base = 3
    h.pwrite(b'end', 77)
    model[77:80] = b'end'
    assert h.pread(chain.size, 0) == model
    h.shutdown()
    d.stop()
    img.check(chain.files[base])
    assert chain.contents(base) == model


def test_two_overlays(d, chain, images):
    """Another image uses what is committed through a filter of its own: its header follows."""
    img.create(images / 'other', str(chain.size), backing=chain.files[2])
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'other', 'file': {'driver': 'file', 'filename': str(images / 'other')}, 'backing': {
        'driver': 'throttle', 'node-name': 'fo', 'throttle-group': 'g', 'file': 'n2'}})
    want = chain.want[2], chain.want[3]
    d.cmd('block-commit', {'job-id': 'j', 'auto-dismiss': False, 'device': 'f3', 'top-node': 'n2', 'base-node': 'n1'})
    finish(d)
    assert path(d, 'other') == ['other', 'fo', 'n1', 'f0', 'n0']
    assert path(d, 'f3') == ['f3', 'n3', 'f2', 'n1', 'f0', 'n0']
    d.stop()
    assert img.info(images / 'other')['backing-filename'] == str(chain.files[1])
    assert img.contents(images / 'other', chain.size) == want[0] and chain.contents() == want[1]


def test_refusals(d, chain):
    def error(command, **args):
        return d.qmp.error(command, {'job-id': 'j', **{k.replace('_', '-'): v for k, v in args.items()}})

    assert error(STREAM, device='n3', bottom='f1') == "Node 'f1' is a filter, use a non-filter node as 'bottom'"
    assert error(STREAM, device='n1', base_node='f1') == "Node 'f1' is not a backing image of 'n1'"
    assert error(COMMIT, device='f3', top_node='f1', base_node='n1') == 'Invalid files for merge: top and base are the same'
    assert error(COMMIT, device='f3', top_node='f1', base_node='f1') == 'cannot commit an image into itself'
    assert error(COMMIT, device='f3', top_node='n1', base_node='f1') == "'f1' is not in this backing file chain"
    for device in 'n2', 'f2':
        assert error(COMMIT, device=device) == 'Need a root block node'
        assert error('blockdev-mirror', device=device, target='f3', sync='full') == 'Need a root block node'
        assert d.qmp.error('blockdev-snapshot-sync', {'node-name': device, 'snapshot-file': str(chain.directory / 'x')}) == \
            f"Node '{device}' is busy: node is used as backing hd of 'n3'"
    assert d.qmp.error('change-backing-file', {'device': 'f2', 'image-node-name': 'n3', 'backing-file': 'x'}) == \
        "'f2' and image file are not in the same chain"
    # Somebody reads a filter that is between.
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'r', 'node-name': 'f1'})
    assert 'Permission conflict on node' in error(COMMIT, device='f3', top_node='n2', base_node='n0')
    d.cmd('block-export-del', {'id': 'r', 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')
    # A job holds what is between, and neither it nor a transaction gets in the other's way.
    d.cmd(STREAM, {'job-id': 'j', 'device': 'n3', 'base-node': 'n1', 'speed': 1, 'auto-dismiss': False})
    for name in 'f2', 'n2', 'f1':
        busy = f"Node '{name}' is busy: block device is in use by block job: stream"
        assert d.qmp.error('blockdev-del', {'node-name': name}) == busy
    assert d.qmp.error(COMMIT, {'job-id': 'k', 'device': 'f3', 'top-node': 'n2', 'base-node': 'n0'}).endswith('in use by block job: stream')
    d.cmd('job-cancel', id='j')
    wait_status(d, 'j', 'concluded')
    d.cmd('job-dismiss', id='j')
    assert path(d, 'f3') == ALL


def test_snapshots_and_jobs(d, chain, images):
    """What a manager does: a snapshot below the filter on top, one above it, then all is merged."""
    model = bytearray(chain.want[3])
    h = connect(chain)
    for i, node in enumerate(['n3', 'f3', 's1']):
        name = f's{i + 10}'
        if node == 's1':
            node = 's11'
        d.cmd('transaction', {'actions': [{'type': 'blockdev-snapshot-sync', 'data': {
            'node-name': node, 'snapshot-node-name': name, 'snapshot-file': str(images / name)}}]})
        h.pwrite(bytes([200 + i]) * 100000, i * MIB + 5)
        model[i * MIB + 5:i * MIB + 100005] = bytes([200 + i]) * 100000
    assert exported(d) == 's12'
    assert path(d, 's12') == ['s12', 's11', 'f3', 's10', *ALL[1:]]
    assert backing(d, 's11') == 'f3' and nodes(d)['f3']['ro'] and nodes(d)['s10']['ro']
    assert img.info(images / 's11', share=True)['backing-filename'] == str(images / 's10')
    d.cmd(COMMIT, {'job-id': 'j', 'auto-dismiss': False, 'device': 's12', 'top-node': 's11', 'base-node': 'n3'})
    finish(d)
    assert path(d, 's12') == ['s12', *ALL[1:]]
    d.cmd(STREAM, {'job-id': 'j', 'auto-dismiss': False, 'device': 's12', 'base-node': 'n1'})
    finish(d)
    assert path(d, 's12') == ['s12', 'n1', 'f0', 'n0']
    h.pwrite(b'mid', 11)
    model[11:14] = b'mid'
    d.cmd(COMMIT, {'job-id': 'j', 'auto-dismiss': False, 'device': 's12'})
    wait_status(d, 'j', 'ready')
    h.pwrite(b'end', 3)
    model[3:6] = b'end'
    d.cmd('job-complete', id='j')
    finish(d)
    assert path(d, exported(d)) == ['n0']
    assert h.pread(chain.size, 0) == model
    h.shutdown()
    d.stop()
    img.check(chain.files[0])
    assert chain.contents(0) == model


def test_copies(d, chain, images):
    """Mirror and backup of a disk whose chain has filters; sync=top is the image on top alone."""
    want = chain.want[3]
    for i, (command, sync) in enumerate([('blockdev-mirror', 'top'), ('blockdev-backup', 'top'), ('blockdev-mirror', 'full'),
                                         ('blockdev-backup', 'full')]):
        target = images / f't{i}'
        img.create(target, str(chain.size))
        if sync == 'top':
            img.run('qemu-img', 'rebase', '-u', '-b', chain.files[2], '-F', 'qcow2', target)
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f't{i}', 'file': {'driver': 'file', 'filename': str(target)}, 'backing': None})
        d.cmd(command, {'job-id': 'j', 'device': 'f3', 'target': f't{i}', 'sync': sync, 'auto-dismiss': False})
        if command == 'blockdev-mirror':
            wait_status(d, 'j', 'ready')
            d.cmd('block-job-cancel', device='j')
        finish(d)
        d.cmd('blockdev-del', node_name=f't{i}')
        assert img.contents(target, chain.size) == want
    assert img.run('qemu-img', 'map', '-U', '--output=json', images / 't0').count('"depth": 0') > 0
    d.cmd('change-backing-file', {'device': 'f3', 'image-node-name': 'f3', 'backing-file': 'elsewhere'})
    d.stop()
    assert img.info(chain.files[3])['backing-filename'] == 'elsewhere'


def test_console_commit(d, chain):
    want = chain.want[3]
    assert d.cmd('human-monitor-command', {'command-line': 'commit n3'}) == ''
    assert path(d, 'f3') == ALL
    d.stop()
    assert chain.contents(2) == want and chain.contents() == want
