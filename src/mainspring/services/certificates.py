"""The server's own certificate: made when it first listens beyond loopback, known by its fingerprint, kept while its names stay.

Runners are told the fingerprint with their token; people's commands ask for it once (`mainspring login`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mainspring.core.errors import StoreError, UsageError

VALID = timedelta(days=3650)
LEAST = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Where certificate and key lie (PEM). `fingerprint` is the sha256 of the certificate; empty: an authority vouches for it."""

    path: Path
    key_path: Path
    fingerprint: str


def given(path: Path, key_path: Path | None) -> Certificate:
    """Return an operator's certificate. Raises UsageError when a file is missing."""
    key = key_path or path
    for file in (path, key):
        if not file.is_file():
            raise UsageError(f"There is no {file}.", hint="Name MAINSPRING_TLS_CERTIFICATE and MAINSPRING_TLS_KEY.")
    return Certificate(path=path, key_path=key, fingerprint="")


def own(folder: Path, names: Sequence[str], *, now: datetime) -> Certificate:
    """Return the certificate of this installation for `names` (host names, addresses), made if there is none for them.

    Raises StoreError when it cannot be written.
    """
    path, key_path = folder / "server.crt", folder / "server.key"
    wanted = sorted({name for name in names if name})
    try:
        if not _serves(path, key_path, wanted, now):
            _make(path, key_path, wanted, now)
        return Certificate(path=path, key_path=key_path, fingerprint=fingerprint_of(path))
    except OSError as wrong:
        raise StoreError(f"The server's certificate cannot be kept in {folder}: {wrong.strerror}.") from wrong


def fingerprint_of(path: Path) -> str:
    """Return the sha256 of a certificate (of its binary form), in hexadecimal."""
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256()).hex()


def _serves(path: Path, key_path: Path, wanted: list[str], now: datetime) -> bool:
    if not path.is_file() or not key_path.is_file():
        return False
    try:
        kept = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return False
    has = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = {*has.get_values_for_type(x509.DNSName), *(str(one) for one in has.get_values_for_type(x509.IPAddress))}
    return set(wanted) == names and kept.not_valid_after_utc - now > LEAST


def _make(path: Path, key_path: Path, wanted: list[str], now: datetime) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    # a name of its own each time: a client that knew the former one must not take this one for it
    label = hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, _PUBLIC)).hexdigest()[:12]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mainspring {label}")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in wanted]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key_path, private)
    _write(path, made.public_bytes(serialization.Encoding.PEM))


_PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".draft")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    draft.replace(path)
