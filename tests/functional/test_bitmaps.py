# SPDX-License-Identifier: BSD-3-Clause
"""Dirty bitmaps as users have them: commands, transaction actions, all or nothing, beside writing clients."""
import hashlib
import threading

import nbd
import pytest

from lib import images as img

MIB = 1 << 20
G = 65536


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.images = images
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{images}/nbd.sock'}}})
    for name in ('a', 'b'):
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': name,
                               'file': {'driver': 'file', 'filename': str(img.create(images / name, '16M'))}})
        d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})
    return d


def client(d, name='a'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.images}/nbd.sock')
    return h


def bitmaps(d, node='a'):
    n = next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == node)
    return {b['name']: b for b in n.get('dirty-bitmaps', [])}


def count(d, name, node='a'):
    return bitmaps(d, node)[name]['count']


def verb(d, what, name='x', node='a', **more):
    d.cmd(f'block-dirty-bitmap-{what}', {'node': node, 'name': name, **more})


def action(what, name='x', node='a', **more):
    return {'type': f'block-dirty-bitmap-{what}', 'data': {'node': node, **({} if what == 'merge' else {'name': name}), **more}}


def sha256(d, name='x', node='a'):
    return d.cmd('x-debug-block-dirty-bitmap-sha256', {'node': node, 'name': name})['sha256']


def transaction(d, *actions):
    d.cmd('transaction', {'actions': list(actions)})


def test_the_hash_is_of_the_marks(d):
    """Words of 64 marks, the lowest bit first."""
    verb(d, 'add')
    assert sha256(d) == hashlib.sha256(bytes(32)).hexdigest()
    h = client(d)
    h.pwrite(b'1', 0)
    h.pwrite(b'1', 77 * G)
    h.shutdown()
    assert sha256(d) == hashlib.sha256((1 | 1 << 77).to_bytes(32, 'little')).hexdigest()
    for args, text in (({'node': 'a', 'name': 'y'}, "Dirty bitmap 'y' not found"), ({'node': 'c', 'name': 'x'}, "Node 'c' not found")):
        assert d.qmp.error('x-debug-block-dirty-bitmap-sha256', args) == text


def test_life(d):
    verb(d, 'add')
    assert bitmaps(d) == {'x': {'name': 'x', 'count': 0, 'granularity': G, 'recording': True, 'busy': False, 'persistent': False}}
    h = client(d)
    h.pwrite(b'1', 5 * G)
    h.pwrite(b'1' * G, 8 * G - 1)
    h.zero(G, 12 * G)
    assert count(d, 'x') == 4 * G
    verb(d, 'disable')
    h.pwrite(b'1', 0)
    assert count(d, 'x') == 4 * G and not bitmaps(d)['x']['recording']
    verb(d, 'enable')
    h.pwrite(b'1', G)
    h.pwrite(b'1', 5 * G)
    assert count(d, 'x') == 5 * G and bitmaps(d)['x']['recording']
    verb(d, 'clear')
    assert count(d, 'x') == 0
    h.pwrite(b'1', 0)
    assert count(d, 'x') == G
    verb(d, 'add', 'fine', granularity=4096, disabled=True)
    d.cmd('block-dirty-bitmap-merge', {'node': 'a', 'target': 'fine', 'bitmaps': ['x']})
    assert (count(d, 'fine'), bitmaps(d)['fine']['granularity']) == (G, 4096)
    assert list(bitmaps(d)) == ['fine', 'x'], 'newest first'
    verb(d, 'remove')
    verb(d, 'remove', 'fine')
    assert bitmaps(d) == {}
    h.pwrite(b'1', 0)
    h.shutdown()


def test_default_granularity(d):
    for size, want in ((512, 4096), (8192, 8192), (2 * MIB, 65536)):
        name = f'c{size}'
        img.create(d.images / name, '4M', options=f'cluster_size={size}')
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': name, 'file': {'driver': 'file', 'filename': str(d.images / name)}})
        verb(d, 'add', node=name)
        assert bitmaps(d, name)['x']['granularity'] == want
        d.cmd('blockdev-del', node_name=name)


def test_errors(d):
    verb(d, 'add')
    for what, arguments, text in (
            ('add', {'node': 'none', 'name': 'x'}, "Cannot find device='none' nor node-name='none'"),
            ('add', {'node': 'a', 'name': ''}, 'Bitmap name cannot be empty'),
            ('add', {'node': 'a', 'name': 'x'}, 'Bitmap already exists: x'),
            ('add', {'node': 'a', 'name': 'y' * 1024}, f"Bitmap name too long: {'y' * 1024}"),
            ('add', {'node': 'a', 'name': 'y', 'granularity': 64000}, 'Granularity must be power of 2 and at least 512'),
            ('add', {'node': 'a', 'name': 'y', 'granularity': 0}, 'Granularity must be power of 2 and at least 512'),
            ('merge', {'node': 'a', 'target': 'x', 'bitmaps': ['y']}, "Dirty bitmap 'y' not found"),
            ('merge', {'node': 'a', 'target': 'x', 'bitmaps': [{'node': 'none', 'name': 'y'}]}, "Node 'none' not found"),
            *((v, {'node': n, 'name': 'y'}, t) for v in ('remove', 'clear', 'enable', 'disable')
              for n, t in (('a', "Dirty bitmap 'y' not found"), ('none', "Node 'none' not found")))):
        assert d.qmp.error(f'block-dirty-bitmap-{what}', arguments) == text
        if what != 'merge':
            assert d.qmp.error('transaction', {'actions': [{'type': f'block-dirty-bitmap-{what}', 'data': arguments}]}) == text
    d.cmd('block_resize', {'node-name': 'b', 'size': 8 * MIB})
    verb(d, 'add', node='b')
    assert d.qmp.error('block-dirty-bitmap-merge', {'node': 'a', 'target': 'x', 'bitmaps': [{'node': 'b', 'name': 'x'}]}) == \
        f"Bitmaps are of different sizes (destination size is {16 * MIB}, source size is {8 * MIB}) and can't be merged"
    assert list(bitmaps(d)) == ['x']


def test_aborted_transactions_leave_bitmaps_as_they_were(d):
    h = client(d)
    for name, off in (('on', False), ('off', True)):
        verb(d, 'add', name, disabled=off)
    h.pwrite(b'1', 0)
    d.cmd('block-dirty-bitmap-merge', {'node': 'a', 'target': 'off', 'bitmaps': ['on']})
    before = bitmaps(d)
    one = [action(v, n) for v in ('clear', 'enable', 'disable', 'remove') for n in ('on', 'off')]
    for actions in ([action('add', 'new')], [action('merge', target='off', bitmaps=['on'])], *([a] for a in one),
                    [action('remove', 'on'), action('add', 'on', granularity=4096)], [action('enable', 'off'), action('clear', 'off')]):
        assert d.qmp.error('transaction', {'actions': [*actions, {'type': 'abort', 'data': {}}]}) == \
            'Transaction aborted using Abort action'
        assert bitmaps(d) == before
    assert d.qmp.error('transaction', {'actions': [action('enable', 'nonsense')]}) == "Dirty bitmap 'nonsense' not found"
    h.pwrite(b'1', 2 * G)
    assert (count(d, 'on'), count(d, 'off')) == (2 * G, G), 'and record as before'
    h.shutdown()


def test_actions_see_earlier_ones(d):
    h = client(d)
    verb(d, 'add')
    h.pwrite(b'1' * G, 3 * G)
    transaction(d, action('add', 'copy', disabled=True), action('merge', target='copy', bitmaps=['x']), action('clear'))
    assert (count(d, 'copy'), count(d, 'x')) == (G, 0)
    h.pwrite(b'1' * G, 0)
    transaction(d, action('clear'), action('merge', target='copy', bitmaps=['x']))
    assert (count(d, 'copy'), count(d, 'x')) == (G, 0)
    transaction(d, action('remove'), action('add', granularity=4096), action('disable'), action('enable'), action('disable'),
                action('enable'))
    h.pwrite(b'1', 0)
    assert (count(d, 'x'), bitmaps(d)['x']['granularity'], bitmaps(d)['x']['recording']) == (4096, 4096, True)
    transaction(d, action('enable', 'copy'), action('clear', 'copy'), action('disable', 'copy'))
    h.pwrite(b'1', 9 * G)
    assert (count(d, 'copy'), bitmaps(d)['copy']['recording']) == (0, False)
    assert d.qmp.error('transaction', {'actions': [action('remove'), action('clear')]}) == "Dirty bitmap 'x' not found"
    h.shutdown()


def test_bitmap_of_an_overlay_in_the_snapshots_transaction(d):
    """As libvirt does it with checkpoints (not stored in the image): what the guest writes from the instant on is in the overlay's bitmap."""
    h = client(d)
    img.create(d.images / 'o', '16M')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'backing': None, 'file': {'driver': 'file', 'filename': str(d.images / 'o')}})
    verb(d, 'add')
    h.pwrite(b'1', 0)
    transaction(d, action('add', 'c1', 'o', disabled=False, granularity=G), {'type': 'blockdev-snapshot', 'data': {'node': 'a', 'overlay': 'o'}},
                {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'b', 'snapshot-node-name': 'b1', 'snapshot-file': str(d.images / 'b1')}},
                action('add', 'c1', 'b1'))
    h.pwrite(b'1', 5 * G)
    other = client(d, 'b')
    other.pwrite(b'1', 7 * G)
    assert (count(d, 'x'), count(d, 'c1', 'o'), count(d, 'c1', 'b1')) == (G, G, G)
    h.shutdown()
    other.shutdown()


def test_resize(d):
    h = client(d)
    verb(d, 'add')
    h.pwrite(b'1', 0)
    d.cmd('block_resize', {'node-name': 'a', 'size': 32 * MIB})
    h2 = client(d)
    h2.pwrite(b'1', 31 * MIB)
    assert count(d, 'x') == 2 * G
    d.cmd('block_resize', {'node-name': 'a', 'size': MIB})
    assert count(d, 'x') == G
    for c in (h, h2):
        c.shutdown()


def test_nothing_is_missed(d):
    """A client writes block after block; over and over the marks are moved to a second bitmap and taken away, at one instant: together they
    never have less than what was written."""
    verb(d, 'add')
    verb(d, 'add', 'all', disabled=True)
    h, ended, wrote = client(d), threading.Event(), []

    def write():
        while not ended.is_set():
            for i in range(256):
                h.pwrite(b'x' * 512, i * G)
                wrote.append(i)

    t = threading.Thread(target=write)
    t.start()
    for _ in range(40):
        transaction(d, action('merge', target='all', bitmaps=['x']), action('clear'))
    while len(wrote) < 300:
        ended.wait(0.01)
    ended.set()
    t.join()
    transaction(d, action('merge', target='all', bitmaps=['x']), action('clear'))
    assert count(d, 'all') == 256 * G and count(d, 'x') == 0
    h.shutdown()


def test_merge_waits_for_old_writes(d):
    """A write that is on its way to the disk at the instant, in a filter above it, belongs to the old disk: it is in what was merged."""
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'bps-write': 4 * MIB}})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': 'a'})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 't', 'node-name': 't', 'writable': True})
    for name in 'src', 'dst', 'gone':
        verb(d, 'add', name)
    d.cmd('block-dirty-bitmap-disable', {'node': 'a', 'name': 'dst'})
    h = client(d, 't')
    buffer = nbd.Buffer.from_bytearray(bytearray(b'x' * 512))
    h.pwrite(b'x' * (4 * MIB), 0)  # what comes now has to wait
    late = h.aio_pwrite(buffer, 15 * MIB)
    h.poll(0)
    d.cmd('block-export-del', id='a', mode='hard')
    d.qmp.event('BLOCK_EXPORT_DELETED')
    assert not h.aio_command_completed(late) and count(d, 'src') == 4 * MIB
    transaction(d, action('merge', target='dst', bitmaps=['src', 'gone']), action('clear', 'src'), action('remove', 'gone'),
                {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 't', 'snapshot-node-name': 'o', 'snapshot-file': str(d.images / 'o')}})
    while not h.aio_command_completed(late):
        h.poll(-1)
    assert count(d, 'dst') == 4 * MIB + G
    assert set(bitmaps(d)) == {'src', 'dst'}
    h.pwrite(b'y' * 512, 0)
    h.shutdown()
    d.stop()
    assert img.contents(d.images / 'a', 16 * MIB)[15 * MIB:15 * MIB + 512] == b'x' * 512
