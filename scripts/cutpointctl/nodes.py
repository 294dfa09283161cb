# SPDX-License-Identifier: BSD-3-Clause
"""Which disk is meant, and what its overlay is called.

Words
  disk   what stays the same over snapshots: the lowest node of a backing chain that somebody named.  `disk0` is the disk of the
         chain disk0-b -> disk0-a -> disk0, and gives all overlays their name, so names do not grow from snapshot to snapshot.
  top    the node of a chain that is nobody's backing image, which is where the next overlay goes.
"""
import json
import os

from .errors import UsageError

FIELDS = ('node', 'disk', 'group', 'directory', 'stem', 'format')
FILE_PATTERN = '{directory}/{stem}.{group}.{format}'
NAME_PATTERN = '{disk}-{group}'


class Nodes:
    def __init__(self, qmp):
        self.by_name = {n['node-name']: n for n in qmp.cmd('query-named-block-nodes', {'flat': True})}
        graph = qmp.cmd('x-debug-query-block-graph')
        names = {n['id']: n for n in graph['nodes']}
        self.backing, self.overlays, used = {}, {}, set()
        for e in graph['edges']:
            parent, child = names[e['parent']], names[e['child']]['name']
            if parent['type'] == 'block-backend' and 'write' in e['perm']:
                used.add(child)
            if e['name'] == 'backing' and parent['type'] == 'block-driver':
                self.backing[parent['name']] = child
                self.overlays.setdefault(child, []).append(parent['name'])
        self.used = sorted(used)

    def top(self, name):
        """The node that the next overlay of this chain goes on."""
        while name in self.overlays:
            above = self.overlays[name]
            if len(above) > 1:
                raise UsageError(f"'{name}' has several overlays: {', '.join(sorted(above))}")
            name = above[0]
        return name

    def chain(self, name):
        """From the node down its backing images."""
        while name is not None:
            yield name
            name = self.backing.get(name)

    def disk(self, name):
        return [n for n in self.chain(name) if not n.startswith('#')][-1:][0] if not name.startswith('#') else name

    def choose(self, names, everything, follow):
        """The nodes that are meant.  everything: all that guests and clients can write to."""
        if everything and names:
            raise UsageError('--all and names of nodes exclude each other')
        names = self.used if everything else names
        if not names:
            raise UsageError('no disk is written to by anybody' if everything else 'which nodes? (or --all)')
        chosen = []
        for name in names:
            if name not in self.by_name:
                raise UsageError(f"there is no node '{name}' (there are: {', '.join(sorted(n for n in self.by_name if n[0] != '#'))})")
            top = self.top(name)
            if top != name and not follow:
                raise UsageError(f"'{name}' is a backing image of '{top}': name that, or say --follow")
            if top in chosen:
                raise UsageError(f"'{top}' is meant twice")
            chosen.append(top)
        return chosen


def fill(pattern, fields, option):
    try:
        return pattern.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError) as e:
        raise UsageError(f"{option}: '{pattern}' is no pattern ({e}); there are {', '.join('{%s}' % f for f in FIELDS)}") from e


def plain_name(node):
    """The name of the file that an image is in; '' if there is none."""
    name = node.get('file') or ''
    if name.startswith('json:'):
        options = json.loads(name[len('json:'):])
        while 'filename' not in options and isinstance(options.get('file'), dict):
            options = options['file']
        name = options.get('filename', '')
    return name


def snapshot_actions(nodes, chosen, group, args):
    """Actions of a transaction that puts an overlay on each."""
    actions, files = [], {}
    for name in chosen:
        disk = nodes.disk(name)
        own = plain_name(nodes.by_name[name])
        first = plain_name(nodes.by_name[disk]) or own
        if (not os.path.isabs(own) or not os.path.isabs(first)) and not args.file:
            raise UsageError(f"'{name}' has no file name to derive the overlay's from: say --file")
        stem = os.path.basename(first)
        fields = {'node': name, 'disk': disk, 'group': group, 'format': args.format, 'directory': args.directory or os.path.dirname(own) or '.',
                  'stem': os.path.splitext(stem)[0]}
        path = os.path.join(os.getcwd(), fill(args.file or FILE_PATTERN, fields, '--file'))
        if path in files:
            raise UsageError(f"overlays of '{files[path]}' and '{name}' would both be '{path}': say --file")
        files[path] = name
        data = {'node-name': name, 'snapshot-node-name': fill(args.overlay_name or NAME_PATTERN, fields, '--overlay-name'),
                'snapshot-file': path, 'format': args.format}
        if args.mode == 'existing':
            data['mode'] = 'existing'
        elif not args.replace and os.path.lexists(path) and os.path.getsize(path) > 0:
            raise UsageError(f"'{path}' exists and holds data: say --replace, or another --file")
        actions.append({'type': 'blockdev-snapshot-sync', 'data': data})
    return actions
