"""Manifests: the list of files of a code bundle, a data set, a model or a checkpoint. Its digest is its version.

A manifest is canonical JSON: `{"files": [{"digest", "mode", "path", "size"}, …]}`, sorted by path, one entry a path.
Paths are relative, `/` separated, without `.` or `..`, and never links: a hostile manifest is refused where it is read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from mainspring.core.codec import decode, encode
from mainspring.core.errors import ArchiveError
from mainspring.core.paths import is_safe_path

_DIGEST = re.compile(r"^[0-9a-f]{64}\Z")
MAX_FILES = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: `mode` is 0o644 or 0o755 as an integer."""

    path: str
    digest: str
    size: int
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Files sorted by path."""

    files: tuple[FileEntry, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the sum of all file sizes."""
        return sum(entry.size for entry in self.files)


def pack_manifest(files: list[FileEntry]) -> tuple[bytes, str]:
    """Return (canonical bytes, their sha256) of a manifest of `files`. Raises ArchiveError for hostile paths."""
    manifest = Manifest(files=tuple(sorted(files, key=lambda entry: entry.path)))
    check_manifest(manifest)
    data = encode(manifest)
    return data, hashlib.sha256(data).hexdigest()


def read_manifest(data: bytes) -> Manifest:
    """Return the manifest that `data` holds. Raises SpecError for malformed JSON and ArchiveError for hostile entries."""
    return check_manifest(decode(data, Manifest))


def check_manifest(manifest: Manifest) -> Manifest:
    """Return `manifest` if every entry is safe to write below a folder; raises ArchiveError naming the entry otherwise."""
    seen: set[str] = set()
    for entry in manifest.files:
        if not is_safe_path(entry.path):
            raise ArchiveError(f"{entry.path!r} leads outside its folder.", hint="Make the bundle again.")
        if entry.path in seen:
            raise ArchiveError(f"{entry.path!r} is listed twice.", hint="Make the bundle again.")
        if _DIGEST.match(entry.digest) is None or entry.size < 0 or entry.mode not in (0o644, 0o755):
            raise ArchiveError(f"The entry of {entry.path!r} is malformed.", hint="Make the bundle again.")
        seen.add(entry.path)
    for path in seen:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise ArchiveError(f"{parent!r} is both a file and a folder.", hint="Make the bundle again.")
            parent = parent.rpartition("/")[0]
    return manifest


def is_digest(text: str) -> bool:
    """Say whether `text` is a sha256 in lower-case hex."""
    return _DIGEST.match(text) is not None
