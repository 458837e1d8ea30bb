"""The name of a snapshot: equal snapshots have equal fingerprints on every machine."""

from __future__ import annotations

import hashlib

from mainspring.core.codec import encode
from mainspring.core.snapshot import Snapshot


def fingerprint(snapshot: Snapshot) -> str:
    """Return the sha256 (hex) of the snapshot's canonical bytes."""
    return hashlib.sha256(encode(snapshot)).hexdigest()
