# SPDX-License-Identifier: BSD-3-Clause
"""Exports through FUSE: disks as regular files."""
import errno
import mmap
import os
import signal
import stat
import subprocess
import threading
import time

import pytest

from lib import images as img
from lib.daemon import SLOW, Daemon
from lib.nbdserver import Nbdkit

MIB = 1 << 20
PUNCH, KEEP, ZERO = 2, 1, 16
NOBODY = 65534


@pytest.fixture
def mount(images):
    """A mount point; whatever a failed test has left mounted there goes."""
    if not os.path.exists('/dev/fuse') or not os.access('/dev/fuse', os.W_OK):
        pytest.skip('/dev/fuse is not there for this user')
    path = images / 'mount'
    path.touch()
    yield path
    subprocess.run(['umount', '-l', path], capture_output=True, check=False)


@pytest.fixture
def d(mount, daemon, images):
    del mount  # it goes after the daemon
    d = daemon()
    d.image = images / 'disk.qcow2'
    img.create(d.image, '64M')
    return d


def add(d, name='disk', path=None, driver='qcow2'):
    file = {'driver': 'file', 'filename': str(path or d.image), 'node-name': f'{name}-file', 'discard': 'unmap'}
    d.cmd('blockdev-add', {'driver': driver, 'node-name': name, 'file': file, 'discard': 'unmap'})


def export(d, mount, node='disk', name='e', **options):
    d.cmd('block-export-add', {'type': 'fuse', 'id': name, 'node-name': node, 'mountpoint': str(mount), 'writable': True, **options})


def remove(d, name='e', **options):
    d.cmd('block-export-del', {'id': name, **options})
    d.qmp.event('BLOCK_EXPORT_DELETED')


def is_mounted(path):
    with open('/proc/self/mountinfo', encoding='ascii') as f:
        return any(line.split()[4] == str(path) for line in f)


def fails(number, fn, *args):
    with pytest.raises(OSError) as e:
        fn(*args)
    assert e.value.errno == number, e.value


def close_dead(fd):
    """Of a file whose mount is gone."""
    fails(errno.ENOTCONN, os.close, fd)


def fallocate(fd, mode, offset, length):
    # glibc's posix_fallocate() does something else when the file system cannot
    import ctypes  # pylint: disable=import-outside-toplevel
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if libc.fallocate(fd, mode, offset, length) < 0:
        raise OSError(ctypes.get_errno(), 'fallocate')


def fio(path, *args):
    r = subprocess.run(['fio', '--name=f', f'--filename={path}', '--ioengine=libaio', '--iodepth=16', '--direct=1', '--bs=4k',
                        '--rw=randwrite', '--verify=crc32c', '--verify_state_save=0', '--verify_fatal=1', '--size=32M',
                        '--output-format=json', *args],
                       capture_output=True, text=True, check=False)
    assert r.returncode == 0, r.stdout + r.stderr
    return r.stdout


def test_where_it_can_be_mounted(d, images, mount):
    def error(path, **options):
        return d.qmp.error('block-export-add', {'type': 'fuse', 'id': 'x', 'node-name': 'disk', 'mountpoint': str(path), **options})

    add(d)
    assert error(images / 'none') == f"Failed to stat '{images / 'none'}': No such file or directory"
    assert error(images) == f"'{images}' is not a regular file"
    assert error(mount, **{'allow-inactive': True}) == 'Export type does not support inactive exports'
    os.symlink(mount, images / 'link')
    before = d.descriptors()
    for path in (mount, images / 'link'):
        export(d, path)
        assert is_mounted(mount)
        for again in (mount, images / 'link', f'{images}/../{images.name}/mount'):
            assert error(again) == f"There already is a FUSE export on '{again}'"
        assert [e['type'] for e in d.cmd('query-block-exports')] == ['fuse']
        remove(d)
        assert not is_mounted(mount) and mount.stat().st_size == 0
    extra = d.descriptors()
    export(d, mount)
    remove(d)
    assert d.descriptors() == extra and len(extra) - len(before) <= 4  # the I/O thread came with the first one


def test_permissions(d, mount):
    add(d)
    export(d, mount, writable=False)
    assert stat.S_IMODE(mount.stat().st_mode) == 0o400 and mount.stat().st_size == 64 * MIB
    fails(errno.EROFS, mount.chmod, 0o600)
    mount.chmod(0o500)
    mount.chmod(0o444)
    assert stat.S_IMODE(mount.stat().st_mode) == 0o444
    fd = os.open(mount, os.O_RDWR)  # root may
    fails(errno.EACCES, os.pwrite, fd, b'x', 0)
    fails(errno.EROFS, os.ftruncate, fd, MIB)
    fails(errno.EACCES, fallocate, fd, PUNCH | KEEP, 0, 512)
    os.close(fd)
    remove(d)
    export(d, mount)
    assert stat.S_IMODE(mount.stat().st_mode) == 0o600
    os.utime(mount, (1000, 2000))
    assert (mount.stat().st_atime, mount.stat().st_mtime) == (1000, 2000)
    mount.write_bytes(b'x')  # a disk is not emptied by being opened so
    assert mount.stat().st_mtime > 2000 and mount.stat().st_size == 64 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason='needs another user')
@pytest.mark.parametrize('allow', ['off', 'on', 'auto'])
def test_others(d, images, mount, allow):
    add(d)
    images.chmod(0o755)
    export(d, mount, writable=False, **{'allow-other': allow})

    def as_nobody(*argv):
        return subprocess.run(['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', '--inh-caps=-all', '--bounding-set=-all',
                               *argv], capture_output=True, check=False).returncode == 0

    if allow == 'off':
        fails(errno.EPERM, mount.chmod, 0o444)
        fails(errno.EPERM, os.chown, mount, NOBODY, -1)
        assert not as_nobody('stat', mount)
        return
    assert as_nobody('stat', mount) and not as_nobody('head', '-c1', mount)
    mount.chmod(0o444)
    assert as_nobody('head', '-c1', mount)
    mount.chmod(0o400)
    assert not as_nobody('head', '-c1', mount)
    os.chown(mount, NOBODY, -1)
    assert as_nobody('head', '-c1', mount)


@pytest.mark.parametrize('threads', [1, 3])
def test_data(d, images, mount, threads):
    for i in range(threads):
        d.cmd('object-add', {'qom-type': 'iothread', 'id': f't{i}'})
    add(d)
    export(d, mount, iothread=[f't{i}' for i in range(threads)])
    fio(mount, '--numjobs=1', '--io_size=16M')
    with open(mount, 'r+b', buffering=0) as f:
        pattern = os.urandom(3 * MIB + 77)
        assert os.pwrite(f.fileno(), pattern, 40 * MIB + 5) == len(pattern)
        assert os.pread(f.fileno(), len(pattern), 40 * MIB + 5) == pattern
        assert os.pread(f.fileno(), MIB, 64 * MIB - 100) == bytes(100)  # up to the end
        assert os.pread(f.fileno(), 1, 64 * MIB) == b''
        fails(errno.ENODEV, mmap.mmap, f.fileno(), MIB)
        os.fsync(f.fileno())
    export(d, d.image, name='over', writable=False)  # the image itself looks raw now
    assert subprocess.run(['cmp', mount, d.image], check=False).returncode == 0
    subprocess.run(['cp', '--sparse=always', d.image, images / 'copy'], check=True)
    remove(d, 'over')
    remove(d)
    d.cmd('blockdev-del', {'node-name': 'disk'})
    assert subprocess.run(['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', images / 'copy', d.image], check=False,
                          stdout=subprocess.DEVNULL).returncode == 0
    img.check(d.image)


def test_sizes(d, images, mount):
    raw = images / 'disk.raw'
    raw.write_bytes(b'r' * MIB)
    add(d, path=raw, driver='raw')
    export(d, mount)
    fd = os.open(mount, os.O_RDWR)
    fails(errno.EIO, os.pwrite, fd, b'x', MIB)
    assert os.pwrite(fd, b'xyz', MIB - 2) == 2  # what fits
    os.ftruncate(fd, 3 * MIB)
    assert os.fstat(fd).st_size == raw.stat().st_size == 3 * MIB
    fallocate(fd, 0, 3 * MIB, MIB)
    assert raw.stat().st_size == 4 * MIB and raw.stat().st_blocks * 512 >= 2 * MIB  # taken in advance
    fallocate(fd, ZERO, 4 * MIB - 512, MIB)
    assert raw.stat().st_size == 5 * MIB - 512
    for mode in (0, KEEP, 8, 32):
        fails(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 4096)
    d.cmd('block_resize', {'node-name': 'disk', 'size': 2 * MIB})
    assert os.fstat(fd).st_size == 2 * MIB  # nothing remembers the old size
    os.close(fd)
    remove(d)
    export(d, mount, growable=True)
    fd = os.open(mount, os.O_RDWR)
    os.pwrite(fd, b'grown', 2 * MIB + 5)
    assert os.fstat(fd).st_size == raw.stat().st_size == 2 * MIB + 512
    assert os.pread(fd, 512, 2 * MIB) == bytes(5) + b'grown' + bytes(502)
    threads = [threading.Thread(target=os.pwrite, args=(fd, bytes([i]) * 65536, 3 * MIB + i * 65536)) for i in range(1, 16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(os.pread(fd, 65536, 3 * MIB + i * 65536) == bytes([i]) * 65536 for i in range(1, 16))
    os.ftruncate(fd, 0)
    assert raw.stat().st_size == 0
    fails(errno.EFBIG, os.ftruncate, fd, 1 << 62)
    os.close(fd)


def test_zeroes_and_holes(d, images, mount):
    add(d)
    export(d, mount)
    fd = os.open(mount, os.O_RDWR)
    os.pwrite(fd, b'd' * 8 * MIB, MIB)
    os.fsync(fd)
    assert os.lseek(fd, 0, os.SEEK_DATA) == MIB and os.lseek(fd, MIB, os.SEEK_HOLE) == 9 * MIB
    fallocate(fd, PUNCH | KEEP, 2 * MIB, 3 * MIB)
    fallocate(fd, ZERO | KEEP, 6 * MIB + 5, 70000)
    fallocate(fd, PUNCH | KEEP, 63 * MIB, 4 * MIB)  # over the end
    assert os.fstat(fd).st_size == 64 * MIB
    want = b'd' * MIB + bytes(3 * MIB) + b'd' * (MIB + 5) + bytes(70000) + b'd' * (3 * MIB - 70005)
    assert os.pread(fd, 8 * MIB, MIB) == want
    assert os.lseek(fd, MIB, os.SEEK_HOLE) == 2 * MIB and os.lseek(fd, 2 * MIB, os.SEEK_DATA) == 5 * MIB
    fails(errno.ENXIO, os.lseek, fd, 10 * MIB, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, fd, 64 * MIB, os.SEEK_HOLE)
    assert os.lseek(fd, 9 * MIB, os.SEEK_HOLE) == 9 * MIB and os.lseek(fd, 0, os.SEEK_END) == 64 * MIB
    os.close(fd)
    remove(d)
    raw = images / 'raw'
    raw.write_bytes(b'r' * 4 * MIB)
    add(d, 'raw', path=raw, driver='raw')
    export(d, mount, 'raw')
    with open(mount, 'r+b', buffering=0) as f:
        fallocate(f.fileno(), PUNCH | KEEP, MIB, 2 * MIB)
    assert raw.stat().st_blocks * 512 == 2 * MIB
    end = time.monotonic() + 20 * SLOW
    while mount.stat().st_blocks * 512 != 2 * MIB:  # known within a second or so
        assert time.monotonic() < end
        time.sleep(0.05)


def test_snapshots_while_it_is_used(d, images, mount):
    """Nobody waits for a cut, and every write is in the chain."""
    add(d)
    d.cmd('object-add', {'qom-type': 'iothread', 'id': 't'})
    export(d, mount, iothread='t')
    stop, longest = threading.Event(), 0.0

    def write():
        nonlocal longest
        fd = os.open(mount, os.O_RDWR)
        n = 0
        while not stop.is_set():
            began = time.monotonic()
            os.pwrite(fd, n.to_bytes(8, 'little') * 512, 40 * MIB + n % 1024 * 4096)
            longest = max(longest, time.monotonic() - began)
            n += 1
        os.fsync(fd)
        os.close(fd)

    writer = threading.Thread(target=write)
    load = threading.Thread(target=fio, args=(mount, '--time_based', '--runtime=2', '--verify_backlog=256'))
    writer.start()
    load.start()
    for i in range(12):
        top = 'disk' if i == 0 else f's{i - 1}'
        d.cmd('blockdev-snapshot-sync', {'node-name': top, 'snapshot-file': str(images / f's{i}.qcow2'), 'snapshot-node-name': f's{i}'})
        time.sleep(0.1)
    load.join()
    stop.set()
    writer.join()
    assert longest < 1 * SLOW
    digest = subprocess.run(['sha256sum', mount], check=True, capture_output=True).stdout.split()[0]
    d.stop()
    assert not is_mounted(mount)
    raw = images / 'all.raw'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', images / 's11.qcow2', raw], check=True)
    assert subprocess.run(['sha256sum', raw], check=True, capture_output=True).stdout.split()[0] == digest


def test_unmounted_by_others(d, mount):
    add(d)
    export(d, mount)
    subprocess.run(['umount', mount], check=True)
    assert d.qmp.event('BLOCK_EXPORT_DELETED')['data'] == {'id': 'e'}
    assert d.cmd('query-block-exports') == []
    export(d, mount)
    mount.chmod(0o644)
    fd = os.open(mount, os.O_RDWR)  # open: the mount stays until it is closed
    subprocess.run(['umount', '-l', mount], check=True)
    assert os.pwrite(fd, b'x' * 4096, 0) == 4096
    os.close(fd)
    d.qmp.event('BLOCK_EXPORT_DELETED')
    d.cmd('blockdev-del', {'node-name': 'disk'})


def test_removed_while_it_is_open(d, mount):
    add(d)
    export(d, mount)
    fd = os.open(mount, os.O_RDWR)
    os.pwrite(fd, b'kept' * 1024, 0)
    remove(d, mode='hard')
    fails(errno.ENOTCONN, os.fstat, fd)
    fails(errno.ENOTCONN, os.pread, fd, 512, 0)
    export(d, mount)
    with open(mount, 'rb') as f:
        assert f.read(4096) == b'kept' * 1024
    close_dead(fd)


def test_killed_and_started_again(images, mount):
    img.create(images / 'disk.qcow2', '1M')
    args = ['--blockdev', f'qcow2,node-name=disk,file.driver=file,file.filename={images}/disk.qcow2',
            '--export', f'fuse,id=e,node-name=disk,mountpoint={mount},writable=on,growable=off']
    d = Daemon(args)
    with open(mount, 'r+b', buffering=0) as f:
        f.write(b'x' * 4096)
    d.kill()
    fails(errno.ENOTCONN, os.stat, mount)
    with Daemon(args):  # takes the dead mount's place
        with open(mount, 'rb') as f:
            assert f.read(4096) == b'x' * 4096
    assert not is_mounted(mount)


def test_storage_that_hangs(d, images, mount):
    """Removal does not keep clients waiting for requests that do not end; the reply has its bound."""
    with Nbdkit(images / 'nbd', 'memory', '1M') as server:
        d.cmd('blockdev-add', {'driver': 'nbd', 'node-name': 'far', 'server': server.address})
        export(d, mount, 'far')
        server.process.send_signal(signal.SIGSTOP)
        fd, seen = os.open(mount, os.O_RDWR), []

        def write():
            try:
                os.pwrite(fd, b'x' * 512, 0)
            except OSError as e:
                seen.append(e.errno)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        began = time.monotonic()
        d.cmd('block-export-del', {'id': 'e', 'mode': 'hard'})
        assert time.monotonic() - began < 1.5 * SLOW
        assert d.cmd('query-block-exports')[0]['shutting-down']
        writer.join(10 * SLOW)
        assert seen == [errno.ECONNABORTED] and not is_mounted(mount)
        close_dead(fd)
        other = images / 'other'
        other.touch()
        subprocess.run(['mount', '--bind', other, mount], check=True)  # not ours: it stays
        server.process.send_signal(signal.SIGCONT)
        d.qmp.event('BLOCK_EXPORT_DELETED')
        assert is_mounted(mount)
