# SPDX-License-Identifier: BSD-3-Clause
"""Dirty bitmaps stored in qcow2 images: across closing and opening, read-only nodes, snapshots, commits, resizes, crashes; qemu-img and QEMU's own
storage daemon see what we stored, and we see what they did."""
import json
import random
import struct

import nbd
import pytest

from lib import images as img
from lib import jobs
from lib.daemon import Daemon, PEER

MIB = 1 << 20
G = 65536


def client(d, name='a'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.directory}/nbd.sock')
    return h


def add(d, path, node='a', **options):
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': node, 'file': {'driver': 'file', 'filename': str(path)}, **options})


def remove(d, node='a'):
    d.cmd('blockdev-del', node_name=node)


def export(d, name='a'):
    if not getattr(d, 'serves', False):
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
        d.serves = True
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})


def write(d, *granules, name='a'):
    """A byte in each of these granules, by a client that goes again."""
    export(d, name)
    h = client(d, name)
    for g in granules:
        h.pwrite(b'1', g * G)
    h.shutdown()
    d.cmd('block-export-del', {'id': name, 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')


def node_of(d, node='a'):
    return next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == node)


def bitmaps(d, node='a'):
    return {b['name']: b for b in node_of(d, node).get('dirty-bitmaps', [])}


def sha256(d, name='x', node='a'):
    return d.cmd('x-debug-block-dirty-bitmap-sha256', {'node': node, 'name': name})['sha256']


def verb(d, what, name='x', node='a', **more):
    d.cmd(f'block-dirty-bitmap-{what}', {'node': node, 'name': name, **more})


def action(what, name='x', node='a', **more):
    return {'type': f'block-dirty-bitmap-{what}', 'data': {'node': node, **({} if what == 'merge' else {'name': name}), **more}}


def stored(path, share=False):
    """What qemu-img says: name -> (granularity, flags)."""
    data = img.info(path, share=share)['format-specific']['data']
    return {b['name']: (b['granularity'], b['flags']) for b in data.get('bitmaps', [])}


def clean(path):
    report = img.check(path)
    assert not report.get('leaks') and not report.get('corruptions') and not report.get('check-errors'), report


@pytest.fixture
def image(images):
    return img.create(images / 'a', '16M')


def test_across_closing_and_opening(daemon, image):
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    verb(d, 'add', 'off', persistent=True, disabled=True, granularity=4096)
    verb(d, 'add', 'gone')
    write(d, 0, 5, 77)
    d.cmd('block-dirty-bitmap-merge', {'node': 'a', 'target': 'off', 'bitmaps': ['x']})
    before = [bitmaps(d)[n] for n in ('x', 'off')]
    assert before[0] == {'name': 'x', 'count': 3 * G, 'granularity': G, 'recording': True, 'busy': False, 'persistent': True}
    hashes = [sha256(d, n) for n in ('x', 'off')]
    assert stored(image, share=True) == {}
    remove(d)
    assert stored(image) == {'off': (4096, []), 'x': (G, ['auto'])}, 'newest first, as QEMU stores them'
    clean(image)
    add(d, image)
    assert list(bitmaps(d)) == ['x', 'off'], 'newest first: the last that was loaded'
    assert [bitmaps(d)[n] for n in ('x', 'off')] == before and [sha256(d, n) for n in ('x', 'off')] == hashes
    assert stored(image, share=True) == {'off': (4096, ['in-use']), 'x': (G, ['in-use', 'auto'])}
    assert [(b['name'], b['flags']) for b in node_of(d)['image']['format-specific']['data']['bitmaps']] == \
        [('off', ['in-use']), ('x', ['in-use', 'auto'])]
    write(d, 200)
    assert [bitmaps(d)[n]['count'] for n in ('x', 'off')] == [4 * G, 3 * G]
    remove(d)
    clean(image)
    add(d, image)
    assert [bitmaps(d)[n]['count'] for n in ('x', 'off')] == [4 * G, 3 * G]
    remove(d)
    for _ in range(8):
        add(d, image)
        remove(d)
    clean(image)
    assert image.stat().st_size <= 40 * G, 'places of old ones are used again'


def test_read_only_nodes_change_nothing(daemon, image):
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, 3)
    remove(d)
    content = image.read_bytes()
    add(d, image, **{'read-only': True})
    assert bitmaps(d)['x'] == {'name': 'x', 'count': G, 'granularity': G, 'recording': True, 'busy': False, 'persistent': True}
    for what in ('remove', 'clear'):
        assert d.qmp.error(f'block-dirty-bitmap-{what}', {'node': 'a', 'name': 'x'}) == "Bitmap 'x' is readonly and cannot be modified"
    assert d.qmp.error('block-dirty-bitmap-add', {'node': 'a', 'name': 'y', 'persistent': True}) == \
        "Can't make bitmap 'y' persistent in 'a': Block node is read-only"
    verb(d, 'add', 'y')
    d.cmd('block-dirty-bitmap-merge', {'node': 'a', 'target': 'y', 'bitmaps': ['x']})
    assert bitmaps(d)['y']['count'] == G
    remove(d)
    assert image.read_bytes() == content


def test_reopen_back_and_forth(daemon, image):
    d = daemon()
    d.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': str(image)})
    options = {'driver': 'qcow2', 'node-name': 'a', 'file': 'f'}
    d.cmd('blockdev-add', options)
    verb(d, 'add', persistent=True)
    write(d, 1)
    for i in range(3):
        d.cmd('blockdev-reopen', options=[{**options, 'read-only': True}])
        assert stored(image) == {'x': (G, ['auto'])}
        clean(image)
        assert d.qmp.error('block-dirty-bitmap-remove', {'node': 'a', 'name': 'x'}) == "Bitmap 'x' is readonly and cannot be modified"
        d.cmd('blockdev-reopen', options=[{**options, 'read-only': False}])
        assert stored(image, share=True) == {'x': (G, ['in-use', 'auto'])}
        write(d, 10 + i)
        assert bitmaps(d)['x']['count'] == (2 + i) * G
    verb(d, 'remove')
    assert stored(image, share=True) == {}
    remove(d)
    clean(image)


def test_inactive_nodes(daemon, image):
    """They have no bitmaps of their image, which another process may have; when they are active again they have what is there then."""
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    verb(d, 'add', 'y')
    write(d, 1)
    d.cmd('blockdev-set-active', node_name='a', active=False)
    assert set(bitmaps(d)) == {'y'} and stored(image) == {'x': (G, ['auto'])}
    other = daemon()
    add(other, image, active=False)
    assert bitmaps(other) == {}
    other.cmd('blockdev-set-active', node_name='a', active=True)
    assert bitmaps(other)['x']['count'] == G
    write(other, 2)
    verb(other, 'add', 'z', node='a', persistent=True)
    other.cmd('blockdev-set-active', node_name='a', active=False)
    d.cmd('blockdev-set-active', node_name='a', active=True)
    assert {n: b['count'] for n, b in bitmaps(d).items()} == {'x': 2 * G, 'y': G, 'z': 0}
    write(d, 3)
    assert bitmaps(d)['x']['count'] == 3 * G
    d.stop()
    clean(image)
    assert stored(image) == {'x': (G, ['auto']), 'z': (G, ['auto'])}


def test_a_failed_reopen_leaves_them_in_use(daemon, image, images):
    """The second node of the command cannot be made read-only, since it is being written to."""
    d = daemon()
    other = img.create(images / 'b', '16M')
    add(d, image)
    add(d, other, 'b')
    verb(d, 'add', persistent=True)
    write(d, 1)
    export(d, 'b')
    file = {n: next(c['node-name'] for c in node_of(d, n)['children'] if c['child'] == 'file') for n in 'ab'}
    options = [{'driver': 'qcow2', 'node-name': n, 'file': file[n], 'read-only': True} for n in 'ab']
    assert d.qmp.error('blockdev-reopen', {'options': options})
    write(d, 2)
    d.kill()
    with Daemon() as e:
        add(e, image)
        assert set(bitmaps(e)) <= {'x'} and all(b.get('inconsistent') for b in bitmaps(e).values())


def test_after_a_crash(daemon, image):
    """What was stored before is out of date, and says so; it can be removed, and nothing else."""
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, 3)
    remove(d)
    add(d, image)
    write(d, 4)
    d.kill()
    d = daemon()
    add(d, image)
    assert bitmaps(d)['x'] == {'name': 'x', 'count': 0, 'granularity': G, 'recording': False, 'busy': False, 'persistent': True,
                               'inconsistent': True}
    for what in ('clear', 'enable', 'disable'):
        assert d.qmp.error(f'block-dirty-bitmap-{what}', {'node': 'a', 'name': 'x'}) == "Bitmap 'x' is inconsistent and cannot be used"
    verb(d, 'add', 'y', persistent=True)
    for to, source in (('x', 'y'), ('y', 'x')):
        assert d.qmp.error('block-dirty-bitmap-merge', {'node': 'a', 'target': to, 'bitmaps': [source]}) == \
            "Bitmap 'x' is inconsistent and cannot be used"
    d.cmd('block_resize', {'node-name': 'a', 'size': 32 * MIB})
    remove(d)
    assert stored(image) == {'x': (G, ['in-use', 'auto']), 'y': (G, ['auto'])}
    clean(image)
    add(d, image)
    assert bitmaps(d)['x']['inconsistent'] and 'inconsistent' not in bitmaps(d)['y']
    verb(d, 'remove')
    assert stored(image, share=True) == {'y': (G, ['in-use', 'auto'])}
    remove(d)
    clean(image)


def test_what_cannot_be_stored(daemon, images):
    d = daemon()
    img.create(images / 'v2', '16M', options='compat=0.10')
    add(d, images / 'v2', 'v2')
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': MIB})
    img.create(images / 'big', '60T')
    add(d, images / 'big', 'big')
    prefix = "Can't make bitmap 'x' persistent in '{}': "
    for args, text in (({'node': 'v2'}, prefix.format('v2') + 'Cannot store dirty bitmaps in qcow2 v2 files'),
                       ({'node': 'n'}, "Can't store persistent bitmaps to n: Operation not supported"),
                       ({'node': 'big', 'granularity': 512},
                        prefix.format('big') + 'Too much space will be occupied by the bitmap. Use larger granularity')):
        assert d.qmp.error('block-dirty-bitmap-add', {'name': 'x', 'persistent': True, **args}) == text
        assert bitmaps(d, args['node']) == {}
    verb(d, 'add', 'n' * 1023, node='big', persistent=True, granularity=2**31)
    remove(d, 'big')
    assert stored(images / 'big') == {'n' * 1023: (2**31, ['auto'])}


def test_transactions_and_what_is_on_disk(daemon, image):
    d = daemon()
    add(d, image)
    for name in ('x', 'y'):
        verb(d, 'add', name, persistent=True)
    write(d, 1)
    remove(d)
    add(d, image)
    both = {n: (G, ['in-use', 'auto']) for n in ('x', 'y')}
    assert stored(image, share=True) == both
    for actions in ([action('remove')], [action('remove'), action('add', persistent=True)], [action('add', 'z', persistent=True)],
                    [action('clear'), action('disable', 'y')]):
        before = image.read_bytes()
        assert d.qmp.error('transaction', {'actions': [*actions, {'type': 'abort', 'data': {}}]}) == \
            'Transaction aborted using Abort action'
        assert image.read_bytes() == before and bitmaps(d)['x']['count'] == G and set(bitmaps(d)) == {'x', 'y'}
    d.cmd('transaction', {'actions': [action('remove'), action('add', persistent=True, granularity=4096), action('remove', 'y'),
                                      action('add', 'z', persistent=True, disabled=True)]})
    assert stored(image, share=True) == {}, 'gone from the image when the reply comes'
    write(d, 2)
    remove(d)
    assert stored(image) == {'x': (4096, ['auto']), 'z': (G, [])}
    clean(image)


def test_snapshot_with_bitmaps(daemon, image, images):
    """Upstream's 254: bitmaps of a disk are taken along to its overlay in the transaction that makes it.  Those that stay are stored."""
    d = daemon()
    add(d, image)
    verb(d, 'add', 'b0')
    for name in ('b1', 'b2'):
        verb(d, 'add', name, persistent=True)
    write(d, 0, 1)
    copy = [a for n, p in (('b0', False), ('b1', True), ('b2', True))
            for a in (action('add', n, 'o', persistent=p), action('merge', node='o', target=n, bitmaps=[{'node': 'a', 'name': n}]))]
    d.cmd('transaction', {'actions': [
        {'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'a', 'snapshot-file': str(images / 'o'), 'snapshot-node-name': 'o'}},
        *copy, action('remove', 'b2', 'a')]})
    assert {n: (b['count'], b['persistent']) for n, b in bitmaps(d, 'o').items()} == \
        {'b2': (2 * G, True), 'b1': (2 * G, True), 'b0': (2 * G, False)}
    assert node_of(d)['image']['format-specific']['data']['bitmaps'] == [{'name': 'b1', 'granularity': G, 'flags': ['auto']}]
    assert stored(image, share=True) == {'b1': (G, ['auto'])}
    write(d, 9, name='o')
    remove(d, 'o')
    assert stored(images / 'o') == {'b2': (G, ['auto']), 'b1': (G, ['auto'])}
    for path in (image, images / 'o'):
        clean(path)


def test_commit_and_the_base_of_it(daemon, image, images):
    """Upstream's 260: while it is being committed into, the base records again, and what it has is stored when it is read-only again."""
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, 0)
    for name, below in (('o', 'a'), ('p', 'o')):
        d.cmd('blockdev-snapshot-sync', {'node-name': below, 'snapshot-file': str(images / name), 'snapshot-node-name': name})
        write(d, 7 if name == 'o' else 8, name=name)
    assert stored(image, share=True) == {'x': (G, ['auto'])}
    d.cmd('block-commit', {'job-id': 'j', 'device': 'p', 'top-node': 'o', 'auto-dismiss': False})
    jobs.wait_status(d, 'j', 'concluded')
    d.cmd('job-dismiss', id='j')
    assert bitmaps(d)['x']['count'] == 2 * G and stored(image, share=True) == {'x': (G, ['auto'])}
    d.cmd('block-commit', {'job-id': 'k', 'device': 'p', 'auto-dismiss': False})
    jobs.wait_status(d, 'k', 'ready')
    assert stored(image, share=True) == {'x': (G, ['in-use', 'auto'])}
    d.cmd('job-complete', id='k')
    jobs.wait_status(d, 'k', 'concluded')
    assert bitmaps(d)['x']['count'] == 3 * G
    write(d, 20)
    d.stop()
    assert stored(image) == {'x': (G, ['auto'])}
    clean(image)
    with Daemon() as e:
        add(e, image)
        assert bitmaps(e)['x']['count'] == 4 * G


def test_resize(daemon, image):
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, 255)
    d.cmd('block_resize', {'node-name': 'a', 'size': 2048 * MIB})
    write(d, 32767)
    remove(d)
    clean(image)
    add(d, image)
    assert bitmaps(d)['x']['count'] == 2 * G
    d.cmd('block_resize', {'node-name': 'a', 'size': MIB})
    write(d, 15)
    remove(d)
    clean(image)
    add(d, image)
    assert bitmaps(d)['x']['count'] == G


@pytest.mark.parametrize('cluster', (512, 4096, 2 * MIB))
def test_shapes(daemon, images, cluster):
    """Many marks, many bitmaps, long names; a header with a backing name right behind its extensions."""
    img.create(images / 'base', '1G')
    path = img.create(images / 'c', '1G', backing=images / 'base', options=f'cluster_size={cluster}')
    d = daemon()
    add(d, path)
    names = [f'{i}' * n for i, n in enumerate((1, 3, 300, 1000))]
    for i, name in enumerate(names):
        verb(d, 'add', name, persistent=True, granularity=512 << i)
    export(d)
    h = client(d)
    rng = random.Random(cluster)
    for _ in range(300):
        h.pwrite(b'1' * 512, rng.randrange(2 * 1024 * 1024) * 512)
    h.zero(1 << 29, 1 << 28)
    h.shutdown()
    hashes = {n: sha256(d, n) for n in names}
    assert len(set(hashes.values())) == len(names)
    d.cmd('block-export-del', {'id': 'a', 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')
    remove(d)
    clean(path)
    assert img.info(path)['full-backing-filename'] == str(images / 'base')
    add(d, path)
    assert {n: sha256(d, n) for n in names} == hashes
    d.cmd('change-backing-file', {'device': 'a', 'image-node-name': 'a', 'backing-file': str(images / 'base')})
    for name in names[:3]:
        verb(d, 'remove', name)
    assert stored(path, share=True) == {names[3]: (4096, ['in-use', 'auto'])}
    remove(d)
    clean(path)
    assert img.info(path)['full-backing-filename'] == str(images / 'base')


def test_with_qemus_own(daemon, image):
    """What we store QEMU reads, and the other way round: qemu-img's bitmaps, and its storage daemon's."""
    img.run('qemu-img', 'bitmap', '--add', '-g', '4096', image, 'mine')
    d = daemon()
    add(d, image)
    assert bitmaps(d)['mine']['recording'] and bitmaps(d)['mine']['granularity'] == 4096
    write(d, 1, 2, 3)
    want = sha256(d, 'mine')
    remove(d)
    img.run('qemu-img', 'bitmap', '--add', '--disable', '-g', '4096', image, 'copy')
    img.run('qemu-img', 'bitmap', '--merge', 'mine', image, 'copy')
    img.run('qemu-img', 'bitmap', '--clear', image, 'mine')
    with Daemon(binary=PEER) as peer:
        add(peer, image)
        assert {n: b['count'] for n, b in bitmaps(peer).items()} == {'mine': 0, 'copy': 3 * 4096}
        assert sha256(peer, 'copy') == want
    add(d, image)
    assert sha256(d, 'copy') == want and bitmaps(d)['mine']['count'] == 0
    remove(d)
    clean(image)


def test_a_file_that_ends_within_a_free_cluster(daemon, image):
    """As QEMU leaves it behind when the last thing in it was a bitmap's table."""
    d = daemon()
    add(d, image)
    write(d, 100)
    remove(d)
    with open(image, 'ab') as f:
        f.truncate((image.stat().st_size + G - 1) // G * G + 32)
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, *range(8))
    remove(d)
    assert stored(image) == {'x': (G, ['auto'])}
    clean(image)


def test_a_program_that_does_not_know_bitmaps(daemon, image):
    """It clears the autoclear bit when it writes; the bitmaps are worth nothing then."""
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    remove(d)
    with open(image, 'r+b') as f:
        f.seek(88)
        f.write(bytes(8))
    for options in ({'read-only': True}, {}):
        add(d, image, **options)
        assert bitmaps(d) == {}
        remove(d)
    add(d, image)
    verb(d, 'add', 'y', persistent=True)
    remove(d)
    assert stored(image) == {'y': (G, ['auto'])}


def find_extension(content):
    at = 112
    while struct.unpack_from('>I', content, at)[0] != 0x23852875:
        at += 8 + (struct.unpack_from('>I', content, at + 4)[0] + 7) // 8 * 8
    return at + 8


def test_hostile_directories(daemon, image):
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True)
    write(d, 1)
    remove(d)
    good = image.read_bytes()
    ext = find_extension(good)
    directory = struct.unpack_from('>Q', good, ext + 16)[0]
    table = struct.unpack_from('>Q', good, directory)[0]
    constraints = "Bitmap 'x' doesn't satisfy the constraints"
    for at, data, text in (
            (ext - 4, struct.pack('>I', 16), 'bitmaps_ext: Invalid extension length'),
            (ext, struct.pack('>I', 0), 'bitmaps_ext: found bitmaps extension with zero bitmaps'),
            (ext, struct.pack('>I', 65536), 'exceeding'),
            (ext, struct.pack('>I', 2), 'bitmap directory is too short'),
            (ext + 4, struct.pack('>I', 1), 'Reserved field is not zero'),
            (ext + 8, struct.pack('>Q', 24), 'damaged entry'),
            (ext + 8, struct.pack('>Q', 40), 'more than its bitmaps'),
            (ext + 8, struct.pack('>Q', 1 << 40), 'exceeds the maximum'),
            (ext + 16, struct.pack('>Q', 512), 'invalid bitmap directory offset'),
            (ext + 16, struct.pack('>Q', 1 << 50), 'Could not read the bitmap directory'),
            (directory, struct.pack('>Q', 513), constraints),
            (directory, struct.pack('>Q', 1 << 48), "Could not read bitmap 'x' from the image"),
            (directory + 8, struct.pack('>I', 0), constraints),
            (directory + 8, struct.pack('>I', 1 << 20), constraints),
            (directory + 12, struct.pack('>I', 8), constraints),
            (directory + 16, b'\2', constraints),
            (directory + 17, b'\7', constraints),
            (directory + 17, b'\40', constraints),
            (directory + 18, b'\0\0', 'damaged entry'),
            (directory + 18, b'\4\0', 'damaged entry'),
            (directory + 20, b'\xff\xff\xff\xff', 'damaged entry'),
            (directory + 24, b'\xff', 'no text'),
            (table, struct.pack('>Q', 3), "Could not read bitmap 'x' from the image"),
            (table, struct.pack('>Q', 1 << 50), "Could not read bitmap 'x' from the image")):
        content = bytearray(good)
        content[at:at + len(data)] = data
        image.write_bytes(content)
        for ro in (True, False):
            error = d.qmp.error('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'read-only': ro,
                                                 'file': {'driver': 'file', 'filename': str(image)}})
            assert text in error, (at, data, error)
        assert image.read_bytes() == content, 'nothing is written to it'


def test_all_ones(daemon, image):
    """A table may say that a cluster of marks is all ones; we never write that."""
    d = daemon()
    add(d, image)
    verb(d, 'add', persistent=True, granularity=512)
    remove(d)
    content = bytearray(image.read_bytes())
    directory = struct.unpack_from('>Q', content, find_extension(content) + 16)[0]
    content[struct.unpack_from('>Q', content, directory)[0] + 7] = 1
    image.write_bytes(content)
    add(d, image)
    assert bitmaps(d)['x']['count'] == 16 * MIB
    remove(d)
    clean(image)
    add(d, image)
    assert bitmaps(d)['x']['count'] == 16 * MIB


def test_schema(daemon):
    d = daemon()
    types = {t['name']: t for t in d.cmd('query-qmp-schema')}
    assert any('in-use' in t.get('values', ()) for t in types.values()), json.dumps(sorted(types))
