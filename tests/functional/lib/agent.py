# SPDX-License-Identifier: BSD-3-Clause
"""A guest agent that is none: it speaks the QEMU guest agent's protocol on a Unix socket, and fails as it is told to.

Like the real one behind a character device it serves one client at a time, keeps what the last client left unread, and answers
guest-sync-delimited with a 0xff byte in front.  frozen is what a guest's file systems would be.
"""
import json
import socket
import threading


class FakeAgent:
    """faults: command -> list of what happens at its next calls: an error text; 'hang' (done, but no answer); 'ignore' (neither); 'close'."""

    def __init__(self, path, faults=None, garbage=b''):
        self.path = str(path)
        self.faults = {k: list(v) for k, v in (faults or {}).items()}
        self.garbage = garbage  # what an earlier client left to be read
        self.frozen = False
        self.log = []
        self.lock = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def wait(self, condition, seconds=60):
        """Until condition(self) is true."""
        with self.lock:
            assert self.lock.wait_for(lambda: condition(self), seconds), (self.frozen, self.log)

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                try:
                    self._client(client)
                except OSError:
                    pass

    def _client(self, client):
        client.sendall(self.garbage)
        self.garbage = b''
        buffer = b''
        while True:
            data = client.recv(4096)
            if not data:
                return
            buffer += data
            while b'\n' in buffer:
                line, buffer = buffer.split(b'\n', 1)
                message = json.loads(line.split(b'\xff')[-1])
                answer = self._run(message['execute'], message.get('arguments'))
                if answer == 'close':
                    return
                if answer is not None:
                    client.sendall(answer)

    def _run(self, command, arguments):
        with self.lock:
            fault = self.faults[command].pop(0) if self.faults.get(command) else None
            self.log.append(command)
            if fault not in (None, 'hang', 'close', 'ignore'):
                self.lock.notify_all()
                return json.dumps({'error': {'class': 'GenericError', 'desc': fault}}).encode() + b'\n'
            result = 0
            if fault != 'ignore':
                if command == 'guest-fsfreeze-freeze':
                    self.frozen, result = True, 2
                elif command == 'guest-fsfreeze-thaw':
                    self.frozen, result = False, 2
                elif command == 'guest-fsfreeze-status':
                    result = 'frozen' if self.frozen else 'thawed'
                elif command == 'guest-sync-delimited':
                    result = arguments['id']
            self.lock.notify_all()
            if fault:
                return 'close' if fault == 'close' else None
            text = json.dumps({'return': result}).encode() + b'\n'
            return b'\xff' + text if command == 'guest-sync-delimited' else text

    def close(self):
        self.listener.close()
