# SPDX-License-Identifier: BSD-3-Clause
"""Bad images and names: one clear error each, and the daemon goes on."""
import os
import subprocess

import pytest

from lib import images as img


@pytest.fixture
def d(daemon):
    return daemon()


def add(d, path, driver='qcow2', **more):
    before = d.descriptors()
    error = d.qmp.error('blockdev-add', driver=driver, **{'node-name': 'x'}, file={'driver': 'file', 'filename': str(path)}, **more)
    assert d.descriptors() == before
    assert d.cmd('query-named-block-nodes') == []
    return error


def test_missing_file(d, images):
    assert add(d, images / 'none') == f"Could not open '{images}/none': No such file or directory"


def test_directory(d, images):
    assert 'regular file' in add(d, images) or 'directory' in add(d, images)


def test_not_qcow2(d, images):
    (images / 'text').write_bytes(b'hello world' * 1000)
    assert add(d, images / 'text') == 'Image is not in qcow2 format'
    (images / 'nothing').touch()
    assert add(d, images / 'nothing') == 'Image is not in qcow2 format'


def test_truncated_image(d, images):
    path = img.create(images / 'a.qcow2')
    img.qemu_io(path, 'write 0 8M')
    for size in (50, 104, 4096, 65536 + 5, 3 * 65536):
        data = path.read_bytes()[:size]
        (images / 't').write_bytes(data)
        add(d, images / 't')


def test_chain_that_loops(d, images):
    a, b = images / 'a.qcow2', images / 'b.qcow2'
    img.create(a)
    img.create(b, backing=a)
    img.run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', b, a)
    assert f"Backing file '{b}' creates an infinite loop." in add(d, a) or f"Backing file '{a}' creates an infinite loop." in add(d, a)
    img.run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', a, a)
    assert 'infinite loop' in add(d, a)


def test_backing_file_is_gone(d, images):
    a, b = images / 'a.qcow2', images / 'b.qcow2'
    img.create(a)
    img.create(b, backing=a)
    a.unlink()
    assert add(d, b) == f"Could not open backing file: Could not open '{a}': No such file or directory"


LUKS = "Image is encrypted with LUKS, which is not supported; only the format 'raw' gives its encrypted bytes"


def write_luks(path, version=1):
    """The beginning of a LUKS volume: what probing looks at."""
    path.write_bytes(b'LUKS\xba\xbe' + version.to_bytes(2, 'big') + b'aes'.ljust(32, b'\0') + bytes(1 << 20))
    return path


def without_format(path, base):
    """An overlay whose header does not say its backing file's format: the extension becomes one that nobody knows."""
    img.create(path, backing=base, backing_fmt='raw')
    data = path.read_bytes()
    assert data.count(b'\xe2\x79\x2a\xca') == 1
    path.write_bytes(data.replace(b'\xe2\x79\x2a\xca', b'\x11' * 4))
    return path


def test_encrypted_backing_is_not_guessed_raw(d, images):
    base = write_luks(images / 'luks')
    overlay = without_format(images / 'a.qcow2', base)
    assert add(d, overlay) == f'Could not open backing file: {LUKS}'
    # Asked for by name, the encrypted bytes are a disk; version 2 is nothing that probing knows, as with QEMU.
    d.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'bytes', 'file': {'driver': 'file', 'filename': str(base)}})
    d.cmd('blockdev-del', {'node-name': 'bytes'})
    write_luks(base, version=2)
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'x', 'file': {'driver': 'file', 'filename': str(overlay)}})


def test_encrypted_target_is_not_guessed_raw(d, images):
    target = write_luks(images / 'luks')
    before = target.read_bytes()
    d.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'source', 'size': len(before)})
    error = d.qmp.error('drive-mirror', {'job-id': 'j', 'device': 'source', 'target': str(target), 'sync': 'full', 'mode': 'existing'})
    assert error == LUKS
    assert d.cmd('query-jobs') == []
    assert target.read_bytes() == before


def test_locked_by_qemu_io(d, images):
    path = img.create(images / 'a.qcow2')
    with subprocess.Popen(['qemu-io', '-f', 'qcow2', path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        p.stdin.write(b'length\n')
        p.stdin.flush()
        p.stdout.readline()
        assert add(d, path) == 'Failed to get "write" lock'
        p.stdin.close()
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'x', 'file': {'driver': 'file', 'filename': str(path)}})
    assert not img.can_write(path)


def test_unsupported_features(d, images):
    for name, at, value in ('crypt', 32, bytes([0, 0, 0, 2])), ('later', 72, (1 << 40).to_bytes(8, 'big')):
        img.create(images / name)
        with open(images / name, 'r+b') as f:
            f.seek(at)
            f.write(value)
    assert 'ncrypt' in add(d, images / 'crypt')
    assert 'feature' in add(d, images / 'later')  # an incompatible one of the future


def test_unknown_members_and_values(d, images):
    assert d.qmp.error('blockdev-add', driver='file', filename='x', nonsense=1) == "Parameter 'nonsense' is unexpected"
    assert d.qmp.error('blockdev-add', driver='nonsense') == "Parameter 'driver' does not accept value 'nonsense'"
    assert d.qmp.error('blockdev-add', driver='file') == "Parameter 'filename' is missing"
    error = d.qmp.error('transaction', actions=[{'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'x'}}])
    assert error == "Parameter 'actions[0].data.snapshot-file' is missing"
    d.qmp.error('blockdev-add', driver='null-co', **{'node-name': 'n', 'size': -1})
    assert d.cmd('query-named-block-nodes') == []


def test_permission_denied(images, daemon):
    path = img.create(images / 'a.qcow2')
    os.chmod(path, 0o000)
    os.chmod(images, 0o755)
    if os.geteuid() == 0:
        # root may read anything: an immutable directory entry is refused all the same
        os.chmod(path, 0o644)
    d = daemon()
    error = d.qmp.error('blockdev-add', driver='qcow2', **{'node-name': 'x'},
                        file={'driver': 'file', 'filename': '/proc/1/mem'})


def test_random_damage_never_ends_the_daemon(d, images):
    """Every byte of the header and of the tables is input."""
    import random
    rng = random.Random(7)
    path = img.create(images / 'a.qcow2', size='16M', options='cluster_size=4096')
    img.qemu_io(path, 'write 0 1M', 'write 5M 64k')
    good = bytearray(path.read_bytes())
    opened = 0
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            bad[rng.randrange(0, min(len(bad), 6 * 4096))] = rng.randrange(256)
        (images / 'bad').write_bytes(bad)
        reply = d.qmp.execute('blockdev-add', {'driver': 'qcow2', 'node-name': 'x',
                                               'file': {'driver': 'file', 'filename': str(images / 'bad')}})
        if 'return' in reply:
            opened += 1
            d.cmd('blockdev-del', {'node-name': 'x'})
    assert 0 < opened
    assert d.alive()
