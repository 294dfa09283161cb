# SPDX-License-Identifier: BSD-3-Clause
"""Questions to a QMP schema, as libvirt asks them.

    command-or-event[/arg-type|/ret-type[/step...]]

A step is a member (`name`), an optional member (`*name`), a branch of a union (`+case`), a value of an enum (`^value`), a kind
of JSON (`!kind`) or a feature (`$feature`, of the command or type that has been reached, or of the enum value).  Arrays are stepped
through; of an alternate every branch is tried.
"""


class Schema:
    def __init__(self, entries):
        self.by_name = {e['name']: e for e in entries}

    def has(self, path):
        first, *steps = path.split('/')
        return first in self.by_name and self._walk(self.by_name[first], steps)

    def _walk(self, entry, steps):
        while entry['meta-type'] == 'array':
            entry = self.by_name[entry['element-type']]
        if entry['meta-type'] == 'alternate' and steps:
            return any(self._walk(self.by_name[m['type']], steps) for m in entry['members'])
        if not steps:
            return True
        step, rest = steps[0], steps[1:]
        sign, name = step[0], step[1:]
        if step in ('arg-type', 'ret-type'):
            return step in entry and self._walk(self.by_name[entry[step]], rest)
        if sign == '$':
            return name in entry.get('features', []) and not rest
        if sign == '!':
            return entry.get('json-type') == name and not rest
        if sign == '^':
            return self._value(entry, name, rest)
        if sign == '+':
            return any(v['case'] == name and self._walk(self.by_name[v['type']], rest) for v in entry.get('variants', []))
        return self._member(entry, name if sign == '*' else step, sign == '*', rest)

    def _value(self, entry, name, rest):
        for m in entry.get('members', []) if entry['meta-type'] == 'enum' else []:
            if m['name'] == name:
                return not rest or (len(rest) == 1 and rest[0][0] == '$' and rest[0][1:] in m.get('features', []))
        return False

    def _member(self, entry, name, optional, rest):
        if entry['meta-type'] != 'object':
            return False
        return any(m['name'] == name and ('default' in m or not optional) and self._walk(self.by_name[m['type']], rest)
                   for m in entry['members'])
