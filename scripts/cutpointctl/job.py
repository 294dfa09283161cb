# SPDX-License-Identifier: BSD-3-Clause
"""commit: an overlay is merged into its backing image, with a progress bar.

The job is not dismissed by itself, so that its error can be read however late this program looks.  A job that is ready (an active commit,
which follows the guest's writes) is completed.  An interrupt cancels it: what was merged so far stays in the backing image, and the
overlay is as it was.
"""
import contextlib
import os
import sys
import time

from . import freeze, output
from .errors import CtlError, Incomplete, Interrupted, Refused
from .nodes import Nodes
from .qmp import Qmp

LOOK_SECONDS = 0.25
BAR = 30


class Bar:
    """One line that is drawn again on a terminal; lines at tenths elsewhere."""

    def __init__(self, label, quiet):
        self.label = label
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self.began = time.monotonic()
        self.tenth = -1
        self.drawn = False

    def show(self, job):
        total, current = job.get('total-progress', 0), job.get('current-progress', 0)
        part = min(1, current / total) if total else 0
        if self.quiet:
            return
        if self.terminal:
            full = int(part * BAR)
            seconds = time.monotonic() - self.began
            left = f' {output.seconds_text(seconds * (1 - part) / part)} left' if part > 0.01 and seconds > 1 and part < 1 else ''
            state = '' if job['status'] == 'running' else f" {job['status']}"
            print(f"\r\033[K{self.label} [{'#' * full}{'.' * (BAR - full)}] {part:4.0%} {output.size(current)} of {output.size(total)}{left}{state}",
                  end='', file=sys.stderr, flush=True)
            self.drawn = True
        elif int(part * 10) > self.tenth and total:
            self.tenth = int(part * 10)
            print(f'{self.label}: {part:.0%}', file=sys.stderr, flush=True)

    def end(self):
        if self.drawn:
            print(file=sys.stderr)


def find(qmp, job_id):
    return next((j for j in qmp.cmd('query-jobs') if j['id'] == job_id), None)


def follow(qmp, job_id, bar):
    """Until the job has concluded; its error, or None."""
    completing = False
    while True:
        job = find(qmp, job_id)
        if job is None:
            raise CtlError(f"job '{job_id}' was dismissed by somebody else; how it ended is not known")
        bar.show(job)
        if job['status'] == 'ready' and not completing:
            completing = True
            with contextlib.suppress(Refused):  # it is ending for another reason, which its error will tell
                qmp.cmd('job-complete', {'id': job_id})
        if job['status'] == 'concluded':
            qmp.cmd('job-dismiss', {'id': job_id})
            return job.get('error')
        qmp.event(LOOK_SECONDS)
        qmp.events.clear()


def cancel(qmp, job_id, bar):
    qmp.reconnect()
    with contextlib.suppress(Refused):  # it is ending already
        qmp.cmd('job-cancel', {'id': job_id})
    return follow(qmp, job_id, bar)


def commit(args):
    with Qmp(args.socket) as qmp:
        if args.node not in Nodes(qmp).by_name:
            raise Refused(f"there is no node '{args.node}'")
        job_id = args.job_id or f'commit-{os.getpid()}'
        arguments = {'job-id': job_id, 'device': args.node, 'auto-dismiss': False}
        for option, member in (('top', 'top-node'), ('base', 'base-node')):
            if getattr(args, option):
                arguments[member] = getattr(args, option)
        if args.speed:
            arguments['speed'] = args.speed
        if args.background:
            del arguments['auto-dismiss']
            qmp.cmd('block-commit', arguments)
            output.print_json({'job': job_id}) if args.json else print(job_id)
            return 0
        freeze.raise_on_signals()
        bar = Bar(f'commit {args.top or args.node}', args.quiet or args.json)
        qmp.cmd('block-commit', arguments)
        try:
            error = follow(qmp, job_id, bar)
        except Interrupted as e:
            error = cancel(qmp, job_id, bar)
            bar.end()
            if error:
                raise Interrupted(f'{e}: the commit was cancelled') from e
            raise Interrupted(f'{e}, but the commit was complete already') from e
        finally:
            bar.end()
            bar.drawn = False
        if error:
            raise Incomplete(f'commit failed: {error}')
        if args.json:
            output.print_json({'job': job_id, 'status': 'concluded'})
        elif not args.quiet:
            print(f'{args.top or args.node}: committed')
    return 0
