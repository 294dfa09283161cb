# SPDX-License-Identifier: BSD-3-Clause
"""The debugging drivers: blkdebug, blkverify, blklogwrites."""
import json
import random
import struct
import threading
import time

import nbd
import pytest

from lib import emulator
from lib import images as img
from lib.qmp import Qmp

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB
EIO, ENOSPC = 5, 28


@pytest.fixture
def d(daemon, images):
    d = daemon('--chardev', f'socket,id=c2,path={images}/second.sock,server=on,wait=off', '--monitor', 'chardev=c2')
    d.dir = images
    d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd.sock')}}})
    return d


def client(d, name):
    d.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name, 'writable': True})
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri(f'nbd+unix:///{name}?socket={d.dir}/nbd.sock')
    return h


def raw_file(d, name, content=bytes(SIZE)):
    (d.dir / name).write_bytes(content)
    return {'driver': 'file', 'filename': str(d.dir / name)}


def debugged(d, inject=(), state=(), **more):
    """A raw file below blkdebug."""
    d.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'b', 'image': raw_file(d, 'disk'), 'inject-error': list(inject),
                           'set-state': list(state), **{k.replace('_', '-'): v for k, v in more.items()}})
    return client(d, 'b')


def qcow2_debugged(d, **options):
    img.create(d.dir / 'q', '4M')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {
        'driver': 'blkdebug', 'node-name': 'b', 'image': {'driver': 'file', 'filename': str(d.dir / 'q')}, **options}})


def io(d, node, command):
    return d.cmd('human-monitor-command', {'command-line': f'qemu-io {node} "{command}"'})


def fails(call, error):
    with pytest.raises(nbd.Error) as e:
        call()
    assert e.value.errnum == error


# ---- blkdebug ----

def test_errors_of_kinds_and_places(d):
    h = debugged(d, [{'event': 'none', 'iotype': 'write', 'sector': 8, 'errno': ENOSPC},
                     {'event': 'none', 'iotype': 'read', 'sector': 16, 'once': True},
                     {'event': 'none', 'iotype': 'flush', 'immediately': True}])
    h.pwrite(b'x' * 4096, 0)
    fails(lambda: h.pwrite(b'x' * 512, 4096), ENOSPC)
    fails(lambda: h.pwrite(b'x' * 8192, 0), ENOSPC)
    fails(lambda: h.pread(64 * KIB, 0), EIO)
    assert h.pread(4096, 0) == b'x' * 4096, 'once'
    fails(h.flush, EIO)
    h.shutdown()


def test_states_lead_from_event_to_event(d):
    h = debugged(d, [{'event': 'pwritev', 'state': 3, 'iotype': 'write'}],
                 [{'event': 'pwritev', 'state': 1, 'new_state': 2}, {'event': 'pwritev', 'state': 2, 'new_state': 3},
                  {'event': 'pwritev_done', 'state': 3, 'new_state': 4}])
    h.pwrite(b'1' * 512, 0)
    h.pwrite(b'2' * 512, 0)    # after which the state is 4: never an error
    h.pwrite(b'3' * 512, 0)
    h.shutdown()


def test_errors_replace_each_other(d):
    h = debugged(d, [{'event': 'pwritev', 'state': 1, 'errno': ENOSPC, 'iotype': 'write'},
                     {'event': 'pwritev_zero', 'iotype': 'write-zeroes'}], [{'event': 'pwritev', 'state': 1, 'new_state': 2}])
    fails(lambda: h.pwrite(b'1' * 512, 0), ENOSPC)
    fails(lambda: h.pwrite(b'1' * 512, 0), ENOSPC)
    fails(lambda: h.zero(64 * KIB, 0), EIO)
    h.pwrite(b'1' * 512, 0)
    h.shutdown()


@pytest.mark.parametrize('event,kind', [('l2_load', 'read'), ('read_aio', 'read'), ('read_backing_aio', None), ('write_aio', 'write'),
                                        ('cluster_alloc', 'write'), ('cow_write', None), ('l2_update', 'flush'), ('flush_to_disk', 'flush'),
                                        ('flush_to_os', 'flush'), ('refblock_update_part', 'flush')])
def test_events_of_an_image(d, event, kind):
    """Each is met where it says, and a request that does something else meets no error."""
    img.create(d.dir / 'q', '4M')
    img.qemu_io(d.dir / 'q', 'write -P 1 0 64k')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {
        'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': str(d.dir / 'q')}, 'inject-error': [{'event': event, 'once': True}]}})
    h = client(d, 'q')
    met = None
    for what, call in (('read', lambda: h.pread(64 * KIB, 0)), ('write', lambda: h.pwrite(b'x' * 64 * KIB, MIB)), ('flush', h.flush)):
        try:
            call()
        except nbd.Error as e:
            assert e.errnum == EIO
            met = met or what
    assert met == kind
    h.shutdown()


def test_requests_have_the_shape_that_was_asked_for(d):
    h = debugged(d, [{'event': 'none', 'iotype': 'write', 'sector': 1, 'errno': ENOSPC}, {'event': 'none', 'iotype': 'read', 'sector': 127}],
                 align=64 * KIB, max_transfer=64 * KIB, opt_write_zero=128 * KIB, max_write_zero=128 * KIB)
    fails(lambda: h.pread(512, 0), EIO)                   # the first 64 KiB are read
    fails(lambda: h.pwrite(b'x' * 512, 4096), EIO)        # the same, to fill up the rest
    fails(lambda: h.pwrite(b'x' * 64 * KIB, 0), ENOSPC)   # which writes sector 1
    fails(lambda: h.zero(64 * KIB, 0), ENOSPC)            # smaller than preferred: a write
    h.zero(MIB, 0)
    h.shutdown()


def test_a_last_block_in_part(d):
    d.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'b', 'align': 4096, 'image': raw_file(d, 'disk', b'd' * 10240)})
    h = client(d, 'b')
    assert h.pread(10240, 0) == b'd' * 10240
    h.pwrite(b'e' * 1024, 9216)
    assert h.pread(2048, 8192) == b'd' * 1024 + b'e' * 1024
    assert (d.dir / 'disk').stat().st_size == 10240
    h.shutdown()


def test_breakpoints(d):
    qcow2_debugged(d)
    h = client(d, 'q')
    io(d, 'q', 'break write_aio A')
    done = []
    t = threading.Thread(target=lambda: (h.pwrite(b'x' * 512, 0), done.append(1)), daemon=True)
    t.start()
    io(d, 'q', 'wait_break A')
    time.sleep(0.1)
    assert not done
    other = nbd.NBD()
    other.connect_uri(f'nbd+unix:///q?socket={d.dir}/nbd.sock')
    other.pwrite(b'y' * 512, MIB)
    io(d, 'q', 'resume A')
    t.join(10)
    assert done and h.pread(512, 0) == b'x' * 512
    io(d, 'q', 'break read_aio B')
    io(d, 'q', 'remove_break B')
    h.pread(512, 0)
    io(d, 'q', 'resume B')
    io(d, 'q', 'break nonsense C')
    assert d.stdout().count('Could not') == 2
    assert 'Could not resume request: No such file or directory' in d.stdout()
    assert 'Could not set breakpoint: No such file or directory' in d.stdout()
    [c.shutdown() for c in (h, other)]


def test_a_write_at_a_breakpoint_belongs_to_the_old_image(d):
    """The cut comes while it waits: it goes into the old image, and the group settles when it has ended."""
    qcow2_debugged(d)
    h = client(d, 'q')
    io(d, 'q', 'break write_aio A')
    t = threading.Thread(target=lambda: h.pwrite(b'o' * 64 * KIB, 0), daemon=True)
    t.start()
    io(d, 'q', 'wait_break A')
    reply = []
    s = threading.Thread(target=lambda: reply.append(d.cmd('transaction', {'actions': [{'type': 'blockdev-snapshot-sync', 'data': {
        'node-name': 'q', 'snapshot-node-name': 'top', 'snapshot-file': str(d.dir / 'top')}}]})), daemon=True)
    s.start()
    other = nbd.NBD()
    other.connect_uri(f'nbd+unix:///q?socket={d.dir}/nbd.sock')
    deadline = time.monotonic() + 10
    while not (d.dir / 'top').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    other.pwrite(b'n' * 64 * KIB, MIB)    # a whole cluster: nothing is copied, so nothing waits for the old write
    other.shutdown()
    second = Qmp(str(d.dir / 'second.sock'))
    second.cmd('human-monitor-command', {'command-line': 'qemu-io b "resume A"'})
    t.join(10)
    s.join(20)
    assert reply
    h.flush()
    assert h.pread(512, 0) == b'o' * 512
    assert img.contents(d.dir / 'q', 64 * KIB, share=True) == b'o' * 64 * KIB
    h.shutdown()


def test_the_end_of_the_daemon_does_not_wait_for_a_breakpoint(d):
    qcow2_debugged(d)
    h = client(d, 'q')
    io(d, 'q', 'break write_aio A')
    cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'x' * 64 * KIB)), 0)
    io(d, 'q', 'wait_break A')
    began = time.monotonic()
    d.cmd('quit')
    assert d.wait() == 0
    assert time.monotonic() - began < 10 and cookie
    img.check(d.dir / 'q')


def test_permissions(d):
    d.cmd('blockdev-add', {**raw_file(d, 'disk'), 'node-name': 'f'})
    d.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'b', 'image': 'f', 'unshare-child-perms': ['write']})
    text = d.qmp.error('blockdev-add', {'driver': 'blkdebug', 'node-name': 'other', 'image': 'f', 'take-child-perms': ['write']})
    assert "Permission conflict on node 'f': permissions 'write'" in text and "node 'b' (uses node 'f' as 'image' child)" in text
    d.cmd('blockdev-del', {'node-name': 'b'})
    d.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'other', 'image': 'f', 'take-child-perms': ['write', 'resize']})


def test_reopening(d):
    """The same options, no others; a pair that is compared is not reopened at all."""
    for i in range(2):
        d.cmd('blockdev-add', {**raw_file(d, f'disk{i}'), 'node-name': f'f{i}'})
    o = {'driver': 'blkdebug', 'node-name': 'b', 'image': 'f0', 'inject-error': [{'event': 'none', 'iotype': 'discard'}]}
    d.cmd('blockdev-add', o)
    d.cmd('blockdev-reopen', {'options': [o]})
    d.cmd('blockdev-reopen', {'options': [{**o, 'read-only': True}]})
    assert d.qmp.error('blockdev-reopen', {'options': [{**o, 'image': 'f1'}]}) == "Cannot change the option 'image'"
    assert d.qmp.error('blockdev-reopen', {'options': [{**o, 'align': 4096}]}) == "Cannot change the option 'align'"
    assert 'inject-error' in d.qmp.error('blockdev-reopen', {'options': [{**o, 'inject-error': []}]})
    d.cmd('blockdev-del', {'node-name': 'b'})
    v = {'driver': 'blkverify', 'node-name': 'v', 'test': 'f0', 'raw': 'f1'}
    d.cmd('blockdev-add', v)
    assert d.qmp.error('blockdev-reopen', {'options': [v]}) == "Block format 'blkverify' used by node 'v' does not support reopening files"


def test_bad_options_of_blkdebug(d):
    d.cmd('blockdev-add', {**raw_file(d, 'disk'), 'node-name': 'f'})

    def refused(**options):
        return d.qmp.error('blockdev-add', {'driver': 'blkdebug', 'node-name': 'b', 'image': 'f', **{k.replace('_', '-'): v for k, v in options.items()}})
    for option, value in (('align', 3), ('align', -512), ('max_transfer', -1), ('opt_discard', -4)):
        assert f'Cannot meet constraints with {option.replace("_", "-")} {value}' in refused(**{option: value})
    assert 'Cannot meet constraints with max-write-zero 768' in refused(align=512, max_write_zero=768)
    assert 'Could not read blkdebug config file: No such file' in refused(config='/nonexistent')
    assert 'errno' in refused(inject_error=[{'event': 'none', 'errno': -1}])
    for text, want in (('event = "none"', 'no group defined'), ('[foo]', "There is no option group 'foo'"), ('[set-state', 'parse error'),
                       ('[set-state]\nevent = none', 'not in quotes'), ('[inject-error]\nevent = "nothing"', "'nothing'"),
                       ('[inject-error]\nonce = "on"', "'inject-error.0.event' is missing"), ('[set-state]\nevent = "none"\nnew_state = "2"\nx = "y"', "'set-state.0.x'")):
        (d.dir / 'conf').write_text(text + '\n')
        assert want in refused(config=str(d.dir / 'conf')), text
    (d.dir / 'conf').write_bytes(b'\0' * 100)
    assert 'Could not read' in refused(config=str(d.dir / 'conf'))
    assert [n['node-name'] for n in d.cmd('query-named-block-nodes')] == ['f']


def test_names_of_blkdebug(d):
    img.create(d.dir / 'q', '4M')
    (d.dir / 'conf').write_text('# rules\n[inject-error "one"]\nevent = "read_aio"\nerrno = "28"\nonce = "on"\n')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {
        'driver': 'blkdebug', 'config': str(d.dir / 'conf'), 'image': {'driver': 'file', 'filename': str(d.dir / 'q')}}})
    name = d.cmd('query-named-block-nodes')[0]['file']
    assert {n['node-name']: n['file'] for n in d.cmd('query-named-block-nodes')}['q'] == f'blkdebug:{d.dir}/conf:{d.dir}/q', name
    d.cmd('blockdev-del', {'node-name': 'q'})
    # A header may have such a name.
    img.run('qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-b', f'blkdebug:{d.dir}/conf:{d.dir}/q', '-F', 'qcow2', d.dir / 'top', '4M')
    img.qemu_io(d.dir / 'q', 'write -P 7 0 64k')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'file': {'driver': 'file', 'filename': str(d.dir / 'top')}})
    h = client(d, 'top')
    fails(lambda: h.pread(512, 0), ENOSPC)
    assert h.pread(512, 0) == b'\7' * 512
    h.shutdown()


@pytest.mark.parametrize('job', ['commit', 'stream'])
def test_a_job_that_fails_at_once_has_not_come_far(d, job):
    """What there is nothing to do for does not count before something was done; a stream's failures are failures to read."""
    img.create(d.dir / 'base', '4M')
    img.qemu_io(d.dir / 'base', 'write -P 1 0 64k')
    img.create(d.dir / 'mid', '4M', backing=d.dir / 'base')
    img.qemu_io(d.dir / 'mid', 'write -P 2 0 64k')
    img.create(d.dir / 'top', '4M', backing=d.dir / 'mid')
    error = {'event': 'read_aio', 'errno': ENOSPC, 'once': True, 'iotype': 'read'}
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'mid', 'read-only': True, 'auto-read-only': True,
                           'file': {'driver': 'blkdebug', 'inject-error': [error],
                                    'image': {'driver': 'file', 'filename': str(d.dir / 'mid')}},
                           'backing': {'driver': 'qcow2', 'node-name': 'base', 'file': {'driver': 'file', 'filename': str(d.dir / 'base')}}})
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'file': {'driver': 'file', 'filename': str(d.dir / 'top')}, 'backing': 'mid'})
    more = {'top-node': 'mid', 'base-node': 'base'} if job == 'commit' else {}
    d.cmd(f'block-{job}', {'job-id': 'j', 'device': 'top', **more})
    assert d.qmp.event('BLOCK_JOB_ERROR')['data'] == {'device': 'j', 'operation': 'read', 'action': 'report'}
    e = d.qmp.event('BLOCK_JOB_COMPLETED')['data']
    assert e['offset'] == 0 and e['error'] == 'No space left on device'


def test_jobs_end_when_their_device_goes(images):
    """As the disk of an emulator is unplugged."""
    img.create(images / 'base', '4M')
    img.create(images / 'top', '4M', backing=images / 'base')
    img.qemu_io(images / 'top', 'write -P 2 0 2M')
    sent = emulator.qmp(images, [('block-commit', {'job-id': 'j', 'device': 'd', 'speed': 65536}), ('device_del', {'id': 'v'}),
                                 ('human-monitor-command', {'command-line': 'qemu-io z "sleep 300"'})],
                        '-blockdev', 'null-co,node-name=z', '-drive', f'if=none,id=d,file={images}/top,format=qcow2', '-device', 'virtio-blk,id=v,drive=d')
    events = [m['event'] for m in sent if isinstance(m, dict) and 'event' in m]
    assert 'BLOCK_JOB_CANCELLED' in events and 'DEVICE_DELETED' in events, events
    assert events.index('BLOCK_JOB_CANCELLED') < events.index('SHUTDOWN')


def test_the_header_is_read_below_a_debugging_filter(images):
    """To complete options of backing images, and without any error of the filter."""
    img.create(images / 'base', '4M')
    img.create(images / 'top', '4M', backing=images / 'base')
    (images / 'conf').write_text('[inject-error]\nevent = "none"\niotype = "write"\n')
    sent = emulator.qmp(images, [('query-named-block-nodes', {'flat': True})], '-drive',
                        f'if=none,id=d,file=blkdebug:{images}/conf:{images}/top,format=qcow2,backing.node-name=below')
    nodes = {n['node-name']: n for n in emulator.replies(sent)[0]['return']}
    assert nodes['below']['file'] == f'{images}/base'


# ---- blkverify ----

def verified(d, test, raw, **more):
    d.cmd('blockdev-add', {'driver': 'blkverify', 'node-name': 'v', 'test': test, 'raw': raw, **more})
    return client(d, 'v')


def test_both_get_the_same_writes(d):
    img.create(d.dir / 'q', '4M')
    h = verified(d, {'driver': 'qcow2', 'file': {'driver': 'file', 'filename': str(d.dir / 'q')}}, raw_file(d, 'disk'))
    h.pwrite(b'x' * 5000, 300)
    h.zero(MIB, MIB)
    h.trim(MIB, 0)
    h.pwrite(b'y' * KIB, SIZE - KIB)
    h.flush()
    want = bytearray(SIZE)
    want[300:5300] = b'x' * 5000
    want[-KIB:] = b'y' * KIB
    assert h.pread(SIZE, 0) == want
    h.shutdown()
    d.cmd('block-export-del', {'id': 'v', 'mode': 'hard'})
    d.cmd('blockdev-del', {'node-name': 'v'})
    assert (d.dir / 'disk').read_bytes() == want and img.contents(d.dir / 'q', SIZE) == want


def test_a_difference_fails_the_read_and_nobody_else(d):
    bad = bytearray(SIZE)
    bad[MIB + 700] = 1
    h = verified(d, raw_file(d, 'test', bytes(bad)), raw_file(d, 'raw'))
    assert h.pread(MIB, 0) == bytes(MIB)
    fails(lambda: h.pread(64 * KIB, MIB), EIO)
    assert f'blkverify: read offset={MIB} bytes={64 * KIB} contents mismatch at offset {MIB + 700}' in d.stderr()
    h.pwrite(b'z' * KIB, MIB)
    assert h.pread(64 * KIB, MIB) == b'z' * KIB + bytes(63 * KIB), 'the same again'
    h.shutdown()


def test_results_are_compared_too(d):
    h = verified(d, {'driver': 'blkdebug', 'image': raw_file(d, 'test'), 'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': ENOSPC}]},
                 raw_file(d, 'raw'))
    fails(lambda: h.pwrite(b'z' * KIB, 0), ENOSPC)
    assert 'write offset=0 bytes=1024 return value mismatch -28 != 0' in d.stderr()
    h.shutdown()


def test_what_is_being_written_is_no_difference(d):
    h = verified(d, raw_file(d, 'test'), raw_file(d, 'raw'))
    clients = [h] + [nbd.NBD() for _ in range(3)]
    for c in clients[1:]:
        c.connect_uri(f'nbd+unix:///v?socket={d.dir}/nbd.sock')

    def load(c, n):
        for i in range(100):
            c.pwrite(bytes([n * 50 + i % 50 + 1]) * 8192, (i * 4096) % (64 * KIB))
            c.pread(16384, 0)
    threads = [threading.Thread(target=load, args=(c, n)) for n, c in enumerate(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert 'mismatch' not in d.stderr()
    assert h.pread(SIZE, 0) == (d.dir / 'test').read_bytes() == (d.dir / 'raw').read_bytes()
    [c.shutdown() for c in clients]


def test_names_on_the_command_line(images):
    """As clients see them, and as they are opened again."""
    img.create(images / 'q', '4M')
    img.create(images / 'r', '4M', fmt='raw')

    def shown(option):
        sent = emulator.qmp(images, [('query-block',)], '-drive', f'if=none,id=d,{option}')
        return emulator.replies(sent)[0]['return'][0]['inserted']['image']['filename']
    assert shown(f'file=blkverify:{images}/r:{images}/q') == f'blkverify:{images}/r:{images}/q'
    assert shown(f'file.driver=blkverify,file.raw.filename={images}/r,file.test.file.filename={images}/q') == f'blkverify:{images}/r:{images}/q'
    assert shown(f'file=blkdebug::{images}/q') == f'blkdebug::{images}/q'
    o = json.loads(shown(f'file.driver=blkdebug,file.image.filename={images}/q,file.inject-error.0.event=l1_update')[len('json:'):])
    assert o == {'driver': 'qcow2', 'file': {'driver': 'blkdebug', 'inject-error.0.event': 'l1_update', 'image': {
        'driver': 'file', 'filename': str(images / 'q')}}}


# ---- blklogwrites ----

FLUSH, FUA, DISCARD = 1, 2, 4


def read_log(path):
    """The entries of a log: (offset, length, flags, data)."""
    raw = path.read_bytes()
    magic, version, count, sector = struct.unpack_from('<QQQI', raw)
    assert (magic, version) == (0x6a736677736872, 1)
    at, entries = sector, []
    for _ in range(count):
        where, sectors, flags, length = struct.unpack_from('<QQQQ', raw, at)
        at += sector
        data = raw[at:at + length]
        assert len(data) == length
        at += -(-length // sector) * sector
        entries.append((where * sector, sectors * sector, flags, data))
    return entries


def logged(d, **more):
    (d.dir / 'log').touch()
    d.cmd('blockdev-add', {'driver': 'blklogwrites', 'node-name': 'l', 'discard': 'unmap', 'file': {**raw_file(d, 'disk'), 'discard': 'unmap'},
                           'log': {'driver': 'file', 'filename': str(d.dir / 'log')}, **{k.replace('_', '-'): v for k, v in more.items()}})
    return client(d, 'l')


def drop(d, node):
    d.cmd('block-export-del', {'id': node, 'mode': 'hard'})
    d.cmd('blockdev-del', {'node-name': node})


@pytest.mark.parametrize('sector', [512, 4096])
def test_the_log_has_what_ended(d, sector):
    h = logged(d, log_sector_size=sector)
    h.pwrite(b'a' * 8192, 4096)
    h.zero(8192, 64 * KIB)
    h.trim(4096, 128 * KIB)
    h.flush()
    h.pwrite(b'f' * 4096, 0, nbd.CMD_FLAG_FUA)
    h.shutdown()
    assert read_log(d.dir / 'log') == [(4096, 8192, 0, b'a' * 8192), (64 * KIB, 8192, 0, bytes(8192)), (128 * KIB, 4096, DISCARD, b''),
                                       (0, 0, FLUSH, b''), (0, 4096, FUA, b'f' * 4096)]
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///l?socket={d.dir}/nbd.sock')
    h.pwrite(b'u' * 512, 100)   # made to be of whole sectors
    h.shutdown()
    drop(d, 'l')
    assert read_log(d.dir / 'log')[5] == (0, 2 * 512 if sector == 512 else sector, 0, (b'f' * 100 + b'u' * 512 + b'f' * 3484)[:max(sector, 1024)])


def test_a_log_goes_on(d):
    h = logged(d, log_super_update_interval=2)
    for i in range(3):
        h.pwrite(bytes([i]) * 512, 512 * i)
    assert len(read_log(d.dir / 'log')) == 2, 'the number of entries is written every second time'
    h.shutdown()
    drop(d, 'l')
    before = read_log(d.dir / 'log')
    assert len(before) == 3
    h = logged(d, log_append=True)
    h.pwrite(b'n' * 512, 0)
    h.flush()
    h.shutdown()
    assert read_log(d.dir / 'log') == [*before, (0, 512, 0, b'n' * 512), (0, 0, FLUSH, b'')]


def test_bad_options_and_logs(d):
    def refused(**options):
        return d.qmp.error('blockdev-add', {'driver': 'blklogwrites', 'node-name': 'l', 'file': raw_file(d, 'disk'),
                                            'log': {'driver': 'file', 'filename': str(d.dir / 'log')}, **options})
    (d.dir / 'log').write_bytes(bytes(8192))
    assert refused(**{'log-sector-size': 511}) == 'Invalid log sector size 511'
    assert refused(**{'log-super-update-interval': 0}) == 'Invalid log superblock update interval 0'
    assert 'mutually exclusive' in refused(**{'log-append': True, 'log-sector-size': 512})
    assert refused(**{'log-append': True}) == 'Invalid log superblock magic'
    for fields, want in (((2, 0, 512), 'Unsupported log version 2'), ((1, 0, 100), 'Invalid log sector size 100'),
                         ((1, 1 << 60, 512), 'Could not read the log at'), ((1, 0, 0), 'Invalid log sector size 0')):
        (d.dir / 'log').write_bytes(struct.pack('<QQQI', 0x6a736677736872, *fields).ljust(8192, b'\0'))
        assert want in refused(**{'log-append': True}), fields
    (d.dir / 'log').write_bytes(struct.pack('<QQQI', 0x6a736677736872, 1, 1, 512).ljust(512, b'\0') + struct.pack('<QQQQ', 0, 1, 0, 1 << 63).ljust(512, b'\0'))
    assert 'Log ends inside of entry 0' in refused(**{'log-append': True})


def test_a_log_without_room(d):
    """Of a write that is not in the log the client is not told that it succeeded."""
    img.create(d.dir / 'log', '64k', fmt='raw')
    d.cmd('blockdev-add', {'driver': 'blklogwrites', 'node-name': 'l', 'file': raw_file(d, 'disk'),
                           'log': {'driver': 'raw', 'size': 64 * KIB, 'file': {'driver': 'file', 'filename': str(d.dir / 'log')}}})
    h = client(d, 'l')
    h.pwrite(b'a' * 4096, 0)
    fails(lambda: h.pwrite(b'b' * 128 * KIB, 0), ENOSPC)
    h.pwrite(b'c' * 4096, 0)
    h.flush()
    assert [e[3][:1] for e in read_log(d.dir / 'log')] == [b'a', b'c', b'']
    h.shutdown()


def test_every_flush_leaves_a_sound_image(d):
    """A crash right after any flush: what the log has up to there, and all that the guest was told is durable, is a sound image."""
    img.create(d.dir / 'q', '16M', options='cluster_size=4096')
    start = (d.dir / 'q').read_bytes()
    (d.dir / 'log').touch()
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap', 'file': {
        'driver': 'blklogwrites', 'file': {'driver': 'file', 'filename': str(d.dir / 'q')}, 'log': {'driver': 'file', 'filename': str(d.dir / 'log')}}})
    h = client(d, 'q')
    told = []    # (entries of the log at that time, what the disk has)
    disk = bytearray(16 * MIB)
    for i in range(12):
        for j in range(6):
            at = ((i * 7 + j * 13) % 61) * 200 * KIB
            data = bytes([1 + i * 6 + j]) * (3000 + 5000 * j)
            h.pwrite(data, at)
            disk[at:at + len(data)] = data
        if i % 3 == 2:
            h.zero(100 * KIB, i * MIB)
            disk[i * MIB:i * MIB + 100 * KIB] = bytes(100 * KIB)
        h.flush()
        told.append((len(read_log(d.dir / 'log')), bytes(disk)))
    h.shutdown()
    d.kill()
    states, at, epoch = dict(told), 0, []
    durable, checked = bytearray(start), 0

    def apply(image, writes):
        for offset, data in writes:
            image[len(image):] = bytes(max(0, offset + len(data) - len(image)))
            image[offset:offset + len(data)] = data

    def sound(image):
        (d.dir / 'crash').write_bytes(image)
        done = img.run('qemu-img', 'check', '-q', '-f', 'qcow2', d.dir / 'crash', check=False)
        assert done.returncode in (0, 3), done.stderr    # what is leaked, between two steps of a flush, does no harm
    dice = random.Random(1)
    for offset, _, flags, data in read_log(d.dir / 'log'):
        at += 1
        if data:
            epoch.append((offset, data))
        if flags & FLUSH:
            # Of what was not flushed yet any part may be lost.
            for kept in (epoch[-1:], [w for w in epoch if dice.random() < 0.5]):
                crash = bytearray(durable)
                apply(crash, kept)
                sound(crash)
            apply(durable, epoch)
            epoch = []
            sound(durable)
            if at in states:
                assert img.contents(d.dir / 'crash', 16 * MIB) == states[at]
            checked += 1
    assert checked >= 12 and set(states) <= set(range(at + 1))
