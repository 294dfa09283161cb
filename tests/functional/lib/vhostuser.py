# SPDX-License-Identifier: BSD-3-Clause
"""A small vhost-user front end and virtio-blk driver in one: shares memory with an export and drives its rings, well or badly.

Memory is a memfd that is guest memory from GUEST on; USER is where it is in the front end's address space.
"""
import array
import mmap
import os
import select
import socket
import struct
import time

GUEST, USER = 0x100000, 0x7f0000000000
NEED_REPLY, REPLY = 8, 4
PROTOCOL_FEATURES = 1 << 30
EVENT_IDX, INDIRECT, PACKED, LOG_ALL, VERSION_1 = 1 << 29, 1 << 28, 1 << 34, 1 << 26, 1 << 32
FLUSH, CONFIG_WCE, RO, DISCARD, WRITE_ZEROES, MQ = 1 << 9, 1 << 11, 1 << 5, 1 << 13, 1 << 14, 1 << 12
IN, OUT, T_FLUSH, GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NEXT, WRITE, INDIRECT_FLAG = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15


class Gone(Exception):
    """The export has closed the connection."""


class Front:
    """A connection, with its memory.  kept: what an earlier Front kept (memory and in-flight buffer), to go on after its end."""

    def __init__(self, path, size=4 << 20, timeout=20, kept=None):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self.size = size
        self.fd = os.dup(kept.fd) if kept else os.memfd_create('guest')
        if not kept:
            os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.inflight = None
        self.features = 0

    def close(self):
        self.socket.close()

    # ---- messages ----

    def send(self, request, payload=b'', fds=(), flags=1, size=None):
        message = struct.pack('<III', request, flags, len(payload) if size is None else size) + payload
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        self.socket.sendmsg([message], control)

    def receive(self):
        """(request, payload, descriptors)"""
        space = socket.CMSG_SPACE(8 * 4)
        try:
            head, control, _, _ = self.socket.recvmsg(12, space)
        except ConnectionResetError as e:
            raise Gone from e
        if not head:
            raise Gone
        fds = []
        for _, _, data in control:
            fds += struct.unpack(f'{len(data) // 4}i', data)
        request, flags, size = struct.unpack('<III', head)
        assert flags == (1 | REPLY)
        payload = b''
        while len(payload) < size:
            payload += self.socket.recv(size - len(payload))
        return request, payload, fds

    def ask(self, request, payload=b'', fds=()):
        self.send(request, payload, fds)
        got, answer, fds = self.receive()
        assert got == request
        return (answer, fds) if fds else answer

    def tell(self, request, payload=b'', fds=()):
        """With an acknowledgement: 0 if it was obeyed."""
        self.send(request, payload, fds, flags=1 | NEED_REPLY)
        got, answer, _ = self.receive()
        assert got == request
        return struct.unpack('<Q', answer)[0]

    def must(self, request, payload=b'', fds=()):
        assert self.tell(request, payload, fds) == 0

    # ---- usual beginnings ----

    def negotiate(self, features=0):
        """Features besides VERSION_1; what the export offers is in self.offered."""
        self.offered = struct.unpack('<Q', self.ask(1))[0]
        self.protocol = struct.unpack('<Q', self.ask(15))[0]
        self.send(16, struct.pack('<Q', self.protocol))
        self.must(3)
        self.features = features | VERSION_1 | PROTOCOL_FEATURES
        self.must(2, struct.pack('<Q', self.features))
        return self

    def region(self, guest=GUEST, user=USER, size=None, offset=0):
        return struct.pack('<QQQQ', guest, size or self.size, user, offset)

    def share(self):
        self.must(5, struct.pack('<II', 1, 0) + self.region(), [self.fd])
        return self

    def get_inflight(self, queues=1, size=128):
        answer, fds = self.ask(31, struct.pack('<QQHHI', 0, 0, queues, size, 0))
        self.inflight = (answer, fds[0])
        return self

    def set_inflight(self, kept):
        self.inflight = kept.inflight
        return self.tell(32, self.inflight[0], [self.inflight[1]])

    def config(self, offset=0, size=60):
        answer = self.ask(24, struct.pack('<III', offset, size, 0) + bytes(size))
        return answer[12:]

    def capacity(self):
        return struct.unpack('<Q', self.config(0, 8))[0] * 512


class Ring:
    """Ring `index` with the driver's side of it; requests are built in a part of memory of its own.

    Data of requests: data_at + 64 KiB * slot.  A slot is a head of the ring (split) or a buffer id (packed)."""

    def __init__(self, front, index=0, num=128, at=0, base=None, resume=None):
        self.front, self.index, self.num, self.at = front, index, num, at
        self.packed = bool(front.features & PACKED)
        self.indirect = bool(front.features & INDIRECT)
        self.event_idx = bool(front.features & EVENT_IDX)
        self.desc, self.avail, self.used = at, at + 0x4000, at + 0x8000
        self.tables, self.headers, self.data_at = at + 0xc000, at + 0x10000, at + 0x20000
        self.kick_fd, self.call_fd, self.err_fd = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.next, self.wrap, self.used_next, self.used_wrap = 0, True, 0, True
        self.running = {}
        self.free = list(range(num - 1, -1, -1) if self.packed else range(num - 4, -1, -4))
        if resume:
            for name in ('next', 'wrap', 'used_next', 'used_wrap', 'running', 'free'):
                setattr(self, name, getattr(resume, name))
        if base is None:
            base = 0x80008000 if self.packed else 0
        self.base = base

    def start(self, log=None):
        f, state = self.front, struct.pack
        f.must(8, state('<II', self.index, self.num))
        f.must(10, state('<II', self.index, self.base))
        self.set_addr(log)
        f.must(13, state('<Q', self.index), [self.call_fd])
        f.must(14, state('<Q', self.index), [self.err_fd])
        f.must(12, state('<Q', self.index), [self.kick_fd])
        f.must(18, state('<II', self.index, 1))
        return self

    def set_addr(self, log=None):
        self.front.must(9, struct.pack('<IIQQQQ', self.index, 0 if log is None else 1, USER + self.desc, USER + self.used,
                                       USER + self.avail, GUEST + self.used if log is None else log))

    def stop(self):
        return struct.unpack('<II', self.front.ask(11, struct.pack('<II', self.index, 0)))[1]

    # ---- shared memory ----

    def put(self, fmt, at, *values):
        struct.pack_into('<' + fmt, self.front.memory, at, *values)

    def get(self, fmt, at):
        return struct.unpack_from('<' + fmt, self.front.memory, at)[0]

    # ---- requests ----

    def header(self, slot, kind, sector):
        at = self.headers + 32 * slot
        self.put('IIQ', at, kind, 0, sector)
        self.put('B', at + 16, 0xff)
        return at

    def data(self, slot):
        return self.data_at + 0x8000 * (slot if self.packed else slot // 4)

    def chain(self, slot, kind, sector, out=b'', room=0):
        """Descriptors (address, length, flags) of a request."""
        at = self.header(slot, kind, sector)
        chain = [(GUEST + at, 16, 0)]
        if out:
            self.front.memory[self.data(slot):self.data(slot) + len(out)] = out
            chain.append((GUEST + self.data(slot), len(out), 0))
        if room:
            chain.append((GUEST + self.data(slot), room, WRITE))
        chain.append((GUEST + at + 16, 1, WRITE))
        return chain

    def submit(self, kind, sector=0, out=b'', room=0, kick=True, chain=None):
        slot = self.free.pop()
        self.running[slot] = room
        chain = chain or self.chain(slot, kind, sector, out, room)
        if self.indirect:
            table = self.tables + 64 * (slot if self.packed else slot // 4)
            for i, (address, length, flags) in enumerate(chain):
                if self.packed:
                    self.put('QIHH', table + 16 * i, address, length, 0, flags)
                else:
                    more = NEXT if i + 1 < len(chain) else 0
                    self.put('QIHH', table + 16 * i, address, length, flags | more, i + 1)
            chain = [(GUEST + table, 16 * len(chain), INDIRECT_FLAG)]
        if self.packed:
            self.make_available_packed(slot, chain)
        else:
            self.make_available_split(slot, chain)
        if kick:
            self.kick()
        return slot

    def make_available_split(self, slot, chain):
        for i, (address, length, flags) in enumerate(chain):
            more = NEXT if i + 1 < len(chain) else 0
            self.put('QIHH', self.desc + 16 * (slot + i), address, length, flags | more, slot + i + 1)
        self.put('H', self.avail + 4 + 2 * (self.next % self.num), slot)
        self.next = (self.next + 1) & 0xffff
        self.put('H', self.avail + 2, self.next)

    def make_available_packed(self, slot, chain):
        first, at, wrap = self.next, self.next, self.wrap
        for i, (address, length, flags) in enumerate(chain):
            more = NEXT if i + 1 < len(chain) else 0
            flags |= more | (AVAIL if wrap else USED)
            self.put('QIH', self.desc + 16 * at, address, length, slot)
            if i:
                self.put('H', self.desc + 16 * at + 14, flags)
            else:
                first_flags = flags
            at += 1
            if at == self.num:
                at, wrap = 0, not wrap
        self.put('H', self.desc + 16 * first + 14, first_flags)
        self.sizes = getattr(self, 'sizes', {})
        self.sizes[slot] = len(chain)
        self.next, self.wrap = at, wrap

    def kick(self):
        os.eventfd_write(self.kick_fd, 1)

    def want_call(self):
        """Event index: call me at the next answer."""
        if self.event_idx and self.packed:
            self.put('HH', self.avail, self.used_next | self.used_wrap << 15, 2)
        elif self.event_idx:
            self.put('H', self.avail + 4 + 2 * self.num, self.used_next & 0xffff)

    def take(self):
        """One answer if there is one: (slot, length)."""
        if self.packed:
            flags = self.get('H', self.desc + 16 * self.used_next + 14)
            if bool(flags & AVAIL) != self.used_wrap or bool(flags & USED) != self.used_wrap:
                return None
            length, slot = self.get('I', self.desc + 16 * self.used_next + 8), self.get('H', self.desc + 16 * self.used_next + 12)
            self.used_next += self.sizes[slot]
            if self.used_next >= self.num:
                self.used_next -= self.num
                self.used_wrap = not self.used_wrap
        else:
            if self.get('H', self.used + 2) == self.used_next & 0xffff:
                return None
            at = self.used + 4 + 8 * (self.used_next % self.num)
            slot, length = self.get('I', at), self.get('I', at + 4)
            self.used_next += 1
        room = self.running.pop(slot)
        self.free.append(slot)
        status = self.get('B', self.headers + 32 * slot + 16)
        return slot, length, status, bytes(self.front.memory[self.data(slot):self.data(slot) + room])

    def wait(self, timeout=20):
        """The next answer; by a call, not by looking again and again."""
        deadline = time.monotonic() + timeout
        while True:
            self.want_call()
            answer = self.take()
            if answer:
                return answer
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.call_fd], [], [], left)[0]:
                answer = self.take()
                assert not answer, 'an answer, but no call'
                raise TimeoutError('no answer')
            os.eventfd_read(self.call_fd)

    def do(self, kind, sector=0, out=b'', room=0):
        """(status, data)"""
        self.submit(kind, sector, out, room)
        answer = self.wait()
        return answer[2], answer[3]

    def broken(self, timeout=20):
        """True when the export says that the ring is broken."""
        return bool(select.select([self.err_fd], [], [], timeout)[0])


def connect(path, features=0, num=128, inflight=False, size=8 << 20, timeout=20):
    """A front end with one running ring."""
    front = Front(path, size, timeout).negotiate(features)
    if inflight:
        front.get_inflight(1, num)
    front.share()
    return Ring(front, 0, num).start()


