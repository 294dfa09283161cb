# SPDX-License-Identifier: BSD-3-Clause
"""Snapshot groups: making them, and looking at them.

A snapshot is one transaction of the daemon, so it is all or nothing, and its name is the group's.  The same command with the same --group
again finds the group and says so: a script that lost the answer can ask again.
"""
import contextlib
import datetime
import time

from . import freeze, output
from .errors import REFUSED, CtlError, Disconnected, Incomplete, Interrupted, Refused
from .nodes import Nodes, snapshot_actions
from .qmp import Qmp

CUT = ('settling', 'settled', 'degraded')
PREPARE_MARGIN = 60  # seconds for which a prepared group outlives what is planned


def default_group():
    return datetime.datetime.now().strftime('%Y%m%d-%H%M%S')


def find_group(qmp, name):
    groups = qmp.cmd('query-snapshot-groups', {'id': name})
    return groups[0] if groups else None


def wait_settled(qmp, name, seconds):
    """The group, when it has settled or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        group = find_group(qmp, name)
        if group is None or group['state'] != 'settling' or time.monotonic() > deadline:
            return group
        time.sleep(0.02)


def show_result(args, group, frozen=None, already=False):
    """Prints it; the exit status says whether the old images are durable."""
    if args.json:
        output.print_json({'group': group, **({'frozen-seconds': frozen} if frozen is not None else {})})
    else:
        print(f"{group['id']}: {len(group['members'])} disk{'s' if len(group['members']) != 1 else ''} at {output.instant(group.get('cut-time'))}"
              f"{' (done before)' if already else ''}{f', guests frozen for {frozen:.3f} s' if frozen is not None else ''}")
        for m in group['members']:
            print(f"  {m['node']} -> {m.get('overlay', m.get('snapshot'))}  {m.get('overlay-file', '')}")
    bad = [m['node'] for m in group['members'] if m['state'] == 'degraded']
    if bad:
        raise Incomplete(f"the snapshot is there, but not durable: could not flush {', '.join(bad)}")
    if group['state'] == 'settling':
        raise Incomplete('the snapshot is there, but not yet durable: old images are still being flushed')


def already_there(args, qmp, name):
    """The group, if it was cut before with the disks that are asked for now."""
    group = find_group(qmp, name)
    if group is None or group['state'] not in CUT:
        return None
    asked = set(args.nodes)
    disks = {m['node'] for m in group['members']}
    if not args.all and not args.follow and asked != disks:
        raise Refused(f"group '{name}' exists already, with other disks: {', '.join(sorted(disks))}")
    return group


def plan(args, qmp, name):
    nodes = Nodes(qmp)
    return snapshot_actions(nodes, nodes.choose(args.nodes, args.all, args.follow), name, args)


def snapshot(args):
    name = args.group or default_group()
    with contextlib.ExitStack() as stack:
        freezer = None
        if args.freeze:
            freeze.raise_on_signals()
            freezer = freeze.Freezer(args.freeze, args.freeze_timeout, args.thaw_timeout)
            stack.callback(freezer.close)
        qmp = stack.enter_context(Qmp(args.socket))
        group = already_there(args, qmp, name)
        if group:
            show_result(args, wait_settled(qmp, name, args.settle_timeout), already=True)
            return 0
        actions = plan(args, qmp, name)
        if freezer:
            take_frozen(args, qmp, name, actions, freezer)
        else:
            try:
                qmp.cmd('transaction', {'actions': actions, 'properties': {'group': name, 'settle-timeout': args.settle_timeout * 1000}},
                        args.settle_timeout + 600)
            except Disconnected as e:
                raise lost(e, name) from e
            except KeyboardInterrupt as e:
                raise Interrupted(str(lost('interrupted', name))) from e
        group = wait_settled(qmp, name, args.settle_timeout)
        show_result(args, group, freezer.frozen_seconds if freezer else None)
    return 0


def lost(error, name):
    return Disconnected(f'{error}; whether the snapshot was made is not known: the same command with --group {name} tells, or makes it')


def take_frozen(args, qmp, name, actions, freezer):
    """Prepare, freeze, commit, thaw.  All guests are thawed when it returns or raises, or the error names them."""
    error, committing = None, False
    try:
        qmp.cmd('transaction-prepare', {'id': name, 'actions': actions, 'timeout': int((args.freeze_timeout + PREPARE_MARGIN) * 1000),
                                        # the reply comes at the instant, so that the guests need not wait for flushes
                                        'properties': {'settle-timeout': 1}}, 600)
        freezer.freeze()
        committing = True
        qmp.cmd('transaction-commit', {'id': name}, args.freeze_timeout)
    except CtlError as e:
        error = e
    problems = freezer.thaw()
    if error:
        error = decide(qmp, name, committing, error)
    if problems:
        raise Incomplete('a guest may still be frozen: ' + '; '.join(problems) + (f' (and: {error})' if error else ''))
    if error:
        raise error


def decide(qmp, name, committing, error):
    """After an error: the group is aborted, unless it was cut.  The error that is left, or None."""
    try:
        qmp.reconnect()  # a reply may still be to come on the old connection
        group = find_group(qmp, name)
        if group and group['state'] in CUT:
            return None
        qmp.cmd('transaction-abort', {'id': name})
    except Refused:
        pass  # it was not even prepared
    except Disconnected:
        return lost(error, name) if committing else error  # what is prepared expires
    return error


def check(args):
    name = args.group or default_group()
    with Qmp(args.socket) as qmp:
        actions = plan(args, qmp, name)
        info = qmp.cmd('transaction-check', {'actions': actions, 'properties': {'group': name}})
    names = [a['data']['node-name'] for a in actions]
    if args.json:
        output.print_json(info)
    else:
        for f in info['failures']:
            print(f"{names[f['index']]}: {f['desc']}")
        for w in info['warnings']:
            print(f"{names[w['index']]}: warning: {w['desc']}")
        if not info['failures']:
            for a in actions:
                print(f"{a['data']['node-name']} -> {a['data']['snapshot-node-name']}  {a['data']['snapshot-file']}")
    return REFUSED if info['failures'] else 0


def prepare(args):
    name = args.group or default_group()
    with Qmp(args.socket) as qmp:
        group = find_group(qmp, name)
        if group and group['state'] in CUT:
            raise Refused(f"group '{name}' exists already")
        info = qmp.cmd('transaction-prepare', {'id': name, 'actions': plan(args, qmp, name), 'timeout': int(args.timeout * 1000),
                                               'hold': args.hold}, 600)
    if args.json:
        output.print_json(info)
    else:
        print(f"{name}: {info['state']}, for {info.get('remaining', 0) / 1000:.3g} s")
    return 0


def hold(args):
    with Qmp(args.socket) as qmp:
        info = qmp.cmd('transaction-hold', {'id': args.group, 'timeout': int(args.timeout * 1000)})
    if args.json:
        output.print_json(info)
    else:
        print(f"{args.group}: {info['state']}, for {info.get('remaining', 0) / 1000:.3g} s")
    return 0


def cut(args):
    with Qmp(args.socket) as qmp:
        try:
            qmp.cmd('transaction-commit', {'id': args.group}, 600)
        except Disconnected as e:
            raise Disconnected(f'{e}; whether the snapshot was made is not known: the same command again tells, or makes it') from e
        show_result(args, wait_settled(qmp, args.group, 0))
    return 0


def abort(args):
    with Qmp(args.socket) as qmp:
        qmp.cmd('transaction-abort', {'id': args.group}, 600)
    if args.json:
        output.print_json({})
    return 0


def transactions(args):
    with Qmp(args.socket) as qmp:
        under_way = qmp.cmd('query-transactions')
    if args.json:
        output.print_json(under_way)
        return 0
    output.table([('TRANSACTION', 'STATE', 'REMAINING', 'NODES')] +
                 [(t['id'], t['state'], f"{t['remaining'] / 1000:.3g} s" if 'remaining' in t else '-', ' '.join(t['nodes'])) for t in under_way])
    return 0


def groups(args):
    with Qmp(args.socket) as qmp:
        if args.groups:
            found = [g for name in args.groups for g in qmp.cmd('query-snapshot-groups', {'id': name}) or missing(name)]
        else:
            found = qmp.cmd('query-snapshot-groups')
    if args.json:
        output.print_json(found)
        return 0
    if not args.groups:
        output.table([('GROUP', 'STATE', 'DURABLE', 'DISKS', 'INSTANT', 'LONGEST WAIT')] +
                     [(g['id'], g['state'], 'yes' if g['durable'] else 'no', len(g['members']), output.instant(g.get('cut-time')),
                       output.duration(g.get('longest-wait'))) for g in found])
        return 0
    for g in found:
        show_group(g)
    return 0


def missing(name):
    raise Refused(f"there is no group '{name}'")


def show_group(g):
    marks = [m for m in ('durable', 'recovered', 'retired') if g[m]]
    print(f"{g['id']}  {', '.join([g['state'], *marks])}")
    print(f"  uuid {g['uuid']}")
    if 'cut-time' in g:
        print(f"  instant {output.instant(g['cut-time'])}")
    phases = [f"{p} {output.duration(g[p + '-duration'])}" for p in ('prepare', 'record', 'cut', 'settle') if p + '-duration' in g]
    if phases:
        print(f"  {', '.join(phases)}")
    if 'longest-wait' in g:
        print(f"  longest wait of a request {output.duration(g['longest-wait'])}")
    for m in g['members']:
        print(f"  {m['node']} -> {m.get('overlay', m.get('snapshot'))}  {m['state']}, wait {output.duration(m.get('longest-wait'))}, "
              f"settle {output.duration(m.get('settle-duration'))}")
        print(f"    {m.get('file', '-')} -> {m.get('overlay-file', '-')}")
    for text in g['messages']:
        print(f'  {text}')
