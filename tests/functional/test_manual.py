# SPDX-License-Identifier: BSD-3-Clause
"""The manual: its pages are there, are well-formed, lead to each other, and name everything that there is."""
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lib import emulator
from lib.daemon import ROOT, daemon_binary

PAGES = Path(os.environ.get('MANUAL', ROOT / 'build' / 'docs'))
MAN = ['cutpointd.1', 'cutpointd-qmp.7', 'cutpointd-hmp.7']
HTML = sorted(p.stem for p in (ROOT / 'docs').glob('*.md'))


def plain(page):
    """What man shows, without line breaks; hyphens at their ends are kept apart from words' own by not hyphenating at all."""
    source = (PAGES / page).read_text(encoding='utf-8').replace('.TH', '.nh\n.TH', 1)
    done = subprocess.run(['groff', '-man', '-Tutf8', '-P-cbou', '-ww', '-rLL=4000n'], input=source, capture_output=True, text=True,
                          check=True, env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    assert done.stderr == '', page
    return done.stdout


def html(name):
    return ET.parse(PAGES / f'{name}.html').getroot()


@pytest.mark.parametrize('page', MAN)
def test_man_page(page):
    name, section = page.rsplit('.', 1)
    source = (PAGES / page).read_text(encoding='utf-8')
    assert re.search(rf'^\.TH "{name.upper()}" "{section}" "" "Cutpoint \d', source, re.M)
    assert re.findall(r'^\.SH\n(.*)$', source, re.M)[0] == 'NAME' and re.search(rf'^{name} - \w', source.replace('\\-', '-'), re.M)
    assert 'SEE ALSO' in plain(page) and '<!--' not in source and '](' not in plain(page)


def test_man_page_of_qmp_names_everything(images):
    text = plain('cutpointd-qmp.7')
    schema = emulator.qmp(images, [('query-qmp-schema',)])[0]['return']
    names = [e['name'] for e in schema if e['meta-type'] in ('command', 'event')]
    assert len(names) > 90
    for name in names:  # a section of its own
        assert re.search(rf'^   {re.escape(name)}$', text, re.M), name
    for e in schema:
        if e['meta-type'] == 'command' and e['name'] == 'block-commit':
            members = {m['name'] for t in schema if t['name'] == e['arg-type'] for m in t['members']}
    for member in members:
        assert re.search(rf'^ *• {member} \(', text, re.M), member


def test_man_page_of_the_console_names_everything(images):
    text = plain('cutpointd-hmp.7')
    listed, infos = emulator.console(images, ['help', 'help info'])
    names = [line.split(' ')[0].split('|')[0] for line in listed.splitlines() if re.match(r'[a-z?_|-]+( .*)? -- |drive_add', line)]
    names += ['info ' + line.split(' ')[1] for line in infos.splitlines()]
    assert len(names) > 30 and '^A, ^E' in text
    for name in names:
        assert re.search(rf'^   {re.escape(name)}$', text, re.M), name


def test_man_page_of_the_command_line_names_everything():
    text = plain('cutpointd.1')
    shown = subprocess.run([daemon_binary(), '--help'], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r'^ +(?:-., )?(--[a-z-]+)', shown, re.M))
    assert len(options) == 11
    for option in options:
        assert re.search(rf'^ +(-., )?{option}\b', text, re.M), option
    for section in re.split(r'^--', shown, flags=re.M)[1:]:
        if section.startswith(('blockdev\n', 'export\n', 'object\n')):
            for kind in re.findall(r'^  ([a-z][a-z0-9_-]*)(?= |$)', section, re.M):
                assert kind in ('all', 'simdisk') or re.search(rf'^   {kind}$', text, re.M), kind


def test_html():
    assert len(HTML) > 8
    places = {}
    for name in HTML:
        ids = [e.get('id') for e in html(name).iter() if e.get('id')]
        assert len(ids) == len(set(ids)), name
        places[name] = set(ids)
    for name in HTML:
        for a in html(name).iter('a'):
            target, _, place = a.get('href').partition('#')
            if '://' in target:
                continue
            page = target.removesuffix('.html') if target else name
            assert page in places and (not place or place in places[page]), (name, a.get('href'))


def test_html_of_names_that_differ_in_case():
    """stop is a command, STOP an event: each link leads to its own."""
    contents = {a.text: a.get('href') for a in html('qmp').iter('a')}
    headings = {e.get('id'): e.text for e in html('qmp').iter('h3')}
    for name in ('stop', 'STOP'):
        assert headings[contents[name][1:]] == name


def test_installed(images):
    subprocess.run(['meson', 'install', '-C', str(PAGES.parent), '--no-rebuild', '--quiet', '--destdir', str(images / 'root')], check=True,
                   capture_output=True)
    installed = {p.relative_to(images / 'root').as_posix() for p in (images / 'root').rglob('*') if p.is_file()}
    for wanted in [f'share/man/man{p[-1]}/{p}' for p in [*MAN, 'cutpointctl.1']] + [f'share/doc/cutpoint/{n}.html' for n in HTML]:
        assert any(p.endswith(wanted) for p in installed), wanted
