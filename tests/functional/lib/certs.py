# SPDX-License-Identifier: BSD-3-Clause
"""Certificates and keys for TLS tests, made with openssl, in the files that servers and clients look for."""
import subprocess
from pathlib import Path


def _run(*args):
    subprocess.run(['openssl', *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir()
        self.key, self.cert = self.directory / 'ca-key.pem', self.directory / 'ca-cert.pem'
        _run('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=authority',
             '-days', '2', '-keyout', self.key, '-out', self.cert)

    def issue(self, directory, side, name, days=2):
        """A certificate for `side` (server, client) with its key, and the authority's."""
        d = Path(directory)
        d.mkdir(exist_ok=True)
        (d / 'ca-cert.pem').write_bytes(self.cert.read_bytes())
        extensions = d / 'extensions'
        extensions.write_text(f'extendedKeyUsage={side}Auth\nsubjectAltName=DNS:{name},IP:127.0.0.1\n'
                              'basicConstraints=CA:FALSE\n')
        _run('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', f'/O=test/CN={name}',
             '-keyout', d / f'{side}-key.pem', '-out', d / 'request')
        _run('x509', '-req', '-in', d / 'request', '-CA', self.cert, '-CAkey', self.key, '-CAcreateserial', '-days', days,
             '-extfile', extensions, '-out', d / f'{side}-cert.pem')
        return d


def psk(directory, **keys):
    """keys.psk with these names and keys (hexadecimal)."""
    d = Path(directory)
    d.mkdir(exist_ok=True)
    (d / 'keys.psk').write_text(''.join(f'{n}:{k}\n' for n, k in keys.items()))
    (d / 'keys.psk').chmod(0o600)
    return d
