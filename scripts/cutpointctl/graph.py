# SPDX-License-Identifier: BSD-3-Clause
"""The block graph, as a tree in the terminal and as a drawing by graphviz.

Users (exports, devices, jobs) are at the top; below each its node, with its children.  A node that two have in common is written out at its
first place, and referred to at the others.
"""
import shutil
import subprocess
import sys

from . import output
from .errors import CtlError
from .qmp import Qmp


class Graph:
    def __init__(self, qmp):
        graph = qmp.cmd('x-debug-query-block-graph')
        self.details = {n['node-name']: n for n in qmp.cmd('query-named-block-nodes', {'flat': True})}
        exports = {}
        for e in qmp.cmd('query-block-exports'):
            exports.setdefault(e['node-name'], []).append(f"export {e['id']} ({e['type']})")
        self.nodes = {n['id']: n for n in graph['nodes']}
        self.children = {i: [] for i in self.nodes}
        parents = set()
        for e in graph['edges']:
            self.children[e['parent']].append((e['name'], e['child']))
            parents.add(e['child'])
        self.roots = [i for i in self.nodes if i not in parents]
        self.labels = {}
        for i, n in self.nodes.items():
            self.labels[i] = self._label(i, n, exports)

    def _label(self, i, n, exports):
        if n['type'] == 'block-driver':
            return n['name']
        if n['type'] == 'block-job':
            return f"job {n['name']}"
        for _, child in self.children[i]:
            of_node = exports.get(self.nodes[child]['name'])
            if not n['name'] and of_node:
                return of_node.pop(0)
        return f"device {n['name']}" if n['name'] else 'backend'

    def is_plain_file(self, i):
        """The node below a format node that nobody gave a name: its file is shown with the format node."""
        return self.nodes[i]['name'].startswith('#') and not self.children[i]

    def facts(self, i):
        """Words that describe a node."""
        n = self.details.get(self.nodes[i]['name'])
        if self.nodes[i]['type'] != 'block-driver' or n is None:
            return []
        words = [n['drv'], output.size(n['image']['virtual-size'])]
        if n.get('ro'):
            words.append('read-only')
        if n.get('file'):
            words.append(n['file'])
        return words

    def shown(self, i, everything):
        for role, child in self.children[i]:
            if everything or not self.is_plain_file(child):
                yield role, child


def tree_lines(graph, everything, unicode_lines):
    last, other, down = ('└─ ', '├─ ', '│  ') if unicode_lines else ('`- ', '|- ', '|  ')
    seen = set()

    def line(i, role):
        again = i in seen and graph.children[i]
        words = [f'{role}: {graph.labels[i]}' if role not in (None, 'root') else graph.labels[i], *([] if again else graph.facts(i))]
        return '  '.join(words) + ('  (see above)' if again else ''), again

    def below(i, indent):
        seen.add(i)
        children = list(graph.shown(i, everything))
        for k, (role, child) in enumerate(children):
            end = k == len(children) - 1
            text, again = line(child, role)
            yield indent + (last if end else other) + text
            if not again:
                yield from below(child, indent + ('   ' if end else down))

    for root in graph.roots:
        if everything or not graph.is_plain_file(root):
            yield line(root, None)[0]
            yield from below(root, '')


def dot_source(graph, everything):
    def quote(text):
        return '"' + text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', ' ') + '"'

    hidden = set() if everything else {i for i in graph.nodes if graph.is_plain_file(i)}
    yield 'digraph block_graph {'
    yield '  rankdir=TB; node [fontname="sans-serif", fontsize=10]; edge [fontname="sans-serif", fontsize=9];'
    for i, n in graph.nodes.items():
        if i in hidden:
            continue
        facts = graph.facts(i)
        shape = {'block-driver': 'box', 'block-job': 'ellipse'}.get(n['type'], 'house')
        style = ', style="filled", fillcolor="gray90"' if 'read-only' in facts else ''
        label = quote(graph.labels[i])[:-1] + ''.join('\\n' + quote(f)[1:-1] for f in facts) + '"'
        yield f'  n{i} [shape={shape}, label={label}{style}];'
    for i in graph.nodes:
        for role, child in graph.children[i]:
            if i not in hidden and child not in hidden:
                label = '' if role == 'root' else f' [label={quote(role)}{", style=dashed" if role == "backing" else ""}]'
                yield f'  n{i} -> n{child}{label};'
    yield '}'


def write_svg(source, path):
    if not shutil.which('dot'):
        raise CtlError("drawing needs graphviz: there is no program 'dot'")
    done = subprocess.run(['dot', '-Tsvg'], input=source.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise CtlError(f"dot: {done.stderr.decode(errors='replace').strip().splitlines()[:1]}")
    if path == '-':
        sys.stdout.buffer.write(done.stdout)
        return
    try:
        with open(path, 'wb') as f:
            f.write(done.stdout)
    except OSError as e:
        raise CtlError(f'{path}: {e.strerror}') from e


def show(args):
    with Qmp(args.socket) as qmp:
        graph = Graph(qmp)
    if args.json:
        output.print_json([{'id': i, 'type': n['type'], 'label': graph.labels[i], 'facts': graph.facts(i),
                            'children': [{'role': r, 'id': c} for r, c in graph.children[i]]} for i, n in graph.nodes.items()])
    elif args.svg:
        write_svg('\n'.join(dot_source(graph, args.all)), args.svg)
    elif args.dot:
        print('\n'.join(dot_source(graph, args.all)))
    else:
        for text in tree_lines(graph, args.all, (sys.stdout.encoding or '').lower().startswith('utf')):
            print(text)
    return 0


def nodes(args):
    with Qmp(args.socket) as qmp:
        graph = Graph(qmp)
    found = [(i, n) for i, n in graph.nodes.items() if n['type'] == 'block-driver' and (args.all or not graph.is_plain_file(i))]
    if args.json:
        output.print_json([graph.details[n['name']] for _, n in found])
    elif args.names:
        for _, n in found:
            print(n['name'])
    else:
        output.table([('NODE', 'DRIVER', 'SIZE', 'FILE')] +
                     [(n['name'], d['drv'] + (' (ro)' if d.get('ro') else ''), output.size(d['image']['virtual-size']), d.get('file') or '-')
                      for _, n in found for d in [graph.details[n['name']]]])
    return 0
