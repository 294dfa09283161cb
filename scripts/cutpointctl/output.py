# SPDX-License-Identifier: BSD-3-Clause
"""What people read: tables, sizes and durations.  With --json, what programs read instead."""
import datetime
import json
import sys


def print_json(value):
    json.dump(value, sys.stdout, indent=2)
    print()


def table(rows):
    """Columns as wide as they need to be; the first row is the heading."""
    widths = [max(len(str(r[i])) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        print('  '.join(str(v).ljust(w) for v, w in zip(r, widths)).rstrip())


def duration(ns):
    if ns is None:
        return '-'
    for unit, name in ((1e9, 's'), (1e6, 'ms'), (1e3, 'us')):
        if ns >= unit:
            return f'{ns / unit:.3g} {name}' if ns < 1000 * unit else f'{ns / unit:.0f} {name}'
    return f'{ns} ns'


def size(n):
    for unit in ('B', 'KiB', 'MiB', 'GiB', 'TiB'):
        if n < 1024 or unit == 'TiB':
            return f'{n:.4g} {unit}'
        n /= 1024
    return None


def instant(ns):
    """Local time with microseconds."""
    if ns is None:
        return '-'
    return datetime.datetime.fromtimestamp(ns // 10**9).strftime('%Y-%m-%d %H:%M:%S') + f'.{ns // 1000 % 10**6:06d}'


def seconds_text(s):
    s = int(s)
    return f'{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}' if s >= 3600 else f'{s // 60}:{s % 60:02d}'
