# SPDX-License-Identifier: BSD-3-Clause
"""The console's `commit`: the backing image gets everything, the disk is emptied, guests go on."""
import random
import threading

import nbd
import pytest

from lib import emulator
from lib import images as img
from lib.chain import MIB, Chain, nodes


def hmp(d, line):
    return d.cmd('human-monitor-command', {'command-line': line})


def allocated(path):
    """Bytes that the image itself decides."""
    return sum(r['length'] for r in img.map_ranges(path) if r['depth'] == 0 and r.get('present', True) and (r['data'] or r['zero']))


def test_what_it_says(images):
    top, base, alone = (images / f'{n}.qcow2' for n in ('top', 'base', 'alone'))
    img.create(base, '4M')
    img.create(top, '4M', backing=base)
    img.create(alone, '4M')
    img.qemu_io(top, 'write -P 7 1M 1M')
    drives = ['-drive', f'file={top},if=none,id=d,node-name=n', '-drive', f'file={alone},if=none,id=a', '-drive', 'if=ide,media=cdrom,id=cd']
    answers = emulator.console(images, ['commit nosuch', 'commit cd', 'commit a', 'commit d', 'commit all', 'commit',
                                        'info block-jobs'], *drives)
    assert answers == ["Device 'nosuch' not found\n", "Device 'cd' has no medium\n", "'commit' error for 'a': Operation not supported\n",
                       '', '', 'commit: block device name expected\nTry "help commit" for more information\n', 'No active jobs\n']
    img.qemu_io(base, 'read -P 7 1M 1M', 'read -P 0 0 1M')
    assert allocated(top) == 0
    assert img.check(top)['check-errors'] == 0 and 'leaks' not in img.check(top)


@pytest.mark.parametrize('base_format', ['qcow2', 'raw'])
def test_chain(daemon, images, base_format):
    """The disk and its backing image read as the disk did; what is below that is as it was.  Nobody sees a job."""
    c = Chain(images, 3, size=16 * MIB, base_format=base_format)
    want, below = c.contents(), c.contents(0)
    d = daemon(*c.arguments())
    assert hmp(d, 'commit n2') == ''
    assert d.cmd('query-jobs') == [] and not [e for e in d.qmp.events if 'JOB' in e['event']]
    assert nodes(d)['n1']['ro'] and not nodes(d)['n2']['ro']
    d.stop()
    assert c.contents() == want and c.contents(1) == want and c.contents(0) == below
    assert allocated(c.files[2]) == 0
    for path in c.files[1:]:
        report = img.check(path)
        assert report['check-errors'] == 0 and 'leaks' not in report


def test_overlay_that_is_longer(daemon, images):
    base, top = images / 'base.qcow2', images / 'top.qcow2'
    img.create(base, '1M')
    img.create(top, '5M', backing=base)
    img.qemu_io(base, 'write -P 1 0 1M')
    img.qemu_io(top, 'write -P 2 3M 64k')
    d = daemon('--blockdev', f'driver=qcow2,node-name=b,read-only=on,file.driver=file,file.filename={base}',
               '--blockdev', f'driver=qcow2,node-name=t,backing=b,file.driver=file,file.filename={top}')
    assert hmp(d, 'commit t') == ''
    d.stop()
    img.qemu_io(base, 'read -P 1 0 1M', 'read -P 0 1M 2M', 'read -P 2 3M 64k')
    assert img.info(base)['virtual-size'] == 5 * MIB


def test_guest_writes_meanwhile(daemon, images):
    """Nothing that a guest was told is lost, no request fails, and reads find it at once."""
    c = Chain(images, 2, size=64 * MIB, writes=60)
    d = daemon(*c.arguments())
    stop, told, bad = threading.Event(), {}, []

    def guest(seed):
        rng = random.Random(seed)
        h = nbd.NBD()
        h.connect_uri(c.uri)
        n = 0
        try:
            while not stop.is_set():
                n += 1
                place = (rng.randrange(256) * 4 + seed) * 65536
                data = bytes([n % 255 + 1]) * 4096
                at = place + rng.randrange(16) * 4096
                h.pwrite(data, at)
                told[at] = data
                at = rng.choice([k for k in list(told) if k // 65536 % 4 == seed])
                if h.pread(4096, at) != told[at]:
                    bad.append(at)
        except nbd.Error as e:
            bad.append(e)

    guests = [threading.Thread(target=guest, args=(i,)) for i in range(3)]
    for g in guests:
        g.start()
    for _ in range(6):
        assert hmp(d, 'commit n1') == ''
    stop.set()
    for g in guests:
        g.join()
    assert not bad and len(told) > 50
    assert hmp(d, 'commit n1') == ''
    h = nbd.NBD()
    h.connect_uri(c.uri)
    for at, data in told.items():
        assert h.pread(4096, at) == data
    h.shutdown()
    d.stop()
    assert allocated(c.files[1]) == 0
    assert c.contents(0) == c.contents(1)
    for path in c.files:
        assert img.check(path)['check-errors'] == 0


def test_it_cannot(daemon, images):
    """A job in the way; a base that another overlay shows."""
    c = Chain(images, 3, size=4 * MIB, writes=6)
    want = c.contents()
    d = daemon(*c.arguments())
    d.cmd('block-commit', {'device': 'n2', 'base-node': 'n0', 'job-id': 'j'})
    d.qmp.event('BLOCK_JOB_READY')
    assert hmp(d, 'commit n2') == "'commit' error for 'n2': Device or resource busy\r\n"
    d.cmd('block-job-cancel', device='j')
    d.qmp.event('BLOCK_JOB_COMPLETED')
    img.create(images / 'o.qcow2', '4M', backing=c.files[1])
    d.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'file': {'driver': 'file', 'filename': f'{images}/o.qcow2'}, 'backing': 'n1'})
    d.cmd('block-export-add', {'type': 'nbd', 'id': 'o', 'name': 'o', 'node-name': 'o'})
    assert hmp(d, 'commit n2') == "'commit' error for 'n2': Device or resource busy\r\n"
    assert hmp(d, 'commit n1') == "'commit' error for 'n1': Need a root block node\r\n"
    d.stop()
    assert c.contents() == want
