"""Blobs over HTTP: ask what is missing, send small ones packed in frames and large ones by stream; fetch and verify."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mainspring.client.transport import Transport
from mainspring.core.errors import ArchiveError, ArtifactError, IntegrityError, ServerError
from mainspring.core.manifests import FileEntry, Manifest, read_manifest

SMALL_BYTES = 1 << 20
PACK_BYTES = 32 << 20
PACK_FILES = 10_000
ASK_DIGESTS = 50_000
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 40
Source = bytes | Path
Progress = Callable[[int, int], None]  # the bytes that have travelled, and all that are to


@dataclass(frozen=True, slots=True)
class Blobs:
    """Content-addressed bytes of the server."""

    transport: Transport

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Return which of `digests` the server lacks, each once, in the order given."""
        found: list[str] = []
        unique = list(dict.fromkeys(digests))
        for start in range(0, len(unique), ASK_DIGESTS):
            body = {"digests": unique[start : start + ASK_DIGESTS]}
            found += self.transport.post("/blobs/missing", body, is_repeatable=True).plain()["missing"]
        return found

    def put(self, data: bytes) -> str:
        """Store `data` unless it is there; return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.upload({digest: data})
        return digest

    def upload(self, sources: dict[str, Source], *, progress: Progress | None = None) -> int:
        """Send what the server lacks of `sources` (digest to bytes or file); return the bytes sent. Idempotent.

        `progress` is called after each part, also of a large file; less than before where a part is sent again.
        """
        batch: list[tuple[str, bytes]] = []
        held = 0
        missing = {digest: _size(sources[digest]) for digest in self.missing(list(sources))}
        count = _Count(progress, sum(missing.values()))
        for digest, size in missing.items():
            source = sources[digest]
            if size > SMALL_BYTES:
                self._put_large(digest, source, count)
            else:
                batch.append((digest, source if isinstance(source, bytes) else source.read_bytes()))
                held += size
                if held >= PACK_BYTES or len(batch) >= PACK_FILES:
                    self._pack(batch, count)
                    batch, held = [], 0
        if batch:
            self._pack(batch, count)
        return count.total

    def get(self, digest: str) -> bytes:
        """Return a blob, verified. Raises NotFoundError, IntegrityError."""
        data = self.transport.get(f"/blobs/{digest}").data
        _verify(digest, hashlib.sha256(data).hexdigest())
        return data

    def save(self, digest: str, target: Path, *, mode: int = 0o644, arrived: Callable[[int], None] = lambda _: None) -> None:
        """Write a blob to `target`, verified, atomically; `arrived` is called with the bytes of each part."""
        target.parent.mkdir(parents=True, exist_ok=True)
        counted = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
        try:
            with os.fdopen(descriptor, "wb") as file, self.transport.stream("GET", f"/blobs/{digest}") as response:
                for chunk in response.iter_bytes():
                    counted.update(chunk)
                    file.write(chunk)
                    arrived(len(chunk))
            _verify(digest, counted.hexdigest())
            os.chmod(name, mode)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of that digest. Raises ArchiveError for hostile paths."""
        return read_manifest(self.get(digest))

    def save_folder(self, manifest: str, target: Path, *, progress: Progress | None = None) -> Manifest:
        """Write every file of a manifest below `target`; files that are there already and match are kept."""
        found = self.manifest(manifest)
        wanted = [entry for entry in found.files if not _is_same(target / entry.path, entry)]
        for entry in wanted:
            _check_below(target, entry.path)
        small = [entry for entry in wanted if entry.size <= SMALL_BYTES]
        count = _Count(progress, sum(entry.size for entry in wanted))
        for batch in _batches(small):
            self._save_batch(batch, target)
            count.add(sum(entry.size for entry in batch))
        for entry in wanted:
            if entry.size > SMALL_BYTES:
                self.save(entry.digest, target / entry.path, mode=entry.mode, arrived=count.add)
        return found

    def _save_batch(self, entries: list[FileEntry], target: Path) -> None:
        digests = list(dict.fromkeys(entry.digest for entry in entries))
        data = self.transport.post("/blobs/fetch", {"digests": digests}, is_repeatable=True).data
        blobs = dict(_frames(data))
        for entry in entries:
            if entry.digest not in blobs:
                raise ServerError(f"The server did not send {entry.path!r}.", hint="Try again.")
            content = blobs[entry.digest]
            _verify(entry.digest, hashlib.sha256(content).hexdigest())
            path = target / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{entry.digest[:12]}-{path.name[:40]}")
            partial.write_bytes(content)
            partial.chmod(entry.mode)
            partial.replace(path)

    def _put_large(self, digest: str, source: Source, count: _Count) -> None:
        content = source if isinstance(source, bytes) else _chunks_of(source, count)
        self.transport.send("PUT", f"/blobs/{digest}", content=content, timeout_s=600.0)
        if isinstance(source, bytes):
            count.add(len(source))

    def _pack(self, batch: list[tuple[str, bytes]], count: _Count) -> None:
        body = b"".join(part for digest, data in batch for part in (bytes.fromhex(digest), len(data).to_bytes(8, "big"), data))
        self.transport.send("POST", "/blobs/pack", content=body, is_repeatable=True, timeout_s=300.0)
        count.add(sum(len(data) for _, data in batch))


@dataclass(slots=True)
class _Count:
    """Tells how much of `total` has travelled, part by part."""

    progress: Progress | None
    total: int
    done: int = field(default=0, init=False)

    def add(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(self.done, self.total)


def _frames(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 32 : at + HEAD_BYTES], "big")
        if at + HEAD_BYTES + size > len(data):
            raise ArchiveError("The answer ends in the middle of a blob.", hint="Try again.")
        yield data[at : at + 32].hex(), data[at + HEAD_BYTES : at + HEAD_BYTES + size]
        at += HEAD_BYTES + size


def _batches(entries: Iterable[FileEntry]) -> Iterator[list[FileEntry]]:
    batch: list[FileEntry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.size
        if size >= PACK_BYTES or len(batch) >= PACK_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _chunks_of(path: Path, count: _Count) -> Callable[[], Iterator[bytes]]:
    before = count.done

    def chunks() -> Iterator[bytes]:
        count.done = before  # it may be sent again
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                count.add(len(chunk))

    return chunks


def _verify(expected: str, actual: str) -> None:
    if expected != actual:
        raise IntegrityError("A blob arrived damaged.", hint="Try again.", details={"expected": expected, "actual": actual})


def _is_same(path: Path, entry: FileEntry) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.digest


def _check_below(target: Path, path: str) -> None:
    """Refuse to write through a link that lies in the target already."""
    parent = (target / path).parent
    if parent.exists() and not parent.resolve().is_relative_to(target.resolve()):
        raise ArtifactError(f"{path!r} would be written outside {str(target)!r}.", hint="Take an empty folder.")
