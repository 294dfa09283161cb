# SPDX-License-Identifier: BSD-3-Clause
"""Running tests/tools/nbdload.

The program is the one that the environment variable NBDLOAD names (default: build/tests/tools/nbdload).
"""
import json
import os
import selectors
import subprocess
import time
from pathlib import Path

from .daemon import ROOT, SLOW


class LoadFailed(Exception):
    """The load ended with an error or gave no answer."""


def load_binary():
    return str(Path(os.environ.get('NBDLOAD', ROOT / 'build' / 'tests' / 'tools' / 'nbdload')).absolute())


class Load:
    """A load that is running.

    exports: names of the disks; options: those of nbdload, `_` for `-`: Load(sock, names, mode='chain', chains=16).
    begin()/end() mark a window; stop() ends the load; each returns what nbdload says.
    """

    def __init__(self, socket_path, exports, start=True, **options):
        argv = [load_binary(), '--socket', str(socket_path)]
        for name in exports:
            argv += ['--export', name]
        for name, value in options.items():
            argv.append('--' + name.replace('_', '-'))
            if value is not True:
                argv.append(str(value))
        self.options = options
        self.exports = list(exports)
        self.buffer = b''
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if start:
            self.answer('ready')

    def _failed(self, what):
        self.process.kill()
        text = self.process.stderr.read().decode(errors='replace').strip()
        self._close()
        return LoadFailed(f'{what}: {text}' if text else what)

    def answer(self, kind, timeout=60):
        deadline = time.monotonic() + timeout * SLOW
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b'\n' not in self.buffer:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise self._failed(f'nbdload did not answer within {timeout * SLOW:g} s')
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise self._failed('nbdload ended')
                self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        message = json.loads(line)
        if kind not in message:
            raise self._failed(f'nbdload said {message} where {kind} was expected')
        return message

    def _tell(self, command):
        try:
            self.process.stdin.write(command.encode() + b'\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failed('nbdload ended') from None

    def begin(self, name='window'):
        self._tell(f'begin {name}')
        return self.answer('begun')

    def end(self, timeout=60):
        self._tell('end')
        return self.answer('window', timeout)

    def _close(self):
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def stop(self):
        self._tell('stop')
        return self.finish()

    def finish(self, timeout=60):
        """Waits for a load that ends by itself."""
        total = self.answer('total', timeout)
        if self.process.wait(60 * SLOW) != 0:
            raise self._failed('nbdload failed')
        self._close()
        return total

    def kill(self):
        self.process.kill()
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.returncode is None:
            self.kill()
