# SPDX-License-Identifier: BSD-3-Clause
"""Starting and stopping a storage daemon: ours, or the peer that it is compared with.

The daemon under test is the one that the environment variable CUTPOINTD names (default: build/cutpointd).  Under a sanitizer the
daemon is slower: TEST_TIMEOUT_MULTIPLIER stretches every deadline here.
"""
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from .qmp import Qmp, QmpClosed

ROOT = Path(__file__).resolve().parents[3]
PEER = '/usr/bin/qemu-storage-daemon'
SLOW = float(os.environ.get('TEST_TIMEOUT_MULTIPLIER', '1'))

# What a sanitizer prints when it found something.
REPORTS = ('ERROR: AddressSanitizer', 'ERROR: LeakSanitizer', 'WARNING: ThreadSanitizer', 'runtime error:')

# For tests that look at the daemon's memory: AddressSanitizer would keep 256 MiB of what was freed.  Without it this means nothing.
MEASURED = {'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=8'}


def daemon_binary():
    """Absolute path of the daemon under test."""
    return str(Path(os.environ.get('CUTPOINTD', ROOT / 'build' / 'cutpointd')).absolute())


class DaemonFailed(Exception):
    """The daemon did not start, or did not end as it should."""


class Daemon:
    """A running storage daemon.

    args: its command line.  A monitor on a Unix socket is added unless monitor=False.
    directory: where its sockets lie (default: a temporary one that goes with it).
    Use it as a context manager, or call stop(); stop() fails if the daemon does not exit cleanly.
    """

    def __init__(self, args=(), binary=None, directory=None, monitor=True, env=None, cwd=None, wrapper=(), pass_fds=()):
        self.binary = str(binary or daemon_binary())
        self.own_directory = None
        if directory is None:
            self.own_directory = tempfile.TemporaryDirectory(prefix='cutpoint-')
            directory = self.own_directory.name
        self.directory = Path(directory)
        self.monitor_path = str(self.directory / 'qmp.sock')
        self.stderr_file = tempfile.TemporaryFile()
        self.stdout_file = tempfile.TemporaryFile()
        self.qmp = None
        self.sessions = []
        self.argv = [*wrapper, self.binary]
        if monitor:
            self.argv += ['--chardev', f'socket,id=qmp0,path={self.monitor_path},server=on,wait=off',
                          '--monitor', 'chardev=qmp0']
        self.argv += [str(a) for a in args]
        environment = dict(os.environ)
        environment.update(env or {})
        try:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.stdout_file,
                                            stderr=self.stderr_file, env=environment, cwd=cwd, pass_fds=pass_fds)
        except OSError as e:
            self._close_files()
            raise DaemonFailed(f'cannot start {self.binary}: {e}') from e
        if monitor:
            try:
                self.qmp = self.connect()
            except BaseException:
                self.kill()
                raise

    # ---- talking to it ----

    def connect(self, timeout=20, negotiate=True):
        """A further QMP session."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            try:
                session = Qmp(self.monitor_path, timeout=60 * SLOW, negotiate=negotiate)
                self.sessions.append(session)
                return session
            except QmpClosed:  # it listened, and gave up before it served
                status = self.process.wait(30 * SLOW)
                raise DaemonFailed(f'{self.binary} exited with {status}: {self.stderr()}') from None
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise DaemonFailed(f'{self.binary} exited with {self.process.returncode}: {self.stderr()}') from None
                if time.monotonic() > deadline:
                    raise DaemonFailed(f'{self.binary} does not listen on {self.monitor_path}: {self.stderr()}') from None
                time.sleep(0.01)

    def cmd(self, command, arguments=None, **members):
        return self.qmp.cmd(command, arguments, **members)

    # ---- looking at it from outside ----

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def stderr(self):
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode(errors='replace')

    def stdout(self):
        self.stdout_file.seek(0)
        return self.stdout_file.read().decode(errors='replace')

    def descriptors(self):
        """What every open descriptor refers to, sorted; sockets and such by kind only."""
        links = []
        for name in os.listdir(f'/proc/{self.pid}/fd'):
            try:
                link = os.readlink(f'/proc/{self.pid}/fd/{name}')
            except FileNotFoundError:
                continue
            links.append(link if link.startswith('/') else link.split(':')[0])
        return sorted(links)

    def cpu_seconds(self):
        """Processor time it has used so far, user and system."""
        with open(f'/proc/{self.pid}/stat', encoding='ascii') as f:
            fields = f.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    # ---- ending it ----

    def _close_files(self):
        for session in getattr(self, 'sessions', []):
            session.close()
        self.stderr_file.close()
        self.stdout_file.close()
        if self.own_directory:
            self.own_directory.cleanup()

    def wait(self, timeout=30):
        """Exit status, once it has ended by itself."""
        return self.process.wait(timeout * SLOW)

    def kill(self):
        """Ends it as a crash would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close_files()

    def stop(self, timeout=30):
        """SIGTERM; it must exit with status 0 within the time and no sanitizer may have complained."""
        if self.process.returncode is None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            text = self.stderr()
            self.kill()
            raise DaemonFailed(f'{self.binary} did not end within {timeout * SLOW:g} s of SIGTERM: {text}') from None
        text = self.stderr()
        self._close_files()
        if status != 0 or any(r in text for r in REPORTS):
            raise DaemonFailed(f'{self.binary} ended with status {status}: {text}')
        return text

    def __enter__(self):
        return self

    def __exit__(self, exc_type, *exc):
        if self.stderr_file.closed:
            return
        if exc_type is None:
            self.stop()
        else:
            text = self.stderr()
            if text:
                print(f'--- stderr of {self.binary} ---\n{text}')
            self.kill()
