# SPDX-License-Identifier: BSD-3-Clause
"""The command line.  Commands are functions that take the parsed arguments and return an exit status; errors are exceptions."""
import argparse
import os
import sys

from . import graph, group, job, output
from .errors import INTERRUPTED, USAGE, CtlError, Refused


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f'cutpointctl: {message} (see {self.prog} --help)', file=sys.stderr)
        sys.exit(USAGE)


def positive(text):
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError('must be above 0 and at most 3600 seconds')
    return value


def whole(text):
    value = int(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError('must be 1 to 3600 seconds')
    return value


def build_parser(version):
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('-s', '--socket', default=os.environ.get('CUTPOINT_SOCKET'), help='QMP monitor: path of its Unix socket, or HOST:PORT '
                        '(default: $CUTPOINT_SOCKET)')
    common.add_argument('--json', action='store_true', help='print JSON')

    disks = argparse.ArgumentParser(add_help=False)
    disks.add_argument('nodes', nargs='*', metavar='NODE', help='node on which an overlay is put')
    disks.add_argument('-a', '--all', action='store_true', help='all nodes that guests and clients can write to')
    disks.add_argument('-f', '--follow', action='store_true', help='a NODE with overlays stands for the topmost of them')
    disks.add_argument('-g', '--group', help='name of the group (default: date and time)')
    disks.add_argument('--file', metavar='PATTERN', help='files of the overlays (default: {directory}/{stem}.{group}.{format})')
    disks.add_argument('--directory', metavar='DIR', help='where overlays go (default: beside their backing image)')
    disks.add_argument('--overlay-name', metavar='PATTERN', default='{disk}-{group}', help='node-names of the overlays (default: {disk}-{group})')
    disks.add_argument('--format', default='qcow2', help='format of the overlays (default: qcow2)')
    disks.add_argument('--mode', choices=['absolute-paths', 'existing'], default='absolute-paths', help='make the files, or use those that are there')
    disks.add_argument('--replace', action='store_true', help='overwrite files that hold data')

    parser = Parser(prog='cutpointctl', description='Snapshots of groups of live disks: all at one instant, all or none.')
    parser.add_argument('--version', action='version', version=f'cutpointctl {version}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True, parser_class=Parser)

    def command(name, function, text, *parents):
        p = commands.add_parser(name, parents=[common, *parents], help=text, description=text[0].upper() + text[1:] + '.')
        p.set_defaults(function=function)
        return p

    p = command('snapshot', group.snapshot, 'put an overlay on each node, at one instant', disks)
    p.add_argument('--freeze', action='append', default=[], metavar='SOCKET', help='guest agent whose file systems are frozen meanwhile (repeatable)')
    p.add_argument('--freeze-timeout', type=positive, default=10, metavar='SECONDS', help='for freezing, and for the commit (default: 10)')
    p.add_argument('--thaw-timeout', type=positive, default=30, metavar='SECONDS', help='try so long to thaw a guest (default: 30)')
    p.add_argument('--settle-timeout', type=whole, default=60, metavar='SECONDS', help='wait so long until old images are durable (default: 60)')
    command('check', group.check, 'say what a snapshot would do, or why it would fail, and change nothing', disks)
    p = command('prepare', group.prepare, 'do all of a snapshot that is slow or can fail; cut follows', disks)
    p.add_argument('--timeout', type=positive, default=60, metavar='SECONDS', help='after which it is undone (default: 60)')
    p.add_argument('--hold', action='store_true', help='make writes wait as soon as it is prepared')
    p = command('hold', group.hold, 'make writes to the disks of a prepared snapshot wait')
    p.add_argument('group', metavar='GROUP')
    p.add_argument('--timeout', type=positive, default=2, metavar='SECONDS', help='after which it is undone (default: 2)')
    p = command('cut', group.cut, 'commit a prepared snapshot')
    p.add_argument('group', metavar='GROUP')
    p = command('abort', group.abort, 'undo a prepared snapshot')
    p.add_argument('group', metavar='GROUP')
    command('transactions', group.transactions, 'list snapshots under way')
    p = command('groups', group.groups, 'list snapshot groups, or show some in detail')
    p.add_argument('groups', nargs='*', metavar='GROUP')
    p = command('graph', graph.show, 'show who uses which node')
    p.add_argument('-a', '--all', action='store_true', help='unnamed file nodes too')
    p.add_argument('--svg', metavar='FILE', help='draw it (with graphviz); - is standard output')
    p.add_argument('--dot', action='store_true', help='print the source of the drawing')
    p = command('nodes', graph.nodes, 'list nodes')
    p.add_argument('-a', '--all', action='store_true', help='unnamed file nodes too')
    p.add_argument('--names', action='store_true', help='names only')
    p = command('commit', job.commit, 'merge overlays into their backing image')
    p.add_argument('node', metavar='NODE', help='topmost node of the chain')
    p.add_argument('--top', metavar='NODE', help='merge from here down (default: NODE)')
    p.add_argument('--base', metavar='NODE', help='merge into this node (default: the lowest)')
    p.add_argument('--speed', type=int, metavar='BYTES', help='at most so many bytes a second')
    p.add_argument('--job-id', metavar='ID')
    p.add_argument('--background', action='store_true', help='print the id of the job and do not wait for it')
    p.add_argument('-q', '--quiet', action='store_true', help='no progress')
    return parser


def main(version):
    args = build_parser(version).parse_args()
    try:
        if not args.socket:
            print('cutpointctl: which daemon? say --socket, or set CUTPOINT_SOCKET', file=sys.stderr)
            return USAGE
        status = args.function(args)
        sys.stdout.flush()
        return status
    except CtlError as e:
        if args.json:
            output.print_json({'error': {'class': e.error_class if isinstance(e, Refused) else type(e).__name__, 'desc': str(e)}})
        print('cutpointctl: ' + ' '.join(str(e).split('\n')), file=sys.stderr)
        return e.status
    except KeyboardInterrupt:
        print('cutpointctl: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
