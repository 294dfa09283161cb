# SPDX-License-Identifier: BSD-3-Clause
"""Filters: throttle and copy-on-read."""
import json
import threading
import time
from random import Random

import nbd
import pytest

from lib import images as img

MIB = 1 << 20


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    return d


def client(d, name, writable=True):
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': writable})
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
    return h


def file_node(path, **more):
    return {'driver': 'file', 'filename': str(path), **more}


def seconds(fn):
    begun = time.monotonic()
    fn()
    return time.monotonic() - begun


def layers(path):
    """Which layer has the begin of each megabyte, by qemu-img."""
    text = img.run('qemu-img', 'map', '-U', '--output=json', path)
    result = {}
    for part in json.loads(text):
        for at in range(-(-part['start'] // MIB) * MIB, part['start'] + part['length'], MIB):
            result[at // MIB] = part['depth'] if part['data'] else None
    return result


# ---- throttle ----

def throttled(d, limits, **more):
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': limits})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g',
                           'file': {'driver': 'null-co', 'node-name': 'null', 'read-zeroes': True}, **more})
    return client(d, 't')


def test_throttle_slows_down_what_its_limit_names(d):
    h = throttled(d, {'bps-write': 10 * MIB})
    # A tenth of a second's worth is free.
    assert seconds(lambda: [h.pwrite(b'x' * MIB, 0) for _ in range(5)]) > 0.25
    assert seconds(lambda: [h.pread(MIB, 0) for _ in range(5)]) < 0.2
    d.cmd('qom-set', {'path': 'g', 'property': 'limits', 'value': {'bps-write': 0, 'iops-read': 50}})
    assert seconds(lambda: [h.pwrite(b'x' * MIB, 0) for _ in range(5)]) < 0.2
    assert seconds(lambda: [h.pread(512, 0) for _ in range(20)]) > 0.2


def test_throttle_members_share_their_limit(d):
    h = throttled(d, {'iops-total': 100})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 'u', 'throttle-group': 'g', 'file': 'null'})
    other = client(d, 'u', writable=False)
    [h.pread(512, 0) for _ in range(10)]
    assert seconds(lambda: [other.pread(512, 0) for _ in range(10)]) > 0.05


def test_limit_that_is_lifted_frees_those_who_wait(d):
    h = throttled(d, {'bps-read': 1000})
    h.pread(MIB, 0)
    waiting = threading.Thread(target=lambda: h.pread(MIB, 0))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    d.cmd('qom-set', {'path': 'g', 'property': 'limits', 'value': {'bps-read': 0}})
    waiting.join(2)
    assert not waiting.is_alive()


def test_reopen_and_delete_do_not_wait_for_a_limit(d):
    h = throttled(d, {'bps-read': 1000})
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'fast', 'limits': {}})
    h.pread(MIB, 0)
    waiting = threading.Thread(target=lambda: h.pread(MIB, 0))
    waiting.start()
    time.sleep(0.1)
    options = {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'fast', 'file': 'null'}
    assert seconds(lambda: d.cmd('blockdev-reopen', {'options': [options]})) < 2
    waiting.join(2)
    assert not waiting.is_alive()
    assert seconds(lambda: [h.pread(MIB, 0) for _ in range(5)]) < 1
    # A group that somebody uses may go: its members keep what they have.
    d.cmd('object-del', {'id': 'g'})
    e = d.qmp.error('blockdev-reopen', {'options': [{**options, 'throttle-group': 'g'}]})
    assert e == "Throttle group 'g' does not exist"


def test_throttle_errors(d):
    e = d.qmp.error('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'none', 'file': {'driver': 'null-co'}})
    assert e == "Throttle group 'none' does not exist"
    e = d.qmp.error('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'file': {'driver': 'null-co'}})
    assert e == "Parameter 'throttle-group' is missing"
    assert d.cmd('query-named-block-nodes') == []


def test_snapshot_of_a_throttled_disk(d, images):
    img.create(images / 'base', '8M')
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g', 'limits': {'iops-total': 200}})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g',
                           'file': {'driver': 'qcow2', 'node-name': 'disk', 'file': file_node(images / 'base')}})
    h = client(d, 't')
    h.pwrite(b'1' * 65536, 0)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'disk', 'snapshot-file': str(images / 'top'), 'snapshot-node-name': 'over'})
    h.pwrite(b'2' * 65536, 65536)
    assert h.pread(65536, 0) == b'1' * 65536
    (t,) = [n for n in d.cmd('query-named-block-nodes') if n['node-name'] == 't']
    assert t['drv'] == 'throttle' and t['backing_file_depth'] == 2
    shown = json.loads(t['image']['filename'].removeprefix('json:'))
    assert (shown['driver'], shown['throttle-group'], shown['file']['file']['filename']) == ('throttle', 'g', str(images / 'top'))
    h.shutdown()
    d.stop()
    img.run('qemu-img', 'check', images / 'top')
    assert layers(images / 'base')[0] == 0


def test_status_through_filters(d, images):
    img.create(images / 'base', '4M')
    img.run('qemu-io', '-c', 'write -P 7 1M 1M', images / 'base')
    img.create(images / 'top', backing=images / 'base')
    d.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    d.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g', 'file': {
        'driver': 'qcow2', 'file': file_node(images / 'top'), 'backing': {
            'driver': 'throttle', 'throttle-group': 'g', 'file': {
                'driver': 'qcow2', 'file': file_node(images / 'base')}}}})
    h = client(d, 't')
    extents = []
    h.block_status(4 * MIB, 0, lambda c, o, e, err: extents.extend(e))
    assert list(zip(extents[::2], extents[1::2])) == [(MIB, 3), (MIB, 0), (2 * MIB, 3)]
    assert h.pread(MIB, MIB) == b'\7' * MIB


# ---- copy-on-read ----

@pytest.fixture
def chain(d, images):
    """base has megabytes 0 and 1, mid 2 and 3, top 4."""
    for name, backing, at in ('base', None, '0 2M'), ('mid', 'base', '2M 2M'), ('top', 'mid', '4M 1M'):
        img.create(images / name, '8M', backing=images / backing if backing else None)
        img.run('qemu-io', '-c', f'write -P {len(name)} {at}', images / name)
    img.run('cp', images / 'top', images / 'before')

    def add(bottom=None, **more):
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'file': file_node(images / 'top'), **more, 'backing': {
            'driver': 'qcow2', 'node-name': 'mid', 'file': file_node(images / 'mid'), 'backing': {
                'driver': 'qcow2', 'node-name': 'base', 'file': file_node(images / 'base')}}})
        options = {'driver': 'copy-on-read', 'node-name': 'cor', 'file': 'top', **more}
        if bottom:
            options['bottom'] = bottom
        d.cmd('blockdev-add', options)
    return add


def finish(d, h, images):
    h.shutdown()
    d.stop()
    img.run('qemu-img', 'check', images / 'top')
    img.run('qemu-img', 'compare', images / 'before', images / 'top')


def test_what_is_read_is_copied_up(d, chain, images):
    chain()
    h = client(d, 'cor')
    assert h.pread(512, 0) == b'\4' * 512
    assert h.pread(MIB, 2 * MIB) == b'\3' * MIB
    finish(d, h, images)
    at = layers(images / 'top')
    assert (at[1], at[2], at[3], at[4]) == (2, 0, 1, 0)
    clusters = json.loads(img.run('qemu-img', 'map', '--output=json', images / 'top'))
    assert clusters[0]['length'] == 65536 and clusters[0]['depth'] == 0


def test_bottom_is_the_last_layer_that_is_copied_from(d, chain, images):
    chain(bottom='mid')
    h = client(d, 'cor')
    h.pread(8 * MIB, 0)
    e = d.qmp.error('blockdev-del', {'node-name': 'mid'})
    assert e == "Node 'mid' is busy: node is used as backing hd of 'cor'"
    finish(d, h, images)
    at = layers(images / 'top')
    assert [at[i] for i in range(5)] == [2, 2, 0, 0, 0]


def test_bottom_errors(d, chain):
    with pytest.raises(Exception, match="Bottom node 'none' not found"):
        chain(bottom='none')
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'other'})
    e = d.qmp.error('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'cor', 'file': 'top', 'bottom': 'other'})
    assert e == "Bottom node 'other' is not in the backing chain of 'top'"
    d.cmd('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'cor', 'file': 'top', 'bottom': 'top'})


def test_nothing_is_copied_into_a_read_only_image(d, chain, images):
    chain(**{'read-only': True})
    h = client(d, 'cor', writable=False)
    assert h.pread(MIB, 0) == b'\4' * MIB
    finish(d, h, images)
    assert layers(images / 'top')[0] == 2


def test_copies_beside_writes(d, chain, images):
    """A reader of everything and a writer of the same places: what was written is what is read."""
    chain()
    writer = client(d, 'cor')
    reader = nbd.NBD()
    reader.connect_uri(f'nbd+unix:///cor?socket={d.sock}')
    stop = threading.Event()

    def read():
        while not stop.is_set():
            for at in range(0, 4 * MIB, 32768):
                reader.pread(4096, at)
    t = threading.Thread(target=read)
    t.start()
    written = {}
    for i in range(400):
        at = i * 7919 % 1024 * 4096
        written[at] = bytes([i % 255 + 1]) * 512
        writer.pwrite(written[at], at)
    stop.set()
    t.join()
    for at, data in written.items():
        assert writer.pread(512, at) == data
    writer.shutdown()
    reader.shutdown()
    d.stop()
    img.run('qemu-img', 'check', images / 'top')


def test_snapshot_below_copy_on_read(d, chain, images):
    chain()
    h = client(d, 'cor')
    h.pread(MIB, 0)
    d.cmd('blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-file': str(images / 'over'), 'snapshot-node-name': 'over'})
    h.pread(MIB, 2 * MIB)
    h.shutdown()
    d.stop()
    at = layers(images / 'over')
    assert (at[0], at[2], at[3]) == (1, 0, 2)
    img.run('qemu-img', 'compare', images / 'before', images / 'over')


# ---- compress ----

def compressing(d, path, **more):
    d.cmd('blockdev-add', {'driver': 'compress', 'node-name': 'c', 'discard': 'unmap',
                           'file': {'driver': 'qcow2', 'node-name': 'disk', 'discard': 'unmap', 'file': file_node(path), **more}})
    return client(d, 'c')


@pytest.mark.parametrize('size,options', [
    (8 * MIB, 'compression_type=zlib'), (8 * MIB + 512, 'compression_type=zstd,cluster_size=4k'),
    (6 * MIB, 'compat=0.10'), (6 * MIB, 'refcount_bits=1'), (3 * MIB, 'cluster_size=2M'), (4 * MIB, 'cluster_size=512,refcount_bits=2'),
])
def test_compressed_writes(d, images, size, options):
    img.create(images / 'disk', str(size), options=options)
    h = compressing(d, images / 'disk')
    random = Random(options)
    model = bytearray(size)
    noise = random.randbytes(256 * 1024)
    for i in range(20 if '2M' in options else 120):
        at = random.randrange(0, size - 65536) & ~511
        length = random.choice([512, 4096, 65536, 3 * 65536])
        at = at & ~65535 if i % 2 else at
        length = min(length, size - at)
        data = (b'%08d' % i * (length // 8))[:length] if i % 3 else noise[:length]
        if i % 10 == 9:
            h.zero(length, at)
            data = bytes(length)
        else:
            h.pwrite(data, at)
        model[at:at + length] = data
    h.pwrite(b'the end.' * 64, size - 512)
    model[-512:] = b'the end.' * 64
    assert h.pread(size, 0) == bytes(model)
    h.shutdown()
    d.stop()
    report = img.check(images / 'disk')
    assert report.get('leaks', 0) == 0 and report['compressed-clusters'] > 0
    (images / 'model').write_bytes(model)
    img.run('qemu-img', 'compare', '-F', 'raw', images / 'disk', images / 'model')


def test_compression_saves_space(d, images):
    for name in 'plain', 'disk':
        img.create(images / name, '16M')
    h = compressing(d, images / 'disk')
    text = b''.join(b'line %d of a text that can be compressed\n' % (i * 7919 % 100000) for i in range(400000))[:16 * MIB]
    for at in range(0, len(text), MIB):
        h.pwrite(text[at:at + MIB], at)
    h.shutdown()
    d.stop()
    assert img.check(images / 'disk')['compressed-clusters'] == len(text) // 65536 + (len(text) % 65536 > 0)
    assert img.info(images / 'disk')['actual-size'] < len(text) / 2
    (images / 'text').write_bytes(text.ljust(16 * MIB, b'\0'))
    img.run('qemu-img', 'compare', '-F', 'raw', images / 'disk', images / 'text')


def test_compressed_writes_beside_each_other(d, images):
    """Several writers, also into one cluster, and discards."""
    img.create(images / 'disk', '8M')
    h = compressing(d, images / 'disk')
    h.shutdown()

    def write(who):
        c = nbd.NBD()
        c.connect_uri(f'nbd+unix:///c?socket={d.sock}')
        for i in range(150):
            at = i * 4 * 4096 % (4 * MIB) + who * 4096
            c.pwrite(bytes([who + 1]) * 4096, at)
            if i % 20 == 19:
                c.trim(65536, 4 * MIB + (i * 4 + who) % 32 * 65536)
            elif i % 20 == 9:
                c.pwrite(bytes([who + 1]) * 65536, 4 * MIB + (i * 4 + who) % 32 * 65536)
        c.shutdown()
    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    d.stop()
    assert img.check(images / 'disk').get('leaks', 0) == 0
    data = img.contents(images / 'disk', 150 * 4 * 4096)
    for i in range(150 * 4):
        assert data[i * 4096:(i + 1) * 4096] == bytes([i % 4 + 1]) * 4096, i


def test_freed_packing_cluster_is_not_written_to(d, images):
    """What compressed data was last put into is freed and given to others: nothing more is packed there."""
    img.create(images / 'disk', '256M', options='cluster_size=2M')  # free clusters are looked for eight at a time
    h = compressing(d, images / 'disk')
    plain = client(d, 'disk')
    for i in range(4):
        h.pwrite(b'c' * 2 * MIB, 0)
        h.trim(2 * MIB, 0)
        h.flush()
        time.sleep(0.05)
        h.flush()
        places = range((2 + i * 32) * MIB, (34 + i * 32) * MIB, 2 * MIB)
        for at in places:
            plain.pwrite(b'p' * 16384, at)
        h.pwrite(b'd' * 2 * MIB, 254 * MIB)
        for at in places:
            assert plain.pread(16384, at) == b'p' * 16384
        h.trim(2 * MIB, 254 * MIB)
    h.shutdown()
    plain.shutdown()
    d.stop()
    assert img.check(images / 'disk').get('leaks', 0) == 0


def test_compress_errors(d, images):
    e = d.qmp.error('blockdev-add', {'driver': 'compress', 'node-name': 'c', 'file': {'driver': 'null-co'}})
    assert e == 'Compression is not supported for underlying format: null-co'


# ---- jobs below filters ----

@pytest.mark.parametrize('name', ['cor', 'top'])
def test_jobs_look_through_filters(d, chain, images, name):
    """A job on a filter works on the image below, and clients of the filter go where its users go."""
    chain()
    h = client(d, 'cor')
    d.cmd('block-stream', {'job-id': 's', 'device': name, 'base-node': 'base'})
    d.qmp.event('BLOCK_JOB_COMPLETED')
    assert layers(images / 'top')[2] == 0
    h.pwrite(b'new' * 512, 0)
    d.cmd('block-commit', {'job-id': 'c', 'device': name})
    d.qmp.event('BLOCK_JOB_READY')
    h.pwrite(b'hot' * 512, 65536)
    d.cmd('job-complete', {'id': 'c'})
    assert 'error' not in d.qmp.event('BLOCK_JOB_COMPLETED')['data']
    h.pwrite(b'end' * 512, 131072)
    for at, data in (0, b'new'), (65536, b'hot'), (131072, b'end'):
        assert h.pread(1536, at) == data * 512
    (cor,) = [n for n in d.cmd('query-named-block-nodes') if n['node-name'] == 'cor']
    assert [c['node-name'] for c in cor['children'] if c['child'] == 'file'] == ['base']
    h.shutdown()
    d.stop()
    img.check(images / 'base')
    assert img.contents(images / 'base', 1536, 131072) == b'end' * 512
