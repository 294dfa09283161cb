# SPDX-License-Identifier: BSD-3-Clause
"""Fifty monitors at once, half of them rude: the others are served as if they were alone, and memory stays bounded."""
import json
import multiprocessing
import random
import socket
import threading
import time

import pytest

from lib.daemon import MEASURED, SLOW
from lib.qmp import Qmp

MONITORS = 50
SECONDS = 3
MEMORY = 300 << 20  # what all of it may take; the daemon alone takes some 20 MiB


def rss(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith('VmHWM'))


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(1)
    s.connect(path)
    return s


class Rude(threading.Thread):
    """Misbehaves until it is told to stop; what the daemon does with it is no matter."""

    def __init__(self, path, seed, stop):
        super().__init__()
        self.path, self.random, self.stop = path, random.Random(seed), stop
        self.ways = 0

    def half_a_command(self, s):
        s.sendall(b'{"execute": "query-vers')
        time.sleep(0.05)

    def never_reads(self, s):
        for _ in range(300):
            s.sendall(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 20)
            if self.stop.is_set():
                break

    def leaves_in_a_reply(self, s):
        s.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-qmp-schema"}')
        s.recv(2000)

    def garbage(self, s):
        s.sendall(bytes(self.random.randrange(256) for _ in range(5000)) + b'[' * 2000 + b'{"a":1}' * 500)

    def endless_string(self, s):
        s.sendall(b'"')
        for _ in range(100):
            s.sendall(b'x' * 10000)

    def run(self):
        ways = (self.half_a_command, self.never_reads, self.leaves_in_a_reply, self.garbage, self.endless_string)
        while not self.stop.is_set():
            try:
                with connect(self.path) as s:
                    self.random.choice(ways)(s)
                    self.ways += 1
            except OSError:
                pass  # cut off, or full


def be_polite(paths, seconds, result):
    """In a process of its own, so that the rude ones do not take the time of this interpreter."""
    sessions = [Qmp(p) for p in paths]
    request, times = json.dumps({'execute': 'query-version'}), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for q in sessions:
            begin = time.monotonic()
            q.send_raw(request)
            assert 'return' in q.receive()
            times.append(time.monotonic() - begin)
    result.put(sorted(times))


@pytest.mark.parametrize('rude', [0, MONITORS // 2])
def test_latency(daemon, images, rude):
    argv = []
    for i in range(MONITORS):
        argv += ['--chardev', f'socket,id=c{i},path={images}/m{i},server=on,wait=off', '--monitor', f'c{i}']
    d = daemon(*argv, env=MEASURED)
    stop, result = threading.Event(), multiprocessing.Queue()
    rudes = [Rude(f'{images}/m{i}', i, stop) for i in range(rude)]
    polite = multiprocessing.Process(target=be_polite, args=([f'{images}/m{i}' for i in range(rude, MONITORS)], SECONDS, result))
    polite.start()
    for r in rudes:
        r.start()
    try:
        times = result.get(timeout=(SECONDS + 60) * SLOW)
    finally:
        stop.set()
        for r in rudes:
            r.join()
        polite.join()
    median, most = times[len(times) // 2], times[-len(times) // 100]
    print(f'{rude} rude of {MONITORS}: {len(times)} commands; median {median * 1e3:.2f} ms, 99 % below {most * 1e3:.2f} ms, '
          f'all below {times[-1] * 1e3:.2f} ms; {rss(d.pid) >> 20} MiB; rude things: {sum(r.ways for r in rudes)}')
    assert median < 0.1 * SLOW
    assert rss(d.pid) < MEMORY * SLOW


def test_who_does_not_read_is_not_served_on(daemon):
    """Replies stop at a bound; when they are read, the rest comes, and nothing is lost."""
    d = daemon(env=MEASURED)
    n = 400
    before = rss(d.pid)
    d.qmp.send_raw(''.join(json.dumps({'execute': 'query-qmp-schema', 'id': i}) for i in range(n)))
    time.sleep(0.3)
    assert rss(d.pid) - before < 16 << 20  # all replies are more than that
    sizes, ids = 0, []
    for _ in range(n):
        line = d.qmp.receive_line()
        sizes += len(line)
        ids.append(json.loads(line)['id'])
    assert ids == list(range(n)) and sizes > 20 << 20
