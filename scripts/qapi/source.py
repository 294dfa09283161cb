# SPDX-License-Identifier: BSD-3-Clause
"""Positions in schema files, and the errors that name them.

An error reads

    In file included from OUTER:LINE:
    FILE: In KIND 'NAME':
    FILE:LINE[:COLUMN]: message

where the first line is there once for each include on the way, outermost first, and the second
if the position lies in a definition.  Errors of syntax have a column, errors of meaning do not.
"""


class Info:
    """A position: file, line, the include it was reached by, the definition it lies in."""

    def __init__(self, fname, line=1, parent=None):
        self.fname, self.line, self.parent = fname, line, parent
        self.defn_meta = self.defn_name = None

    def at_line(self, line):
        info = Info(self.fname, line, self.parent)
        info.defn_meta, info.defn_name = self.defn_meta, self.defn_name
        return info

    def set_defn(self, meta, name):
        self.defn_meta, self.defn_name = meta, name

    def loc(self):
        return '%s:%d' % (self.fname, self.line)

    def include_path(self):
        text, parent = '', self.parent
        while parent:
            text = 'In file included from %s:\n' % parent.loc() + text
            parent = parent.parent
        return text

    def in_defn(self):
        if self.defn_name:
            return "%s: In %s '%s':\n" % (self.fname, self.defn_meta, self.defn_name)
        return ''


class QAPIError(Exception):
    """Any error in a schema.  info is None where there is no position (a missing main file)."""

    def __init__(self, info, msg, col=None):
        super().__init__(msg)
        self.info, self.msg, self.col = info, msg, col

    def __str__(self):
        if self.info is None:
            return self.msg
        loc = self.info.loc()
        if self.col is not None:
            loc += ':%d' % self.col
        return self.info.include_path() + self.info.in_defn() + loc + ': ' + self.msg
