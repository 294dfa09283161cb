# SPDX-License-Identifier: BSD-3-Clause
"""Guests' file systems frozen around the cut, and thawed whatever happens.

Three things see to it that every guest is thawed:
  - thaw() goes to every agent to which a freeze was sent, whether or not it said that it is frozen, on a new connection if the old one
    does not answer, until it succeeds or its time is over; signals that come meanwhile wait.
  - Signals that would end this process raise Interrupted, so that what unwinds gets to thaw().
  - A guard, a process of its own that knows only the addresses, thaws if this one is killed; it sees that by the end of a pipe.
Only if the machine dies, or an agent answers nobody any more, a guest can stay frozen; the latter is reported, by name.
"""
import itertools
import os
import signal
import sys
import threading
import time

from .agent import Agent
from .errors import CtlError, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
TRY_SECONDS = 5     # for one try
PAUSE_SECONDS = 0.5  # between tries


def raise_on_signals():
    """From here on signals raise Interrupted in the main thread."""
    def interrupt(number, _frame):
        raise Interrupted(f'interrupted by {signal.Signals(number).name}')
    for s in SIGNALS:
        signal.signal(s, interrupt)


def thaw_one(address, agent, seconds):
    """None, or why the guest may still be frozen.  agent: a session to try first."""
    end = time.monotonic() + seconds
    while True:
        problem = None
        try:
            deadline = min(end, time.monotonic() + TRY_SECONDS)
            if agent is None:
                agent = Agent(address, TRY_SECONDS)
            else:
                agent.sync(deadline)  # the reply to a freeze may still be to come
            agent.cmd('guest-fsfreeze-thaw', deadline)
            status = agent.cmd('guest-fsfreeze-status', deadline)
            if status == 'thawed':
                return None
            problem = f'guest agent {address}: the file systems are {status}'
        except CtlError as e:
            problem = str(e)
        finally:
            if agent:
                agent.close()
            agent = None
        if time.monotonic() + PAUSE_SECONDS >= end:
            return problem
        time.sleep(PAUSE_SECONDS)


def thaw_all(addresses, agents, seconds):
    """All at the same time; seconds: for each, tries included.  Texts about those that may still be frozen."""
    problems = []

    def run(address, agent):
        problem = thaw_one(address, agent, seconds)
        if problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=pair) for pair in itertools.zip_longest(addresses, agents)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return problems


class Guard:
    """Thaws if this process dies without a word.  Started before anything is connected or frozen."""

    def __init__(self, addresses, thaw_seconds):
        read_end, self.pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.pipe)
                self._watch(read_end, addresses, thaw_seconds)
            finally:
                os._exit(0)
        os.close(read_end)

    @staticmethod
    def _watch(read_end, addresses, thaw_seconds):
        os.setsid()
        for s in SIGNALS:
            signal.signal(s, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, read_end)
        os.closerange(read_end + 1, 1024)
        frozen = b''
        while True:
            data = os.read(read_end, 16)
            if not data:
                break
            frozen = data[-1:]
        if frozen == b'F':
            thaw_all(addresses, (), thaw_seconds)

    def freezing(self):
        os.write(self.pipe, b'F')

    def thawed(self):
        os.write(self.pipe, b'T')

    def close(self):
        os.close(self.pipe)
        os.waitpid(self.pid, 0)


class Freezer:
    """All guests of one snapshot.  freeze(), then thaw(), which never raises and may be called at any time."""

    def __init__(self, addresses, seconds, thaw_seconds):
        """seconds: for freezing; thaw_seconds: for thawing one guest, tries included."""
        self.addresses = addresses
        self.seconds = seconds
        self.thaw_seconds = thaw_seconds
        self.touched = False
        self.began = None
        self.frozen_seconds = None
        self.filesystems = None
        self.agents = []
        self.guard = Guard(addresses, thaw_seconds)
        try:
            for a in addresses:
                self.agents.append(Agent(a, seconds))
        except BaseException:
            self.close()
            raise

    def freeze(self):
        """All at the same time; all frozen when it returns.  On failure the caller calls thaw()."""
        deadline = time.monotonic() + self.seconds
        self.guard.freezing()
        self.touched = True
        self.began = time.monotonic()
        for a in self.agents:
            a.send('guest-fsfreeze-freeze', deadline)
        self.filesystems = sum(a.result('guest-fsfreeze-freeze', deadline) or 0 for a in self.agents)

    def thaw(self):
        """Texts about guests that may still be frozen; empty: none."""
        if not self.touched:
            return []
        before = {s: signal.signal(s, signal.SIG_IGN) for s in SIGNALS}
        try:
            problems = thaw_all(self.addresses, self.agents, self.thaw_seconds)
            self.frozen_seconds = time.monotonic() - self.began
            self.touched = False
            self.guard.thawed()
            return problems
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def close(self):
        for problem in self.thaw():
            print(f'cutpointctl: a guest may still be frozen: {problem}', file=sys.stderr)
        for a in self.agents:
            a.close()
        self.guard.close()
