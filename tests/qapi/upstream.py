#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the schema cases of a QEMU source tree against our parser, and counts those that agree.

    upstream.py TREE [CASE...]

TREE/tests/qapi-schema holds, for each case, a schema NAME.json, what a dump of it prints (NAME.out)
and the error it ends with (NAME.err).  One of the two is empty.  The dump's form is that of the
.out files: modules in the order in which they are included, in each its definitions, the arrays
and unnamed types before what mentions them first; then all documentation.  Nothing of QEMU's is
imported: the cases are data.

Exit status: 0 all agree, 1 some do not, 2 the tree cannot be read.
"""
import difflib
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))
from qapi.parser import Include, Parser  # noqa: E402
from qapi.schema import Alternate, Array, Builtin, Enum, Object, Schema  # noqa: E402
from qapi.source import QAPIError  # noqa: E402


class Dump:
    """The text of a .out file.  `out` is a list of lines."""

    def __init__(self, schema):
        self.schema, self.out = schema, []
        self.add('module ./builtin')
        self.add('object q_empty')
        self.enum(schema.names['QType'])
        places = self.places()
        for module in schema.modules:
            self.add('module %s' % module.name)
            for item in places[module]:
                if isinstance(item, Include):
                    self.add('include %s' % item.module_name)
                elif isinstance(item, Array):
                    self.add('array %s %s' % (item.name, item.element.name))
                else:
                    getattr(self, item.meta)(item)
        for doc in schema.docs:
            self.doc(doc)

    def add(self, text, depth=0):
        self.out.append('    ' * depth + text)

    # ---- order ----

    def places(self):
        """module -> what is printed for it.  An array is printed where the type of its elements
        is defined, at the time it is first mentioned."""
        out, seen = {m: [] for m in self.schema.modules}, set()
        for d in self.schema.items:
            if isinstance(d, Include):
                out[d.module].append(d)
                continue
            ent = self.schema.entity_of[d]
            for item in self.with_unnamed(ent):
                if isinstance(item, Array):
                    if item in seen or isinstance(item.element, Builtin):
                        continue
                    seen.add(item)
                    module = item.element.module
                else:
                    module = ent.module
                out[module].append(item)
        return out

    @staticmethod
    def with_unnamed(ent):
        members, unnamed = [], []
        if isinstance(ent, Object):
            members = ent.local
            if ent.inline_base:
                unnamed = [ent.inline_base]
        elif isinstance(ent, Alternate):
            members = ent.branches
        elif not isinstance(ent, Enum) and ent.arg.implicit and ent.arg.local:
            members, unnamed = ent.arg.local, [ent.arg]
        out = [m.type for m in members if isinstance(m.type, Array)] + unnamed
        if isinstance(getattr(ent, 'ret', None), Array):
            out.append(ent.ret)
        return out + [ent]

    # ---- definitions ----

    def condition(self, ifcond, depth):
        if ifcond:
            self.add('if %s' % (ifcond,), depth)

    def tail(self, named, depth):
        """Condition and features."""
        self.condition(named.ifcond, depth)
        for f in named.features:
            self.add('feature %s' % f.name, depth)
            self.tail(f, depth + 1)

    def enum(self, ent):
        self.add('enum %s' % ent.name)
        if ent.prefix != ent.name and ent.info:
            self.add('prefix %s' % ent.prefix, 1)
        for v in ent.values:
            self.add('member %s' % v.name, 1)
            self.tail(v, 2)
        self.tail(ent, 1)

    def struct(self, ent):
        self.add('object %s' % self.name(ent))
        base = ent.inline_base or ent.base
        if base:
            self.add('base %s' % self.name(base), 1)
        for m in [] if ent.inline_base else ent.local:
            self.add('member %s: %s optional=%s' % (m.name, m.type.name, m.optional), 1)
            self.tail(m, 2)
        if ent.tag:
            self.add('tag %s' % ent.tag, 1)
            have = {b.name for b in ent.branches}
            self.cases(ent.branches)
            for v in ent.tag_member().type.values:
                if v.name not in have:
                    self.add('case %s: q_empty' % v.name, 1)
                    self.condition(v.ifcond, 2)
        self.tail(ent, 1)

    union = struct

    def alternate(self, ent):
        self.add('alternate %s' % ent.name)
        self.add('tag type', 1)
        self.cases(ent.branches)
        self.tail(ent, 1)

    def cases(self, branches):
        for b in branches:
            self.add('case %s: %s' % (b.name, b.type.name), 1)
            self.condition(b.own_if, 2)

    def name(self, t):
        """Arguments that are empty are none."""
        if t is None or t is self.schema.empty:
            return 'None'
        return getattr(t, 'schema_name', t.name)

    def command(self, ent):
        f = ent.flags
        self.add('command %s %s -> %s' % (ent.name, self.name(ent.arg), self.name(ent.ret)))
        self.add('gen=%s success_response=%s boxed=%s oob=%s preconfig=%s%s' % (
            f.get('gen', True), f.get('success-response', True), f.get('boxed', False),
            f.get('allow-oob', False), f.get('allow-preconfig', False),
            ' coroutine=True' if f.get('coroutine') else ''), 1)
        self.tail(ent, 1)

    def event(self, ent):
        self.add('event %s %s' % (ent.name, self.name(ent.arg)))
        self.add('boxed=%s' % ent.flags.get('boxed', False), 1)
        self.tail(ent, 1)

    # ---- documentation ----

    def doc(self, doc):
        self.add('doc symbol=%s' % doc.symbol if doc.symbol else 'doc freeform')
        body, rest = doc.body_and_rest()
        self.section('body=', body)
        own = self.schema.own_members(self.schema.names[doc.symbol]) if doc.symbol else []
        names = list(doc.args) + [m.name for m in own if m.name not in doc.args]
        for name in names:
            self.section('arg=%s' % name, doc.args.get(name))
        for name, s in doc.features.items():
            self.section('feature=%s' % name, s)
        for s in rest:
            self.section('section=%s' % s.kind.capitalize(), s)

    def section(self, label, section):
        self.add(label, 1)
        self.out += (section.raw() if section else '').split('\n')


def listed(folder):
    """Names of the cases that upstream runs."""
    with open(os.path.join(folder, 'meson.build'), encoding='utf-8') as f:
        text = f.read()
    names = re.search(r'schemas = \[(.*?)\]', text, re.S).group(1)
    names += ''.join(re.findall(r"schemas \+= \[[^']*('[^']*')\]", text))
    return [n[:-len('.json')] for n in re.findall(r"'([^']*\.json)'", names)]


def result(folder, name):
    """(dump, error), lists of lines."""
    try:
        schema = Schema(Parser(os.path.join(folder, name + '.json')))
    except QAPIError as e:
        return [], (str(e).replace(folder + '/', '')).split('\n')
    return Dump(schema).out, []


def expected(folder, name, ext):
    with open(os.path.join(folder, name + ext), encoding='utf-8') as f:
        return f.read().split('\n')[:-1]


def run(folder, names):
    """Returns the counts by kind: {positive: bool: [agreeing, all]}."""
    counts = {True: [0, 0], False: [0, 0]}
    for name in names:
        want = [expected(folder, name, ext) for ext in ('.out', '.err')]
        have = result(folder, name)
        count = counts[not want[1]]
        count[1] += 1
        count[0] += list(have) == want
        for ext, a, b in zip(('.out', '.err'), want, have):
            for line in difflib.unified_diff(a, b, name + ext, 'ours', lineterm=''):
                print(line)
    return counts


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = os.path.join(os.path.abspath(sys.argv[1]), 'tests', 'qapi-schema')
    try:
        counts = run(folder, sys.argv[2:] or listed(folder))
    except OSError as e:
        print('%s: %s' % (e.filename, e.strerror), file=sys.stderr)
        return 2
    print('positive: %d of %d, negative: %d of %d' % (*counts[True], *counts[False]))
    return 0 if all(a == b for a, b in counts.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
