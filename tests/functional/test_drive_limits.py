# SPDX-License-Identifier: BSD-3-Clause
"""Limits and statistics of drives, and copy-on-read=on."""
import json
import os
import socket
import subprocess
import time

import pytest

from lib import emulator
from lib import images as img

NULL = 'if=none,id=d,driver=null-co'
NONE = {'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0, 'iops_rd': 0, 'iops_wr': 0}


def limits(**more):
    return {**NONE, **more}


def inserted(reply, device='d'):
    (i,) = [b['inserted'] for b in reply['return'] if b['device'] == device]
    return i


def replies(directory, commands, *args):
    return emulator.replies(emulator.qmp(directory, commands, *args))


@pytest.mark.parametrize('options, error', [
    ('iops=-1', 'bps/iops/max values must be within [0, 1000000000000000]'),
    ('bps=1000000000000001', 'bps/iops/max values must be within [0, 1000000000000000]'),
    ('iops=x', "Parameter 'throttling.iops-total' expects a number"),
    ('iops=10,throttling.iops-total=5', "'throttling.iops-total' and its alias 'iops' can't be used at the same time"),
    ('iops=10,iops_rd=5', 'bps/iops/max total values and read/write values cannot be used at the same time'),
    ('bps_max=5', 'bps_max/iops_max require corresponding bps/iops values'),
    ('bps=5,bps_max=3', 'bps_max/iops_max cannot be lower than bps/iops'),
    ('iops_size=3', 'iops size requires an iops value to be set'),
    ('throttling.bps-total-max-length=3', 'burst length set without burst rate'),
    ('stats-intervals.0=0', 'Invalid interval length: 0'),
    ('stats-intervals.0=x', 'Invalid interval length: x'),
    ('stats-account-invalid=x', "Parameter 'stats-account-invalid' expects 'on' or 'off'"),
    ('rerror=enospc', "'enospc' invalid read error action"),
])
def test_options(tmp_path, options, error):
    done = emulator.run(tmp_path, '-drive', f'{NULL},{options}')
    assert done.returncode == 1
    assert done.stderr == f'qemu-system-x86_64: -drive {NULL},{options}: {error}\n'


def test_console(tmp_path):
    drive = NULL + ',iops=10,bps=100,bps_max=200,throttling.bps-total-max-length=3,group=g'
    line = '    I/O throttling:   bps={} bps_rd=0 bps_wr=0 bps_max={} bps_rd_max=0 bps_wr_max=0 iops={} iops_rd=0 iops_wr={} ' \
           'iops_max=0 iops_rd_max=0 iops_wr_max=0 iops_size=0 group={}\n'
    answers = emulator.console(tmp_path, ['info block d', 'block_set_io_throttle d 1 2 0 0 0 0', 'block_set_io_throttle x 1 0 0 0 0 0',
                                          'block_set_io_throttle d 0 0 0 0 0 7', 'info block', 'block_set_io_throttle d 0 0 0 0 0 0',
                                          'info block'], '-drive', drive)
    assert line.format(100, 200, 10, 0, 'g') in answers[0]
    assert answers[1:4] == ['Error: bps/iops/max total values and read/write values cannot be used at the same time\n',
                            "Error: Device 'x' not found\n", '']
    assert line.format(0, 0, 0, 7, 'g') in answers[4]
    assert 'throttling' not in answers[6]


def test_groups_are_shared_by_name(tmp_path):
    def set_to(device, **more):
        return ('block_set_io_throttle', limits(device=device, **more))

    r = replies(tmp_path, [
        ('query-block',),
        set_to('e', iops=7, iops_max=9, iops_max_length=2, iops_size=512, group='d'),
        ('query-block',),
        ('blockdev-add', {'driver': 'throttle', 'node-name': 't', 'throttle-group': 'd', 'file': {'driver': 'null-co'}}),
        ('object-add', {'qom-type': 'throttle-group', 'id': 'd'}),
        set_to('d'),
        ('query-block',),
        set_to('d', bps_rd=5, group='obj'),
        ('qom-get', {'path': '/objects/obj', 'property': 'limits'}),
        set_to('none', iops=1), set_to('x', iops=1), ('block_set_io_throttle', limits()), set_to('d', iops=1, iops_max=2, iops_max_length=0),
        ('query-named-block-nodes', {'flat': True}),
    ], '-object', 'throttle-group,id=obj,x-iops-total=3', '-drive', NULL + ',iops=3,node-name=n',
        '-drive', NULL.replace('=d,', '=e,'), '-drive', 'if=none,id=none')
    assert (inserted(r[0])['iops'], inserted(r[0])['group']) == (3, 'd')
    assert 'iops_max' not in inserted(r[0]) and 'group' not in inserted(r[0], 'e')
    for device in 'de':
        i = inserted(r[2], device)
        assert (i['iops'], i['iops_max'], i['iops_max_length'], i['iops_size'], i['group']) == (7, 9, 2, 512, 'd')
    assert r[3] == {'return': {}}
    assert r[4]['error']['desc'] == 'A group with this name already exists'
    assert 'group' not in inserted(r[6]) and inserted(r[6], 'e')['group'] == 'd'
    assert (r[8]['return']['bps-read'], r[8]['return']['iops-total']) == (5, 0)
    assert [x['error']['desc'] for x in r[9:13]] == ['Device has no medium', "Device 'x' not found",
                                                     "Need exactly one of 'device' and 'id'", 'the burst length cannot be 0']
    (n,) = [n for n in r[13]['return'] if n['node-name'] == 'n']
    assert n['bps_rd'] == 0 and 'group' not in n  # they are the device's


def test_limits_stay_with_the_device(tmp_path):
    img.create(tmp_path / 'a', '1M')
    r = replies(tmp_path, [('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': str(tmp_path / 'b')}), ('query-block',)],
                '-drive', f'if=none,id=d,file={tmp_path}/a,format=qcow2,iops=9')
    assert (inserted(r[1])['file'], inserted(r[1])['iops']) == (str(tmp_path / 'b'), 9)


def test_speed(tmp_path):
    """By the real clock; what waits goes when the program ends."""
    ios = [('human-monitor-command', {'command-line': 'qemu-io d "aio_read 0 512"'})] * 12
    flush = ('human-monitor-command', {'command-line': 'qemu-io d aio_flush'})
    program = [emulator.program(tmp_path), '-nodefaults', '-display', 'none', '-accel', 'tcg', '-qmp', 'stdio']

    def run(commands, drive):
        text = '\n'.join(json.dumps({'execute': c[0], **({'arguments': c[1]} if len(c) > 1 else {})})
                         for c in [('qmp_capabilities',), *commands, ('quit',)])
        began = time.monotonic()
        done = subprocess.run([*program, '-drive', drive], input=text.encode(), timeout=60, check=True, stdout=subprocess.PIPE)
        return time.monotonic() - began, done.stdout

    took, out = run([*ios, flush], NULL + ',iops=20')  # 3 at once, then 50 ms each
    assert 0.4 < took < 3 and out.count(b', 1 ops;') == 12
    took, _ = run([*ios, flush], NULL + ',iops_wr=1')  # no limit on reads
    assert took < 0.4
    took, _ = run([*ios, ('block_set_io_throttle', limits(device='d')), flush], NULL + ',iops=1')
    assert took < 1
    took, _ = run(ios, NULL + ',iops=1')
    assert took < 1
    img.create(tmp_path / 'a', '1M')
    took, out = run([*ios, ('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': str(tmp_path / 'b')})],
                    f'if=none,id=d,file={tmp_path}/a,format=qcow2,iops=1')  # a snapshot waits for no limit
    assert took < 1 and b'"error"' not in out


class Qtest:
    """A session with a machine under test, whose clock stands."""

    def __init__(self, directory, *args):
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [emulator.program(directory), *emulator.BASE, '-qmp', 'stdio', '-chardev', f'socket,id=q,fd={theirs.fileno()}',
             '-qtest', 'chardev:q', *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()])
        theirs.close()
        self.clock = ours.makefile('rw')
        self.process.stdout.readline()
        self.cmd('qmp_capabilities')

    def cmd(self, name, arguments=None):
        message = {'execute': name, **({'arguments': arguments} if arguments else {})}
        self.process.stdin.write(json.dumps(message).encode() + b'\n')
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            if line.startswith(b'{"return"'):
                return json.loads(line)['return']
            assert not line.startswith(b'{"error"') and line, line

    def io(self, command, device='d'):
        self.cmd('human-monitor-command', {'command-line': f'qemu-io {device} "{command}"'})

    def step(self, seconds):
        self.clock.write(f'clock_step {int(seconds * 1e9)}\n')
        self.clock.flush()
        assert self.clock.readline().startswith('OK ')

    def stats(self, device='d'):
        (s,) = [s['stats'] for s in self.cmd('query-blockstats') if s['device'] == device]
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cmd('quit')
        self.process.stdin.close()
        assert self.process.wait(10) == 0


def test_clock_that_stands(tmp_path):
    with Qtest(tmp_path, '-drive', NULL + ',iops_rd=10,throttling.iops-read-max=100,throttling.iops-read-max-length=2') as q:
        q.step(100)
        for i in range(400):
            q.io(f'aio_read {i * 512} 512')
        assert q.stats()['rd_operations'] in (10, 11)
        q.step(1)
        assert 105 <= q.stats()['rd_operations'] <= 115  # at the rate of the burst
        q.step(10)
        assert 300 <= q.stats()['rd_operations'] <= 320  # its end, and at the rate
        q.io('aio_write 0 512')
        assert q.stats()['wr_operations'] == 1
        q.cmd('block_set_io_throttle', limits(device='d'))
        assert q.stats()['rd_operations'] == 400


def test_statistics(tmp_path):
    with Qtest(tmp_path, '-drive', NULL + ',size=1M,stats-intervals.0=10,stats-intervals.1=60,stats-account-invalid=off',
               '-drive', NULL.replace('=d,', '=e,') + ',size=1M,stats-account-failed=off') as q:
        q.step(1)
        s = q.stats()
        assert [t['interval_length'] for t in s['timed_stats']] == [10, 60] and 'idle_time_ns' not in s
        assert (s['account_invalid'], s['account_failed']) == (False, True)
        q.io('aio_read -i 0 512')
        q.step(1)
        s = q.stats()
        assert (s['invalid_rd_operations'], s['rd_operations']) == (1, 0) and 'idle_time_ns' not in s
        for _ in range(5):
            q.io('aio_read 0 4096')
        q.io('aio_write 0 512')
        q.io('aio_write 2M 512')  # fails
        q.step(1)
        s = q.stats()
        short, long = s['timed_stats']
        assert s['idle_time_ns'] == 1000000000 and s['rd_total_time_ns'] == 5000000
        assert (s['wr_operations'], s['failed_wr_operations'], s['wr_total_time_ns']) == (1, 1, 2000000)
        for t in (short, long):
            assert (t['min_rd_latency_ns'], t['avg_rd_latency_ns'], t['max_wr_latency_ns']) == (1000000,) * 3
            assert t['max_flush_latency_ns'] == 0 and t['avg_wr_queue_depth'] > 0
        assert short['avg_rd_queue_depth'] == pytest.approx(0.005 / 3)
        q.io('aio_flush')  # to wait for them counts as a flush
        assert q.stats()['flush_operations'] == 1
        q.step(15)
        short, long = q.stats()['timed_stats']
        assert short['max_rd_latency_ns'] == 0 and short['avg_rd_queue_depth'] == 0
        assert long['max_rd_latency_ns'] == 1000000
        q.io('aio_write -i 0 512', 'e')
        q.io('aio_read 2M 512', 'e')
        q.step(2)
        s = q.stats('e')
        assert (s['invalid_wr_operations'], s['failed_rd_operations'], s['rd_total_time_ns']) == (1, 1, 0)
        assert s['idle_time_ns'] == 2000000000 and s['timed_stats'] == []


def test_copy_on_read(tmp_path):
    img.create(tmp_path / 'base', '1M')
    img.run('qemu-io', '-c', 'write -P 7 0 1M', tmp_path / 'base')
    img.create(tmp_path / 'top', backing=tmp_path / 'base')
    read = [('human-monitor-command', {'command-line': 'qemu-io d "read -P 7 64k 4k"'})]
    drive = f'if=none,id=d,file={tmp_path}/top,format=qcow2,copy-on-read=on'
    done = emulator.run(tmp_path, '-drive', drive + ',read-only=on', '-monitor', 'stdio', stdin='qemu-io d "read 0 64k"\nquit\n')
    assert 'disabling copy-on-read on read-only drive' in done.stderr
    used = os.stat(tmp_path / 'top').st_size
    messages = emulator.qmp(tmp_path, read, '-drive', drive)
    assert not any('verification failed' in m for m in messages if isinstance(m, str))
    maps = json.loads(img.run('qemu-img', 'map', '--output=json', tmp_path / 'top'))
    assert [(m['start'], m['length']) for m in maps if m['depth'] == 0] == [(65536, 65536)]
    assert os.stat(tmp_path / 'top').st_size > used
    img.run('qemu-img', 'check', tmp_path / 'top')
