# SPDX-License-Identifier: BSD-3-Clause
"""blockdev-reopen: options and children of nodes in use, all or none, with clients connected."""
import copy
import os
import threading

import nbd
import pytest

from lib import images as img
from lib.jobs import wait_status

MIB = 1 << 20


@pytest.fixture
def paths(images):
    """Three images: hd0; hd1 on it; hd2.  Image n has a MiB of 0xa0 + n at n MiB."""
    p = [images / f'hd{i}.qcow2' for i in range(3)]
    img.create(p[0], '3M')
    img.create(p[1], backing=p[0])
    img.create(p[2], '3M')
    for i in range(3):
        img.run('qemu-io', '-c', f'write -P {0xa0 + i} {i}M 1M', p[i])
    return p


@pytest.fixture
def d(daemon, images):
    d = daemon()
    d.sock = images / 'nbd.sock'
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(d.sock)}}})
    return d


def opts(paths, i, **more):
    return {'driver': 'qcow2', 'node-name': f'hd{i}', 'file': {'driver': 'file', 'node-name': f'hd{i}-file', 'filename': str(paths[i])},
            **{k.replace('_', '-'): v for k, v in more.items()}}


def changed(o, **new):
    """o with other options; file__x is the x of the dictionary file."""
    o = copy.deepcopy(o)
    for key, value in new.items():
        where = o
        *way, last = key.split('__')
        for step in way:
            where = where[step]
        where[last.replace('_', '-')] = value
    return o


def reopen(d, *options):
    d.cmd('blockdev-reopen', {'options': list(options)})


def error(d, *options):
    return d.qmp.error('blockdev-reopen', {'options': list(options)})


def node(d, name):
    return next((n for n in d.cmd('query-named-block-nodes') if n['node-name'] == name), None)


def graph(d):
    return d.cmd('query-named-block-nodes'), d.cmd('x-debug-query-block-graph')


def content(d, name, pattern):
    """What a client sees: pattern is a list of (byte, MiB)."""
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'look', 'node-name': name})
    try:
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
        for i, byte in enumerate(pattern):
            assert h.pread(MIB, i * MIB) == bytes([byte]) * MIB, f'{name}: MiB {i}'
        h.shutdown()
    finally:
        d.cmd('block-export-del', id='look', mode='hard')
        d.qmp.event('BLOCK_EXPORT_DELETED')


class Client(threading.Thread):
    """Writes and reads back, over and over, as long as nobody ends it."""

    def __init__(self, d, name, at=0):
        super().__init__()
        self.h = nbd.NBD()
        self.h.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
        self.at, self.rounds, self.problem, self.ended = at, 0, None, False
        self.start()

    def run(self):
        try:
            while not self.ended:
                data = bytes([self.rounds % 255 + 1]) * 4096
                self.h.pwrite(data, self.at)
                assert self.h.pread(4096, self.at) == data
                if self.rounds % 16 == 0:
                    self.h.flush()
                self.rounds += 1
        except Exception as e:  # told by end()
            self.problem = e

    def end(self):
        self.ended = True
        self.join()
        if self.problem:
            raise self.problem
        self.h.shutdown()
        return self.rounds


def test_wrong_options(d, paths):
    o = opts(paths, 0)
    d.cmd('blockdev-add', o)
    before = graph(d)
    reopen(d, o)
    reopen(d, changed(o, file='hd0-file'))
    for new, text in (
            ({'node_name': 'not-found'}, "Failed to find node with node-name='not-found'"),
            ({'node_name': ''}, "Failed to find node with node-name=''"),
            ({'node_name': None}, "Invalid parameter type for 'options[0].node-name', expected: string"),
            ({'driver': 'raw'}, "Cannot change the option 'driver'"),
            ({'driver': ''}, "Parameter 'driver' does not accept value ''"),
            ({'file': 'not-found'}, "Cannot find device='' nor node-name='not-found'"),
            ({'file': None}, "Invalid parameter type for 'file', expected: BlockdevRef"),
            ({'file': ''}, "Cannot find device='' nor node-name=''"),
            ({'file__node_name': 'newname'}, "Cannot change the option 'node-name'"),
            ({'file__driver': 'null-co', 'file__filename': None}, None),
            ({'file__filename': str(paths[1])}, "Cannot change the option 'filename'"),
            ({'file__aio': 'native'}, "Cannot change the option 'aio'"),
            ({'file__locking': 'off'}, "Cannot change the option 'locking'"),
            ({'force_share': True}, "Cannot change the option 'force-share'"),
            ({'detect_zeroes': 'unmap'}, 'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap'),
            ({'l2_cache_entry_size': 128 * 1024}, 'L2 cache entry size must be a power of two between 512 and the cluster size (65536)'),
            ({'l2_cache_size': MIB, 'cache_size': MIB // 2}, 'l2-cache-size may not exceed cache-size')):
        got = error(d, changed(o, **new))
        assert text is None or got == text
    no_name = copy.deepcopy(o)
    del no_name['node-name']
    assert error(d, no_name) == 'node-name not specified'
    assert error(d, o, o) == "Node 'hd0' is listed twice"
    assert graph(d) == before
    d.cmd('blockdev-del', node_name='hd0')


def test_backing_options(d, paths):
    o = opts(paths, 1)
    d.cmd('blockdev-add', o)
    before = graph(d)
    base = next(n['node-name'] for n in before[0] if n['drv'] == 'qcow2' and n['file'] == str(paths[0]))
    assert error(d, o) == "backing is missing for 'hd1'"
    reopen(d, changed(o, backing=base))
    assert error(d, changed(o, backing='not-found')) == "Cannot find device='' nor node-name='not-found'"
    assert error(d, changed(o, backing='')) == "Cannot find device='' nor node-name=''"
    inline = changed(o, backing={'driver': 'qcow2', 'file': {'driver': 'file', 'filename': str(paths[0])}})
    reopen(d, inline)
    for new, text in (({'backing__node_name': 'newname'}, "Cannot change the option 'node-name'"),
                      ({'backing__driver': 'raw'}, "Cannot change the option 'driver'"),
                      ({'backing__file__node_name': 'newname'}, "Cannot change the option 'node-name'")):
        assert error(d, changed(inline, **new)) == text
    assert graph(d) == before
    reopen(d, changed(o, backing=None))
    assert node(d, base) is None, 'nobody used it any more'
    assert error(d, o) == "backing is missing for 'hd1'", 'the header still names it'
    d.cmd('blockdev-del', node_name='hd1')
    img.run('qemu-img', 'check', paths[1])


def test_options_change_and_go_back(d, paths):
    o = opts(paths, 1, backing=opts(paths, 0))
    d.cmd('blockdev-add', o)
    before = graph(d)
    reopen(d, o)
    reopen(d, changed(o, read_only=True))
    assert node(d, 'hd1')['ro'] and node(d, 'hd1-file')['ro']
    reopen(d, o)
    assert not node(d, 'hd1')['ro']
    reopen(d, changed(o, cache={'direct': True, 'no-flush': True}))
    for name in ('hd1', 'hd1-file'):
        assert node(d, name)['cache'] == {'writeback': True, 'direct': True, 'no-flush': True}
    content(d, 'hd1', [0xa0, 0xa1, 0])
    reopen(d, o)
    assert node(d, 'hd1')['cache'] == {'writeback': True, 'direct': False, 'no-flush': False}
    reopen(d, changed(o, detect_zeroes='on'))
    assert node(d, 'hd1')['detect_zeroes'] == 'on'
    reopen(d, changed(o, detect_zeroes='unmap', discard='unmap'))
    assert node(d, 'hd1')['detect_zeroes'] == 'unmap'
    reopen(d, changed(o, l2_cache_size=4 * MIB, refcount_cache_size=4 * MIB, l2_cache_entry_size=32768))
    reopen(d, changed(o, pass_discard_request=True))
    reopen(d, o)
    assert graph(d) == before
    nameless = copy.deepcopy(o)
    del nameless['file']['node-name'], nameless['backing']['node-name'], nameless['backing']['file']['node-name']
    reopen(d, nameless)
    assert graph(d) == before
    reopen(d, changed(o, backing=None))
    content(d, 'hd1', [0, 0xa1, 0])
    d.cmd('blockdev-add', opts(paths, 0))
    reopen(d, changed(o, backing='hd0'))
    content(d, 'hd1', [0xa0, 0xa1, 0])
    assert error(d, o) == "Cannot change the option 'backing.driver'", 'it is not defined in place now'
    assert d.qmp.error('blockdev-del', node_name='hd0') == "Node 'hd0' is busy: node is used as backing hd of 'hd1'"
    d.cmd('blockdev-del', node_name='hd1')
    d.cmd('blockdev-del', node_name='hd0')


def test_default_values(d, paths, daemon):
    o = opts(paths, 0)
    o['file'].update({'locking': 'off', 'x-check-cache-dropped': True})
    d.cmd('blockdev-add', o)
    reopen(d, changed(o, file__x_check_cache_dropped=False))
    o = copy.deepcopy(o)
    o['file'] = {'driver': 'file', 'node-name': 'hd0-file', 'filename': str(paths[0]), 'locking': 'off'}
    reopen(d, o)
    del o['file']['locking']
    assert error(d, o) == "Option 'locking' cannot be reset to its default value"
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'root', 'size': 1024})
    reopen(d, {'driver': 'null-co', 'node-name': 'root', 'size': 1024})
    assert error(d, {'driver': 'null-co', 'node-name': 'root', 'size': 1 << 30}) == "Cannot change the option 'size'"
    assert error(d, {'driver': 'null-co', 'node-name': 'root'}) == "Option 'size' cannot be reset to its default value"


def test_reads_follow_the_graph(d, paths):
    o = [opts(paths, i, backing=None) for i in range(3)]
    for x in o:
        d.cmd('blockdev-add', x)
    content(d, 'hd0', [0xa0, 0, 0])
    reopen(d, changed(o[0], backing='hd1'))
    content(d, 'hd0', [0xa0, 0xa1, 0])
    reopen(d, changed(o[2], backing='hd1'))
    content(d, 'hd2', [0, 0xa1, 0xa2])
    reopen(d, changed(o[0], backing='hd2'))
    content(d, 'hd0', [0xa0, 0xa1, 0xa2])
    reopen(d, o[2])
    content(d, 'hd0', [0xa0, 0, 0xa2])
    reopen(d, changed(o[1], backing='hd2'))
    reopen(d, changed(o[0], backing='hd1'))
    content(d, 'hd0', [0xa0, 0xa1, 0xa2])
    for x, b in ((o[2], 'hd1'), (o[1], 'hd0'), (o[1], 'hd1')):
        assert error(d, changed(x, backing=b)) == f"Making '{b}' a backing child of '{x['node-name']}' would create a cycle"
    content(d, 'hd0', [0xa0, 0xa1, 0xa2])
    # Two at once, either of which alone would make a cycle or leave one: the order in the list decides.
    reopen(d, changed(o[1], backing=None), changed(o[2], backing='hd1'), changed(o[0], backing='hd2'))
    content(d, 'hd0', [0xa0, 0xa1, 0xa2])
    assert [c['node-name'] for c in node(d, 'hd0')['children']] == ['hd0-file', 'hd2']


def test_files_swapped_under_clients(d, paths):
    o = [opts(paths, i) for i in (0, 2)]
    for x in o:
        d.cmd('blockdev-add', x)
        d.cmd('block-export-add', {'type': 'nbd', 'id': x['node-name'], 'node-name': x['node-name'], 'writable': True})
    for a, b in ((0, 2), (2, 0)):
        assert error(d, changed(o[a // 2], file=f'hd{b}-file')) == (
            f"Permission conflict on node 'hd{b}-file': permissions 'write, resize' are both required by node 'hd{b}' (uses node "
            f"'hd{b}-file' as 'file' child) and unshared by node 'hd{a}' (uses node 'hd{b}-file' as 'file' child).")
    h = [nbd.NBD() for _ in o]
    for x, c in zip(o, h):
        c.connect_uri(f"nbd+unix:///{x['node-name']}?socket={d.sock}")
    h[0].pwrite(b'0' * 4096, 0)
    h[1].pwrite(b'2' * 4096, 0)
    reopen(d, changed(o[0], file='hd2-file'), changed(o[1], file='hd0-file'))
    assert h[0].pread(4096, 0) == b'2' * 4096 and h[1].pread(4096, 0) == b'0' * 4096
    h[0].pwrite(b'x' * 4096, 65536)
    h[0].flush()
    reopen(d, changed(o[0], file='hd0-file'), changed(o[1], file='hd2-file'))
    assert h[0].pread(4096, 0) == b'0' * 4096 and h[1].pread(4096, 65536) == b'x' * 4096
    for c in h:
        c.shutdown()
    d.stop()
    for p in paths:
        img.run('qemu-img', 'check', p)


def test_under_load(d, paths):
    """Options, caches and the backing image change many times while two clients write and read back."""
    o = opts(paths, 0, backing=None)
    d.cmd('blockdev-add', o)
    d.cmd('blockdev-add', opts(paths, 2))
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'hd0', 'writable': True})
    clients = [Client(d, 'hd0', at) for at in (0, 2 * MIB)]
    for i in range(30):
        reopen(d, changed(o, cache={'direct': i % 2 == 0}))
        reopen(d, changed(o, backing='hd2'))
        reopen(d, changed(o, l2_cache_size=(1 + i % 3) * MIB))
        reopen(d, o)
        assert error(d, changed(o, read_only=True)) == "Read-only block node 'hd0' cannot support read-write users"
    assert all(c.end() > 10 for c in clients)
    d.stop()
    img.run('qemu-img', 'check', paths[0])


def test_read_only_and_back_on_files_of_their_own(d, paths):
    """As libvirt does it before it touches bitmaps of a backing image: all nodes by reference."""
    for i, ro in ((0, True), (1, False)):
        d.cmd('blockdev-add', {'driver': 'file', 'filename': str(paths[i]), 'node-name': f's{i}', 'auto-read-only': True, 'discard': 'unmap'})
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f'f{i}', 'file': f's{i}', 'read-only': ro,
                               'backing': f'f{i - 1}' if i else None})
    base = {'driver': 'qcow2', 'node-name': 'f0', 'file': 's0', 'backing': None}
    assert modes(d, paths[0]) == [os.O_RDONLY]
    reopen(d, {**base, 'read-only': False})
    assert not node(d, 'f0')['ro'] and os.O_RDWR in modes(d, paths[0])
    assert 'Failed to get' in img.run('qemu-io', '-c', 'write 0 512', paths[0], check=False).stderr
    reopen(d, {**base, 'read-only': True})
    assert node(d, 'f0')['ro'] and modes(d, paths[0]) == [os.O_RDONLY]
    content(d, 'f1', [0xa0, 0xa1, 0])


def modes(d, path):
    """Access modes of the descriptors that the daemon has for a file."""
    found = []
    for n in os.listdir(f'/proc/{d.pid}/fd'):
        if os.readlink(f'/proc/{d.pid}/fd/{n}') == str(path):
            with open(f'/proc/{d.pid}/fdinfo/{n}', encoding='ascii') as f:
                flags = next(int(line.split()[1], 8) for line in f if line.startswith('flags'))
            found.append(flags & os.O_ACCMODE)
    return found


def test_all_or_none(d, paths):
    o = [opts(paths, i, backing=None) for i in range(3)]
    for x in o:
        d.cmd('blockdev-add', x)
    files = d.descriptors()
    before = graph(d)
    assert error(d, changed(o[0], backing='hd1', detect_zeroes='on'), changed(o[1], read_only=True), changed(o[2], file__aio='native')) \
        == "Cannot change the option 'aio'"
    assert error(d, changed(o[0], backing='hd1'), changed(o[1], backing='hd0')) == \
        "Making 'hd0' a backing child of 'hd1' would create a cycle"
    assert graph(d) == before
    junk = paths[0].parent / 'junk'
    junk.write_bytes(b'x' * 65536)
    d.cmd('blockdev-add', {'driver': 'file', 'node-name': 'junk', 'filename': str(junk)})
    before = graph(d)
    assert 'qcow2' in error(d, changed(o[0], read_only=True), changed(o[1], file='junk'))
    assert graph(d) == before
    d.cmd('blockdev-del', node_name='junk')
    assert d.descriptors() == files
    content(d, 'hd0', [0xa0, 0, 0])
    content(d, 'hd1', [0, 0xa1, 0])


def test_raw_window(d, images):
    path = images / 'raw'
    path.write_bytes(b'a' * MIB + b'b' * MIB)
    o = {'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'file', 'filename': str(path), 'node-name': 'r-file'}}
    d.cmd('blockdev-add', o)
    content(d, 'r', b'ab')
    reopen(d, changed(o, offset=MIB))
    content(d, 'r', b'b')
    assert node(d, 'r')['image']['virtual-size'] == MIB
    reopen(d, changed(o, size=MIB))
    content(d, 'r', b'a')
    assert error(d, changed(o, offset=3 * MIB)) == \
        f'Offset ({3 * MIB}) cannot be greater than size of the containing file ({2 * MIB})'
    reopen(d, o)
    content(d, 'r', b'ab')


def test_file_replaced_below_raw(d, images):
    for i in range(2):
        (images / f'{i}').write_bytes(bytes(10240))
        d.cmd('blockdev-add', {'driver': 'file', 'filename': str(images / f'{i}'), 'node-name': f'f{i}'})
    o = {'driver': 'raw', 'node-name': 'hd', 'file': 'f0'}
    d.cmd('blockdev-add', o)
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'hd', 'node-name': 'hd', 'writable': True})
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///hd?socket={d.sock}')
    for i, byte in enumerate((b'x', b'y')):
        reopen(d, changed(o, file=f'f{i}'))
        assert h.pread(10240, 0) == bytes(10240)
        h.pwrite(byte * 10240, 0)
    reopen(d, o)
    assert h.pread(10240, 0) == b'x' * 10240
    h.shutdown()
    assert (images / '1').read_bytes() == b'y' * 10240


def test_format_on_a_raw_node_instead(d, paths):
    """The file goes from `file` to a raw node on the same file: the image is read anew from there."""
    o = opts(paths, 0)
    d.cmd('blockdev-add', o)
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'raw', 'file': 'hd0-file'})
    reopen(d, changed(o, file='raw'))
    content(d, 'hd0', [0xa0, 0, 0])
    assert error(d, o) == "Cannot change the option 'file.driver'"


def test_what_stream_leaves(d, paths):
    """A node that is below the top after a stream is defined in place there."""
    base = opts(paths, 2, backing=None)
    o = opts(paths, 0, backing=opts(paths, 1, backing=base))
    d.cmd('blockdev-add', o)
    d.cmd('block-stream', {'job-id': 's', 'device': 'hd0', 'base-node': 'hd2'})
    wait_status(d, 's', 'null')
    assert node(d, 'hd1') is None
    assert error(d, o) == "Cannot change the option 'backing.driver'"
    reopen(d, changed(o, backing=base))
    reopen(d, changed(o, backing='hd2'))
    assert error(d, opts(paths, 0)) == "backing is missing for 'hd0'"
    content(d, 'hd0', [0xa0, 0xa1, 0xa2])


@pytest.mark.parametrize('end', ['finish', 'cancel'])
def test_links_of_a_job_are_frozen(d, paths, end):
    o = opts(paths, 0, backing=opts(paths, 1, backing=opts(paths, 2, backing=None)))
    d.cmd('blockdev-add', o)
    d.cmd('block-stream', {'job-id': 's', 'device': 'hd0', 'base-node': 'hd2', 'auto-finalize': False})
    assert error(d, changed(o, backing=None)) == "Cannot change frozen 'backing' link from 'hd0' to 'hd1'"
    reopen(d, changed(o, detect_zeroes='on'))
    wait_status(d, 's', 'pending')
    d.cmd('job-finalize' if end == 'finish' else 'job-cancel', id='s')
    wait_status(d, 's', 'null')
    reopen(d, changed(o, backing=None))
    assert node(d, 'hd1') is None


def test_a_request_that_does_not_end(d, images):
    """A node whose requests do not end is let go again after a while: the command fails, everybody goes on, nothing has changed."""
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'slow', 'size': MIB, 'latency-ns': 12 * 10**9})
    o = {'driver': 'raw', 'node-name': 'r', 'file': 'slow'}
    d.cmd('blockdev-add', o)
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'other', 'size': MIB})
    for name in ('r', 'other'):
        d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name})
    h = [nbd.NBD() for _ in range(3)]
    for c, name in zip(h, ('r', 'r', 'other')):
        c.connect_uri(f'nbd+unix:///{name}?socket={d.sock}')
    hung = threading.Thread(target=h[0].pread, args=(512, 0))
    hung.start()
    while d.cmd('query-blockstats', {'query-nodes': True})[1]['stats']['rd_operations'] == 0:
        pass
    d.qmp.send('blockdev-reopen', {'options': [changed(o, detect_zeroes='on')]})
    held = threading.Thread(target=h[1].flush)
    held.start()
    assert h[2].pread(512, 0) == bytes(512), 'others are not concerned'
    reply = d.qmp.reply()
    assert reply['error']['desc'] == "Node 'r' is busy: its requests did not end in time"
    hung.join()
    held.join()
    assert node(d, 'r')['detect_zeroes'] == 'off'
    reopen(d, changed(o, detect_zeroes='on'))
    for c in h:
        c.shutdown()


def test_threads(d, paths):
    """Nodes are used from any thread: nothing to set, but names are checked."""
    d.cmd('blockdev-add', opts(paths, 0))
    d.cmd('object-add', {'qom-type': 'iothread', 'id': 't'})
    for thread in ('t', None):
        d.cmd('x-blockdev-set-iothread', {'node-name': 'hd0', 'iothread': thread})
    assert d.qmp.error('x-blockdev-set-iothread', {'node-name': 'none', 'iothread': 't'}) == "Failed to find node with node-name='none'"
    assert d.qmp.error('x-blockdev-set-iothread', {'node-name': 'hd0', 'iothread': 'u'}) == "Cannot find iothread object 'u'"
    content(d, 'hd0', [0xa0, 0, 0])
