# SPDX-License-Identifier: BSD-3-Clause
"""The daemon under an emulator's name.

Its command line is that of qemu-system-x86_64; standard input and output are one monitor, QMP or the console.
"""
import json
import os
import subprocess
from pathlib import Path

from .daemon import SLOW, daemon_binary

BASE = ['-nodefaults', '-display', 'none', '-accel', 'qtest']


def program(directory):
    """A link under an emulator's name."""
    path = Path(directory) / 'qemu-system-x86_64'
    if not path.is_symlink():
        os.symlink(daemon_binary(), path)
    return str(path)


def run(directory, *args, stdin='', base=True):
    """Runs to the end; what it wrote, line ends made plain."""
    argv = [program(directory), *(BASE if base else []), *(str(a) for a in args)]
    done = subprocess.run(argv, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60 * SLOW, check=False)
    done.stdout = done.stdout.decode().replace('\r\n', '\n')
    done.stderr = done.stderr.decode()
    return done


def console(directory, commands, *args):
    """What the console says to each command, without prompts and echo; it must end with status 0."""
    text = ''.join(c + '\n' for c in [*commands, 'quit'])
    done = run(directory, '-monitor', 'stdio', *args, stdin=text)
    assert done.returncode == 0, done.stderr
    answers = []
    rest = done.stdout
    for c in [*commands, 'quit']:
        head, rest = rest.split('(qemu) ' + c + '\n', 1)
        answers.append(head)
    return answers[1:]


def qmp(directory, commands, *args):
    """Replies and events to commands of (name, arguments); quit is added.  Lines that are no JSON come as strings."""
    messages = [{'execute': 'qmp_capabilities'}]
    messages += [{'execute': c[0], **({'arguments': c[1]} if len(c) > 1 else {})} for c in commands]
    messages.append({'execute': 'quit'})
    done = run(directory, '-qmp', 'stdio', *args, stdin='\n'.join(json.dumps(m) for m in messages))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) if line.startswith('{') else line for line in done.stdout.splitlines()][2:]


def replies(messages):
    """Without events and text."""
    return [m for m in messages if isinstance(m, dict) and 'event' not in m]
