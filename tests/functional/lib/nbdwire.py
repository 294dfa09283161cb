# SPDX-License-Identifier: BSD-3-Clause
"""An NBD client that does what it is told, right or wrong: bytes on a socket."""
import contextlib
import socket
import struct

from .daemon import SLOW

OPTION_MAGIC = b'IHAVEOPT'
REQUEST_MAGIC = 0x25609513
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
REP_ACK = 1


class Closed(Exception):
    """The server has closed the connection."""


class Wire:
    READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
    FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16

    def __init__(self, address, name='', handshake=True, structured=True, contexts=()):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30 * SLOW)
        self.sock.connect(str(address))
        self.structured = structured
        self.cookie = 0
        self.size = self.flags = None
        if handshake:
            self.hello()
            if structured:
                assert self.option(OPT_STRUCTURED)[-1][0] == REP_ACK
            if contexts:
                data = self.string(name) + struct.pack('>I', len(contexts)) + b''.join(self.string(c) for c in contexts)
                assert self.option(OPT_SET_META, data)[-1][0] == REP_ACK
            for kind, data in self.option(OPT_GO, self.string(name) + struct.pack('>H', 0)):
                if kind == 3 and data[:2] == b'\0\0':
                    self.size, self.flags = struct.unpack('>QH', data[2:])

    # ---- bytes ----

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, n):
        data = b''
        while len(data) < n:
            try:
                more = self.sock.recv(n - len(data))
            except ConnectionError as e:
                raise Closed from e
            if not more:
                raise Closed
            data += more
        return data

    def closed(self):
        """Reads to the end; False if it does not come."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            return True
        except socket.timeout:
            return False
        return True

    @staticmethod
    def string(s):
        s = s.encode()
        return struct.pack('>I', len(s)) + s

    # ---- handshake ----

    def hello(self, fixed=True, no_zeroes=True):
        assert self.recv(16) == b'NBDMAGIC' + OPTION_MAGIC
        assert struct.unpack('>H', self.recv(2))[0] == 3
        self.send(struct.pack('>I', fixed | no_zeroes << 1))

    def send_option(self, option, data=b''):
        self.send(OPTION_MAGIC + struct.pack('>II', option, len(data)) + data)

    def option_reply(self, option):
        magic, what, kind, length = struct.unpack('>QIII', self.recv(20))
        assert magic == 0x3e889045565a9 and what == option
        return kind, self.recv(length)

    def option(self, option, data=b''):
        """Replies up to the one that ends them: [(type, data), ...]."""
        self.send_option(option, data)
        replies = [self.option_reply(option)]
        while replies[-1][0] != REP_ACK and not replies[-1][0] & 1 << 31:
            replies.append(self.option_reply(option))
        return replies

    def option_export_name(self, name, no_zeroes):
        self.structured = False
        self.send_option(OPT_EXPORT_NAME, name.encode())
        self.size, self.flags = struct.unpack('>QH', self.recv(10))
        if not no_zeroes:
            assert self.recv(124) == bytes(124)

    # ---- transmission ----

    def request(self, command, offset=0, length=0, flags=0, data=b'', magic=REQUEST_MAGIC):
        self.cookie += 1
        self.send(struct.pack('>IHHQQI', magic, flags, command, self.cookie, offset, length) + data)
        return self.cookie

    def simple_reply(self, length=0):
        """The data, or the error's number."""
        magic, error, cookie = struct.unpack('>IIQ', self.recv(16))
        assert magic == 0x67446698 and cookie == self.cookie
        return error if error else self.recv(length)

    def structured_reply(self):
        """The chunks of the answer to the last request."""
        chunks, done = [], False
        while not done:
            magic, flags, kind, cookie, length = struct.unpack('>IHHQI', self.recv(20))
            assert magic == 0x668e33ef and cookie == self.cookie
            data = self.recv(length)
            done = flags & 1
            if kind == 0:
                chunks.append(('none',))
            elif kind == 1:
                chunks.append(('data', struct.unpack('>Q', data[:8])[0], data[8:]))
            elif kind == 2:
                chunks.append(('hole', *struct.unpack('>QI', data)))
            elif kind == 0x8001:
                chunks.append(('error', struct.unpack('>I', data[:4])[0]))
            else:
                chunks.append((kind, data))
        return chunks

    def any_error(self):
        """The error that the last request was answered with, in whichever form."""
        magic = struct.unpack('>I', self.recv(4))[0]
        if magic == 0x67446698:
            return struct.unpack('>IQ', self.recv(12))[0]
        _, kind, _, length = struct.unpack('>HHQI', self.recv(16))
        data = self.recv(length)
        return struct.unpack('>I', data[:4])[0] if kind & 1 << 15 else 0

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
