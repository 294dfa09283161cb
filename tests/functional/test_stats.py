# SPDX-License-Identifier: BSD-3-Clause
"""query-blockstats and write thresholds."""
import time

import nbd
import pytest

from lib import emulator
from lib import images as img

MIB = 1 << 20


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    img.create(images / 'base', '8M')
    img.run('qemu-io', '-c', 'write -P 1 0 1M', images / 'base')
    img.create(images / 'top', backing=images / 'base')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'discard': 'unmap',
                           'file': {'driver': 'file', 'filename': str(images / 'top'), 'node-name': 'file'},
                           'backing': {'driver': 'qcow2', 'node-name': 'base', 'read-only': True,
                                       'file': {'driver': 'file', 'filename': str(images / 'base'), 'node-name': 'base-file'}}})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'top', 'writable': True})
    return d


def client(d):
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///top?socket={d.sock}')
    return h


def of_nodes(d):
    return {s['node-name']: s for s in d.cmd('query-blockstats', {'query-nodes': True})}


def test_numbers(d):
    h = client(d)
    before = of_nodes(d)
    assert d.cmd('query-blockstats')[0]['stats']['rd_operations'] == 0
    for i in range(10):
        h.pwrite(b'x' * 65536, i * 65536)
    for i in range(3):
        h.pread(4096, 4 * MIB)
    h.pread(MIB, 0)
    h.flush()
    h.trim(65536, 0)
    h.zero(65536, 7 * MIB)
    with pytest.raises(nbd.Error):
        h.pread(4096, 8 * MIB)  # refused before it is one
    (s,) = d.cmd('query-blockstats')
    assert (s['device'], s['qdev'], s['node-name']) == ('', 'e', 'top')
    n = s['stats']
    assert (n['wr_operations'], n['wr_bytes']) == (11, 11 * 65536)
    assert (n['rd_operations'], n['rd_bytes']) == (4, MIB + 3 * 4096)
    assert (n['flush_operations'], n['unmap_operations'], n['unmap_bytes']) == (1, 1, 65536)
    assert (n['failed_rd_operations'], n['failed_wr_operations']) == (0, 0)
    assert n['wr_highest_offset'] == 7 * MIB + 65536
    assert n['rd_total_time_ns'] > 0 and n['wr_total_time_ns'] > 0 and n['flush_total_time_ns'] > 0 and n['idle_time_ns'] >= 0
    assert s['parent']['node-name'] == 'file' and s['backing']['parent']['node-name'] == 'base-file'
    after = of_nodes(d)
    assert set(after) == {'top', 'file', 'base', 'base-file'}
    assert after['top']['stats']['wr_bytes'] == 11 * 65536 and after['top']['stats']['wr_total_time_ns'] == 0
    assert after['top']['parent']['node-name'] == 'file' and 'backing' not in after['top']
    assert after['file']['stats']['wr_bytes'] - before['file']['stats']['wr_bytes'] >= 10 * 65536
    assert after['base']['stats']['wr_operations'] == 0 and after['base']['stats']['rd_bytes'] >= MIB - 10 * 65536
    d.cmd('blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-node-name': 'top2', 'snapshot-file': str(d.sock.parent / 't2')})
    h.pwrite(b'y' * 512, 0)
    (s,) = d.cmd('query-blockstats')
    assert s['node-name'] == 'top2' and s['stats']['wr_operations'] == 12, 'they are of the user, wherever the disk goes'
    h.shutdown()


def test_failures_count(daemon, images):
    d = daemon('--blockdev', 'driver=simdisk,node-name=s,size=1048576,fail-after=2,fail-errno=5',
               '--nbd-server', f'addr.type=unix,addr.path={images}/nbd.sock', '--export', 'nbd,id=e,node-name=s,writable=on')
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///s?socket={images}/nbd.sock')
    failed = 0
    for i in range(6):
        try:
            h.pwrite(b'x' * 4096, 0)
        except nbd.Error:
            failed += 1
    n = d.cmd('query-blockstats')[0]['stats']
    assert failed > 0 and (n['failed_wr_operations'], n['wr_operations']) == (failed, 6 - failed)
    h.shutdown()


def test_write_threshold(d):
    assert d.qmp.error('block-set-write-threshold', {'node-name': 'none', 'write-threshold': 1}) == "Device 'none' not found"

    def threshold():
        return next(n['write_threshold'] for n in d.cmd('query-named-block-nodes', flat=True) if n['node-name'] == 'file')

    d.cmd('block-set-write-threshold', {'node-name': 'file', 'write-threshold': 4 * MIB})
    assert threshold() == 4 * MIB
    h = client(d)
    h.pwrite(b'x' * MIB, 0)
    assert threshold() == 4 * MIB
    for i in range(1, 6):
        h.pwrite(b'x' * MIB, i * MIB)
    e = d.qmp.event('BLOCK_WRITE_THRESHOLD')['data']
    assert (e['node-name'], e['write-threshold']) == ('file', 4 * MIB) and 0 < e['amount-exceeded'] <= 3 * MIB
    h.pwrite(b'x' * MIB, 6 * MIB)
    assert threshold() == 0
    d.cmd('block-set-write-threshold', {'node-name': 'file', 'write-threshold': 1})
    d.cmd('block-set-write-threshold', {'node-name': 'file', 'write-threshold': 0})
    h.pwrite(b'x' * MIB, 0)
    h.shutdown()
    assert [e for e in d.qmp.events if e['event'] == 'BLOCK_WRITE_THRESHOLD'] == [], 'once'


def test_histograms(d):
    set_to = 'block-latency-histogram-set'
    h = client(d)

    def shown():
        stats = d.cmd('query-blockstats')[0]['stats']
        return {k[:-len('_latency_histogram')]: v for k, v in stats.items() if k.endswith('_latency_histogram')}

    assert shown() == {}
    d.cmd(set_to, {'id': 'e', 'boundaries': [1, 10 ** 11, 10 ** 12]})
    for i in range(5):
        h.pwrite(b'x' * 512, i * 512)
    h.pread(512, 0)
    h.flush()
    bounds = [1, 10 ** 11, 10 ** 12]
    assert shown() == {'rd': {'boundaries': bounds, 'bins': [0, 1, 0, 0]}, 'wr': {'boundaries': bounds, 'bins': [0, 5, 0, 0]},
                       'flush': {'boundaries': bounds, 'bins': [0, 1, 0, 0]}}
    d.cmd(set_to, {'id': 'e', 'boundaries-write': [1, 2]})
    for i in range(3):
        h.pwrite(b'x' * 512, 0)
    assert shown()['wr'] == {'boundaries': [1, 2], 'bins': [0, 0, 3]} and shown()['rd']['bins'] == [0, 1, 0, 0]
    d.cmd(set_to, {'id': 'e', 'boundaries-write': [10 ** 12], 'boundaries': [7]})
    assert shown() == {'rd': {'boundaries': [7], 'bins': [0, 0]}, 'wr': {'boundaries': [10 ** 12], 'bins': [0, 0]},
                       'flush': {'boundaries': [7], 'bins': [0, 0]}}
    for bad in ([3, 2], [0, 1], [5, 5]):
        assert d.qmp.error(set_to, {'id': 'e', 'boundaries': bad}) == "Device 'e' set read boundaries fail"
        assert d.qmp.error(set_to, {'id': 'e', 'boundaries-flush': bad}) == "Device 'e' set flush boundaries fail"
    assert d.qmp.error(set_to, {'id': 'top'}) == "Device 'top' not found"
    assert len(shown()) == 3
    d.cmd(set_to, {'id': 'e'})
    assert shown() == {}
    h.shutdown()


def test_discards_of_files(d):
    h = client(d)

    def shown():
        return of_nodes(d)['file']['driver-specific']

    assert shown() == {'driver': 'file', 'discard-nb-ok': 0, 'discard-nb-failed': 0, 'discard-bytes-ok': 0}
    assert 'driver-specific' not in of_nodes(d)['top']
    h.pwrite(b'x' * 65536, 0)
    h.trim(65536, 0)
    h.flush()
    deadline = time.monotonic() + 20
    while shown()['discard-nb-ok'] == 0 and time.monotonic() < deadline:  # clusters are given back behind the flush
        time.sleep(0.02)
    assert shown() == {'driver': 'file', 'discard-nb-ok': 1, 'discard-nb-failed': 0, 'discard-bytes-ok': 65536}
    h.shutdown()


def test_devices(images):
    """Under an emulator's name devices are listed, with or without a medium."""
    img.create(images / 'a.qcow2')
    said = emulator.qmp(images, [('query-blockstats',), ('block-latency-histogram-set', {'id': 'a', 'boundaries': [10 ** 12]}),
                                 ('human-monitor-command', {'command-line': 'qemu-io a "read 0 64k"'}), ('query-blockstats',)],
                        '-drive', f'if=none,id=a,file={images}/a.qcow2', '-drive', 'if=none,id=b')
    first, _, _, second = [r['return'] for r in emulator.replies(said)[:4]]
    assert [(s['device'], s.get('node-name') is not None) for s in first] == [('a', True), ('b', False)]
    assert second[0]['stats']['rd_bytes'] == 65536 and second[0]['stats']['rd_latency_histogram'] == {'boundaries': [10 ** 12], 'bins': [1, 0]}
