#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the C code of a QAPI schema: types, commands, events, introspection."""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
from qapi import gen_commands, gen_events, gen_introspect, gen_manual, gen_types  # noqa: E402
from qapi.parser import Parser  # noqa: E402
from qapi.schema import Schema  # noqa: E402
from qapi.source import QAPIError  # noqa: E402


def write_code(schema, args):
    files = gen_types.generate(schema, args.prefix)
    files += gen_commands.generate(schema, args.prefix)
    files += gen_events.generate(schema, args.prefix)
    files += gen_introspect.generate(schema, args.prefix, args.unmask)
    os.makedirs(args.output_dir, exist_ok=True)
    for f in files:
        with open(os.path.join(args.output_dir, f.name), 'w', encoding='utf-8') as out:
            out.write(f.done())
    if args.depfile:
        with open(args.depfile, 'w', encoding='utf-8') as out:
            out.write('%sqapi-types.h: %s\n' % (args.prefix, ' '.join(schema.files)))


def main():
    p = argparse.ArgumentParser(prog='qapi', description=__doc__)
    p.add_argument('schema', help='main schema file')
    p.add_argument('-o', '--output-dir', default='.', metavar='DIR')
    p.add_argument('-p', '--prefix', default='',
                   help='put before names of files and of global symbols but types')
    p.add_argument('-u', '--unmask', action='store_true',
                   help='keep the names of types in introspection')
    p.add_argument('--manual', metavar='FILE',
                   help='write the reference manual (Markdown) to this file, and nothing else')
    p.add_argument('--depfile', help='write a make rule that names all files read')
    args = p.parse_args()
    if args.prefix and not args.prefix.replace('-', '_').isidentifier():
        p.error("prefix '%s' is no beginning of an identifier" % args.prefix)
    try:
        schema = Schema(Parser(args.schema))
    except QAPIError as e:
        print(e, file=sys.stderr)
        return 1
    except RecursionError:  # far beyond what anybody writes: a thousand bases, or includes
        print('%s: definitions are nested too deeply' % args.schema, file=sys.stderr)
        return 1
    try:
        if args.manual:
            with open(args.manual, 'w', encoding='utf-8') as out:
                out.write(gen_manual.generate(schema, 'QMP reference'))
        else:
            write_code(schema, args)
    except OSError as e:
        print('qapi: %s: %s' % (e.filename, e.strerror), file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
