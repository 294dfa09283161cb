# SPDX-License-Identifier: BSD-3-Clause
"""From names of the schema to names of C."""
import re

# keywords of C, and words that compilers may have defined as macros
RESERVED = frozenset('''auto break case char const continue default do double else enum extern
    float for goto if inline int long register restrict return short signed sizeof static struct
    switch typedef union unsigned void volatile while asm typeof bool true false linux unix i386
    mips sparc errno and or not xor'''.split())


def c_name(name):
    """A C identifier for a name; q_ is put before what would be none."""
    name = re.sub(r'[^A-Za-z0-9_]', '_', name)
    return 'q_' + name if name in RESERVED or name[:1].isdigit() else name


def c_enum(prefix, value):
    """The constant of an enum's value: BlockdevDriver, null-co -> BLOCKDEV_DRIVER_NULL_CO."""
    prefix = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', prefix)
    prefix = re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', prefix)
    return '_'.join(re.sub(r'[^A-Za-z0-9]', '_', s).upper() for s in (prefix, value))


def camel(name):
    """blockdev-del -> BlockdevDel."""
    return ''.join(p[:1].upper() + p[1:] for p in re.split(r'[-_.]', name))
