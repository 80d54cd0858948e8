"""Certificates for tests, made by the command openssl."""

import subprocess
from pathlib import Path

import attrs


@attrs.frozen
class Certificate:
    """Paths of PEM files: whom to believe, who one is, and the key for it."""

    ca: str
    cert: str
    key: str


def make_certificate(folder: Path, *hosts: str) -> Certificate:
    """A CA in a new ``folder``, and a certificate of its for clients and servers.

    These may be at 127.0.0.1 and ``hosts``.
    """
    folder.mkdir()

    def request(*arguments: str) -> None:
        new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
        subprocess.run([*new, *arguments], cwd=folder, check=True, capture_output=True)

    request("-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    names = ",".join(("IP:127.0.0.1", *(f"DNS:{host}" for host in hosts)))
    issued = ("-subj", "/CN=node", "-addext", f"subjectAltName={names}")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
    request(*issued, *signed, "-keyout", "node.key", "-out", "node.pem")
    return Certificate(*(str(folder / name) for name in ("ca.pem", "node.pem", "node.key")))
