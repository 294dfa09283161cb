# SPDX-License-Identifier: BSD-3-Clause
"""An image with an external data file, and a power failure: what was flushed is there, in two files that agree.

STRESS_POINTS=n tries n times.
"""
import os
import random

import nbd
import pytest

from lib import images as img
from lib.daemon import Daemon
from lib.powerfail import CrashPoint, power_failure

POINTS = int(os.environ.get('STRESS_POINTS', '4'))
G = 65536


@pytest.mark.parametrize('raw', ('off', 'on'))
def test_what_was_flushed_survives(images, raw):
    for point in range(POINTS):
        rng = random.Random(point)
        directory = images / f'{point}'
        directory.mkdir()
        img.run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', f'data_file={directory}/data,data_file_raw={raw}', directory / 'image', '8M')
        crash = CrashPoint(directory, os.environ['CRASHSHIM'])
        d = Daemon(['--blockdev', f'driver=file,node-name=f,filename={directory}/image', '--blockdev', 'driver=qcow2,node-name=a,file=f',
                    '--nbd-server', f'addr.type=unix,addr.path={directory}/nbd.sock',
                    '--export', 'type=nbd,id=e,node-name=a,writable=on'], directory=directory, env=crash.environment())
        h = nbd.NBD()
        h.connect_uri(f'nbd+unix:///a?socket={directory}/nbd.sock')
        crash.arm()
        want = {}
        for i in range(rng.randrange(1, 6)):
            for k in rng.sample(range(128), 10):
                data = bytes([16 * i + k % 16 + 1])
                h.pwrite(data * G, k * G)
                want[k] = data
            h.flush()
        for k in rng.sample([k for k in range(128) if k not in want], 10):
            h.pwrite(b'\xff' * G, k * G)
        d.kill()
        power_failure(crash, directory, rng)
        crash.close()
        done = img.run('qemu-img', 'check', directory / 'image', check=False)
        assert done.returncode in (0, 3), done.stdout + done.stderr
        content = img.contents(directory / 'image', 128 * G)
        for k, data in want.items():
            assert content[k * G:(k + 1) * G] == data * G, k
