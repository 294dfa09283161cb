# SPDX-License-Identifier: BSD-3-Clause
"""One QEMU guest agent: JSON lines over a stream that may hold what an earlier client left in it.

A session begins with guest-sync-delimited: the byte 0xff makes the agent forget an unfinished request, and its reply has such a byte in
front, so that everything before it can be thrown away.  A frozen guest's agent answers this too.
"""
import json
import os
import time

from .errors import Disconnected, Refused
from .qmp import connect_socket


class Agent:
    def __init__(self, address, seconds):
        self.address = address
        self.buffer = b''
        self.sock = connect_socket(address, seconds)
        try:
            self.sync(time.monotonic() + seconds)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.sock.close()

    def _read_until(self, byte, deadline):
        while byte not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Disconnected(f'guest agent {self.address} does not answer')
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                continue
            except OSError as e:
                raise Disconnected(f'guest agent {self.address}: {e.strerror or e}') from e
            if not data:
                raise Disconnected(f'guest agent {self.address} has closed the connection')
            self.buffer += data
        before, self.buffer = self.buffer.split(byte, 1)
        return before

    def sync(self, deadline):
        """Throws away whatever the agent still has to say."""
        number = int.from_bytes(os.urandom(4), 'little') >> 1
        self._send(b'\xff' + json.dumps({'execute': 'guest-sync-delimited', 'arguments': {'id': number}}).encode() + b'\n', deadline)
        while True:
            self._read_until(b'\xff', deadline)
            if self._message(deadline).get('return') == number:
                return

    def _send(self, data, deadline):
        try:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            self.sock.sendall(data)
        except OSError as e:
            raise Disconnected(f'guest agent {self.address}: {e.strerror or e}') from e

    def _message(self, deadline):
        try:
            reply = json.loads(self._read_until(b'\n', deadline))
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise Disconnected(f'guest agent {self.address} does not speak the protocol')
        return reply

    def send(self, command, deadline):
        """Sends a command; result() reads its reply.  So several agents work at the same time.  deadline: of time.monotonic()."""
        self._send(json.dumps({'execute': command}).encode() + b'\n', deadline)

    def result(self, command, deadline):
        """What the command returns.  Refused: the agent's error."""
        reply = self._message(deadline)
        if 'error' in reply:
            raise Refused(f"guest agent {self.address}: {command}: {reply['error'].get('desc', 'unknown error')}")
        return reply.get('return')

    def cmd(self, command, deadline):
        self.send(command, deadline)
        return self.result(command, deadline)
