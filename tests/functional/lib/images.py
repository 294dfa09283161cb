# SPDX-License-Identifier: BSD-3-Clause
"""Image files as QEMU's tools make and see them."""
import json
import subprocess
import tempfile


class ToolFailed(Exception):
    """A tool ended with an error; its output is the text."""


def run(*argv, check=True, timeout=120):
    """Runs a program; its standard output.  With check=False a CompletedProcess instead."""
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, text=True, errors='replace',
                          check=False)
    if not check:
        return done
    if done.returncode != 0:
        raise ToolFailed(f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def create(path, size='64M', fmt='qcow2', backing=None, backing_fmt='qcow2', options=None):
    """qemu-img create; returns the path."""
    argv = ['qemu-img', 'create', '-q', '-f', fmt]
    if options:
        argv += ['-o', options]
    if backing:
        argv += ['-b', backing, '-F', backing_fmt]
    argv.append(path)
    if not backing or size != '64M':
        argv.append(size)
    run(*argv)
    return path


def info(path, share=False, chain=False):
    argv = ['qemu-img', 'info', '--output=json']
    if share:
        argv.append('-U')
    if chain:
        argv.append('--backing-chain')
    return json.loads(run(*argv, path))


def check(path, share=False, fmt='qcow2'):
    """qemu-img check; its report.  ToolFailed if the image has errors or leaks."""
    argv = ['qemu-img', 'check', '--output=json', '-f', fmt]
    if share:
        argv.append('-U')
    return json.loads(run(*argv, path))


def compare(a, b, share=False):
    """Whether two images have the same contents."""
    argv = ['qemu-img', 'compare', '-q']
    if share:
        argv.append('-U')
    done = run(*argv, a, b, check=False)
    if done.returncode > 1:
        raise ToolFailed(f'qemu-img compare {a} {b}: {done.stderr}')
    return done.returncode == 0


def map_ranges(path, share=False):
    argv = ['qemu-img', 'map', '--output=json']
    if share:
        argv.append('-U')
    return json.loads(run(*argv, path))


def contents(path, length, offset=0, share=False):
    """Bytes of the guest's view."""
    with tempfile.NamedTemporaryFile(dir='/var/tmp') as raw:
        argv = ['qemu-img', 'convert', '-O', 'raw']
        if share:
            argv.append('-U')
        run(*argv, path, raw.name)
        raw.seek(offset)
        return raw.read(length)


def qemu_io(path, *commands, fmt='qcow2', read_only=False, check=True):
    """qemu-io on an image; a CompletedProcess (check=False) or its output."""
    argv = ['qemu-io', '-f', fmt]
    if read_only:
        argv.append('-r')
    for c in commands:
        argv += ['-c', c]
    done = run(*argv, path, check=False)
    # qemu-io ends with 0 although a pattern did not match or a request failed.
    bad = done.returncode != 0 or 'failed' in done.stdout + done.stderr or 'error' in done.stderr
    if not check:
        return done
    if bad:
        raise ToolFailed(f'qemu-io {path} {commands}: {done.stdout}{done.stderr}')
    return done.stdout


def can_write(path, fmt='qcow2'):
    """Whether another process may open the image for writing: nobody holds its lock."""
    done = run('qemu-io', '-f', fmt, '-c', 'read 0 512', path, check=False)
    if done.returncode == 0:
        return True
    assert 'lock' in done.stderr, done.stderr
    return False
