# SPDX-License-Identifier: BSD-3-Clause
"""The reference manual, as Markdown: what the schema's comments say, and what the schema says
itself: types, what is optional, conditions, flags."""
import re

from .doc import Doc
from .schema import Alternate, Array, Enum, Object


def anchor(heading):
    return re.sub(r'[^a-z0-9_-]', '', heading.lower().replace(' ', '-'))


def anchors(schema):
    """Where each definition is: names that differ in their case alone (stop, STOP) get numbers, in the order of the page."""
    used, places = {}, {}
    for module in schema.modules:
        for item in module.contents:
            if isinstance(item, Doc):
                headings = [(None, h) for s in item.sections for h in re.findall(r'^=+ (.*)$', s.text(), re.M)]
            else:
                name = schema.entity_of[item].name
                headings = [(name, name)]
            for name, heading in headings:
                a = anchor(heading)
                used[a] = used.get(a, -1) + 1
                places[name] = '%s-%d' % (a, used[a]) if used[a] else a
    return places


class Manual:
    def __init__(self, schema, title):
        self.schema = schema
        self.out = ['<!-- SPDX-License-Identifier: BSD-3-Clause -->',
                    '<!-- made by scripts/qapi from a schema: changes belong there -->',
                    '# %s' % title, '']
        self.known = {d.doc.symbol for d in schema.entity_of if d.doc}
        self.anchors = anchors(schema)
        self.contents()
        for module in schema.modules:
            for item in module.contents:
                if isinstance(item, Doc):
                    self.free_form(item)
                else:
                    self.definition(schema.entity_of[item])

    def add(self, *lines):
        self.out += lines

    def contents(self):
        for title, kind in (('Commands', 'command'), ('Events', 'event')):
            names = sorted(e.name for e in self.schema.entities if e.meta == kind)
            self.add('%s: %s.' % (title, ', '.join(self.link(n) for n in names) or 'none'), '')

    def link(self, name):
        return '[%s](#%s)' % (name, self.anchors[name]) if name in self.known else '`%s`' % name

    def type(self, t):
        return 'array of ' + self.type(t.element) if isinstance(t, Array) else self.link(t.name)

    @staticmethod
    def condition(c):
        if isinstance(c, str):
            return '`%s`' % c
        key, val = next(iter(c.items()))
        if key == 'not':
            return 'not ' + Manual.condition(val)
        return '(%s)' % {'all': ' and ', 'any': ' or '}[key].join(map(Manual.condition, val))

    def text(self, section):
        """Names after @ become code, but not in literal blocks."""
        lines, literal = [], None
        for line in section.text().split('\n'):
            indent = len(line) - len(line.lstrip())
            if literal is not None and line and indent <= literal:
                literal = None
            if literal is None:
                line = re.sub(r'@([A-Za-z0-9_-]+)', r'`\1`', line)
                if line.endswith('::'):
                    line, literal = line[:-1], indent
            lines.append(line)
        return lines

    def free_form(self, doc):
        for section in doc.sections:
            for line in self.text(section):
                self.add(re.sub(r'^(=+) ', lambda m: '#' * (len(m.group(1)) + 1) + ' ', line))
        self.add('')

    # ---- definitions ----

    def definition(self, ent):
        doc = ent.doc
        self.add('### %s' % ent.name, '', '*%s*%s' % (ent.meta, self.remarks(ent)), '')
        if doc is None:
            return
        for section in doc.sections:
            if section.kind == 'Plain':
                self.add(*self.text(section), '')
        self.members(ent, doc)
        for s in doc.features.values():
            self.item('Feature `%s`' % s.name, s)
        if doc.features:
            self.add('')
        if ent.meta == 'command' and ent.ret is not None:
            returns = doc.section('Returns')
            text = ', ' + '\n'.join(self.text(returns)) if returns else ''
            self.add('Returns: %s%s' % (self.type(ent.ret), text), '')
        for tag in ('Errors', 'Since'):
            section = doc.section(tag)
            if section:
                text = '\n'.join(self.text(section))
                self.add('%s:%s%s' % (tag, '\n\n' if text.startswith('- ') else ' ', text), '')

    def remarks(self, ent):
        words = []
        if ent.ifcond:
            words.append('only if built with %s' % self.condition(ent.ifcond))
        flags = getattr(ent, 'flags', {})
        if 'allow-oob' in flags:
            words.append('can run out of band')
        words += [f.name for f in ent.features if f.name in ('deprecated', 'unstable')]
        if isinstance(ent, Object) and ent.base:
            words.append('has all members of %s' % self.link(ent.base.name))
        arg = getattr(ent, 'arg', None)
        if arg is not None and not arg.implicit:
            words.append('arguments: %s' % self.link(arg.name))
        return ''.join(', ' + w for w in words)

    def item(self, head, section, remarks=()):
        text = self.text(section) if section else []
        head += ''.join(' (%s)' % r for r in [', '.join(remarks)] if r)
        self.add('- %s%s' % (head, ': ' + text[0] if text else ''))
        self.add(*('  ' + line if line else '' for line in text[1:]))

    def own_members(self, ent, doc):
        if isinstance(ent, Enum):
            own = ent.values
        elif isinstance(ent, (Object, Alternate)):
            own = ent.branches if isinstance(ent, Alternate) else ent.local
        else:
            own = ent.arg.local if ent.arg.implicit else []
        for m in own:
            remarks = []
            if not isinstance(ent, Enum):
                remarks.append(self.type(m.type))
            if getattr(m, 'optional', False):
                remarks.append('optional')
            if m.ifcond:
                remarks.append('only if built with %s' % self.condition(m.ifcond))
            remarks += [f.name for f in m.features if f.name in ('deprecated', 'unstable')]
            self.item('`%s`' % m.name, doc.args.get(m.name), remarks)
        return own

    def members(self, ent, doc):
        own = self.own_members(ent, doc)
        if isinstance(ent, Object):
            for b in ent.branches:
                self.add('- if `%s` is `%s`: the members of %s%s' % (
                    ent.tag, b.name, self.link(b.type.name),
                    ' (only if built with %s)' % self.condition(b.ifcond) if b.ifcond else ''))
        if own or getattr(ent, 'branches', None):
            self.add('')


def generate(schema, title):
    text = '\n'.join(Manual(schema, title).out)
    return re.sub(r'\n{3,}', '\n\n', text).rstrip('\n') + '\n'


def part(schema, what, name):
    """A part of the manual for pages of other sources: the members that all branches of a union have ('members'), or a section for each
    branch with its own ('kinds')."""
    union, m = schema.names[name], Manual.__new__(Manual)
    m.schema, m.out, m.known = schema, [], set()
    if what == 'members':
        m.own_members(union, union.doc)
        return '\n'.join(m.out)
    for b in union.branches:
        if b.ifcond:
            continue
        m.add('### %s' % b.name, '')
        for section in b.type.doc.sections:
            if section.kind == 'Plain':
                m.add(*m.text(section), '')
        t = b.type
        while t is not None:
            m.own_members(t, t.doc)
            t = t.base
        m.add('')
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(m.out)).rstrip('\n')
