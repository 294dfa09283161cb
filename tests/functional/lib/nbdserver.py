# SPDX-License-Identifier: BSD-3-Clause
"""NBD servers for tests of clients: nbdkit, and one that answers as it is told, right or wrong."""
import os
import socket
import struct
import subprocess
import threading
import time

from .daemon import SLOW

OPT_GO, OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META = 7, 8, 9, 10
REPLY_MAGIC = 0x3e889045565a9
FLAGS = 1 | 4 | 8 | 32 | 64  # has flags, flush, FUA, trim, write zeroes


class Nbdkit:
    """nbdkit on a local socket; ends with the block."""

    def __init__(self, socket_path, *args):
        self.socket = str(socket_path)
        self.args = args
        self.process = None
        self.start()

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(['nbdkit', '-f', '--exit-with-parent', '-U', self.socket, *map(str, self.args)],
                                        stderr=subprocess.PIPE)
        end = time.monotonic() + 20 * SLOW
        while not os.path.exists(self.socket):
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.01)

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    @property
    def address(self):
        return {'type': 'unix', 'path': self.socket}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.kill()


class Rogue:
    """Serves 1 MiB of zeroes over simple or structured replies, until `on_request` (type, cookie, offset, length, connection) returns what to
    send instead: bytes; None for the right answer; False to close; True to say nothing.  `greeting` replaces the first bytes; `size`,
    `flags`, `extra` (more bytes of INFO replies) change what it tells."""

    def __init__(self, socket_path, on_request=None, greeting=None, size=1 << 20, flags=FLAGS, info=b'', structured=True, on_option=None):
        self.path = str(socket_path)
        self.on_request, self.greeting, self.size, self.flags, self.info = on_request, greeting, size, flags, info
        self.structured, self.on_option = structured, on_option
        self.requests = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        return {'type': 'unix', 'path': self.path}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.close()
        for c in self.connections:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            c.close()

    def _accept(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(c)
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        try:
            self._talk(c)
        except (OSError, EOFError):
            pass
        finally:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def _recv(c, n):
        data = b''
        while len(data) < n:
            more = c.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _reply(self, c, option, kind, data=b''):
        c.sendall(struct.pack('>QIII', REPLY_MAGIC, option, kind, len(data)) + data)

    def _option(self, c, option, data):
        """True: transmission follows."""
        if self.on_option:
            answer = self.on_option(option, data)
            if answer is True:
                time.sleep(3600)
            if answer is not None:
                c.sendall(answer)
                return False
        if option == OPT_STRUCTURED and self.structured:
            self._reply(c, option, 1)
        elif option == OPT_SET_META and self.structured:
            self._reply(c, option, 4, struct.pack('>I', 1) + b'base:allocation')
            self._reply(c, option, 1)
        elif option == OPT_GO:
            if self.info:
                self._reply(c, option, 3, self.info)
            self._reply(c, option, 3, struct.pack('>HQH', 0, self.size, self.flags))
            self._reply(c, option, 1)
            return True
        else:
            self._reply(c, option, 0x80000001)
        return False

    def _talk(self, c):
        if self.greeting is not None:
            c.sendall(self.greeting)
            self._recv(c, 1)
            time.sleep(3600)
        c.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        self._recv(c, 4)
        while True:
            _, option, length = struct.unpack('>QII', self._recv(c, 16))
            if self._option(c, option, self._recv(c, length) if length else b''):
                break
        while True:
            _, _, kind, cookie, offset, length = struct.unpack('>IHHQQI', self._recv(c, 28))
            data = self._recv(c, length) if kind == 1 else b''
            if kind == 2:
                return
            self.requests.append((kind, offset, length))
            answer = self.on_request(kind, cookie, offset, length, data) if self.on_request else None
            if answer is False:
                return
            if answer is True:
                continue
            c.sendall(answer if answer is not None else self.right(kind, cookie, offset, length))

    def right(self, kind, cookie, offset, length):
        if self.structured and kind == 0:
            return chunk(cookie, 1, struct.pack('>Q', offset) + bytes(length))
        if kind == 7:
            return chunk(cookie, 5, struct.pack('>III', 1, length, 0))
        return simple(cookie) + (bytes(length) if kind == 0 else b'')


def chunk(cookie, kind, data, done=1, length=None):
    return struct.pack('>IHHQI', 0x668e33ef, done, kind, cookie, len(data) if length is None else length) + data


def simple(cookie, error=0):
    return struct.pack('>IIQ', 0x67446698, error, cookie)
