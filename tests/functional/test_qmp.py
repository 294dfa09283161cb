# SPDX-License-Identifier: BSD-3-Clause
"""QMP as clients see it: greeting, negotiation, ids, classes and texts of errors, events, several monitors, kinds of character devices, and
input that is too much or no JSON at all."""
import json
import os
import socket
import subprocess
import threading
import time

import pytest

from lib import images as img
from lib.daemon import MEASURED, SLOW, Daemon, daemon_binary
from lib.qmp import Qmp, QmpClosed, QmpTimeout

MIB = 1 << 20


@pytest.fixture
def d(daemon):
    return daemon(env=MEASURED)


def raw_reply(qmp, text):
    qmp.send_raw(text)
    return qmp.reply()


def error_of(qmp, text):
    reply = raw_reply(qmp, text)
    assert 'error' in reply, reply
    return reply['error']['class'], reply['error']['desc']


# ---- session ----

def test_greeting_and_negotiation(d):
    d.qmp.close()
    with d.connect(negotiate=False) as q:
        line = q.receive_line()
        greeting = json.loads(line)
        assert list(greeting) == ['QMP'] and set(greeting['QMP']) == {'version', 'capabilities'}
        assert set(greeting['QMP']['version']) == {'qemu', 'package'}
        assert set(greeting['QMP']['version']['qemu']) == {'major', 'minor', 'micro'}
        expected = ('CommandNotFound', "Expecting capabilities negotiation with 'qmp_capabilities'")
        assert error_of(q, '{"execute": "query-version"}') == expected
        assert error_of(q, '{"execute": "no-such-command"}') == expected
        assert error_of(q, '{"execute": "qmp_capabilities", "arguments": {"enable": ["nonsense"]}}')[0] == 'GenericError'
        assert error_of(q, '{"execute": "qmp_capabilities", "arguments": {"x": 1}}') == ('GenericError', "Parameter 'x' is unexpected")
        assert raw_reply(q, '{"execute": "qmp_capabilities", "id": 7}') == {'return': {}, 'id': 7}
        assert error_of(q, '{"execute": "qmp_capabilities"}') == \
            ('CommandNotFound', 'Capabilities negotiation is already complete, command ignored')
        assert set(q.cmd('query-version')) == {'qemu', 'package'}
    with d.connect(negotiate=False) as q:  # the next client negotiates anew
        q.receive()
        assert error_of(q, '{"execute": "query-version"}') == expected


def test_lines(d):
    """One line a message, ended by CR LF, in ASCII."""
    d.qmp.send_raw('{"execute": "no-\u00e4\U0001f600"}')
    deadline = time.monotonic() + 20 * SLOW
    while not d.qmp.buffer.endswith(b'\n') and time.monotonic() < deadline:
        d.qmp.buffer += d.qmp.sock.recv(65536)
    assert d.qmp.buffer.endswith(b'}\r\n') and d.qmp.buffer.count(b'\n') == 1
    assert d.qmp.buffer.isascii() and rb'no-\u00E4\uD83D\uDE00 has not been found' in d.qmp.buffer


@pytest.mark.parametrize('id', ['5', '"x"', 'null', 'true', '-1.5', '[1, {"a": []}]', '{"b": {}}', '18446744073709551615'])
def test_ids(d, id):
    for text in ('{"execute": "query-version", "id": %s}', '{"id": %s, "execute": "query-version"}', '{"id": %s, "execute": "nope"}',
                 '{"id": %s, "execute": "query-version", "arguments": {"x": 1}}', '{"id": %s}', '{"id": %s, "execute": 5}'):
        reply = raw_reply(d.qmp, text % id)
        assert 'id' in reply and reply['id'] == json.loads(id) and ('return' in reply) != ('error' in reply)
    assert 'id' not in raw_reply(d.qmp, '{"execute": "query-version"}')


def test_requests_of_a_wrong_shape(d):
    for text, desc in (
            ('[]', 'QMP input must be a JSON object'),
            ('5 ', 'QMP input must be a JSON object'),
            ('"x"', 'QMP input must be a JSON object'),
            ('null ', 'QMP input must be a JSON object'),
            ('{}', "QMP input lacks member 'execute'"),
            ('{"arguments": {}}', "QMP input lacks member 'execute'"),
            ('{"execute": 1}', "QMP input member 'execute' must be a string"),
            ('{"execute": "query-version", "arguments": []}', "QMP input member 'arguments' must be an object"),
            ('{"execute": "query-version", "args": {}}', "QMP input member 'args' is unexpected"),
            ('{"execute": "query-version", "arguments": {"a": 1}}', "Parameter 'a' is unexpected"),
            ('{"execute": "blockdev-del"}', "Parameter 'node-name' is missing"),
            ('{"execute": "blockdev-del", "arguments": {"node-name": 5}}',
             "Invalid parameter type for 'node-name', expected: string"),
            ('{"execute": "transaction", "arguments": {"actions": {}}}', "Invalid parameter type for 'actions', expected: array"),
            ('{"execute": "transaction", "arguments": {"actions": [5]}}',
             "Invalid parameter type for 'actions[0]', expected: object"),
            ('{"execute": "transaction", "arguments": {"actions": [{"type": "x", "data": {}}]}}',
             "Parameter 'type' does not accept value 'x'"),
            ('{"execute": "transaction", "arguments": {"actions": [{"type": "abort"}]}}', "Parameter 'actions[0].data' is missing"),
            ('{"execute": "transaction", "arguments": {"actions": [], "properties": {"completion-mode": "x"}}}',
             "Parameter 'completion-mode' does not accept value 'x'"),
            ('{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "q", "file": 5}}',
             "Invalid parameter type for 'file', expected: BlockdevRef")):
        assert error_of(d.qmp, text) == ('GenericError', desc), text
    assert error_of(d.qmp, '{"execute": "nope"}') == ('CommandNotFound', 'The command nope has not been found')
    assert error_of(d.qmp, '{"execute": "block-job-cancel", "arguments": {"device": "j"}}')[0] == 'DeviceNotActive'


def test_text_that_is_no_json(d):
    for text, desc in (
            ('{"execute" 5}', 'missing : in object pair'), ('{5: 1}', 'key is not a string in object'),
            ('{"execute": "x" "y"}', 'expected separator in dict'), ('[1 2]', 'expected separator in list'),
            ('{"a": 1, "a": 2}', 'duplicate key'), ('[nonsense]', "invalid keyword 'nonsense'"), ('{"a": ]', None),
            ('["\\x"]', None), ('[1e999]', "number out of range '1e999'")):
        error = error_of(d.qmp, text + '\n')
        assert error[0] == 'GenericError' and error[1].startswith('JSON parse error, ' + (desc or '')), (text, error)
        while True:  # the rest of the line may be told of too
            reply = raw_reply(d.qmp, '{"execute": "query-version", "id": "sync"}')
            if reply.get('id') == 'sync':
                break
    for text in (b'\xff', b'{"execute": "query-\x01version"}', b'{"a": \x80}\n', b'\x00'):
        d.qmp.send_raw(text)
        assert d.qmp.reply()['error']['desc'].startswith('JSON parse error, ')
        d.qmp.send_raw(b'\xff{"execute": "query-version", "id": "sync"}')
        while d.qmp.reply().get('id') != 'sync':
            pass


def test_framing(d):
    """No lines are needed; single quotes will do; a byte at a time will do; one reply each, in order."""
    d.qmp.send_raw("{'execute': 'query-version', 'id': 1}{\"execute\":\"query-jobs\",\"id\":2} {\n\"execute\"\n:\t\"query-block\" , \"id\":3}")
    assert [d.qmp.reply()['id'] for _ in range(3)] == [1, 2, 3]
    for c in '{"execute": "query-version", "id": "slow"}':
        d.qmp.send_raw(c)
    assert d.qmp.reply()['id'] == 'slow'
    d.qmp.send_raw(''.join('{"execute": "query-version", "id": %d}' % i for i in range(2000)))
    assert [d.qmp.reply()['id'] for _ in range(2000)] == list(range(2000))


def test_one_session_is_served_in_order(d, images):
    """A command waits for the slow one before it."""
    img.create(images / 'a.qcow2')
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': f'{images}/a.qcow2'}})
    d.qmp.send_raw(json.dumps({'execute': 'blockdev-snapshot-sync', 'id': 'slow', 'arguments': {
        'node-name': 'a', 'snapshot-node-name': 'o', 'snapshot-file': f'{images}/o'}}) +
        '{"execute": "query-named-block-nodes", "id": "after"}{"execute": "query-version", "id": "last"}')
    replies = [d.qmp.reply() for _ in range(3)]
    assert [r['id'] for r in replies] == ['slow', 'after', 'last']
    assert 'o' in [n['node-name'] for n in replies[1]['return']]


# ---- too much ----

def memory(d, what='VmRSS'):
    with open(f'/proc/{d.pid}/status', encoding='ascii') as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) * 1024


def test_100_mb_of_rubbish_in_a_line(d):
    before = memory(d)
    for begin, junk in ((b'', b'x'), (b'', b'{"a": ['), (b'["', b'y'), (b'"', b'\\"'), (b'', b'[1,')):
        d.qmp.send_raw(begin)
        block = junk * (MIB // len(junk) + 1)
        megabytes = 100 if junk == b'x' else 20
        sender = threading.Thread(target=lambda b=block, n=megabytes: [d.qmp.sock.sendall(b) for _ in range(n)])
        sender.start()
        errors = []
        d.qmp.sock.settimeout(120 * SLOW)
        reader_done = False
        while not reader_done:
            try:
                errors.append(d.qmp.reply(0.2 if not sender.is_alive() else 1))
            except QmpTimeout:
                reader_done = not sender.is_alive()
        sender.join()
        d.qmp.sock.settimeout(120 * SLOW)
        d.qmp.send_raw('\n"\n}]\xff\n{"execute": "query-version", "id": "after"}\n')
        while True:
            reply = d.qmp.reply(60 * SLOW)
            if reply.get('id') == 'after':
                break
            errors.append(reply)
        assert 1 <= len(errors) <= 8 and all(e['error']['desc'].startswith(('JSON parse error', 'JSON ')) for e in errors), errors[:5]
    assert memory(d) - before < 200 * MIB


def test_random_bytes(d):
    """Each thing that is no JSON is told of, as QEMU does; the next client is served as ever."""
    d.qmp.sock.settimeout(60 * SLOW)
    sender = threading.Thread(target=lambda: d.qmp.sock.sendall(os.urandom(MIB // 4) + b'\n"\n\xff}]\n{"execute": "query-version", "id": "after"}\n'))
    sender.start()
    while d.qmp.reply().get('id') != 'after':
        pass
    sender.join()
    d.qmp.close()
    d.qmp = d.connect()
    assert d.cmd('query-jobs') == []


def test_limits(d):
    deep = '[' * 1025 + ']' * 1025 + '\n'
    assert error_of(d.qmp, deep) == ('GenericError', 'JSON nesting depth limit exceeded')
    assert d.cmd('query-jobs') == []
    assert error_of(d.qmp, '[' * 1024 + ']' * 1024) == ('GenericError', 'QMP input must be a JSON object')
    assert error_of(d.qmp, '{"execute": "x", "arguments": ' + '{"a":' * 1024 + '1' + '}' * 1024 + '}\n') == \
        ('GenericError', 'JSON nesting depth limit exceeded')
    assert d.cmd('query-jobs') == []
    assert error_of(d.qmp, '[' + '1,' * (2 << 20) + '1]\n') == ('GenericError', 'JSON token count limit exceeded')
    assert d.cmd('query-jobs') == []
    assert error_of(d.qmp, '["' + 'x' * (65 << 20) + '"]\n') == ('GenericError', 'JSON token size limit exceeded')
    assert d.cmd('query-jobs') == []


def test_client_that_does_not_read(daemon, images):
    """It is not served on while its replies wait; others are, and what is kept for it is bounded.  When it reads, it gets them all."""
    d = daemon('--chardev', f'socket,id=m2,path={images}/m2,server=on,wait=off', '--monitor', 'm2', env=MEASURED)
    d.cmd('query-qmp-schema')
    before = memory(d)
    with Qmp(str(images / 'm2'), timeout=60 * SLOW) as lazy:
        request = b'{"execute": "query-qmp-schema"}'
        lazy.sock.setblocking(False)
        stuck = time.monotonic()
        sent = 0
        while sent < 1000 * len(request) and time.monotonic() - stuck < 1:
            try:
                n = lazy.sock.send(request[sent % len(request):])
                sent += n
                stuck = time.monotonic()
            except BlockingIOError:
                d.cmd('query-version')
        for _ in range(20):
            d.cmd('query-jobs')
        assert memory(d) - before < 100 * MIB
        lazy.sock.settimeout(60 * SLOW)
        for _ in range(min(5, sent // len(request))):
            assert len(lazy.reply()['return']) > 100
    d.cmd('query-jobs')


def test_client_that_goes_away(d, images):
    """In the middle of a request, of a reply, of a command: the next one is served, and the command is done."""
    for text in ('{"execute": "query', '{"execute": "query-qmp-schema"}' * 5, ''):
        d.qmp.send_raw(text)
        d.qmp.close()
        d.qmp = d.connect()
        assert d.cmd('query-jobs') == []
    for i in range(3):
        img.create(images / f'{i}.qcow2')
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f'n{i}', 'file': {'driver': 'file', 'filename': f'{images}/{i}.qcow2'}})
    d.qmp.send('transaction', {'actions': [{'type': 'blockdev-snapshot-sync', 'data': {
        'node-name': f'n{i}', 'snapshot-node-name': f'o{i}', 'snapshot-file': f'{images}/o{i}'}} for i in range(3)]})
    d.qmp.sock.shutdown(socket.SHUT_RDWR)
    d.qmp.close()
    d.qmp = d.connect()
    deadline = time.monotonic() + 30 * SLOW
    names = set()
    while not {'o0', 'o1', 'o2'} <= names and time.monotonic() < deadline:
        names = {n['node-name'] for n in d.cmd('query-named-block-nodes')}
    assert {'o0', 'o1', 'o2'} <= names
    with pytest.raises(QmpTimeout):
        d.qmp.receive(0.2)  # the reply was not ours


# ---- several monitors ----

def test_events_go_to_all_that_have_negotiated(daemon, images):
    d = daemon('--chardev', f'socket,id=m2,path={images}/m2,server=on,wait=off', '--monitor', 'm2',
               '--chardev', f'socket,id=m3,path={images}/m3,server=on,wait=off', '--monitor', 'm3,pretty=on',
               '--nbd-server', f'addr.type=unix,addr.path={images}/n', '--blockdev', 'null-co,node-name=z',
               '--export', 'nbd,id=e,node-name=z')
    with Qmp(str(images / 'm2')) as second, Qmp(str(images / 'm3'), negotiate=False) as silent:
        greeting = b''
        while not greeting.endswith(b'}\r\n') or greeting.count(b'{') != greeting.count(b'}'):
            greeting += silent.receive_line() + b'\r\n'
        assert greeting.count(b'\n') > 5 and json.loads(greeting)['QMP']
        d.cmd('block-export-del', {'id': 'e'})
        for q in (d.qmp, second):
            e = q.event('BLOCK_EXPORT_DELETED')
            assert set(e) == {'timestamp', 'event', 'data'} and set(e['timestamp']) == {'seconds', 'microseconds'}
            assert e['data'] == {'id': 'e'} and abs(e['timestamp']['seconds'] - time.time()) < 100 * SLOW
        with pytest.raises(QmpTimeout):
            silent.receive(0.2)


def test_slow_command_stalls_no_other(daemon, images):
    """A transaction waits for a file system that does not answer: other monitors do all they want meanwhile, in the same daemon."""
    frozen = images / 'frozen'
    frozen.mkdir()
    loop = images / 'fs'
    img.run('truncate', '-s', '32M', loop)
    img.run('mkfs.ext4', '-q', loop)
    img.run('mount', '-o', 'loop', loop, frozen)
    thawed = False
    try:
        img.create(images / 'a.qcow2')
        d = daemon('--chardev', f'socket,id=m2,path={images}/m2,server=on,wait=off', '--monitor', 'm2',
                   '--blockdev', f'qcow2,node-name=a,file.driver=file,file.filename={images}/a.qcow2')
        img.run('fsfreeze', '-f', frozen)
        d.qmp.send('blockdev-snapshot-sync', {'node-name': 'a', 'snapshot-node-name': 'o', 'snapshot-file': str(frozen / 'o')})
        with Qmp(str(images / 'm2')) as second:
            for i in range(20):
                second.cmd('query-named-block-nodes')
                second.cmd('blockdev-add', {'driver': 'null-co', 'node-name': f'z{i}'})
                second.cmd('blockdev-del', {'node-name': f'z{i}'})
                img.create(images / f'{i}.qcow2')
                second.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': f'q{i}',
                                            'file': {'driver': 'file', 'filename': f'{images}/{i}.qcow2'}})
                second.cmd('blockdev-snapshot-sync', {'node-name': f'q{i}', 'snapshot-node-name': f's{i}',
                                                      'snapshot-file': f'{images}/s{i}'})
            with pytest.raises(QmpTimeout):
                d.qmp.reply(0.1)
        img.run('fsfreeze', '-u', frozen)
        thawed = True
        assert d.qmp.reply() == {'return': {}}
        d.stop()
    finally:
        if not thawed:
            img.run('fsfreeze', '-u', frozen, check=False)
        img.run('umount', '-l', frozen)


# ---- kinds of devices ----

def negotiate(sock):
    q = Qmp(sock)
    assert q.cmd('query-jobs') == []
    return q


def test_socket_client(images):
    """server=off: the daemon connects to us."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(images / 'here'))
        listening.listen()
        d = Daemon(['--chardev', f'socket,id=c,path={images}/here', '--monitor', 'c'], monitor=False)
        listening.settimeout(20 * SLOW)
        q = negotiate(listening.accept()[0])
        d.sessions.append(q)
        q.cmd('quit')
        assert d.wait() == 0
        d.stop()


@pytest.mark.parametrize('server', [True, False])
def test_inherited_descriptor(images, server):
    """libvirt's way: the listening socket (or a connection) is inherited."""
    if server:
        ours = socket.socket(socket.AF_UNIX)
        ours.bind(str(images / 'here'))
        ours.listen()
        theirs = ours
    else:
        ours, theirs = socket.socketpair()
    d = Daemon(['--chardev', f'socket,id=c,fd={theirs.fileno()}' + (',server=on' if server else ''), '--monitor', 'c'], monitor=False,
               pass_fds=(theirs.fileno(),))
    theirs.close()
    if server:
        q = Qmp(str(images / 'here'))
    else:
        q = Qmp(ours)
    d.sessions.append(q)
    assert q.cmd('query-jobs') == []
    d.stop()


def test_tcp(daemon):
    d = daemon('--chardev', 'socket,id=t,host=127.0.0.1,port=31800,to=31899,server=on,wait=off', '--monitor', 't')
    ports = [int(line.split()[3].rsplit(':', 1)[1]) for line in img.run('ss', '-tlnpH').splitlines() if f'pid={d.pid},' in line]
    with Qmp(('127.0.0.1', ports[0])) as q:
        assert q.cmd('query-jobs') == []


def test_stdio():
    p = subprocess.Popen([daemon_binary(), '--chardev', 'stdio,id=s', '--monitor', 's'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert b'"QMP"' in p.stdout.readline()
    p.stdin.write(b'{"execute": "qmp_capabilities"}{"execute": "query-jobs", "id": 1}{"execute": "quit"}')
    p.stdin.flush()
    assert json.loads(p.stdout.readline()) == {'return': {}}
    assert json.loads(p.stdout.readline()) == {'return': [], 'id': 1}
    assert json.loads(p.stdout.readline()) == {'return': {}}
    assert p.wait(30 * SLOW) == 0
    p.stdin.close()
    p.stdout.close()


def test_waits_for_its_first_client(images):
    """wait=on (the default): nothing after the option happens before there is a client."""
    d = Daemon(['--chardev', f'socket,id=c,path={images}/here,server=on', '--monitor', 'c',
                '--nbd-server', f'addr.type=unix,addr.path={images}/nbd'], monitor=False)
    deadline = time.monotonic() + 20 * SLOW
    while not (images / 'here').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert not (images / 'nbd').exists()
    q = Qmp(str(images / 'here'))
    assert (images / 'nbd').exists()
    d.sessions.append(q)
    d.stop()


def test_one_client_at_a_time(d):
    """A second client of one monitor waits in the queue until the first is gone."""
    second = Qmp(d.monitor_path, negotiate=False)
    with pytest.raises(QmpTimeout):
        second.receive(0.3)
    d.qmp.close()
    assert 'QMP' in second.receive(20 * SLOW)
    d.sessions.append(second)


def test_quit(images):
    d = Daemon()
    other = os.path.exists(d.monitor_path)
    assert other and d.cmd('quit') == {}
    with pytest.raises(QmpClosed):
        d.qmp.receive(20 * SLOW)
    assert d.wait() == 0
    assert not os.path.exists(d.monitor_path)
    d.stop()


def test_pipelined_after_quit(images):
    """What comes behind `quit` is not carried out."""
    d = Daemon()
    d.qmp.send_raw('{"execute": "quit"}{"execute": "blockdev-create", "arguments": {"job-id": "j", "options": '
                   '{"driver": "file", "filename": "%s/after", "size": 0}}}' % images)
    assert d.qmp.reply() == {'return': {}}
    assert d.wait() == 0
    assert not (images / 'after').exists()
    d.stop()
