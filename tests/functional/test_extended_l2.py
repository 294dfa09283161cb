# SPDX-License-Identifier: BSD-3-Clause
"""qcow2 images with extended L2 entries: clusters with 32 subclusters.  Random requests against a model, judged by qemu-img; made by us and by qemu-img."""
import json
import random

import nbd
import pytest

from lib import images as img
from lib import jobs
from lib.daemon import Daemon

MIB = 1 << 20
G = 65536
SIZE = 8 * MIB + 5 * 512


def client(d, name='q'):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///{name}?socket={d.directory}/nbd.sock')
    return h


def serve(d, name='q'):
    if not getattr(d, 'serves', False):
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
        d.serves = True
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})
    return client(d, name)


def unserve(d, h, name='q'):
    h.shutdown()
    d.cmd('block-export-del', {'id': name, 'mode': 'hard'})
    d.qmp.event('BLOCK_EXPORT_DELETED')


def add(d, path, node='q', **options):
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': node, 'discard': 'unmap', 'file': {'driver': 'file', 'filename': str(path)},
                           **options})


def make(d, path, **options):
    path.touch()
    return jobs.create(d, {'driver': 'qcow2', 'size': SIZE, 'extended-l2': True, 'file': {'driver': 'file', 'filename': str(path)}, **options})


def base(images, name='base'):
    """A backing file, its end short of the disk's, without what a subcluster could be mistaken for."""
    data = random.Random(name).randbytes(7 * MIB + 512)
    (images / f'{name}.raw').write_bytes(data)
    return images / f'{name}.raw', bytearray(data + bytes(SIZE - len(data)))


def judge(path, want, leaks=True):
    done = img.run('qemu-img', 'check', path, check=False)
    assert done.returncode == 0 or (not leaks and done.returncode == 3), done.stdout + done.stderr
    assert img.contents(path, len(want)) == want


def fuzz(h, want, seed, requests=200, cluster=G):
    rng = random.Random(str(seed))
    sub = cluster // 32
    for i in range(requests):
        unit = rng.choice((512, sub, sub, cluster))
        at = rng.randrange(0, len(want) // unit) * unit
        n = min(unit * rng.randrange(1, 4 if rng.random() < 0.7 else 80), len(want) - at)
        what = rng.randrange(6)
        if what == 0:
            h.zero(n, at, nbd.CMD_FLAG_NO_HOLE if i % 2 else 0)
            want[at:at + n] = bytes(n)
        elif what == 1:
            start, end = (at + cluster - 1) // cluster * cluster, (at + n) // cluster * cluster
            if start < end:
                h.trim(end - start, start)
                want[start:end] = bytes(end - start)
        elif what == 2:
            assert h.pread(n, at) == want[at:at + n]
        else:
            data = rng.randbytes(n)
            h.pwrite(data, at)
            want[at:at + n] = data
        if i % 50 == 49:
            h.flush()
    assert h.pread(len(want), 0) == want


@pytest.mark.parametrize('options', ({}, {'cluster-size': 16384}, {'cluster-size': 2 * MIB}, {'preallocation': 'metadata'},
                                     {'preallocation': 'full', 'refcount-bits': 1}), ids=str)
@pytest.mark.parametrize('backing', (False, True), ids=('alone', 'backing'))
def test_made_written_and_read(daemon, images, options, backing):
    d = daemon()
    path = images / 'q'
    want = bytearray(SIZE)
    if backing:
        file, want = base(images)
        options = {**options, 'backing-file': str(file), 'backing-fmt': 'raw'}
    assert make(d, path, **options) is None
    judge(path, want)
    add(d, path)
    n = next(n for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == 'q')
    cluster = options.get('cluster-size', G)
    assert n['image']['format-specific']['data']['extended-l2'] is True and n['image']['limits']['write-zeroes-alignment'] == cluster // 32
    h = serve(d)
    fuzz(h, want, f'{options}{backing}', cluster=cluster)
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(path, want)
    img.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 3 3M 1000k', '-c', 'write -z 5M 10k', '-c', 'discard 6M 128k', path)
    want[3 * MIB:3 * MIB + 1024000] = b'\3' * 1024000
    want[5 * MIB:5 * MIB + 10240] = bytes(10240)
    if cluster <= G:
        want[6 * MIB:6 * MIB + 131072] = bytes(131072)
    add(d, path)
    h = serve(d)
    if cluster > G:
        want[6 * MIB:6 * MIB + 131072] = h.pread(131072, 6 * MIB)
    fuzz(h, want, 'again', 60, cluster)
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(path, want)


def test_only_subclusters_are_copied_up(daemon, images):
    file, want = base(images)
    d = daemon()
    assert make(d, images / 'q', **{'backing-file': str(file), 'backing-fmt': 'raw'}) is None
    add(d, images / 'q')
    h = serve(d)
    h.pwrite(b'x' * 512, 5 * G + 3 * 2048 + 512)
    want[5 * G + 3 * 2048 + 512:5 * G + 3 * 2048 + 1024] = b'x' * 512
    h.pwrite(b'y' * 5000, 9 * G + 100 * 512)
    want[9 * G + 51200:9 * G + 56200] = b'y' * 5000
    h.zero(2048, 5 * G + 8 * 2048)
    want[5 * G + 8 * 2048:5 * G + 9 * 2048] = bytes(2048)
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    own = [(e['start'], e['length'], e['data']) for e in json.loads(img.run('qemu-img', 'map', '--output=json', images / 'q')) if e['depth'] == 0]
    assert own[:3] == [(5 * G + 3 * 2048, 2048, True), (5 * G + 8 * 2048, 2048, False), (9 * G + 51200, 6144, True)]
    judge(images / 'q', want)


def test_compressed_and_snapshots_of_qemu_img(daemon, images):
    """Clusters that are compressed, and such that an internal snapshot shares, are copied when they are written to."""
    raw, want = base(images, 'source')
    raw.write_bytes(b''.join(bytes([i % 200 + 1]) * 4096 for i in range(SIZE // 4096)) + b'e' * (SIZE % 4096))
    want = bytearray(raw.read_bytes())
    img.run('qemu-img', 'convert', '-c', '-O', 'qcow2', '-o', 'extended_l2=on', raw, images / 'q')
    img.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 1M 100k', images / 'q')
    want[MIB:MIB + 102400] = b'\11' * 102400
    img.run('qemu-img', 'snapshot', '-c', 's', images / 'q')
    before = bytes(want)
    d = daemon()
    add(d, images / 'q')
    h = serve(d)
    fuzz(h, want, 'compressed')
    for name in 'tu':
        d.cmd('blockdev-snapshot-internal-sync', {'device': 'q', 'name': name})
    between = bytes(want)
    fuzz(h, want, 'shared')
    d.cmd('blockdev-snapshot-delete-internal-sync', {'device': 'q', 'name': 'u'})
    fuzz(h, want, 'ours again')
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images / 'q', want)
    for name, had in (('s', before), ('t', between)):
        img.run('qemu-img', 'snapshot', '-a', name, images / 'q')
        judge(images / 'q', had)


def test_compressed_writes(daemon, images):
    """By the filter compress; then over them, in parts."""
    file, want = base(images)
    d = daemon()
    assert make(d, images / 'q', **{'backing-file': str(file), 'backing-fmt': 'raw'}) is None
    add(d, images / 'q')
    d.cmd('blockdev-add', {'driver': 'compress', 'node-name': 'c', 'file': 'q'})
    h = serve(d, 'c')
    for i in range(0, 60, 2):
        data = bytes([i + 1]) * G
        h.pwrite(data, i * G)
        want[i * G:(i + 1) * G] = data
    unserve(d, h, 'c')
    d.cmd('blockdev-del', node_name='c')
    h = serve(d)
    assert h.pread(SIZE, 0) == want
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images / 'q', want)
    assert '"compressed-clusters": 30' in img.run('qemu-img', 'check', '--output=json', images / 'q')
    add(d, images / 'q')
    h = serve(d)
    fuzz(h, want, 'over')
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images / 'q', want)


def test_chain_commit_and_stream(daemon, images):
    file, want = base(images)
    d = daemon()
    assert make(d, images / 'q', **{'backing-file': str(file), 'backing-fmt': 'raw'}) is None
    add(d, images / 'q')
    h = serve(d)
    fuzz(h, want, 'lower', 60)
    assert make(d, images / 'o') is None
    add(d, images / 'o', 'o', backing=None)
    d.cmd('blockdev-snapshot', {'node': 'q', 'overlay': 'o'})
    fuzz(h, want, 'upper', 60)
    d.cmd('block-commit', {'job-id': 'c', 'device': 'o', 'base-node': 'q', 'auto-dismiss': False})
    jobs.wait_status(d, 'c', 'ready')
    fuzz(h, want, 'ready', 40)
    d.cmd('job-complete', id='c')
    jobs.wait_status(d, 'c', 'concluded')
    assert jobs.error_of(d, 'c') is None
    d.cmd('block-stream', {'job-id': 's', 'device': 'q', 'auto-dismiss': False})
    fuzz(h, want, 'streaming', 40)
    jobs.wait_status(d, 's', 'concluded')
    assert jobs.error_of(d, 's') is None
    h.shutdown()
    d.stop()
    file.unlink()
    judge(images / 'q', want)


@pytest.mark.parametrize('raw', (False, True))
def test_with_a_data_file(daemon, images, raw):
    d = daemon()
    (images / 'data').touch()
    assert make(d, images / 'q', **{'data-file': {'driver': 'file', 'filename': str(images / 'data')}, 'data-file-raw': raw}) is None
    want = bytearray(SIZE)
    add(d, images / 'q')
    h = serve(d)
    fuzz(h, want, f'data{raw}')
    unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images / 'q', want)
    assert not raw or (images / 'data').read_bytes() == want


def test_resize(daemon, images):
    file, want = base(images)
    d = daemon()
    assert make(d, images / 'q', **{'backing-file': str(file), 'backing-fmt': 'raw'}) is None
    add(d, images / 'q')
    h = serve(d)
    fuzz(h, want, 'resize', 60)
    unserve(d, h)
    for size in (MIB + 3 * 512, 9 * MIB + 512, 600 * MIB, 2 * MIB):
        d.cmd('block_resize', {'node-name': 'q', 'size': size})
        del want[size:]
        want += bytes(max(0, min(size, 20 * MIB) - len(want)))
        h = serve(d)
        assert h.pread(len(want), 0) == want
        unserve(d, h)
    d.cmd('blockdev-del', node_name='q')
    judge(images / 'q', want[:2 * MIB])


def test_errors(daemon, images):
    d = daemon()
    assert make(d, images / 'q', **{'cluster-size': 8192}) == \
        'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes'
    assert make(d, images / 'q', version='v2') == \
        'Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)'
    assert make(d, images / 'q') is None
    img.run('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 64k', images / 'q')
    good = (images / 'q').read_bytes()
    at = good.index((0xffffffff).to_bytes(8, 'big'))
    for bits in (0x00000001_00000001, 0xffffffff_ffffffff):
        (images / 'q').write_bytes(good[:at] + bits.to_bytes(8, 'big') + good[at + 8:])
        add(d, images / 'q', **{'read-only': True})
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': f'{d.directory}/nbd.sock'}}})
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'q', 'node-name': 'q'})
        h = client(d)
        with pytest.raises(nbd.Error):
            h.pread(512, 0)
        h.shutdown()
        d.cmd('nbd-server-stop')
        d.cmd('blockdev-del', node_name='q')


def test_killed_at_any_moment(images):
    """What was flushed is there, and the image is sound, leaks excepted."""
    file, want = base(images)
    img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on', '-b', file, '-F', 'raw', images / 'q', str(SIZE))
    for i in range(6):
        with Daemon() as d:
            add(d, images / 'q')
            h = serve(d)
            fuzz(h, want, f'kill{i}', 40)
            h.flush()
            rng = random.Random(i)
            for _ in range(rng.randrange(30)):
                at = rng.randrange(0, SIZE // 512) * 512
                h.pwrite(bytes(want[at:at + 512]), at)
            d.kill()
        judge(images / 'q', want, leaks=False)
