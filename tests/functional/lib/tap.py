# SPDX-License-Identifier: BSD-3-Clause
"""A pytest plugin: with --tap, results go to stdout as TAP, so that meson counts cases one by one; details go to stderr."""
import os

# What pytest captures are descriptors 1 and 2; this module is loaded before it begins.
OUT = os.fdopen(os.dup(1), 'w')
ERR = os.fdopen(os.dup(2), 'w')


class Tap:
    def __init__(self):
        self.n = 0
        self.seen = {}

    def pytest_runtest_logreport(self, report):
        """One line a case: when its body has run, or when setting it up or taking it down went wrong."""
        name = report.nodeid.split('::', 1)[-1]
        if report.failed:
            if not self.seen.get(report.nodeid):
                self.line(False, name)
            self.seen[report.nodeid] = True
            print(report.longreprtext, file=ERR, flush=True)
            for title, text in report.sections:
                print(f'--- {title}\n{text}', file=ERR, flush=True)
        elif report.skipped:
            self.line(True, name, ' # SKIP')
        elif report.when == 'call':
            self.line(True, name)
            self.seen[report.nodeid] = True

    def line(self, ok, name, more=''):
        self.n += 1
        print(f"{'ok' if ok else 'not ok'} {self.n} {name.replace('#', '_')}{more}", file=OUT, flush=True)

    def pytest_sessionfinish(self):
        print(f'1..{self.n}', file=OUT, flush=True)


def pytest_addoption(parser, pluginmanager):
    parser.addoption('--tap', action='store_true', help='print TAP on stdout')
    if not pluginmanager.has_plugin('terminal'):
        # An option of that plugin that explaining a failed comparison asks for.
        parser.addoption('--verbose', type=int, default=2, help='how much of what differs is shown')


def pytest_configure(config):
    if config.getoption('--tap'):
        config.pluginmanager.register(Tap(), 'tap-lines')
