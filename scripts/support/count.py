# SPDX-License-Identifier: BSD-3-Clause
"""Counts the results of meson's test logs: every TAP line and every pytest case is one.

usage: count.py [--failed-builds N] JUNIT.xml...
"""
import argparse
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
