# SPDX-License-Identifier: BSD-3-Clause
"""cutpointctl against a real daemon, with guest agents that fail in every step."""
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lib import images as img
from lib.agent import FakeAgent
from lib.daemon import ROOT, SLOW, Daemon

CTL = os.environ.get('CUTPOINTCTL', str(ROOT / 'build' / 'scripts' / 'cutpointctl' / 'cutpointctl'))


class Setup:
    def __init__(self, directory):
        self.dir = Path(directory)
        self.socket = self.dir / 'ctl.sock'
        self.agents = []
        for d in 'ab':
            img.create(self.dir / f'{d}.qcow2', '16M')
            img.qemu_io(self.dir / f'{d}.qcow2', f'write -P {ord(d)} 0 1M')
        args = ['--snapshot-journal', self.dir / 'journal.db', '--chardev', f'socket,id=ctl,path={self.socket},server=on,wait=off', '--monitor', 'ctl',
                '--nbd-server', f'addr.type=unix,addr.path={self.dir}/nbd.sock']
        for d in 'ab':
            args += ['--blockdev', f'driver=qcow2,node-name={d},file.driver=file,file.filename={self.dir}/{d}.qcow2',
                     '--export', f'nbd,id=e{d},node-name={d},name={d},writable=on']
        self.daemon = Daemon(args)

    def start(self, command, *args):
        argv = [CTL, command, '--socket', self.socket, *args]
        return subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, p, status=0):
        out, err = p.communicate(timeout=90 * SLOW)
        assert p.returncode == status, (out, err)
        if status:
            # one line, after the progress of commit
            *before, last = err.splitlines()
            assert last.startswith('cutpointctl: ') and all(line.startswith('commit ') for line in before), err
            return last
        return out

    def ctl(self, command, *args, status=0):
        """What it prints; with a status other than 0, its error."""
        return self.end(self.start(command, *args), status)

    def json(self, command, *args):
        return json.loads(self.ctl(command, '--json', *args))

    def agent(self, faults=None, **kwargs):
        a = FakeAgent(self.dir / f'agent{len(self.agents)}.sock', faults, **kwargs)
        self.agents.append(a)
        return a

    def frozen(self, *options, status=0):
        return self.ctl('snapshot', '-g', 'g', *(o for a in self.agents for o in ('--freeze', a.path)), *options, 'a', 'b', status=status)

    def write(self, export, offset, length):
        img.run('qemu-io', '-f', 'raw', '-c', f'write -P 5 {offset} {length}', f'nbd+unix:///{export}?socket={self.dir}/nbd.sock')

    def states(self):
        return {g['id']: g['state'] for g in self.daemon.cmd('query-snapshot-groups')}

    def nothing_happened(self):
        assert self.daemon.cmd('query-transactions') == []
        assert self.states().get('g') in (None, 'aborted')
        assert not list(self.dir.glob('*.g.qcow2'))
        assert not any(a.frozen for a in self.agents)

    def happened(self):
        assert self.states()['g'] == 'settled'
        assert sorted(p.name for p in self.dir.glob('*.g.qcow2')) == ['a.g.qcow2', 'b.g.qcow2']
        assert not any(a.frozen for a in self.agents)


@pytest.fixture
def s(images):
    s = Setup(images)
    yield s
    for a in s.agents:
        a.close()
    s.daemon.stop()


# ---- snapshots ----

def test_snapshot(s):
    out = s.ctl('snapshot', '-g', 'g', 'a', 'b')
    assert 'g: 2 disks at 20' in out and f'a -> a-g  {s.dir}/a.g.qcow2' in out
    s.happened()
    for d in 'ab':
        assert img.info(s.dir / f'{d}.g.qcow2', share=True)['full-backing-filename'] == str(s.dir / f'{d}.qcow2')
    # the same again; with other disks
    assert '(done before)' in s.ctl('snapshot', '-g', 'g', 'a', 'b')
    assert "group 'g' exists already, with other disks: a, b" in s.ctl('snapshot', '-g', 'g', 'a', status=1)
    # names do not grow; --follow, --all
    assert "'a' is a backing image of 'a-g': name that, or say --follow" in s.ctl('snapshot', 'a', status=2)
    assert f'a-g -> a-h  {s.dir}/a.h.qcow2' in s.ctl('snapshot', '--follow', '-g', 'h', 'a')
    group = s.json('snapshot', '--all', '-g', 'i')['group']
    assert sorted((m['node'], m['overlay']) for m in group['members']) == [('a-h', 'a-i'), ('b-g', 'b-i')]
    # without a name: date and time
    name = s.json('snapshot', '--all')['group']['id']
    assert time.strptime(name, '%Y%m%d-%H%M%S')


def test_names_of_overlays(s):
    (s.dir / 'there').mkdir()
    out = s.ctl('snapshot', '-g', 'g', '--directory', s.dir / 'there', '--overlay-name', 'top-{node}', 'a')
    assert f'a -> top-a  {s.dir}/there/a.g.qcow2' in out
    out = s.ctl('snapshot', '-g', 'h', '--file', f'{s.dir}/{{disk}}/../x-{{group}}-{{disk}}', 'b', status=1)
    assert 'x-h-b' in out
    assert f'b -> b-h  {s.dir}/x-h-b' in s.ctl('snapshot', '-g', 'h', '--file', f'{s.dir}/x-{{group}}-{{disk}}', 'b')
    assert 'is no pattern' in s.ctl('snapshot', '--file', '{x}', 'b-h', status=2)
    assert 'is no pattern' in s.ctl('snapshot', '--file', '{node.x}', 'b-h', status=2)
    assert "would both be '" in s.ctl('snapshot', '--file', f'{s.dir}/same', 'b-h', 'top-a', status=2)
    # data in the way
    (s.dir / 'data').write_bytes(b'precious')
    assert 'exists and holds data' in s.ctl('snapshot', '--file', s.dir / 'data', 'b-h', status=2)
    assert (s.dir / 'data').read_bytes() == b'precious'
    s.ctl('snapshot', '--file', s.dir / 'data', '--replace', 'b-h')
    # an existing overlay
    img.create(s.dir / 'mine', '16M')
    out = s.ctl('snapshot', '-g', 'k', '--mode', 'existing', '--file', s.dir / 'mine', 'top-a')
    assert f'top-a -> a-k  {s.dir}/mine' in out


def test_all_or_nothing(s):
    assert 'New overlay node-name already in use' in s.ctl('snapshot', '-g', 'g', '--overlay-name', 'x', 'a', 'b', status=1)
    s.nothing_happened()
    (s.dir / 'b.g.qcow2').mkdir()
    s.ctl('snapshot', '-g', 'g', '--replace', 'a', 'b', status=1)
    (s.dir / 'b.g.qcow2').rmdir()
    s.nothing_happened()


def test_check(s):
    assert f'a -> a-g  {s.dir}/a.g.qcow2' in s.ctl('check', '-g', 'g', 'a', 'b')
    s.nothing_happened()
    p = s.start('check', '-g', 'g', '--overlay-name', 'b', 'a', 'b')
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 1 and 'a: New overlay node-name already in use' in out, out
    s.nothing_happened()


def test_in_steps(s):
    assert 'g: prepared, for' in s.ctl('prepare', '-g', 'g', 'a', 'b')
    assert s.json('transactions')[0]['state'] == 'prepared'
    assert 'g  ' in s.ctl('transactions')
    assert 'g: held, for' in s.ctl('hold', '--timeout', '30', 'g')
    assert 'g: 2 disks' in s.ctl('cut', 'g')
    s.happened()
    assert s.ctl('abort', 'g', status=1) == "cutpointctl: Transaction 'g' is committed already"
    s.ctl('prepare', '-g', 'h', '--follow', 'a')
    s.ctl('abort', 'h')
    assert s.states()['h'] == 'aborted' and not (s.dir / 'a.h.qcow2').exists()
    assert 'exists already' in s.ctl('prepare', '-g', 'g', '--follow', 'a', status=1)


# ---- errors and statuses ----

def test_no_daemon(s, tmp_path):
    assert 'No such file or directory' in s.end(subprocess.Popen([CTL, 'groups', '--socket', str(tmp_path / 'none')], stdout=subprocess.PIPE,
                                                                 stderr=subprocess.PIPE, text=True), 3)
    env = {k: v for k, v in os.environ.items() if k != 'CUTPOINT_SOCKET'}
    p = subprocess.run([CTL, 'groups'], env=env, capture_output=True, text=True, check=False)
    assert p.returncode == 2 and 'which daemon?' in p.stderr
    p = subprocess.run([CTL, 'groups', '--nonsense'], env=env, capture_output=True, text=True, check=False)
    assert p.returncode == 2 and p.stderr.startswith('cutpointctl: ')
    env['CUTPOINT_SOCKET'] = str(s.socket)
    assert subprocess.run([CTL, 'groups'], env=env, capture_output=True, check=True).stdout.startswith(b'GROUP ')
    p = subprocess.run([CTL, 'abort', '--json', 'x'], env=env, capture_output=True, text=True, check=False)
    assert json.loads(p.stdout) == {'error': {'class': 'GenericError', 'desc': "Transaction 'x' not found"}} and p.returncode == 1


def test_no_monitor(s):
    """Something else listens there; and somebody closes in the middle of the commit."""
    answers = [b'hello\n', b'{"QMP": {}}\n{"return": {}}\n']

    def serve(listener):
        for text in answers:
            client, _ = listener.accept()
            client.sendall(text)
            if b'QMP' in text:
                data = b''
                while b'query' not in data:
                    data += client.recv(4096)
            client.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(s.dir / 'x.sock'))
        listener.listen(4)
        t = threading.Thread(target=serve, args=(listener,))
        t.start()
        for text in ('this is no QMP monitor', 'has closed the connection'):
            p = subprocess.run([CTL, 'groups', '-s', str(s.dir / 'x.sock')], capture_output=True, text=True, check=False)
            assert p.returncode == 3 and text in p.stderr, p.stderr
        t.join()


def test_interrupted(s):
    """While the daemon does not answer: whether it was made is not known, and the same command tells."""
    out = s.json('check', '-g', 'g', 'a')
    assert out['failures'] == []
    s.daemon.process.send_signal(signal.SIGSTOP)
    p = s.start('snapshot', '-g', 'g', 'a', 'b')
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    s.end(p, 130)
    s.daemon.process.send_signal(signal.SIGCONT)
    s.ctl('snapshot', '-g', 'g', 'a', 'b')
    s.happened()


# ---- freezing ----

def test_frozen(s):
    one, two = s.agent(), s.agent(garbage=b'{"return": 17}\n{"ret\xff{"return": 1}\n')
    out = s.frozen()
    assert 'guests frozen for' in out
    s.happened()
    for a in (one, two):
        assert a.log == ['guest-sync-delimited', 'guest-fsfreeze-freeze', 'guest-sync-delimited', 'guest-fsfreeze-thaw', 'guest-fsfreeze-status']


def test_frozen_at_the_instant(s):
    """The instant is between freeze and thaw, and what was prepared was so before."""
    a = s.agent({'guest-fsfreeze-freeze': ['hang']})
    p = s.start('snapshot', '-g', 'g', '--freeze', a.path, '--freeze-timeout', '3', 'a', 'b')
    a.wait(lambda a: a.frozen)
    assert [t['state'] for t in s.daemon.cmd('query-transactions')] == ['prepared']
    assert 'does not answer' in s.end(p, 3)
    s.nothing_happened()


@pytest.mark.parametrize('fault, status, text', [
    ({'guest-sync-delimited': ['hang']}, 3, 'does not answer'),
    ({'guest-sync-delimited': ['close']}, 3, 'has closed the connection'),
    ({'guest-fsfreeze-freeze': ['no such device']}, 1, 'guest-fsfreeze-freeze: no such device'),
    ({'guest-fsfreeze-freeze': ['hang']}, 3, 'does not answer'),
    ({'guest-fsfreeze-freeze': ['ignore']}, 3, 'does not answer'),
    ({'guest-fsfreeze-freeze': ['close']}, 3, 'has closed the connection'),
])
@pytest.mark.parametrize('second', [False, True])
def test_freeze_fails(s, fault, status, text, second):
    if second:
        s.agent()
    s.agent(fault)
    if not second:
        s.agent()
    assert text in s.frozen('--freeze-timeout', '1', status=status)
    s.nothing_happened()


@pytest.mark.parametrize('fault', [
    {'guest-fsfreeze-thaw': ['try later', 'close', 'try later']},
    {'guest-fsfreeze-thaw': ['close'], 'guest-sync-delimited': [None, None, 'close']},
    {'guest-fsfreeze-thaw': ['ignore']},
    {'guest-fsfreeze-status': ['close']},
])
def test_thaw_needs_several_tries(s, fault):
    s.agent(fault)
    s.agent()
    s.frozen()
    s.happened()


def test_daemon_refuses(s):
    a = s.agent()
    (s.dir / 'b.g.qcow2').mkdir()
    s.frozen('--replace', status=1)
    (s.dir / 'b.g.qcow2').rmdir()
    assert a.log == ['guest-sync-delimited']  # never frozen
    s.nothing_happened()


def test_daemon_does_not_answer_while_frozen(s):
    a = s.agent({'guest-fsfreeze-freeze': ['hang']})
    p = s.start('snapshot', '-g', 'g', '--freeze', a.path, '--freeze-timeout', '2', 'a', 'b')
    a.wait(lambda a: a.frozen)
    s.daemon.process.send_signal(signal.SIGSTOP)
    try:
        a.wait(lambda a: not a.frozen and 'guest-fsfreeze-thaw' in a.log)
    finally:
        s.daemon.process.send_signal(signal.SIGCONT)
    s.end(p, 3)
    s.nothing_happened()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_frozen(s, number):
    a, b = s.agent(), s.agent({'guest-fsfreeze-freeze': ['hang']})
    p = s.start('snapshot', '-g', 'g', '--freeze', a.path, '--freeze', b.path, '--freeze-timeout', '60', 'a', 'b')
    a.wait(lambda a: a.frozen)
    b.wait(lambda b: b.frozen)
    p.send_signal(number)
    assert f'interrupted by {number.name}' in s.end(p, 130)
    s.nothing_happened()


def test_killed_while_frozen(s):
    """Not even SIGKILL leaves a guest frozen."""
    a, b = s.agent(), s.agent({'guest-fsfreeze-freeze': ['hang'], 'guest-sync-delimited': [None, 'close']})
    p = s.start('snapshot', '-g', 'g', '--freeze', a.path, '--freeze', b.path, '--freeze-timeout', '60', 'a', 'b')
    a.wait(lambda a: a.frozen)
    b.wait(lambda b: b.frozen)
    p.kill()
    p.communicate(timeout=60)
    for agent in (a, b):
        agent.wait(lambda x: not x.frozen)
    s.ctl('abort', 'g')
    s.nothing_happened()


def test_guest_that_stays_frozen_is_named(s):
    a = s.agent({'guest-fsfreeze-thaw': ['no way'] * 1000})
    err = s.frozen('--thaw-timeout', '1', status=4)
    assert f'a guest may still be frozen: guest agent {a.path}: guest-fsfreeze-thaw: no way' in err
    assert a.frozen and s.states()['g'] == 'settled'


# ---- merging ----

def test_commit(s):
    s.ctl('snapshot', '-g', 'g', 'a', 'b')
    s.ctl('snapshot', '-g', 'h', '-f', 'a')
    s.write('a', '2M', '1M')
    # a middle one, then the active one; the export stays
    assert 'a-g: committed' in s.ctl('commit', 'a-h', '--top', 'a-g')
    assert 'a-h: committed' in s.ctl('commit', 'a-h')
    assert [e['node-name'] for e in s.daemon.cmd('query-block-exports') if e['id'] == 'ea'] == ['a']
    assert s.daemon.cmd('query-jobs') == []
    assert s.json('commit', 'b-g')['status'] == 'concluded'
    assert "there is no node 'x'" in s.ctl('commit', 'x', status=1)
    s.ctl('commit', 'a', status=1)  # nothing below it


def test_commit_interrupted(s):
    s.ctl('snapshot', '-g', 'g', 'a')
    s.write('a', '0', '8M')
    p = s.start('commit', 'a-g', '--speed', '65536')
    while not [j for j in s.daemon.cmd('query-jobs') if j['status'] == 'running' and j['current-progress']]:
        time.sleep(0.01)
    p.send_signal(signal.SIGINT)
    assert 'interrupted by SIGINT: the commit was cancelled' in s.end(p, 130)
    assert s.daemon.cmd('query-jobs') == []
    assert [e['node-name'] for e in s.daemon.cmd('query-block-exports') if e['id'] == 'ea'] == ['a-g']
    # in the background; --speed limits it
    job = s.ctl('commit', 'a-g', '--speed', '65536', '--background').strip()
    assert [j['id'] for j in s.daemon.cmd('query-jobs')] == [job]
    s.daemon.cmd('job-cancel', id=job)


def test_commit_bar(s):
    """On a terminal one line is drawn again and again."""
    s.ctl('snapshot', '-g', 'g', 'a')
    s.write('a', '0', '8M')
    main, terminal = os.openpty()
    subprocess.run([CTL, 'commit', 'a-g', '-s', s.socket, '--speed', '16777216'], stderr=terminal, check=True, stdout=subprocess.DEVNULL)
    os.close(terminal)
    text = b''
    try:
        while data := os.read(main, 4096):
            text += data
    except OSError:
        pass
    os.close(main)
    assert b'\rcommit a-g [' in text.replace(b'\x1b[K', b'') and b'100%' in text and text.count(b'\n') == 1


# ---- looking ----

def test_groups(s):
    s.ctl('snapshot', '-g', 'g', 'a', 'b')
    head, line = s.ctl('groups').splitlines()
    assert head.split()[:4] == ['GROUP', 'STATE', 'DURABLE', 'DISKS'] and line.split()[:4] == ['g', 'settled', 'yes', '2']
    out = s.ctl('groups', 'g')
    assert 'g  settled, durable' in out and f'{s.dir}/a.qcow2 -> {s.dir}/a.g.qcow2' in out
    assert s.json('groups', 'g') == s.daemon.cmd('query-snapshot-groups')
    assert "there is no group 'x'" in s.ctl('groups', 'x', status=1)


def test_graph(s):
    s.ctl('snapshot', '-g', 'g', 'a')
    out = s.ctl('graph').splitlines()
    at = out.index('export ea (nbd)')
    assert out[at + 1].split()[1] == 'a-g' and out[at + 2].split()[1:3] == ['backing:', 'a'] and 'read-only' in out[at + 2]
    assert not [line for line in out if '#block' in line] and [line for line in s.ctl('graph', '-a').splitlines() if '#block' in line]
    ascii_only = subprocess.run([CTL, 'graph', '-s', s.socket], env={**os.environ, 'PYTHONIOENCODING': 'ascii'}, capture_output=True, check=True)
    assert b'`- a-g' in ascii_only.stdout
    s.ctl('graph', '--svg', s.dir / 'graph.svg')
    drawing = (s.dir / 'graph.svg').read_text()
    assert '<svg' in drawing and '>a&#45;g<' in drawing and '>backing<' in drawing
    assert s.ctl('graph', '--dot').startswith('digraph')
    assert 'a-g' in [n['label'] for n in s.json('graph')]


def test_nodes(s):
    assert sorted(s.ctl('nodes', '--names').split()) == ['a', 'b']
    assert len(s.ctl('nodes', '--names', '--all').split()) == 4
    assert 'qcow2' in s.ctl('nodes')


def complete(s, *words):
    script = f"""PATH={Path(CTL).parent}:$PATH; . {ROOT}/scripts/cutpointctl/completion/cutpointctl.bash
                 COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cutpointctl; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return subprocess.run(['bash', '-c', script, 'bash', 'cutpointctl', *words], capture_output=True, text=True, check=True,
                          env={**os.environ, 'CUTPOINT_SOCKET': str(s.socket)}).stdout.split()


def test_completion(s):
    assert complete(s, 'g') == ['groups', 'graph']
    assert complete(s, 'snapshot', '--fre') == ['--freeze', '--freeze-timeout']
    assert sorted(complete(s, 'snapshot', '')) == ['a', 'b']
    s.ctl('snapshot', '-g', 'g1', 'a')
    assert complete(s, 'groups', 'g') == ['g1']
    s.ctl('prepare', '-g', 'p1', 'b')
    assert complete(s, 'cut', '') == ['p1']
    s.ctl('abort', 'p1')


def test_man_page():
    """It knows every command and option."""
    text = (ROOT / 'docs' / 'cutpointctl.1').read_text()
    done = subprocess.run(['groff', '-mandoc', '-Tascii', '-P-cbou', '-ww', str(ROOT / 'docs' / 'cutpointctl.1')], capture_output=True, text=True, check=True)
    assert done.stderr == '' and 'SYNOPSIS' in done.stdout
    commands = command_names()
    assert len(commands) == 11
    for c in commands:
        assert c in text
        usage = subprocess.run([CTL, c, '--help'], capture_output=True, text=True, check=True).stdout
        for word in usage.replace(',', ' ').replace('[', ' ').replace(']', ' ').split():
            if word.startswith('--') and word != '--help':
                assert f'Fl -{word[2:]}' in text, (c, word)


def command_names():
    usage = subprocess.run([CTL, '--help'], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in usage.splitlines() if line.startswith('    ') and line[4] != ' ']
