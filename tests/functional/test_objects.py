# SPDX-License-Identifier: BSD-3-Clause
"""Objects: making, properties, deletion; secrets; TLS credentials and authorization, used by the NBD server."""
import base64
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import nbd
import pytest

from lib import certs
from lib import images as img
from lib.daemon import SLOW


@pytest.fixture
def d(daemon):
    return daemon()


@pytest.fixture(scope='module')
def pki(tmp_path_factory):
    """A server, two clients, and a client of another authority."""
    base = tmp_path_factory.mktemp('pki')
    ca, other = certs.Authority(base / 'ca'), certs.Authority(base / 'other-ca')
    ca.issue(base / 'server', 'server', 'localhost')
    ca.issue(base / 'alice', 'client', 'alice')
    ca.issue(base / 'bob', 'client', 'bob')
    other.issue(base / 'stranger', 'client', 'alice')
    (base / 'stranger' / 'ca-cert.pem').write_bytes(ca.cert.read_bytes())
    certs.psk(base / 'psk', alice='0123456789abcdef0123456789abcdef', qemu='00112233445566778899aabbccddeeff')
    return base


def add(d, kind, name, **properties):
    d.cmd('object-add', {'qom-type': kind, 'id': name, **{k.replace('_', '-'): v for k, v in properties.items()}})


def get(d, path, name):
    return d.cmd('qom-get', {'path': path, 'property': name})


def test_tree(d):
    add(d, 'iothread', 'io1', poll_max_ns=5)
    assert [p['name'] for p in d.cmd('qom-list', {'path': '/'})] == ['type', 'objects']
    assert {'name': 'io1', 'type': 'child<iothread>'} in d.cmd('qom-list', {'path': '/objects'})
    assert d.cmd('qom-list', {'path': 'io1'}) == d.cmd('qom-list', {'path': '/objects/io1'})
    assert get(d, '/objects', 'io1') == '/objects/io1' and get(d, '/', 'objects') == '/objects'
    assert get(d, '/objects/io1', 'type') == 'iothread' and get(d, 'io1', 'poll-max-ns') == 5
    for path in ('/nope', '/objects/nope', 'nope', '/objects/io1/x', ''):
        r = d.qmp.execute('qom-list', {'path': path})
        assert r['error'] == {'class': 'DeviceNotFound', 'desc': f"Device '{path}' not found"}
    assert d.qmp.error('qom-get', path='io1', property='x') == "Property 'iothread.x' not found"
    values = d.cmd('qom-list-get', {'paths': ['/objects/io1', '/']})
    assert {'name': 'poll-max-ns', 'type': 'int', 'value': 5} in values[0]['properties']
    assert d.qmp.error('qom-list-get', paths=['/', 'nope']) == "Device 'nope' not found"


def test_types(d):
    types = {t['name']: t for t in d.cmd('qom-list-types', {'implements': 'user-creatable'})}
    options = next(t for t in d.cmd('query-qmp-schema') if t['meta-type'] == 'command' and t['name'] == 'object-add')
    schema = {t['name']: t for t in d.cmd('query-qmp-schema')}
    kinds = {v['case'] for v in schema[options['arg-type']]['variants']}
    assert {t.replace('list-file', 'listfile') for t in types} == kinds
    for name in types:
        assert d.cmd('qom-list-properties', {'typename': name})[0] == {'name': 'type', 'type': 'string'}
    assert [t['name'] for t in d.cmd('qom-list-types', {'implements': 'tls-creds', 'abstract': True})][0] == 'tls-creds'
    assert d.cmd('qom-list-types', {'implements': 'nope'}) == []
    assert d.qmp.error('qom-list-properties', typename='nope') == "Class 'nope' not found"


def test_live_properties(d):
    def put(path, name, value):
        d.cmd('qom-set', {'path': path, 'property': name, 'value': value})

    add(d, 'iothread', 'io')
    put('io', 'aio-max-batch', 7)
    put('/objects/io', 'poll-max-ns', 9)
    info = d.cmd('query-iothreads')
    assert [(i['id'], i['aio-max-batch'], i['poll-max-ns']) for i in info] == [('io', 7, 9)]
    assert str(info[0]['thread-id']) in os.listdir(f'/proc/{d.pid}/task')
    assert d.qmp.error('qom-set', path='io', property='poll-max-ns', value='x') == \
        "Invalid parameter type for 'poll-max-ns', expected: integer"
    assert d.qmp.error('qom-set', path='io', property='poll-max-ns', value=-1) == \
        'poll-max-ns value must be in range [0, 9223372036854775807]'
    assert d.qmp.error('qom-set', path='io', property='type', value='x') == "Property 'iothread.type' is not writable"
    assert get(d, 'io', 'poll-max-ns') == 9
    add(d, 'main-loop', 'm')
    put('m', 'aio-max-batch', 3)
    assert get(d, 'm', 'aio-max-batch') == 3
    assert d.qmp.error('object-add', {'qom-type': 'main-loop', 'id': 'n'}) == 'only one main-loop instance allowed'
    d.cmd('object-del', {'id': 'm'})
    add(d, 'main-loop', 'n')
    add(d, 'throttle-group', 't', limits={'iops-total': 10})
    put('t', 'limits', {'bps-read': 5, 'bps-read-max': 50, 'bps-read-max-length': 2})
    limits = get(d, 't', 'limits')
    assert [limits[k] for k in ('iops-total', 'bps-read', 'bps-read-max', 'bps-read-max-length')] == [10, 5, 50, 2]
    before = limits
    for bad, text in (({'iops-read': 3}, 'cannot be used at the same time'), ({'bps-read-max': 1}, 'cannot be lower'),
                      ({'bps-read-max-length': 0}, 'cannot be 0'), ({'bps-write': -1}, 'in range'),
                      ({'bps-write': 10 ** 16}, 'must be within'), ({'nope': 1}, 'unexpected')):
        assert text in d.qmp.error('qom-set', path='t', property='limits', value=bad)
    assert get(d, 't', 'limits') == before


def test_names(d):
    add(d, 'secret', 's', data='x')
    assert d.qmp.error('object-add', {'qom-type': 'iothread', 'id': 's'}) == \
        "attempt to add duplicate property 's' to object (type 'container')"
    assert d.qmp.error('object-add', {'qom-type': 'iothread', 'id': '1'}) == "Parameter 'id' expects an identifier"
    d.cmd('object-del', {'id': 's'})
    assert d.qmp.error('object-del', id='s') == "object 's' not found"


def test_secrets(d, images):
    key, iv = bytes(range(32)), bytes(range(100, 116))
    r = subprocess.run(['openssl', 'enc', '-aes-256-cbc', '-K', key.hex(), '-iv', iv.hex()], input=b'open sesame',
                       stdout=subprocess.PIPE, check=True)
    (images / 'cipher').write_bytes(r.stdout)
    b64 = lambda b: base64.b64encode(b).decode()  # noqa: E731
    error = lambda **p: d.qmp.error('object-add', {'qom-type': 'secret', 'id': 'bad', **p})  # noqa: E731
    add(d, 'secret', 'key', data=b64(key), format='base64')
    add(d, 'secret', 'a', data=b64(r.stdout), format='base64', keyid='key', iv=b64(iv))
    add(d, 'secret', 'b', file=str(images / 'cipher'), keyid='key', iv=b64(iv))
    add(d, 'secret', 'short', data='abc')
    assert error() == "Either 'file' or 'data' must be provided"
    assert error(data='a', file='b') == "'file' and 'data' are mutually exclusive"
    assert error(data='!', format='base64') == 'Base64 data contains invalid characters'
    assert error(data='YWJj', keyid='nope') == "No secret with id 'nope'"
    assert error(data='YWJj', keyid='short') == 'Key should be 32 bytes in length'
    assert error(data='YWJj', keyid='key') == 'IV is required to decrypt secret'
    assert error(data='YWJj', keyid='key', iv='YWJj') == 'IV should be 16 bytes in length not 3'
    assert 'multiple of 16' in error(data='YWJj', keyid='key', iv=b64(iv))
    assert 'padding' in error(data=b64(bytes(16)), format='base64', keyid='key', iv=b64(iv))
    assert error(file='/nope').startswith('Unable to read /nope: ')
    assert 'Unable to read serial key' in d.qmp.error('object-add', {'qom-type': 'secret_keyring', 'id': 'k', 'serial': 1})


def test_empty_secret(d, pki):
    """It is a password like any other: a key without one does not mind."""
    add(d, 'secret', 'empty', data='')
    assert d.cmd('qom-get', {'path': '/objects/empty', 'property': 'data'}) == ''
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server', passwordid='empty')


# ---- TLS ----

class Server:
    def __init__(self, d, images, **tls):
        self.socket = str(images / 'nbd.sock')
        d.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': self.socket}}, **tls})
        img.create(images / 'a.qcow2')
        d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'file', 'filename': str(images / 'a.qcow2')}})
        d.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'a', 'writable': True})

    def client(self, directory=None, psk=None, user=None, tls=nbd.TLS_REQUIRE, verify=True):
        h = nbd.NBD()
        h.set_export_name('a')
        h.set_tls(tls)
        if directory:
            h.set_tls_certificates(str(directory))
            h.set_tls_verify_peer(verify)
        if psk:
            h.set_tls_psk_file(str(psk / 'keys.psk'))
            h.set_tls_username(user)
        h.connect_unix(self.socket)
        return h

    def refuses(self, *args, **kwargs):
        with pytest.raises(nbd.Error):
            h = self.client(*args, **kwargs)
            h.pread(512, 0)
        return True


def use(h):
    """Data in both directions, more than a record or a buffer holds."""
    assert h.get_tls_negotiated()
    data = os.urandom(3 << 20)
    h.pwrite(data, 65536)
    h.flush()
    assert h.pread(len(data), 65536) == data
    h.shutdown()


def test_certificates(d, images, pki):
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server')
    s = Server(d, images, **{'tls-creds': 'tls'})
    use(s.client(pki / 'alice', verify=False))
    use(s.client(pki / 'bob', verify=False))
    assert s.refuses(pki / 'stranger', verify=False)
    assert s.refuses(tls=nbd.TLS_DISABLE)
    d.cmd('object-del', {'id': 'tls'})  # the server keeps the credentials
    use(s.client(pki / 'alice', verify=False))
    d.cmd('nbd-server-stop')


def test_who_may(d, images, pki):
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server')
    rules = images / 'rules'
    rules.write_text(json.dumps({'policy': 'deny', 'rules': [{'match': '*CN=alice*', 'policy': 'allow', 'format': 'glob'}]}))
    add(d, 'authz-listfile', 'who', filename=str(rules))
    s = Server(d, images, **{'tls-creds': 'tls', 'tls-authz': 'who'})
    use(s.client(pki / 'alice', verify=False))
    assert s.refuses(pki / 'bob', verify=False)
    rules.write_text(json.dumps({'rules': [{'match': 'CN=bob,O=test', 'policy': 'allow'}]}))  # is read again
    use(s.client(pki / 'bob', verify=False))
    assert s.refuses(pki / 'alice', verify=False)
    rules.write_text('broken')
    assert s.refuses(pki / 'bob', verify=False)
    d.cmd('object-del', {'id': 'who'})
    assert s.refuses(pki / 'bob', verify=False)
    add(d, 'authz-simple', 'who', identity='CN=bob,O=test')
    use(s.client(pki / 'bob', verify=False))
    d.cmd('object-del', {'id': 'who'})
    add(d, 'authz-list', 'who', policy='allow', rules=[{'match': 'CN=bob,O=test', 'policy': 'deny', 'format': 'exact'}])
    assert s.refuses(pki / 'bob', verify=False)
    use(s.client(pki / 'alice', verify=False))


def test_who_may_by_pam(d, images, pki, pam_service):
    """An account rule decides; one that takes its time holds up nobody else."""
    assert d.qmp.error('object-add', {'qom-type': 'authz-pam', 'id': 'who'}) == "Parameter 'service' is missing"
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server')
    users = images / 'users'
    users.write_text('CN=alice,O=test\n')
    add(d, 'authz-pam', 'who', service=pam_service(f'pam_listfile.so item=user sense=allow file={users} onerr=fail'))
    assert d.cmd('qom-get', path='/objects/who', property='service').startswith('cutpoint-test-')
    s = Server(d, images, **{'tls-creds': 'tls', 'tls-authz': 'who'})
    use(s.client(pki / 'alice', verify=False))
    assert s.refuses(pki / 'bob', verify=False)
    assert "Unable to authorize user 'CN=bob,O=test': " in d.stderr()
    users.write_text('CN=bob,O=test\n')
    use(s.client(pki / 'bob', verify=False))
    assert s.refuses(pki / 'alice', verify=False)
    d.cmd('object-del', {'id': 'who'})
    add(d, 'authz-pam', 'who', service='cutpoint-test-that-is-not-there')  # then "other" decides, which denies by default
    assert s.refuses(pki / 'bob', verify=False)
    d.cmd('object-del', {'id': 'who'})
    slow = images / 'slow'
    slow.write_text(f'#!/bin/sh\ntouch {images}/asked\nsleep 1.5\n')
    slow.chmod(0o755)
    add(d, 'authz-pam', 'who', service=pam_service(f'pam_exec.so quiet {slow}'))
    read = []
    clients = [threading.Thread(target=lambda: read.append(s.client(pki / 'alice', verify=False).pread(512, 0))) for _ in range(2)]
    began = time.monotonic()
    for c in clients:
        c.start()
    while not (images / 'asked').exists():
        time.sleep(0.01)
    at = time.monotonic()
    d.cmd('query-version')
    d.cmd('object-del', {'id': 'who'})  # does not matter to whoever asks already
    assert time.monotonic() - at < 1 and clients[0].is_alive()
    for c in clients:
        c.join()
    assert 1.4 < time.monotonic() - began < 2.9 * SLOW and len(read) == 2  # both at once


def test_without_client_certificates(d, images, pki):
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server', verify_peer=False)
    s = Server(d, images, **{'tls-creds': 'tls'})
    (pki / 'nobody').mkdir(exist_ok=True)
    (pki / 'nobody' / 'ca-cert.pem').write_bytes((pki / 'server' / 'ca-cert.pem').read_bytes())
    use(s.client(pki / 'nobody', verify=False))
    use(s.client(pki / 'stranger', verify=False))


def test_keys(d, images, pki):
    add(d, 'tls-creds-psk', 'tls', dir=str(pki / 'psk'), endpoint='server')
    s = Server(d, images, **{'tls-creds': 'tls'})
    use(s.client(psk=pki / 'psk', user='alice'))
    wrong = certs.psk(images / 'wrong', alice='ff' * 16)
    assert s.refuses(psk=wrong, user='alice')


def test_qemu_as_client(d, images, pki):
    """The client of QEMU's own tools, over TCP, so that names are compared too."""
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server')
    s = Server(d, images, **{'tls-creds': 'tls'})
    r = subprocess.run(['qemu-io', '--object', f'tls-creds-x509,id=t,dir={pki}/alice,endpoint=client', '-c', 'write -P 7 0 1M',
                        '-c', 'read -P 7 0 1M', '--image-opts',
                        f'driver=nbd,server.type=unix,server.path={s.socket},export=a,tls-creds=t,tls-hostname=localhost'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert b'wrote 1048576' in r.stdout and b'failed' not in r.stdout, r.stdout
    assert r.returncode == 0


def test_anonymous(d, images):
    add(d, 'tls-creds-anon', 'tls', endpoint='server')
    s = Server(d, images, **{'tls-creds': 'tls'})
    r = subprocess.run(['qemu-io', '--object', 'tls-creds-anon,id=t,endpoint=client', '-c', 'write -P 7 0 1M', '--image-opts',
                        f'driver=nbd,server.type=unix,server.path={s.socket},export=a,tls-creds=t'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert b'wrote 1048576' in r.stdout, r.stdout


def test_downgrade_is_refused(d, images, pki):
    """What is said before STARTTLS is answered with TLS_REQD, and does not count after it."""
    add(d, 'tls-creds-x509', 'tls', dir=str(pki / 'server'), endpoint='server')
    s = Server(d, images, **{'tls-creds': 'tls'})
    r = subprocess.run(['nbdinfo', '--list', f'nbd+unix:///?socket={s.socket}'], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False)
    assert r.returncode != 0
    assert s.refuses(tls=nbd.TLS_DISABLE)


def test_bad_credentials(d, images, pki, tmp_path):
    def error(kind, **p):
        return d.qmp.error('object-add', {'qom-type': kind, 'id': 'bad', **p})

    start = {'addr': {'type': 'unix', 'data': {'path': str(images / 'nbd')}}}
    assert error('tls-creds-x509') == "Missing 'dir' property value"
    assert error('tls-creds-x509', dir='/nope', endpoint='server') == \
        'Unable to access credentials /nope/ca-cert.pem: No such file or directory'
    assert error('tls-creds-psk', dir='/nope', endpoint='server') == \
        'Unable to access credentials /nope/keys.psk: No such file or directory'
    assert 'not found in PSK file' in error('tls-creds-psk', dir=str(pki / 'psk'), username='carol')
    ca = certs.Authority(tmp_path / 'ca')
    wrong = ca.issue(tmp_path / 'wrong', 'server', 'x')
    for f in ('cert', 'key'):
        (wrong / f'client-{f}.pem').write_bytes((wrong / f'server-{f}.pem').read_bytes())
    assert 'purpose does not allow use with a TLS client' in error('tls-creds-x509', dir=str(wrong))
    (wrong / 'server-key.pem').write_bytes((pki / 'server' / 'server-key.pem').read_bytes())
    assert 'Cannot load certificate' in error('tls-creds-x509', dir=str(wrong), endpoint='server')
    assert d.qmp.error('nbd-server-start', {**start, 'tls-creds': 'nope'}) == "No TLS credentials with id 'nope'"
    add(d, 'secret', 's', data='x')
    assert d.qmp.error('nbd-server-start', {**start, 'tls-creds': 's'}) == "Object with id 's' is not TLS credentials"
    add(d, 'tls-creds-anon', 'c')
    assert d.qmp.error('nbd-server-start', {**start, 'tls-creds': 'c'}) == 'Expected TLS credentials for a server endpoint'
    assert not os.path.exists(images / 'nbd')
