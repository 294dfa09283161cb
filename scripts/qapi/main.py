#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""qapi SCHEMA -o DIR: writes qapi-types, qapi-commands, qapi-events and qapi-introspect for a schema."""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from qapi import gen_commands, gen_events, gen_introspect, gen_types  # noqa: E402
from qapi.parser import Parser  # noqa: E402
from qapi.schema import Schema  # noqa: E402
from qapi.source import QAPIError  # noqa: E402


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('schema')
    p.add_argument('-o', '--output-dir', default='.')
    p.add_argument('-u', '--unmask', action='store_true', help='keep the names of types in introspection')
    p.add_argument('--depfile', help='write a make rule that names the files read')
    args = p.parse_args()
    try:
        parser = Parser(args.schema)
        schema = Schema(parser)
    except QAPIError as e:
        print(e, file=sys.stderr)
        return 1
    files = {}
    for gen in (gen_types, gen_commands, gen_events):
        files.update(gen.generate(schema))
    files.update(gen_introspect.generate(schema, args.unmask))
    for name, text in files.items():
        with open(os.path.join(args.output_dir, name), 'w', encoding='utf-8') as f:
            f.write(text)
    if args.depfile:
        with open(args.depfile, 'w', encoding='utf-8') as f:
            f.write('qapi-types.h: %s\n' % ' '.join(parser.files))
    return 0


sys.exit(main())
