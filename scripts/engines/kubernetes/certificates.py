"""Certificates by which users of the Kubernetes for tests may log in, beside their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def certify(folder: Path, users: Sequence[str]) -> None:
    """Write `clients.crt`, the authority, and `USER.crt` with `USER.key` for each user."""
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("clients")
    own = _draft(issuer, issuer, authority.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    _write(folder / "clients.crt", own.sign(authority, hashes.SHA256()))
    for user in users:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        draft = _draft(_name(user), issuer, key.public_key()).add_extension(usage, critical=False)
        _write(folder / f"{user}.crt", draft.sign(authority, hashes.SHA256()))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{user}.key").write_bytes(key.private_bytes(*form))


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _draft(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    draft = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
    draft = draft.serial_number(x509.random_serial_number())
    return draft.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
