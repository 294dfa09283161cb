# SPDX-License-Identifier: BSD-3-Clause
"""Character devices: monitors on all kinds of them; the commands about them."""
import json
import os
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lib import certs
from lib.daemon import SLOW, daemon_binary
from lib.qmp import Qmp, QmpClosed


@pytest.fixture
def d(daemon):
    return daemon()


def add(d, id, kind, **data):
    return d.cmd('chardev-add', {'id': id, 'backend': {'type': kind, 'data': {k.replace('_', '-'): v for k, v in data.items()}}})


def error(d, id, kind, **data):
    return d.qmp.error('chardev-add', {'id': id, 'backend': {'type': kind, 'data': {k.replace('_', '-'): v for k, v in data.items()}}})


def what(d):
    return {c['label']: c['filename'] for c in d.cmd('query-chardev')}


def listener(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20 * SLOW)
    s.bind(str(path))
    s.listen()
    return s


# ---- commands ----

def test_ringbuf(d):
    add(d, 'r', 'ringbuf', size=16)
    d.cmd('ringbuf-write', {'device': 'r', 'data': 'hello'})
    assert d.cmd('ringbuf-read', {'device': 'r', 'size': 3}) == 'hel'
    assert d.cmd('ringbuf-read', {'device': 'r', 'size': 99, 'format': 'base64'}) == 'bG8='
    assert d.cmd('ringbuf-read', {'device': 'r', 'size': 99}) == ''
    d.cmd('ringbuf-write', {'device': 'r', 'data': 'AAECA/8=', 'format': 'base64'})
    d.cmd('ringbuf-write', {'device': 'r', 'data': '0123456789abcdef'})
    assert d.cmd('ringbuf-read', {'device': 'r', 'size': 99}) == '0123456789abcdef'
    d.cmd('ringbuf-write', {'device': 'r', 'data': '/w==', 'format': 'base64'})
    assert d.cmd('ringbuf-read', {'device': 'r', 'size': 99}) == '\ufffd'
    assert d.qmp.error('ringbuf-read', device='r', size=0) == 'size must be greater than zero'
    assert d.qmp.error('ringbuf-read', device='qmp0', size=1) == 'qmp0 is not a ringbuf device'
    assert d.qmp.error('ringbuf-write', device='no', data='') == "Device 'no' not found"
    assert d.qmp.error('ringbuf-write', device='r', data='!', format='base64') == 'Base64 data contains invalid characters'
    for size in (0, 1000, -16):
        assert error(d, 'x', 'ringbuf', size=size) == "Failed to add chardev 'x': size of ringbuf chardev must be power of two"


def test_add_change_remove(d, images):
    before = d.descriptors()
    assert add(d, 'n', 'null') == {}
    assert error(d, 'n', 'null') == "Chardev with id 'n' already exists"
    add(d, 's', 'socket', addr={'type': 'unix', 'data': {'path': f'{images}/s'}})
    add(d, 'i', 'socket', addr={'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '0'}}, telnet=True)
    add(d, 'a', 'socket', addr={'type': 'unix', 'data': {'path': f'cutpoint-{os.getpid()}', 'abstract': True}})
    add(d, 'm', 'mux', chardev='n')
    w = what(d)
    assert w['s'] == f'disconnected:unix:{images}/s,server=on' and w['i'].startswith('disconnected:telnet:127.0.0.1:')
    assert w['n'] == 'null' and w['m'] == 'mux' and w['qmp0'].startswith('unix:')
    assert {c['label']: c['frontend-open'] for c in d.cmd('query-chardev')} == \
        {'qmp0': True, 'n': True, 's': False, 'i': False, 'a': False, 'm': False}
    assert d.qmp.error('chardev-remove', id='n') == "Chardev 'n' is busy"
    assert d.qmp.error('chardev-remove', id='qmp0') == "Chardev 'qmp0' is busy"
    assert d.qmp.error('chardev-remove', id='x') == "Chardev 'x' not found"
    null = {'type': 'null', 'data': {}}
    d.cmd('chardev-change', {'id': 's', 'backend': null})
    assert what(d)['s'] == 'null' and not os.path.exists(images / 's')
    assert d.qmp.error('chardev-change', id='x', backend=null) == "Chardev 'x' does not exist"
    assert d.qmp.error('chardev-change', id='m', backend=null) == 'Mux device hotswap not supported yet'
    assert d.qmp.error('chardev-change', id='qmp0', backend=null) == 'Chardev user does not support chardev hotswap'
    d.cmd('chardev-send-break', {'id': 'n'})
    assert d.qmp.error('chardev-send-break', id='x') == "Chardev 'x' not found"
    for id in ('m', 'n', 's', 'i', 'a'):
        d.cmd('chardev-remove', {'id': id})
    assert d.descriptors() == before
    assert {b['name'] for b in d.cmd('query-chardev-backends')} >= {'socket', 'file', 'pipe', 'null', 'mux', 'ringbuf', 'stdio'}


def test_bad_backends(d, images):
    unix = {'type': 'unix', 'data': {'path': f'{images}/none'}}
    before = d.descriptors()
    prefix = "Failed to add chardev 'x': "
    assert error(d, 'x', 'file', out='/nope/out') == prefix + "Could not open '/nope/out': No such file or directory"
    assert error(d, 'x', 'pipe', device='/nope') == prefix + "Could not open '/nope': No such file or directory"
    assert error(d, 'x', 'mux', chardev='nope') == prefix + 'mux: base chardev nope not found'
    assert error(d, 'x', 'mux', chardev='qmp0') == prefix + "Device 'qmp0' is in use"
    assert error(d, 'x', 'socket', addr=unix, server=False) == \
        prefix + f"Failed to connect to '{images}/none': No such file or directory"
    assert error(d, 'x', 'socket', addr=unix, reconnect_ms=5) == \
        prefix + "'reconnect' option is incompatible with socket in server listen mode"
    assert error(d, 'x', 'socket', addr=unix, server=False, wait=True) == \
        prefix + "'wait' option is incompatible with socket in client connect mode"
    assert error(d, 'x', 'socket', addr=unix, tls_creds='t') == prefix + "No TLS credentials with id 't'"
    assert error(d, 'x', 'socket', addr=unix, tls_authz='a') == prefix + "'tls_authz' option requires 'tls_creds' option"
    assert 'not supported' in error(d, 'x', 'socket', addr=unix, websocket=True)
    assert 'not been found' in error(d, 'x', 'socket', addr={'type': 'fd', 'data': {'str': 'nope'}})
    assert 'logfile' in error(d, 'x', 'null', logfile='/nope/log')
    assert d.descriptors() == before and list(what(d)) == ['qmp0']


def test_waiting_client_holds_up_nobody(daemon, images):
    """chardev-add with wait=on is answered when the client is there; other monitors go on."""
    d = daemon('--chardev', f'socket,id=c2,path={images}/two,server=on,wait=off', '--monitor', 'c2')
    d.qmp.send('chardev-add', {'id': 'w', 'backend': {'type': 'socket', 'data': {
        'addr': {'type': 'unix', 'data': {'path': f'{images}/w'}}, 'wait': True}}})
    other = Qmp(images / 'two')
    for _ in range(10):
        assert other.cmd('query-version')
    deadline = time.monotonic() + 20 * SLOW
    while not os.path.exists(images / 'w'):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(images / 'w'))
    assert d.qmp.reply() == {'return': {}}
    assert what(d)['w'] == f'unix:{images}/w,server=on'
    client.close()


# ---- monitors on them ----

def test_pipe(daemon, images):
    for name in ('p.in', 'p.out'):
        os.mkfifo(images / name)
    daemon('--chardev', f'pipe,id=p,path={images}/p', '--monitor', 'p')
    with open(images / 'p.out', encoding='ascii') as out, open(images / 'p.in', 'w', encoding='ascii') as into:
        assert 'QMP' in json.loads(out.readline())
        into.write('{"execute": "qmp_capabilities"}{"execute": "query-version", "id": 7}')
        into.flush()
        assert json.loads(out.readline()) == {'return': {}}
        assert json.loads(out.readline())['id'] == 7


def test_file(daemon, images):
    (images / 'in').write_text('{"execute": "qmp_capabilities"}\n{"execute": "query-version", "id": 7}\n')
    d = daemon('--chardev', f'file,id=f,path={images}/out,input-path={images}/in,logfile={images}/log,logtimestamp=on', '--monitor', 'f')
    deadline = time.monotonic() + 20 * SLOW
    while (images / 'out').read_text().count('\n') < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lines = (images / 'out').read_text().splitlines()
    assert json.loads(lines[2])['id'] == 7
    assert d.cmd('query-version')
    assert [line.split(' ', 1)[1] for line in (images / 'log').read_text().splitlines()] == lines


def test_stdio_and_log(images):
    r = subprocess.run([daemon_binary(), '--chardev', f'stdio,id=c,logfile={images}/log', '--monitor', 'c'],
                       input=b'{"execute":"qmp_capabilities"}{"execute":"quit"}', stdout=subprocess.PIPE, check=True)
    assert r.stdout.count(b'\n') == 3 and (images / 'log').read_bytes() == r.stdout


def test_answers_to_who_has_said_all(daemon, images):
    """The end of input does not cost replies that wait to be sent, nor does the end of the daemon."""
    n = 20
    text = '{"execute":"qmp_capabilities"}' + '{"execute":"query-qmp-schema"}' * n
    r = subprocess.run([daemon_binary(), '--chardev', 'stdio,id=c', '--monitor', 'c'], input=text.encode() + b'{"execute":"quit"}',
                       stdout=subprocess.PIPE, check=True, timeout=60 * SLOW)
    assert [list(json.loads(line)) for line in r.stdout.splitlines()] == [['QMP']] + [['return']] * (n + 2)
    d = daemon()
    s = d.qmp.sock
    s.sendall(b'{"execute":"query-qmp-schema"}' * n)
    s.shutdown(socket.SHUT_WR)
    for _ in range(n):
        assert len(d.qmp.reply()['return']) > 100
    with pytest.raises(QmpClosed):
        d.qmp.receive()
    d.qmp = d.connect()
    assert d.cmd('query-version')


def test_client_that_tries_again(daemon, images):
    d = daemon('--chardev', f'socket,id=c,path={images}/peer,reconnect-ms=20', '--monitor', 'c')
    assert what(d)['c'] == f'disconnected:unix:{images}/peer'
    server = listener(images / 'peer')
    for _ in range(3):
        peer, _ = server.accept()
        q = Qmp(peer)
        assert q.cmd('query-version') and what(d)['c'] == f'unix:{images}/peer'
        q.close()
    server.close()


def test_client_without_a_server(images):
    r = subprocess.run([daemon_binary(), '--chardev', f'socket,id=c,path={images}/none', '--monitor', 'c'],
                       stderr=subprocess.PIPE, check=False, timeout=60 * SLOW)
    assert r.returncode == 1 and b"Failed to connect to '" in r.stderr


def test_telnet(daemon, images):
    d = daemon('--chardev', 'socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,telnet=on', '--monitor', 't')
    s = socket.create_connection(('127.0.0.1', int(what(d)['t'].split(':')[3].split(',')[0])))
    s.settimeout(20 * SLOW)
    f = s.makefile('rb')
    first = f.readline()
    assert first.startswith(b'\xff\xfb\x01\xff\xfb\x03') and b'"QMP"' in first
    # answers of a client, in pieces, a subnegotiation, and a line end as telnet has it
    for part in (b'\xff\xfd', b'\x01\xff\xfd\x03\xff\xfa\x18\x00xterm{"\xff\xf0', b'{"execute": "qmp_\xff\xf1capabilities"}\r\x00\r\n'):
        s.sendall(part)
    assert json.loads(f.readline()) == {'return': {}}
    s.close()


def test_mux(daemon, images):
    daemon('--chardev', f'socket,id=base,path={images}/s,server=on,wait=off', '--chardev', 'mux,id=m,chardev=base',
           '--monitor', 'm', '--monitor', 'm,pretty=on')
    q = Qmp(images / 's', negotiate=False)
    greeting = q.receive()  # the first monitor's; no descriptors, nothing out of band through a mux
    assert greeting['QMP']['capabilities'] == []
    while q.receive_line() != b'}':
        pass
    q.send_raw('{"execute": "qmp_capabilities", "id": 1}')  # the last one has the keyboard
    lines = [q.receive_line() for _ in range(5)]
    assert lines[0] == b'{' and b'    "id": 1' in [line.rstrip(b',') for line in lines]
    q.send_raw('\x01c{"execute": "qmp_capabilities", "id": 2}')
    assert q.receive() == {'return': {}, 'id': 2}
    q.send_raw('\x01h')
    assert b'C-a h' in q.receive_line() + q.receive_line()
    q.close()


def test_mux_has_room_for_four(images):
    r = subprocess.run([daemon_binary(), '--chardev', 'null,id=m,mux=on'] + ['--monitor', 'm'] * 5,
                       stderr=subprocess.PIPE, check=False, timeout=60 * SLOW)
    assert r.returncode == 1 and b"too many uses of multiplexed chardev 'm' (maximum is 4)" in r.stderr


# ---- TLS ----

@pytest.fixture(scope='module')
def pki(tmp_path_factory):
    base = tmp_path_factory.mktemp('pki')
    ca = certs.Authority(base / 'ca')
    ca.issue(base / 'both', 'server', 'localhost')
    ca.issue(base / 'both', 'client', 'alice')
    ca.issue(base / 'bob', 'client', 'bob')
    return base


@pytest.mark.parametrize('authz', ['simple', 'pam'])
def test_tls_server(daemon, pki, pam_service, authz):
    rule = 'pam_succeed_if.so quiet user = CN=alice,O=test'
    who = f'authz-pam,id=a,service={pam_service(rule)}' if authz == 'pam' else 'authz-simple,id=a,identity=CN=alice,,O=test'
    d = daemon('--object', f'tls-creds-x509,id=t,dir={pki}/both,endpoint=server', '--object', who,
               '--chardev', 'socket,id=c,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=t,tls-authz=a', '--monitor', 'c')
    port = int(what(d)['c'].split(':')[3].split(',')[0])

    def connect(who=None):
        context = ssl.create_default_context(cafile=pki / 'ca' / 'ca-cert.pem')
        if who:
            context.load_cert_chain(pki / who / 'client-cert.pem', pki / who / 'client-key.pem')
        raw = socket.create_connection(('127.0.0.1', port))
        raw.settimeout(60 * SLOW)
        return Qmp(context.wrap_socket(raw, server_hostname='localhost'))

    for _ in range(3):
        q = connect('both')
        assert len(q.cmd('query-qmp-schema')) > 100  # more than a record
        q.close()
    for who in ('bob', None):
        with pytest.raises((QmpClosed, ssl.SSLError, ConnectionError)):
            connect(who)
    silent = socket.create_connection(('127.0.0.1', port))
    silent.sendall(b'{"execute": "qmp_capabilities"}\n')  # no TLS
    silent.settimeout(20 * SLOW)
    try:
        while silent.recv(100):
            pass
    except ConnectionError:
        pass
    silent.close()
    q = connect('both')
    assert q.cmd('query-version')
    q.close()


def test_tls_client(daemon, pki, images):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / 'both' / 'server-cert.pem', pki / 'both' / 'server-key.pem')
    context.load_verify_locations(pki / 'ca' / 'ca-cert.pem')
    context.verify_mode = ssl.CERT_REQUIRED
    server = socket.create_server(('127.0.0.1', 0))
    server.settimeout(60 * SLOW)
    answers = []

    def serve():
        raw, _ = server.accept()
        raw.settimeout(60 * SLOW)
        q = Qmp(context.wrap_socket(raw, server_side=True))
        answers.append(q.cmd('query-version'))
        q.close()

    t = threading.Thread(target=serve)
    t.start()
    daemon('--object', f'tls-creds-x509,id=t,dir={pki}/both,endpoint=client', '--chardev',
           f'socket,id=c,host=127.0.0.1,port={server.getsockname()[1]},reconnect-ms=50,tls-creds=t', '--monitor', 'c')
    t.join()
    server.close()
    assert answers


def test_command_line(images):
    for arg, text in (('file,id=f', 'chardev: file: no filename given'), ('pipe,id=f', 'chardev: pipe: no device path given'),
                      ('nope,id=f', "'nope' is not a valid char driver name"), ('mux,id=f', 'chardev: mux: no chardev given'),
                      ('ringbuf,id=f,size=x', "Parameter 'size' expects a number"), ('null,id=f,path=x', "Invalid parameter 'path'")):
        r = subprocess.run([daemon_binary(), '--chardev', arg], stderr=subprocess.PIPE, check=False, timeout=60 * SLOW)
        assert r.returncode == 1 and text in r.stderr.decode(), r.stderr
