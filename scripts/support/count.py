# SPDX-License-Identifier: BSD-3-Clause
"""Counts the results of meson's test logs: every TAP line and every pytest case is one; a test program that did not end well counts as
one failure more, unless its cases say so already.

usage: count.py [--failed-builds N] LOG.xml...     (beside each LOG.xml lies meson's LOG.json)
"""
import argparse
import json
import sys
import xml.etree.ElementTree as ET


def count(path):
    passed, failed, names = 0, 0, []
    for suite in ET.parse(path).getroot().iter('testsuite'):
        for case in suite.findall('testcase'):
            bad = case.find('failure') is not None or case.find('error') is not None
            if case.find('skipped') is not None and not bad:
                names.append(f"{suite.get('name')}: {case.get('name')} was skipped")
                failed += 1  # what set-up could have installed is no excuse
            elif bad:
                failed += 1
                names.append(f"{suite.get('name')}: {case.get('name')}")
            else:
                passed += 1
    with open(path[:-len('.xml')] + '.json', encoding='utf-8') as f:
        for test in map(json.loads, f):
            name = test['name'].rsplit(' / ', 1)[-1]
            if test['result'] != 'OK' and not any(name in n for n in names):
                failed += 1
                names.append(f"{name}: {test['result']}")
    return passed, failed, names


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--failed-builds', type=int, default=0)
    parser.add_argument('logs', nargs='*')
    args = parser.parse_args()
    passed, failed = 0, args.failed_builds
    for path in args.logs:
        try:
            p, f, names = count(path)
        except (OSError, ET.ParseError) as e:
            p, f, names = 0, 1, [f'{path}: {e}']
        passed, failed = passed + p, failed + f
        for name in names:
            print(f'FAILED: {name}')
    if args.failed_builds:
        print(f'FAILED: {args.failed_builds} builds')
    print(f'{passed} passed, {failed} failed')
    return 1 if failed or not passed else 0


sys.exit(main())
