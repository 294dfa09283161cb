# SPDX-License-Identifier: BSD-3-Clause
"""A process that is killed at its k-th call that changes files, and what a power failure at that moment could have left.

tests/tools/crashshim.c counts and logs the calls.  power_failure() then changes the files in place, so that inodes and times of birth
stay: of the writes and truncations that no later fsync of their file covers each is kept, lost or (a write) torn; of the changes of a
directory's names after its last fsync a part is kept, in their order, as file systems with a journal do it.
"""
import mmap
import os
import random
import struct
from pathlib import Path

WRITE, TRUNCATE, SYNC, CREATE, UNLINK, LINK, RENAME = range(1, 8)
LOG_SIZE = 1 << 30


class CrashPoint:
    def __init__(self, directory, shim):
        self.directory = Path(directory)
        self.shim = shim
        self.path = self.directory / 'crash-control'
        self.grave = self.directory / 'graveyard'
        self.grave.mkdir()
        with open(self.path, 'wb') as f:
            f.truncate(4096 + LOG_SIZE)
        self.file = open(self.path, 'r+b')
        self.map = mmap.mmap(self.file.fileno(), 4096 + LOG_SIZE)

    def environment(self):
        return {'LD_PRELOAD': str(self.shim), 'CRASH_CONTROL': str(self.path), 'CRASH_GRAVEYARD': str(self.grave),
                'CUTPOINT_LOOP': 'epoll'}

    def arm(self, at=0, fail_at=0, error=0, control_only=False, hold_at=0, reads=False):
        """Kills the process at call `at`, or makes call `fail_at` fail, or lets call `hold_at` hang until release(); control_only: what
        guests' I/O does is not counted; reads: what is counted is calls that read, and those alone."""
        struct.pack_into('<Q', self.map, 112, reads)
        struct.pack_into('<QQQ', self.map, 8, 0, at, 0)
        struct.pack_into('<QQQQQ', self.map, 32, fail_at, error, control_only, hold_at, 0)
        struct.pack_into('<Q', self.map, 0, 1)

    def disarm(self):
        struct.pack_into('<Q', self.map, 0, 0)

    def held(self):
        """The call that hangs: (number, inode of its file, name); None: none does."""
        number, ino = struct.unpack_from('<QQ', self.map, 64)
        if not number or number != struct.unpack_from('<Q', self.map, 56)[0]:
            return None
        return number, ino, bytes(self.map[80:112]).split(b'\0')[0].decode()

    def release(self):
        struct.pack_into('<Q', self.map, 56, 0)

    @property
    def count(self):
        return struct.unpack_from('<Q', self.map, 8)[0]

    def records(self):
        used, at = struct.unpack_from('<Q', self.map, 24)[0], 4096
        end = at + used
        while at < end:
            kind, length = struct.unpack_from('<II', self.map, at)
            yield kind, bytes(self.map[at + 8:at + length])
            at += length

    def close(self):
        self.map.close()
        self.file.close()


def _name(data, at):
    return data[at:data.index(b'\0', at)].decode()


class _File:
    def __init__(self):
        self.ops = []  # since the last sync


def power_failure(crash, directory, rng=random):
    """Returns how many operations were lost or torn."""
    files, names = {}, {}
    for kind, data in crash.records():
        key = struct.unpack_from('<QQ', data)
        if kind == WRITE:
            offset, old_size, length = struct.unpack_from('<QQQ', data, 16)
            have = max(0, min(old_size - offset, length))
            files.setdefault(key, []).append(('write', offset, old_size, data[40:40 + have], data[40 + have:40 + have + length]))
        elif kind == TRUNCATE:
            old_size, size = struct.unpack_from('<QQ', data, 16)
            files.setdefault(key, []).append(('truncate', size, old_size, data[32:32 + max(0, old_size - size)], None))
        elif kind == SYNC:
            files.pop(key, None)
            names.pop(key, None)
        else:
            flags = struct.unpack_from('<Q', data, 16)[0]
            names.setdefault(key, []).append((kind, flags, _name(data, 24), _name(data, 24 + 4096)))
    lost = 0
    # Data first, while every file still has its name.  The last record may be of a call that was not made: lost at will as well.
    by_inode = {}
    for root, _, entries in os.walk(directory):
        for e in entries:
            st = os.lstat(os.path.join(root, e))
            by_inode[(st.st_dev, st.st_ino)] = os.path.join(root, e)
    for key, ops in files.items():
        if key in by_inode and by_inode[key] != str(crash.path):
            lost += _lose_data(by_inode[key], ops, rng)
    for ops in names.values():
        keep = rng.randint(0, len(ops))
        for op in reversed(ops[keep:]):
            lost += _lose_name(*op)
    return lost


def _lose_data(path, ops, rng):
    kept = []
    for op in ops:
        chance = rng.random()
        if chance < 0.5:
            kept.append(op)
        elif chance < 0.6 and op[0] == 'write' and len(op[4]) > 512:
            cut = rng.randrange(512, len(op[4]), 512)
            kept.append((op[0], op[1], op[2], op[3], op[4][:cut]))
    lost = len(ops) - len(kept)
    mode = os.stat(path).st_mode
    os.chmod(path, mode | 0o600)
    with open(path, 'r+b') as f:
        for op in reversed(ops):
            if op[0] == 'write':
                f.seek(op[1])
                f.write(op[3])
            else:
                f.seek(op[1])
                f.write(op[3])
            f.truncate(op[2])
        for op in kept:
            if op[0] == 'write':
                f.seek(op[1])
                f.write(op[4])
            else:
                f.truncate(op[1])
    os.chmod(path, mode)
    return lost


def _lose_name(kind, flags, a, b):
    try:
        if kind in (CREATE, LINK):
            os.unlink(a)
        elif kind == UNLINK:
            os.rename(b, a)  # the graveyard was an invention of ours
        elif flags & 2:  # RENAME_EXCHANGE
            c = a + '.exchange'
            os.rename(a, c)
            os.rename(b, a)
            os.rename(c, b)
        else:
            if os.path.lexists(a):
                return 0
            os.rename(b, a)
        return 1
    except FileNotFoundError:
        return 0  # the call was never made
    except FileExistsError:
        return 0
