# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the functional tests.

daemon: a function that starts a daemon; every one it started is ended, cleanly, when the test is over.
images: a directory for the image files of the test, on a real file system (TEST_IMAGE_DIR to choose another).
"""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from lib.daemon import Daemon


@pytest.fixture
def images():
    base = os.environ.get('TEST_IMAGE_DIR', '/var/tmp')
    path = Path(tempfile.mkdtemp(prefix='cutpoint-test-', dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def pam_service():
    """Makes a service of the host's PAM, with one account rule; its name."""
    if not os.access('/etc/pam.d', os.W_OK):
        pytest.skip('only root can make a PAM service')
    made = []

    def make(rule):
        path = Path('/etc/pam.d') / f'cutpoint-test-{os.getpid()}-{len(made)}'
        made.append(path)
        path.write_text(f'account required {rule}\n')
        return path.name

    yield make
    for path in made:
        path.unlink()


@pytest.fixture
def daemon(request):
    started = []

    def start(*args, **kwargs):
        d = Daemon([*args], **kwargs)
        started.append(d)
        return d

    yield start
    failed = getattr(request.node, 'test_failed', False)
    errors = []
    for d in reversed(started):
        if d.stderr_file.closed:
            continue
        if failed:
            print(f'--- stderr of {d.binary} ---\n{d.stderr()}')
            d.kill()
            continue
        try:
            d.stop()
        except Exception as e:  # every daemon must be ended before the first failure is told
            errors.append(e)
    if errors:
        raise errors[0]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == 'call' and outcome.get_result().failed:
        item.test_failed = True
