# SPDX-License-Identifier: BSD-3-Clause
"""The console: commands, their words, the line editor."""
import pty
import os
import re
import select
import socket
import subprocess
import time

import pytest

from lib import emulator
from lib.daemon import SLOW


def make(path, size='64M', *args):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *args, str(path), size], check=True)
    return path


@pytest.fixture
def console(images):
    return lambda commands, *args: emulator.console(images, commands, *args)


@pytest.fixture
def drive(images):
    return ['-drive', f'file={make(images / "a.qcow2")},if=none,id=d,node-name=n']


# ---- words ----

@pytest.mark.parametrize('line, answer', [
    ('nonsense', "unknown command: 'nonsense'\n"),
    ('nonsense with words', "unknown command: 'nonsense'\n"),
    ('info nonsense', "unknown command: 'info nonsense'\n"),
    ('help nonsense', "unknown command: 'nonsense'\n"),
    ('block_resize', 'block_resize: block device name expected\nTry "help block_resize" for more information\n'),
    ('block_resize d', 'block_resize: size expected\nTry "help block_resize" for more information\n'),
    ('block_resize d 1x', 'invalid size\nTry "help block_resize" for more information\n'),
    ('block_resize d 99999999T', 'invalid size\nTry "help block_resize" for more information\n'),
    ('block_resize d 1 2', 'block_resize: extraneous characters at the end of line\nTry "help block_resize" for more information\n'),
    ('block_job_cancel -x d', 'block_job_cancel: unsupported option -x\nTry "help block_job_cancel" for more information\n'),
    ('block_job_cancel -fé d', 'block_job_cancel: unsupported option -é\nTry "help block_job_cancel" for more information\n'),
    ('qemu-io d "read -é 0 1"', "Error: invalid option -- 'é'\n"),
    ('block_resize "d', 'block_resize: block device name expected\nTry "help block_resize" for more information\n'),
    ('block_resize "d\\q" 1', 'block_resize: block device name expected\nTry "help block_resize" for more information\n'),
    ('block_resize nosuch 1', "Error: Cannot find device='' nor node-name='nosuch'\n"),
    ('block_job_cancel d', "Error: Block job 'd' not found\n"),
    ('snapshot_blkdev d', "Error: Parameter 'snapshot-file' is missing\n"),
    ('snapshot_blkdev nosuch /x', "Error: Cannot find device='nosuch' nor node-name=''\n"),
    ('snapshot_blkdev d /nonexistent/x', "Error: Could not create '/nonexistent/x': No such file or directory\n"),
    ('snapshot_group', 'snapshot_group: string expected\nTry "help snapshot_group" for more information\n'),
    ('snapshot_group d', "Error: 'd' is not of the form DISK=FILE\n"),
    ('nbd_server_stop', 'Error: NBD server not running\n'),
    ('nbd_server_start -w unix:/x', 'Error: -w only valid together with -a\n'),
    ('nbd_server_start somewhere', "Error: error parsing address 'somewhere'\n"),
    ('nbd_server_remove x', "Error: Export 'x' is not found\n"),
    ('drive_add 0 if=virtio,driver=null-co', "Error: Can't hot-add drive to type 7\n"),
    ('drive_add -n 0 driver=null-co', "Error: 'node-name' needs to be specified\n"),
    ('drive_del nosuch', "Error: Device 'nosuch' not found\n"),
    ('device_add nosuch', "Error: 'nosuch' is not a valid device model name\n"),
    ('device_del nosuch', "Error: Device 'nosuch' not found\n"),
    ('object_add nosuch,id=x', "Error: Parameter 'qom-type' does not accept value 'nosuch'\n"),
    ('object_del nosuch', "Error: object 'nosuch' not found\n"),
    ('qemu-io nosuch "read 0 1"', "Error: Cannot find device='' nor node-name='nosuch'\n"),
    ('qemu-io -d nosuch "read 0 1"', "Error: Device 'nosuch' not found\n"),
    ('', ''),
    ('   # a remark', ''),
    ('info status', 'VM status: running\n'),
    ('info block-jobs', 'No active jobs\n'),
    ('info jobs', 'No jobs\n'),
    ('info exports', 'No exports\n'),
    ('info transactions', 'No prepared transactions\n'),
    ('info snapshot-groups', 'No snapshot groups\n'),
    ('chardev-remove nosuch', "Error: Chardev 'nosuch' not found\n"),
    ('chardev-add nosuch,id=x', "Error: 'nosuch' is not a valid char driver name\n"),
    ('chardev-change nosuch null', "Error: Chardev 'nosuch' does not exist\n"),
    ('ringbuf_read nosuch 4', "Error: Device 'nosuch' not found\n"),
    ('ringbuf_read x y', 'ringbuf_read: invalid number \'y\'\nTry "help ringbuf_read" for more information\n'),
    ('qom-list /nosuch', "Error: Device '/nosuch' not found\n"),
    ('qom-get /objects nosuch', "Error: Property 'container.nosuch' not found\n"),
    ('help info status', 'info status  -- show whether the machine runs\n'),
])
def test_answers(console, drive, line, answer):
    assert console([line], *drive) == [answer]


def test_help_names_every_command(console):
    listed, infos, also, one = console(['help', 'help info', 'info', 'help q'])
    assert infos == also
    assert one == 'quit|q  -- end the program\n'
    names = [line.split()[0].split('|')[0] for line in listed.splitlines()
             if (' -- ' in line or line.startswith('drive_add')) and line[0] != '[']
    for name in ('help', 'info', 'quit', 'snapshot_blkdev', 'snapshot_group', 'qemu-io', 'drive_add', 'nbd_server_start'):
        assert name in names
    manual = open(os.path.join(os.path.dirname(__file__), '../../docs/hmp.md'), encoding='utf-8').read()
    sections = re.findall(r'^## (.*)$', manual, re.M)
    for name in names:
        assert name in sections


def test_manual_is_made_of_the_table(images):
    root = os.path.join(os.path.dirname(__file__), '../..')
    subprocess.run([f'{root}/scripts/hmp-table', f'{root}/monitor/hmp/commands.txt', '--manual', str(images / 'm')], check=True)
    assert (images / 'm').read_text() == open(f'{root}/docs/hmp.md', encoding='utf-8').read()


# ---- disks ----

def test_info_block(images, console):
    base = make(images / 'base.qcow2')
    top = make(images / 'top.qcow2', '64M', '-b', str(base), '-F', 'qcow2')
    out, nodes, verbose, nothing = console(
        ['info block', 'info block -n', 'info block -v b', 'info block nosuch'],
        '-drive', 'if=none,id=a,media=cdrom', '-drive', f'file={top},if=none,id=b,node-name=t,cache=unsafe',
        '-drive', 'driver=null-co,if=none,id=c,node-name=z,readonly=on', '-device', 'virtio-blk,drive=c,id=v')
    assert out == (
        'a: [not inserted]\n'
        '    Removable device: not locked, tray closed\n'
        '\n'
        f'b (t): {top} (qcow2)\n'
        '    Removable device: not locked, tray closed\n'
        '    Cache mode:       writeback, ignore flushes\n'
        f'    Backing file:     {base} (chain depth: 1)\n'
        '\n'
        'c (z): null-co:// (null-co, read-only)\n'
        '    Attached to:      /machine/peripheral/v/virtio-backend\n'
        '    Cache mode:       writeback\n')
    assert nodes.startswith('z: null-co:// (null-co, read-only)\n    Cache mode:       writeback\n\n')
    assert f'\nt: {top} (qcow2)\n' in nodes
    assert f'\nImages:\nimage: {top}\nfile format: qcow2\nvirtual size: 64 MiB (67108864 bytes)\n' in verbose
    assert f'cluster_size: 65536\nbacking file: {base}\nbacking file format: qcow2\nBlock limits:\n    request alignment: ' in verbose
    assert '\nFormat specific information:\n    compat: 1.1\n' in verbose
    assert f'\n\nimage: {base}\n' in verbose
    assert nothing == ''


def test_info_block_of_an_image(images, console):
    """-v shows an image as qemu-img does."""
    image = make(images / 'i.qcow2')
    for command in (['bitmap', '--add', str(image), 'b0'], ['snapshot', '-c', 'one', str(image)], ['snapshot', '-c', 'two', str(image)]):
        subprocess.run(['qemu-img', *command], check=True)

    def table(text):
        return text.split('Snapshot list:\n')[1].split('\n')
    theirs = subprocess.run(['qemu-img', 'info', str(image)], capture_output=True, text=True, check=True).stdout
    ours = console(['info block -v d'], '-drive', f'file={image},if=none,id=d,readonly=on')[0]
    specific = 'Format specific information:\n'
    want = theirs.split(specific)[1].split('\nChild node')[0]
    got = ours.split(specific)[1]
    for line in want.rstrip('\n').split('\n'):
        assert line + '\n' in got, line
    assert '    bitmaps:\n        [0]:\n' in got
    for mine, judged in zip(table(ours)[1:3], table(theirs)[1:3]):
        assert mine.split()[:6] == judged.split()[:6] and mine.split()[1] in ('one', 'two')  # up to the clock
    assert re.search(r'Block limits:\n(    [a-z ]+: \d+\n)+Snapshot list:\nID +TAG +VM_SIZE +DATE +VM_CLOCK +ICOUNT\n1 +one ', ours)


def test_snapshots(images, console):
    disks = [make(images / f'{n}.qcow2') for n in 'ab']
    args = ['-drive', f'file={disks[0]},if=none,id=d', '-blockdev', f'qcow2,node-name=n,file.driver=file,file.filename={disks[1]}']
    out = console([
        f'snapshot_blkdev d {images}/s1.qcow2',
        f'snapshot_group -g daily d={images}/g1.qcow2 n={images}/g2.qcow2',
        f'snapshot_group d={images}/h1.qcow2 nosuch={images}/h2.qcow2',
        'info block',
        'info snapshot-groups',
    ], *args)
    assert out[0].startswith("Formatting '")
    settled = out[1].split('\n', 2)[2]
    assert re.fullmatch(rf'group daily: settled\n    #block\d+: writes go to #block\d+ \({images}/g1.qcow2\)\n'
                        rf'    n: writes go to n-snapshot \({images}/g2.qcow2\)\n', settled)
    assert out[2].endswith("Error: Cannot find device='' nor node-name='nosuch'\n")
    assert not (images / 'h1.qcow2').exists()
    assert f'{images}/g1.qcow2 (qcow2)' in out[3]
    assert 'group daily: settled\n' in out[4]
    info = subprocess.run(['qemu-img', 'info', '--backing-chain', str(images / 'g1.qcow2')], check=True, capture_output=True, text=True)
    assert re.findall(r'^image: (.*)$', info.stdout, re.M) == [f'{images}/g1.qcow2', f'{images}/s1.qcow2', str(disks[0])]


def test_qemu_io(images, console, drive):
    out = console([
        'qemu-io d "write -P 0x55 1M 64k"',
        'qemu-io n "read -P 0x55 1M 64k"',
        'qemu-io n "read -P 0x54 1M 512"',
        'qemu-io d "write -z 1M 4k"',
        'qemu-io d "read -P 0 1M 4k"',
        'qemu-io d "aio_write -P 7 3M 64k"',
        'qemu-io d aio_flush',
        'qemu-io d flush',
        'qemu-io d "discard 1M 64k"',
        'qemu-io d length',
        'qemu-io d map',
        'qemu-io d "read 64M 1"',
        'qemu-io d "read x 1"',
        'qemu-io d "read 1"',
        'qemu-io d "read 0 3G"',
        'qemu-io d "read -y 0 1"',
        'qemu-io d dance',
        'qemu-io d ""',
    ], *drive)
    assert re.fullmatch(r'wrote 65536/65536 bytes at offset 1048576\n'
                        r'64 KiB, 1 ops; \d\d:\d\d:\d\d\.\d\d \([0-9.]+ \w+/sec and [0-9.]+ ops/sec\)\n', out[0])
    assert out[1].startswith('read 65536/65536 bytes at offset 1048576\n')
    assert out[2].startswith('Pattern verification failed at offset 1048576, 512 bytes\nread 512/512')
    assert out[3].startswith('wrote 4096/4096') and out[4].startswith('read 4096/4096')
    assert 'wrote 65536/65536 bytes at offset 3145728' in out[5] + out[6]
    assert out[7] == '' and out[8].startswith('discard 65536/65536')
    assert out[9] == '64 MiB\n'
    assert '64 KiB (0x10000) bytes     allocated at offset 3 MiB (0x300000)\n' in out[10]
    assert out[11] == 'read failed: Input/output error\n'
    assert out[12] == 'Error: non-numeric offset argument -- x\n'
    assert out[13] == 'Error: bad argument count 1, expected 2 arguments\n'
    assert out[14].startswith('Error: length cannot exceed')
    assert out[15] == "Error: invalid option -- 'y'\n"
    assert out[16] == 'command "dance" not found\n' and out[17] == ''
    subprocess.run(['qemu-io', '-r', '-c', 'read -P 7 3M 64k', str(images / 'a.qcow2')], check=True, stdout=subprocess.DEVNULL)


def test_drives_and_devices(images, console):
    disk = make(images / 'a.qcow2')
    out = console([
        f'drive_add 0 file={disk},if=none,id=d', 'device_add virtio-blk,drive=d,id=v', 'drive_del d', 'info block',
        'device_del v', 'info block', f'drive_add 0:1 file={disk},if=none,id=d', 'drive_del d', 'info block',
        f'drive_add -n 0 driver=qcow2,file={disk},node-name=x', 'info block x', 'drive_del x', 'info block x',
        'object_add iothread,id=t', 'object_del t'])
    assert out[:3] == ['OK\n', '', '']
    assert out[3] == '/machine/peripheral/v/virtio-backend: [not inserted]\n    Attached to:      /machine/peripheral/v/virtio-backend\n'
    assert out[4:9] == ['', '', 'OK\n', '', '']
    assert out[10].startswith(f'x: {disk} (qcow2)\n')
    assert out[11:] == ['', '', '', '']


def test_nbd(images, console, drive):
    out = console([f'nbd_server_start -a -w unix:{images}/s', 'info exports', f'nbd_server_start unix:{images}/s',
                   'nbd_server_add -w d other', 'nbd_server_remove d', 'qemu-io d "sleep 300"', 'info exports', 'nbd_server_stop', 'info exports'], *drive)
    assert out == ['', 'd: nbd of node n\n', 'Error: NBD server already running\n', '', '', '', 'other: nbd of node n\n', '', 'No exports\n']


def test_objects_and_character_devices(images, console):
    out = console(['object_add iothread,id=t0,poll-max-ns=5', 'info iothreads', 'qom-list /objects', 'qom-get /objects/t0 poll-max-ns',
                   'chardev-add ringbuf,id=r,size=64', 'ringbuf_write r "a\\n\\\\b"', 'ringbuf_read r 100', 'info chardev',
                   f'chardev-change r file,path={images / "log"}', 'info chardev', 'chardev-send-break r', 'chardev-remove r'])
    assert out[0] == '' and re.fullmatch(r't0:\n  thread_id=\d+\n  poll-max-ns=5\n(  [a-z-]+=\d+\n){3}', out[1])
    assert 't0 (child<iothread>)\n' in out[2] and out[3] == '5\n'
    assert out[4:7] == ['', '', 'a\n\\\\b\n'] and 'r: filename=ringbuf\n' in out[7]
    assert out[8] == '' and 'r: filename=file\n' in out[9] and out[10:] == ['', '']


def test_jobs(images, console):
    base = make(images / 'base.qcow2')
    subprocess.run(['qemu-io', '-c', 'write -P 3 0 8M', str(base)], check=True, stdout=subprocess.DEVNULL)
    top = make(images / 'top.qcow2', '64M', '-b', str(base), '-F', 'qcow2')
    out = console(['block_stream d 64k', 'info block-jobs', 'block_job_pause d', 'block_job_cancel d', 'block_job_resume d',
                   'block_job_set_speed d 128k', 'info block-jobs', 'block_job_cancel -f d', 'block_resize d 128'],
                  '-drive', f'file={top},if=none,id=d')
    assert re.fullmatch(r'Streaming device d: Completed \d+ of \d+ bytes, speed limit 65536 bytes/s\n', out[1])
    assert out[3] == "Error: The block job for device 'd' is currently paused\n"
    assert out[6].endswith('speed limit 131072 bytes/s\n')
    assert out[0] == out[2] == out[4] == out[5] == out[7] == ''


def test_drive_mirror(images, console):
    top = make(images / 'top.qcow2')
    subprocess.run(['qemu-io', '-c', 'write -P 3 0 8M', str(top)], check=True, stdout=subprocess.DEVNULL)
    out = console([f'drive_mirror -f d {images}/copy.raw raw', 'info block-jobs', 'block_job_cancel -f d', f'drive_mirror -n d {images}/no'],
                  '-drive', f'file={top},if=none,id=d')
    assert out[0].startswith(f"Formatting '{images}/copy.raw', fmt=raw ") and out[2] == ''
    assert out[1].startswith('Type mirror, device d: Completed ')
    assert out[3] == f"Error: Could not open '{images}/no': No such file or directory\n" or 'busy' in out[3]
    assert (images / 'copy.raw').stat().st_size == 64 << 20


def test_drive_backup(images, console):
    top = make(images / 'top.qcow2')
    subprocess.run(['qemu-io', '-c', 'write -P 3 0 8M', str(top)], check=True, stdout=subprocess.DEVNULL)
    out = console([f'drive_backup -f d {images}/copy.raw raw', 'qemu-io d "write -P 4 0 1M"', f'drive_backup -n d {images}/no'],
                  '-drive', f'file={top},if=none,id=d')
    assert out[0].startswith(f"Formatting '{images}/copy.raw', fmt=raw ")
    assert out[2] == f"Error: Could not open '{images}/no': No such file or directory\n" or 'busy' in out[2] or 'in use' in out[2]
    assert (images / 'copy.raw').stat().st_size == 64 << 20


# ---- by QMP ----

def test_human_monitor_command(images, drive):
    out = emulator.qmp(images, [('human-monitor-command', {'command-line': c}) for c in
                                ('info status', 'nonsense', 'qemu-io d "write 0 64k"', 'qemu-io d length')], *drive)
    assert out[0] == {'return': 'VM status: running\r\n'}
    assert out[1] == {'return': "unknown command: 'nonsense'\r\n"}
    # its output is the process's, and comes before the reply
    assert out[2].startswith('wrote 65536/65536') and out[4] == {'return': ''}
    assert out[5] == '64 MiB' and out[6] == {'return': ''}


# ---- the line editor ----

class Terminal:
    """A console on a Unix socket, as a terminal shows it (one line, of its cursor movements those that the editor uses)."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.raw = b''
        self.wait(b'(qemu) ')

    def wait(self, text):
        deadline = time.monotonic() + 30 * SLOW
        while text not in self.raw:
            assert time.monotonic() < deadline, self.raw
            if select.select([self.sock], [], [], 1)[0]:
                data = self.sock.recv(65536)
                assert data, self.raw
                self.raw += data
        done, self.raw = self.raw.split(text, 1)
        return (done + text).decode(errors='replace')

    def run(self, keys):
        """What the command says; the prompt before the next one is awaited."""
        self.sock.sendall(keys.encode() if isinstance(keys, str) else keys)
        return self.wait(b'\r\n(qemu) ')


@pytest.fixture
def terminal(images, daemon):
    daemon('--chardev', f'socket,id=c,path={images}/c,server=on,wait=off', '--monitor', 'chardev=c,mode=readline',
           '--blockdev', 'null-co,node-name=disk0,size=1048576', '--blockdev', 'null-co,node-name=disk1')
    return Terminal(images / 'c')


@pytest.mark.parametrize('keys', [
    'infx\x7fo status\r',                    # backspace
    'o status\x01inf\r',                     # to the start and insert
    'info xstatus\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[3~\r',   # left, delete
    'rubbish\x15info status\r',              # clear
    'info status rubbish\x17\r',             # word
    'info statusxx\x02\x02\x0b\r',           # to the end
    'inf\x1b[H\x1b[Fo status\n',             # home, end
    'info sta\t\r',                          # completion
    'rubbish\x03info status\r',              # interrupt
    'info status\r\n',
])
def test_keys(terminal, keys):
    if '\x03' in keys:
        terminal.run(keys[:keys.index('\x03') + 1])
        keys = keys[keys.index('\x03') + 1:]
    assert terminal.run(keys).endswith('VM status: running\r\n(qemu) ')


def test_history(terminal):
    terminal.run('info status\r')
    terminal.run('info version\r')
    assert 'VM status' in terminal.run('\x1b[A\x1b[A\r')
    assert 'VM status' in terminal.run('draft\x1b[A\x1b[A\x1b[A\x1b[B\x1b[A\r')
    assert "unknown command: 'draft'" in terminal.run('draft\x1b[A\x1b[B\r')


def test_completion_lists_and_completes_devices(terminal):
    terminal.sock.sendall(b'info block disk\t')
    terminal.wait(b'(qemu) info block disk')
    assert 'disk0: json:{"driver": "null-co", "size": 1048576}' in terminal.run('0\r')
    assert 'block_job_cancel: block device name expected' in terminal.run('block_job_ca\t\r')


@pytest.fixture
def completed(images, daemon):
    """What a line becomes when Tab is pressed behind it, and what is listed if nothing is sure."""
    (images / 'alpha').mkdir()
    (images / 'alpha' / 'one.qcow2').touch()
    (images / 'beta.img').touch()
    (images / 'beta.raw').touch()
    make(images / 'x.qcow2')
    daemon('--chardev', f'socket,id=console,path={images}/c,server=on,wait=off', '--monitor', 'chardev=console,mode=readline',
           '--chardev', 'null,id=nothing', '--object', 'iothread,id=thread0',
           '--blockdev', 'null-co,node-name=disk0,size=1048576', '--blockdev', 'null-co,node-name=other',
           '--nbd-server', f'addr.type=unix,addr.path={images}/s', '--export', 'nbd,id=export0,node-name=disk0')
    t = Terminal(images / 'c')

    def press(line):
        t.sock.sendall(line.encode() + b'\t\x05<')  # to the end, and a mark
        shown = t.wait(b'<')[:-1]
        t.sock.sendall(b'\x15')
        t.wait(b'\x1b[K')
        if '\r\n' in shown:
            return ' '.join(shown.split('\r\n')[1:-1]).split()
        return shown
    return press


@pytest.mark.parametrize('line, result', [
    ('snapshot_g', 'snapshot_group '),
    ('info ver', 'info version '),
    ('help block_res', 'help block_resize '),
    ('block_resize di', 'block_resize disk0 '),
    ('block_resize disk0 di', 'block_resize disk0 di'),            # a size is not a disk
    ('block_job_cancel -', 'block_job_cancel -f '),
    ('block_job_cancel -f dis', 'block_job_cancel -f disk0 '),
    ('nbd_server_remove e', 'nbd_server_remove export0 '),
    ('object_del t', 'object_del thread0 '),
    ('object_add io', 'object_add iothread '),
    ('device_add virtio-blk-p', 'device_add virtio-blk-pci '),
    ('chardev-remove n', 'chardev-remove nothing '),
    ('snapshot_blkdev disk0 DIR/al', 'snapshot_blkdev disk0 DIR/alpha/'),
    ('snapshot_blkdev disk0 DIR/alpha/', 'snapshot_blkdev disk0 DIR/alpha/one.qcow2 '),
    ('snapshot_blkdev disk0 x qc', 'snapshot_blkdev disk0 x qcow2 '),
    ('snapshot_group dis', 'snapshot_group disk0='),
    ('snapshot_group disk0=DIR/al', 'snapshot_group disk0=DIR/alpha/'),
    ('snapshot_group disk0=x oth', 'snapshot_group disk0=x other='),
    ('snapshot_blkdev disk0 DIR/beta', 'snapshot_blkdev disk0 DIR/beta.'),
    ('snapshot_blkdev disk0 DIR/beta.', ['DIR/beta.img', 'DIR/beta.raw']),
    ('snapshot_blkdev disk0 /nonexistent/', 'snapshot_blkdev disk0 /nonexistent/'),
    ('qemu-io o', 'qemu-io other '),
    ('nonsense d', 'nonsense d'),
    ('eject d', 'eject d'),                                        # not there in a storage daemon
    ('', None),
])
def test_completion(images, completed, line, result):
    found = completed(line.replace('DIR', str(images)))
    if result is None:
        assert 'snapshot_group' in found and 'eject' not in found
    elif isinstance(result, list):
        assert found == [r.replace('DIR', str(images)) for r in result]
    else:
        assert found == result.replace('DIR', str(images))


def test_completion_of_devices(images):
    """An emulator's own: devices, media."""
    main, sub = pty.openpty()
    p = subprocess.Popen([emulator.program(images), '-nodefaults', '-monitor', 'stdio', '-drive', 'if=none,id=c', '-device',
                          'ide-cd,drive=c,id=drive-of-discs'], stdin=sub, stdout=sub, stderr=sub)
    os.close(sub)
    os.write(main, b'device_del dri\t\rchange c x q\t ret\t\rquit\r')
    assert p.wait(30 * SLOW) == 0
    seen = b''
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        seen += data
        if not data:
            break
    os.close(main)
    assert b'device_del drive-of-discs' in seen and b'change c x qcow2  retain' in seen


def test_bad_input(terminal):
    long = terminal.run('x' * 5000 + '\r')
    assert long.endswith('Error: a line may have 4095 bytes at most\r\n(qemu) ')
    assert 'not valid UTF-8' in terminal.run(b'info \xff\xfe\r')
    assert "unknown command" in terminal.run(b'\x00\x01\x1b[999999999999Z\x1bOQ%n%s\r')
    # the middle of a character at the beginning of a line
    assert 'VM status' in terminal.run(b'\x88\x9f\x02\x02\x7f\x1b[C\x08\x15info status\r')
    assert 'VM status' in terminal.run('info status\r')


def test_many_lines_at_once(terminal):
    terminal.sock.sendall(b'info status\n' * 200)
    seen = 0
    while seen < 200:
        seen += terminal.wait(b'\r\n(qemu) ').count('VM status: running')


def test_next_client_finds_an_empty_line(terminal, images):
    terminal.sock.sendall(b'half a line')
    terminal.sock.close()
    assert 'VM status' in Terminal(images / 'c').run('info status\r')


def test_on_a_terminal(images):
    main, sub = pty.openpty()
    p = subprocess.Popen([emulator.program(images), '-nodefaults', '-monitor', 'stdio'], stdin=sub, stdout=sub, stderr=sub)
    os.close(sub)
    os.write(main, b'inf\x7ffo status\rquit\r')
    seen = b''
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    assert p.wait(60) == 0
    os.close(main)
    assert b'VM status: running\n(qemu) quit\n' in seen.replace(b'\r', b'')


def test_telnet(daemon):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    daemon('--chardev', f'socket,id=c,host=127.0.0.1,port={port},server=on,wait=off,telnet=on', '--monitor', 'chardev=c,mode=readline')
    deadline = time.monotonic() + 30 * SLOW
    while True:
        try:
            sock = socket.create_connection(('127.0.0.1', port))
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    t = Terminal.__new__(Terminal)
    t.sock, t.raw = sock, b''
    assert t.wait(b'(qemu) ').encode(errors='replace')
    # what a telnet program sends: agreement to options, and a NUL behind carriage returns
    assert t.run(b'\xff\xfd\x01\xff\xfd\x03info status\r\x00').endswith('info status\r\nVM status: running\r\n(qemu) ')


def test_monitor_modes(images, daemon):
    with pytest.raises(Exception, match="'pretty' is not compatible with HMP monitors"):
        daemon('--chardev', f'socket,id=c,path={images}/c,server=on,wait=off', '--monitor', 'chardev=c,mode=readline,pretty=on')
