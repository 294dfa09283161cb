# SPDX-License-Identifier: BSD-3-Clause
"""The command line: every option in both syntaxes, what is wrong with one in one line, background, pidfile, and the end."""
import fcntl
import json
import os
import resource
import re
import signal
import socket
import struct
import subprocess
import time

import nbd
import pytest

from lib import images as img
from lib.daemon import SLOW, Daemon, daemon_binary
from lib.qmp import Qmp


def run(*argv, timeout=60, **kwargs):
    return subprocess.run([daemon_binary(), *map(str, argv)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=timeout * SLOW, text=True, check=False, **kwargs)


def bad(*argv, **kwargs):
    """The one line that it says, without the program's name; status 1."""
    done = run(*argv, **kwargs)
    assert done.returncode == 1 and done.stdout == '', done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('cutpointd: '), done.stderr
    return lines[0][len('cutpointd: '):]


# ---- help and such ----

def test_help():
    for option in ('-h', '--help'):
        done = run(option)
        assert done.returncode == 0 and done.stderr == ''
        for name in ('--blockdev', '--chardev', '--daemonize', '--export', '--help', '--monitor', '--nbd-server', '--object', '--pidfile',
                     '--version', '--snapshot-journal'):
            assert name in done.stdout
    assert run('--help', '--nonsense').returncode == 0


def test_help_names_what_is_there(daemon):
    """The lists come from the drivers' register and from the schema: all of it, and nothing else."""
    help_text = run('--help').stdout
    schema = {e['name']: e for e in daemon().cmd('query-qmp-schema')}
    offered = {}
    for section in re.split(r'^--', help_text, flags=re.M)[1:]:
        option, _, body = section.partition('\n')
        offered[option] = re.findall(r'^  ([a-z][a-z0-9_-]*)(?= |$)', body.replace('  all of them:', '  ALL'), re.M)
    assert set(offered) == {'blockdev', 'chardev', 'export', 'monitor', 'nbd-server', 'object', 'snapshot-journal'}

    def values(command, tag):
        arg = schema[schema[command]['arg-type']]
        return {m['name'] for m in schema[next(m for m in arg['members'] if m['name'] == tag)['type']]['members']}
    assert set(offered['object']) == values('object-add', 'qom-type')
    assert set(offered['export']) == values('block-export-add', 'type')
    assert set(offered['blockdev']) <= values('blockdev-add', 'driver') and {'file', 'qcow2'} <= set(offered['blockdev'])
    for driver in set(offered['blockdev']):  # each can be asked for, with its options
        text = run('--blockdev', f'driver={driver},help').stdout
        branch = next(v for v in schema[schema['blockdev-add']['arg-type']]['variants'] if v['case'] == driver)
        for member in schema[branch['type']]['members']:
            assert re.search(rf'[ \[|]{re.escape(member["name"])}[=.]', text), (driver, member['name'])


@pytest.mark.parametrize('argv, texts', [
    (['--blockdev', 'help'], ['--blockdev: open a node', 'qcow2', '[read-only=on|off]', 'filename=TEXT']),
    (['--blockdev', 'qcow2,help'], ['file=TEXT|file.driver=...', '[backing=TEXT|backing.driver=...]', '[node-name=TEXT]']),
    (['--object', '?'], ['throttle-group', '[limits.bps-total=NUMBER]', 'rules.0.match']),
    (['--object', 'qom-type=secret,help'], ['[format=raw|base64]', 'id=TEXT']),
    (['--chardev', 'help'], ['socket', '[reconnect-ms=]']),
    (['--chardev', 'pipe,help'], ['pipe', '[path=]']),
    (['--export', 'vhost-user-blk,help'], ['addr.type=', '[serial=TEXT]']),
    (['--monitor', 'help'], ['[mode=readline|control]']),
    (['--nbd-server', 'help'], ['[max-connections=NUMBER]']),
    (['--snapshot-journal', 'help'], ['[damaged=refuse|set-aside]']),
])
def test_help_of_an_option(argv, texts):
    done = run(*argv)
    assert done.returncode == 0 and done.stderr == ''
    for text in texts:
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_no_help_of_what_is_not_there():
    for argv in (['--blockdev', 'nosuch,help'], ['--chardev', 'nosuch,help'], ['--object', 'nosuch,help']):
        assert run(*argv).returncode == 1


def test_version():
    for option in ('-V', '--version'):
        done = run(option)
        assert done.returncode == 0 and re.match(r'cutpointd version \d+\.\d+', done.stdout) and done.stderr == ''


# ---- every option ----

def test_dotted_keys_and_json(daemon, images):
    """The same daemon twice: what queries show is the same."""
    img.create(images / 'base.qcow2')
    img.create(images / 'top.qcow2', backing=images / 'base.qcow2')
    seen = []
    dotted = ['--object', 'iothread,id=io0',
              '--blockdev', f'driver=file,node-name=f,filename={images}/top.qcow2,discard=unmap,cache.direct=on,cache.no-flush=off,aio=io_uring',
              '--blockdev', f'qcow2,node-name=q,file=f,discard=unmap,detect-zeroes=unmap,cache.direct=on,backing.driver=qcow2,'
                            f'backing.node-name=b,backing.file.driver=file,backing.file.filename={images}/base.qcow2,backing.backing=',
              '--blockdev', 'null-co,node-name=z,size=1048576,read-zeroes=on,read-only=on',
              '--blockdev', 'raw,node-name=r,offset=4096,size=8192,file=z,read-only=on',
              '--nbd-server', f'addr.type=unix,addr.path={images}/nbd,max-connections=7,handshake-max-seconds=5',
              '--export', 'nbd,id=e,node-name=q,name=q,,1,writable=on,writethrough=on,iothread=io0,description=the disk,allocation-depth=on',
              '--export', 'type=nbd,id=r,node-name=r']
    as_json = ['--object', {'qom-type': 'iothread', 'id': 'io0'},
               '--blockdev', {'driver': 'file', 'node-name': 'f', 'filename': f'{images}/top.qcow2', 'discard': 'unmap',
                              'cache': {'direct': True, 'no-flush': False}, 'aio': 'io_uring'},
               '--blockdev', {'driver': 'qcow2', 'node-name': 'q', 'file': 'f', 'discard': 'unmap', 'detect-zeroes': 'unmap',
                              'cache': {'direct': True}, 'backing': {'driver': 'qcow2', 'node-name': 'b', 'backing': None,
                                                                   'file': {'driver': 'file', 'filename': f'{images}/base.qcow2'}}},
               '--blockdev', {'driver': 'null-co', 'node-name': 'z', 'size': 1 << 20, 'read-zeroes': True, 'read-only': True},
               '--blockdev', {'driver': 'raw', 'node-name': 'r', 'offset': 4096, 'size': 8192, 'file': 'z', 'read-only': True},
               '--nbd-server', {'addr': {'type': 'unix', 'path': f'{images}/nbd'}, 'max-connections': 7, 'handshake-max-seconds': 5},
               '--export', {'type': 'nbd', 'id': 'e', 'node-name': 'q', 'name': 'q,1', 'writable': True, 'writethrough': True,
                            'iothread': 'io0', 'description': 'the disk', 'allocation-depth': True},
               '--export', {'type': 'nbd', 'id': 'r', 'node-name': 'r'}]
    for argv in (dotted, [json.dumps(a) if isinstance(a, dict) else a for a in as_json]):
        d = daemon(*argv)
        nodes = [{k: v for k, v in n.items() if not n['node-name'].startswith('#') or k != 'node-name'}
                 for n in d.cmd('query-named-block-nodes')]
        text = re.sub(r'#block\w+', '#block', json.dumps(nodes, sort_keys=True))
        h = nbd.NBD()
        h.add_meta_context('qemu:allocation-depth')
        h.connect_uri(f'nbd+unix:///q,1?socket={images}/nbd')
        assert h.can_meta_context('qemu:allocation-depth') and h.get_export_name() == 'q,1'
        h.shutdown()
        seen.append((text, d.cmd('query-block-exports')))
        d.stop()
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 2


def test_options_are_carried_out_in_order(images):
    assert bad('--blockdev', 'null-co,node-name=z', '--export', 'nbd,id=e,node-name=z').endswith('NBD server not running')
    nbd_server = ('--nbd-server', f'addr.type=unix,addr.path={images}/n')
    assert bad(*nbd_server, '--export', 'nbd,id=e,node-name=z', '--blockdev', 'null-co,node-name=z') \
        == "--export nbd,id=e,node-name=z: Cannot find device='' nor node-name='z'"
    assert not (images / 'n').exists()


@pytest.mark.parametrize('argv, text', [
    (['--nonsense'], "unrecognized option '--nonsense'"),
    (['--blockdev'], "option '--blockdev' requires an argument"),
    (['-x'], "invalid option -- 'x'"),
    (['--daemonize=yes'], "option '--daemonize' doesn't allow an argument"),
    (['image.qcow2'], 'image.qcow2: Unexpected argument'),
    (['--blockdev', ''], "--blockdev : Parameter 'driver' is missing"),
    (['--blockdev', 'nonsense'], "--blockdev nonsense: Parameter 'driver' does not accept value 'nonsense'"),
    (['--blockdev', 'null-co,size=x'], "--blockdev null-co,size=x: Parameter 'size' expects integer"),
    (['--blockdev', 'null-co,nonsense=1'], "--blockdev null-co,nonsense=1: Parameter 'nonsense' is unexpected"),
    (['--blockdev', 'null-co,node-name=1'], "--blockdev null-co,node-name=1: Invalid node-name: '1'"),
    (['--blockdev', 'null-co'], None),
    (['--blockdev', 'null-co,node-name=a', '--blockdev', 'null-co,node-name=a'], "Duplicate nodes with node-name='a'"),
    (['--blockdev', 'null-co,node-name=a,read-only=maybe'], "Parameter 'read-only' expects 'on' or 'off'"),
    (['--blockdev', 'file,node-name=f'], "Parameter 'filename' is missing"),
    (['--blockdev', 'file,node-name=f,filename=/nonexistent'], "Could not open '/nonexistent': No such file or directory"),
    (['--blockdev', 'file,node-name=f,filename=/tmp\n/x'], "Could not open '/tmp\\x0a/x': No such file or directory"),
    (['--blockdev', 'qcow2,node-name=q,file=none'], "Cannot find device='none' nor node-name='none'"),
    (['--blockdev', 'a=1,a.b=2'], "Parameters 'a.*' used inconsistently"),
    (['--blockdev', '{'], 'JSON parse error'),
    (['--blockdev', '{"driver": "null-co"} x'], 'JSON parse error'),
    (['--blockdev', '{"driver": "null-co", "node-name": 5}'], "Invalid parameter type for 'node-name', expected: string"),
    (['--object', 'iothread'], "Parameter 'id' is missing"),
    (['--object', 'nonsense,id=x'], 'nonsense'),
    (['--object', 'iothread,id=a', '--object', 'iothread,id=a'], 'a'),
    (['--chardev', 'stdio'], 'id'),
    (['--chardev', 'nonsense,id=c'], 'nonsense'),
    (['--chardev', 'socket,id=c'], 'path'),
    (['--chardev', 'socket,id=c,path=/nonexistent/x,server=on,wait=off'], 'Failed to bind socket to /nonexistent/x'),
    (['--chardev', 'socket,id=c,path=/nonexistent/x'], "Failed to connect to '/nonexistent/x': No such file or directory"),
    (['--chardev', 'socket,id=c,fd=0'], 'not a socket'),
    (['--chardev', 'socket,id=c,fd=999'], '999'),
    (['--monitor', 'none'], 'chardev "none" not found'),
    (['--monitor', 'mode=control'], "Parameter 'chardev' is missing"),
    (['--chardev', 'stdio,id=c', '--monitor', 'c', '--monitor', 'c'], 'c'),
    (['--nbd-server', 'addr.type=unix'], "Parameter 'addr.path' is missing"),
    (['--nbd-server', 'addr.type=unix,addr.path=/nonexistent/x'], 'Failed to bind socket to /nonexistent/x'),
    (['--nbd-server', 'addr.type=inet,addr.host=127.0.0.1,addr.port=x'], "Failed to parse port 'x'"),
    (['--nbd-server', 'addr.type=fd,addr.str=0'], "File descriptor '0' is not a socket"),
    (['--nbd-server', 'nonsense=1'], 'nonsense'),
    (['--export', 'nonsense,id=e,node-name=z'], "Parameter 'type' does not accept value 'nonsense'"),
    (['--export', 'nbd,node-name=z'], "Parameter 'id' is missing"),
    (['--pidfile', '/nonexistent/pid'], 'cannot create PID file'),
    (['--snapshot-journal', '/nonexistent/j.db'], '/nonexistent/j.db'),
    (['--snapshot-journal', 'a', '--snapshot-journal', 'b'], 'can be given only once'),
], ids=lambda v: ' '.join(v)[:60] if isinstance(v, list) else None)
def test_bad_options(argv, text):
    if text is None:
        text = 'node-name'
    assert text in bad(*argv)


def test_a_bad_option_leaves_nothing(images):
    """What earlier options made is taken down again."""
    path = img.create(images / 'a.qcow2')
    before = path.read_bytes()
    assert 'nonsense' in bad('--chardev', f'socket,id=c,path={images}/c,server=on,wait=off', '--monitor', 'c', '--nbd-server',
                             f'addr.type=unix,addr.path={images}/n', '--blockdev', f'qcow2,node-name=a,file.driver=file,file.filename={path}',
                             '--export', 'nbd,id=e,node-name=a,writable=on', '--pidfile', images / 'pid', '--blockdev', 'nonsense')
    assert sorted(p.name for p in images.iterdir()) == ['a.qcow2']
    assert path.read_bytes() == before
    assert img.can_write(path)


# ---- background ----

def wait_for_end(pid, seconds=40):
    deadline = time.monotonic() + seconds * SLOW
    while os.path.exists(f'/proc/{pid}') and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f'/proc/{pid}')


def test_daemonize_and_pidfile(images):
    img.create(images / 'a.qcow2')
    done = run('--daemonize', '--pidfile', 'pid', '--chardev', 'socket,id=c,path=qmp,server=on,wait=off', '--monitor', 'c',
               '--blockdev', 'qcow2,node-name=a,file.driver=file,file.filename=a.qcow2', cwd=images)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')  # and the pipes are closed, or run() had not returned
    pid = int((images / 'pid').read_text())
    try:
        assert os.readlink(f'/proc/{pid}/cwd') == '/' and os.getsid(pid) == pid
        assert {os.readlink(f'/proc/{pid}/fd/{n}') for n in range(3)} == {'/dev/null'}
        with Qmp(str(images / 'qmp')) as q:  # ready when the first process has ended
            assert q.cmd('query-named-block-nodes')
        with open(images / 'pid', encoding='ascii') as f, pytest.raises(BlockingIOError):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = run('--daemonize', '--pidfile', images / 'pid')
        assert second.returncode == 1 and 'belongs to a running process' in second.stderr and second.stderr.count('\n') == 1
        assert int((images / 'pid').read_text()) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)
    assert sorted(p.name for p in images.iterdir()) == ['a.qcow2']
    img.check(images / 'a.qcow2')


def test_room_for_descriptors(daemon):
    """Its table of descriptors need not grow while it runs: in a process with threads that takes a while."""
    d = daemon()
    with open(f'/proc/{d.pid}/status', encoding='ascii') as f:
        size = next(int(line.split()[1]) for line in f if line.startswith('FDSize:'))
    assert size >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 16384)
    assert len(d.descriptors()) < 64


def test_daemonize_tells_errors(images):
    assert "Could not open '/nonexistent'" in bad('--daemonize', '--pidfile', images / 'pid', '--blockdev',
                                                  'file,node-name=f,filename=/nonexistent')
    assert list(images.iterdir()) == []


def test_stale_pidfile(images):
    (images / 'pid').write_text('99999999\n')
    d = Daemon(['--pidfile', images / 'pid'])
    assert (images / 'pid').read_text() == f'{d.pid}\n'
    (images / 'pid').unlink()
    (images / 'pid').write_text('of another\n')
    d.stop()
    assert (images / 'pid').read_text() == 'of another\n'


# ---- the end ----

@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_cleanly(images, sig):
    """What was written is in the image, which is clean and free; sockets are gone."""
    path = img.create(images / 'a.qcow2', options='lazy_refcounts=on')
    d = Daemon(['--nbd-server', f'addr.type=unix,addr.path={images}/n', '--blockdev',
                f'qcow2,node-name=a,file.driver=file,file.filename={path}', '--export', 'nbd,id=e,node-name=a,name=a,writable=on'])
    h = nbd.NBD()
    h.connect_uri(f'nbd+unix:///a?socket={images}/n')
    h.pwrite(b'end' * 1000, 12345)
    d.process.send_signal(sig)
    assert d.wait() == 0
    d.stop()
    assert sorted(p.name for p in images.iterdir()) == ['a.qcow2']
    img.check(path)
    assert img.contents(path, 3000, 12345) == b'end' * 1000
    assert img.can_write(path)


def test_sigterm_with_hung_clients(images):
    """Clients that neither read nor write nor go: NBD in each phase, and a monitor."""
    path = img.create(images / 'a.qcow2')
    d = Daemon(['--nbd-server', f'addr.type=unix,addr.path={images}/n,handshake-max-seconds=0', '--blockdev',
                f'qcow2,node-name=a,file.driver=file,file.filename={path}', '--export', 'nbd,id=e,node-name=a,name=a,writable=on'])
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(images / 'n'))
    h = nbd.NBD()
    h.set_request_structured_replies(False)
    h.connect_uri(f'nbd+unix:///a?socket={images}/n')
    h.pwrite(os.urandom(1 << 20), 0)
    with socket.socket(fileno=os.dup(h.aio_get_fd())) as raw:
        raw.setblocking(False)
        try:  # reads whose answers nobody takes, then half of a write
            for i in range(100):
                raw.send(struct.pack('>IHHQQI', 0x25609513, 0, 0, i, 0, 1 << 20))
            raw.send(struct.pack('>IHHQQI', 0x25609513, 0, 1, 101, 0, 1 << 20) + b'half')
        except BlockingIOError:
            pass
        d.qmp.send_raw('{"execute": "query-qmp-schema"}' * 50)
        d.process.send_signal(signal.SIGTERM)
        assert d.wait(40) == 0
    silent.close()
    d.stop()
    img.check(path)


def test_end_while_starting(images):
    """SIGTERM while a socket waits for its first client."""
    d = Daemon(['--chardev', f'socket,id=c,path={images}/c,server=on', '--monitor', 'c', '--pidfile', images / 'pid'], monitor=False)
    deadline = time.monotonic() + 20 * SLOW
    while not (images / 'c').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    d.stop()
    assert list(images.iterdir()) == []
