# SPDX-License-Identifier: BSD-3-Clause
"""A QMP session: one command at a time, events kept in order of arrival, every wait bounded."""
import json
import socket
import time

from .errors import Disconnected, Refused

REPLY_SECONDS = 60


def connect_socket(address, seconds):
    """A connected socket.  address: path of a Unix socket, or HOST:PORT (a path has a slash, or is a file here)."""
    host, colon, port = address.rpartition(':')
    tcp = colon and port.isdigit() and '/' not in address
    try:
        if tcp:
            return socket.create_connection((host.strip('[]'), int(port)), seconds)
        s = socket.socket(socket.AF_UNIX)
        try:
            s.settimeout(seconds)
            s.connect(address)
        except BaseException:
            s.close()
            raise
        return s
    except OSError as e:
        raise Disconnected(f'{address}: {e.strerror or e}') from e


class Qmp:
    def __init__(self, address, seconds=REPLY_SECONDS):
        self.address = address
        self.seconds = seconds
        self._connect()

    def _connect(self):
        self.events = []
        self.buffer = b''
        self.sock = connect_socket(self.address, self.seconds)
        try:
            try:
                greeting = self._receive(time.monotonic() + self.seconds)
            except TimeoutError as e:
                raise Disconnected(f'{self.address}: no greeting; is somebody else connected?') from e
            if 'QMP' not in greeting:
                raise Disconnected(f'{self.address}: this is no QMP monitor')
            self.cmd('qmp_capabilities')
        except BaseException:
            self.close()
            raise

    def reconnect(self):
        """A new session in place of this one."""
        self.close()
        self._connect()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _receive(self, deadline):
        """The next message.  TimeoutError at the deadline."""
        while b'\n' not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError as e:
                raise Disconnected(f'{self.address}: {e.strerror or e}') from e
            if not data:
                raise Disconnected(f'{self.address}: the daemon has closed the connection')
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        try:
            return json.loads(line)
        except ValueError as e:
            raise Disconnected(f'{self.address}: this is no QMP monitor') from e

    def cmd(self, command, arguments=None, seconds=None):
        """What the command returns.  Refused: the daemon's error; Disconnected: no reply within the time."""
        message = {'execute': command}
        if arguments:
            message['arguments'] = arguments
        seconds = seconds or self.seconds
        deadline = time.monotonic() + seconds
        try:
            self.sock.settimeout(seconds)
            self.sock.sendall(json.dumps(message).encode() + b'\n')
            while True:
                reply = self._receive(deadline)
                if 'event' not in reply:
                    break
                self.events.append(reply)
        except TimeoutError as e:
            raise Disconnected(f'{self.address}: no reply to {command} within {seconds:g} s') from e
        except OSError as e:
            raise Disconnected(f'{self.address}: {e.strerror or e}') from e
        if 'error' in reply:
            raise Refused(reply['error'].get('desc', 'unknown error'), reply['error'].get('class', 'GenericError'))
        return reply['return']

    def event(self, seconds):
        """The oldest event, waiting so long for one; None: none came."""
        if not self.events:
            try:
                self.events.append(self._receive(time.monotonic() + seconds))
            except TimeoutError:
                return None
        return self.events.pop(0)
