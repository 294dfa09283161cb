# SPDX-License-Identifier: BSD-3-Clause
"""A QMP client for tests.

It does nothing clever: one socket, one command at a time unless send() is used, events kept in order of arrival.
Every wait has a deadline, so that a daemon that does not answer fails a test and does not hang it.
"""
import json
import socket
import time


class QmpError(Exception):
    """The daemon answered with an error.  error_class and desc are what it said."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.error_class = error['class']
        self.desc = error['desc']


class QmpTimeout(Exception):
    """Nothing came within the time allowed."""


class QmpClosed(Exception):
    """The daemon closed the connection."""


class Qmp:
    """One QMP session.

    address: path of a Unix socket, (host, port), or a connected socket.
    negotiate: read the greeting and leave negotiation mode.
    """

    def __init__(self, address, timeout=60, negotiate=True):
        self.timeout = timeout
        if isinstance(address, socket.socket):
            self.sock = address
        elif isinstance(address, tuple):
            self.sock = socket.create_connection(address, timeout)
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.sock.connect(str(address))
            except OSError:
                self.sock.close()
                raise
        self.buffer = b''
        self.events = []
        self.greeting = None
        if negotiate:
            self.greeting = self.receive()
            self.cmd('qmp_capabilities')

    # ---- the wire ----

    def send_raw(self, data):
        """Sends bytes as they are."""
        if isinstance(data, str):
            data = data.encode()
        self.sock.settimeout(self.timeout)
        self.sock.sendall(data)

    def send(self, command, arguments=None, id=None):
        """Sends a command and does not wait for its reply."""
        message = {'execute': command}
        if arguments is not None:
            message['arguments'] = arguments
        if id is not None:
            message['id'] = id
        self.send_raw(json.dumps(message) + '\n')

    def receive_line(self, timeout=None):
        """The next line, without its end, as bytes."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while b'\n' not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpTimeout('no line from the monitor')
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                continue
            except ConnectionError as e:
                raise QmpClosed(str(e)) from e
            if not data:
                raise QmpClosed('the monitor closed the connection')
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        return line.rstrip(b'\r')

    def receive(self, timeout=None):
        """The next message, whatever it is."""
        return json.loads(self.receive_line(timeout))

    def reply(self, timeout=None):
        """The next message that is not an event; events before it are kept."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            message = self.receive(max(0.001, deadline - time.monotonic()))
            if 'event' not in message:
                return message
            self.events.append(message)

    # ---- commands and events ----

    def execute(self, command, arguments=None, timeout=None):
        """The whole reply, success or error."""
        self.send(command, arguments)
        return self.reply(timeout)

    def cmd(self, command, arguments=None, timeout=None, **members):
        """What the command returns; QmpError if it fails.

        Members may be given by keyword, `_` standing for `-`: cmd('blockdev-del', node_name='n').
        """
        if members:
            arguments = dict(arguments or {})
            arguments.update((k.replace('_', '-'), v) for k, v in members.items())
        reply = self.execute(command, arguments, timeout)
        if 'error' in reply:
            raise QmpError(command, reply['error'])
        return reply['return']

    def error(self, command, arguments=None, timeout=None, **members):
        """The text of the error that the command must end with."""
        try:
            value = self.cmd(command, arguments, timeout, **members)
        except QmpError as e:
            return e.desc
        raise AssertionError(f'{command} succeeded: {value!r}; an error was expected')

    def event(self, name, timeout=None):
        """The oldest event of that name not yet taken; waits for it."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            for i, message in enumerate(self.events):
                if message['event'] == name:
                    return self.events.pop(i)
            message = self.receive(max(0.001, deadline - time.monotonic()))
            assert 'event' in message, f'a reply came where an event was awaited: {message}'
            self.events.append(message)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
