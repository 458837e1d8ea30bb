"""`BlobStore`: bytes under their sha256. What comes in is verified before it is kept, what goes out before it is believed.

Loose blobs lie at `objects/ab/abcd…`, small ones that came together in packs (`packs.py`), damaged ones in `quarantine/`.
`services` and `api` use it; everything else speaks to a server.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from mainspring.blobs.bucket import Bucket
from mainspring.blobs.disk import Disk, room_left
from mainspring.blobs.folders import Ignore, files_below, write_folder
from mainspring.blobs.garbage import Collected, sweep
from mainspring.blobs.objects import CHUNK_BYTES, Objects
from mainspring.blobs.packs import SMALL_BYTES, Packs, Place, key_of
from mainspring.core.errors import ArchiveError, IntegrityError, NotFoundError, SpecError, UsageError
from mainspring.core.manifests import FileEntry, Manifest, is_digest, pack_manifest, read_manifest

T = TypeVar("T")
_MANIFEST_START = b'{"files":['
_BATCH_FILES, _BATCH_BYTES = 4096, 32 << 20
_MAX_REMEMBERED = 200_000
_log = logging.getLogger(__name__)


class BlobStore:
    """Content-addressed blobs over a folder or a bucket. Blocking; safe to use from many threads.

    Every method that takes a digest raises UsageError for one that is no sha256 in lower-case hex.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._packs = Packs(objects)
        self._seen: dict[str, float] = {}  # key → monotonic time of its last known renewal; only where a call is dear
        self._plain: set[bytes] = set()  # digests known to be no manifests
        self._mending = threading.Lock()

    @classmethod
    def open(cls, url: str, *, folder: Path, config: Mapping[str, str] | None = None) -> BlobStore:
        """Open the store at `url`: a path, `file:///path`, or `s3://bucket/prefix`; `folder` holds uploads on their way to S3.

        `config` for S3: `endpoint`, `access_key_id`, `secret_access_key`, `session_token`, `region`; without keys those of
        the environment. Raises UsageError for any other URL.
        """
        parts = urlsplit(url)
        if parts.scheme == "s3" and parts.netloc:
            return cls(Bucket(parts.netloc, parts.path.strip("/"), folder=folder, config=config or {}))
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return cls(Disk(Path(unquote(parts.path))))
        if not parts.scheme and url:
            return cls(Disk(Path(url)))
        raise UsageError(f"{url!r} is no place for blobs.", hint="Give a path, file:///path or s3://bucket/prefix.")

    def put(self, digest: str, data: bytes | Iterable[bytes]) -> bool:
        """Keep `data` under `digest`; return False when it was there already (then its grace starts again).

        Raises IntegrityError when the digest lies, DiskFullError; nothing is stored then, nor when `data` raises midway.
        """
        key = _key(digest)
        is_here = self._is_here(digest)
        if isinstance(data, bytes | bytearray | memoryview):
            _agree(digest, hashlib.sha256(data).hexdigest())
            return not is_here and self._objects.write(key, bytes(data))
        if is_here:
            _agree(digest, _digest_of(data))
            return False
        path = self._spool(data, digest)
        return self._objects.adopt(key, path)

    def put_bytes(self, data: bytes) -> str:
        """Keep `data` and return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.put(digest, data)
        return digest

    def put_many(self, blobs: Sequence[tuple[str, bytes]]) -> int:
        """Keep (digest, bytes) pairs; return how many were new. Those up to 64 kB share one pack and one fsync.

        All are verified before any is kept. Raises IntegrityError, DiskFullError.
        """
        for digest, data in blobs:
            _key(digest)
            _agree(digest, hashlib.sha256(data).hexdigest())
        wanted = dict(blobs)
        fresh = self.missing(list(wanted))
        small = [(digest, wanted[digest]) for digest in fresh if len(wanted[digest]) <= SMALL_BYTES]
        large = [digest for digest in fresh if len(wanted[digest]) > SMALL_BYTES]
        if len(small) > 1:
            self._packs.write(small)
        else:
            large += [digest for digest, _ in small]
        self._each(lambda digest: self._objects.write(_key(digest), wanted[digest]), large)
        return len(fresh)

    def get(self, digest: str) -> bytes:
        """Return the bytes of `digest`, verified. Raises NotFoundError, or IntegrityError (then they are in quarantine)."""
        key = _key(digest)
        for _ in range(2):  # a pack may be rewritten between finding and reading
            place = self._find_packed(digest)
            try:
                data = self._objects.read(key) if place is None else self._packs.read(place)
            except NotFoundError:
                self._packs.refresh()
                continue
            actual = hashlib.sha256(data).hexdigest()
            if actual != digest:
                self._quarantine(digest, actual, place, data)
            return data
        raise _not_here(digest)

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of `digest` in chunks of up to 1 MiB; the last comes only when all of them were verified.

        Raises as `get` does, NotFoundError before the first chunk.
        """
        key = _key(digest)
        if self._find_packed(digest) is not None or self._objects.stat(key) is None:
            yield self.get(digest)
            return
        seen = hashlib.sha256()
        held = b""
        for chunk in self._objects.stream(key):
            if held:
                yield held
            seen.update(chunk)
            held = chunk
        if seen.hexdigest() != digest:
            self._quarantine(digest, seen.hexdigest(), None, b"")
        yield held

    def size(self, digest: str) -> int:
        """Return the bytes of `digest`. Raises NotFoundError."""
        key = _key(digest)
        for _ in range(2):
            place = self._find_packed(digest)
            if place is not None:
                return place.size
            found = self._objects.stat(key)
            if found is not None:
                return found.size
            self._packs.refresh()
        raise _not_here(digest)

    def has(self, digest: str) -> bool:
        """Say whether `digest` is here, and let its grace start again."""
        return not self.missing([digest])

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return those of `digests` that are not here, each once, in order; the grace of the others starts again."""
        asked = list(dict.fromkeys(digests))
        for digest in asked:
            _key(digest)
        gone = [digest for digest, is_here in zip(asked, self._each(self._is_here, asked), strict=True) if not is_here]
        if gone:
            self._packs.refresh()
            gone = [digest for digest in gone if self._packs.find(digest) is None or not self._is_here(digest)]
        return gone

    def signed_url(self, digest: str, ttl_s: float) -> str | None:
        """Return a URL to read `digest` from S3 without us, or None (on disk, or when it lies in a pack)."""
        key = _key(digest)
        return None if self._find_packed(digest) is not None else self._objects.signed_url(key, ttl_s)

    def put_folder(self, path: Path, ignore: Ignore | None = None) -> tuple[str, Manifest]:
        """Keep every file below `path` and return (digest of its manifest, manifest).

        `ignore` says of a relative path (folders end with `/`) whether to leave it out. Raises ArchiveError for links.
        """
        entries: list[FileEntry] = []
        batch: list[tuple[str, bytes]] = []
        held = 0
        for name, file, mode in files_below(path, ignore):
            if file.stat().st_size > SMALL_BYTES:
                digest, size = self._put_file(file)
            else:
                data = file.read_bytes()
                digest, size = hashlib.sha256(data).hexdigest(), len(data)
                batch.append((digest, data))
                held += size
            entries.append(FileEntry(path=name, digest=digest, size=size, mode=mode))
            if len(batch) >= _BATCH_FILES or held >= _BATCH_BYTES:
                self.put_many(batch)
                batch, held = [], 0
        self.put_many(batch)
        data, digest = pack_manifest(entries)
        self.put(digest, data)
        return digest, read_manifest(data)

    def get_folder(self, manifest_digest: str, target: Path) -> Manifest:
        """Write the files of a manifest as the new folder `target`, all or nothing, and return the manifest.

        Raises ArchiveError for hostile entries or a `target` that is a link, ConflictError when `target` is not empty.
        """
        manifest = read_manifest(self.get(manifest_digest))
        write_folder(manifest, target, self.stream)
        return manifest

    def collect(self, named: Callable[[], Iterable[str]], *, grace_s: float, now: datetime) -> Collected:
        """Remove blobs that are not named and older than `grace_s`; files of named manifests are named.

        `named` is called after the old blobs were listed. Run one at a time; the store stays in use meanwhile.
        """
        try:
            return sweep(self._objects, self._packs, named, files_of=self._files_of, grace_s=grace_s, now=now)
        finally:
            self._seen.clear()

    def _is_here(self, digest: str) -> bool:
        """Renew `digest` where it is known to lie; False when it is not there."""
        place = self._packs.find(digest)
        if place is not None and self._renew(key_of(place.pack)):
            return True
        return self._renew(_key(digest))

    def _renew(self, key: str) -> bool:
        after_s = self._objects.renew_after_s
        if after_s == 0:
            return self._objects.renew(key)
        now = time.monotonic()
        if now - self._seen.get(key, -after_s) < after_s:
            return True  # younger than half the shortest grace: no sweep can have taken it
        found = self._objects.stat(key)
        if found is None:
            return False
        age_s = max(time.time() - found.modified, 0.0)
        if age_s >= after_s:
            if not self._objects.renew(key):
                return False
            age_s = 0.0
        if len(self._seen) >= _MAX_REMEMBERED:
            self._seen.clear()
        self._seen[key] = now - age_s
        return True

    def _find_packed(self, digest: str) -> Place | None:
        return self._packs.find(digest)

    def _put_file(self, path: Path) -> tuple[str, int]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if not self.missing([digest]):
                return digest, size
            file.seek(0)
            self.put(digest, iter(lambda: file.read(CHUNK_BYTES), b""))
        return digest, size

    def _spool(self, data: Iterable[bytes], digest: str) -> Path:
        """Write `data` to a file of its own, verified; the file is gone when anything fails."""
        path = self._objects.scratch / secrets.token_hex(16)
        seen = hashlib.sha256()
        try:
            with room_left(self._objects.scratch), path.open("xb") as file:
                for chunk in data:
                    seen.update(chunk)
                    file.write(chunk)
            _agree(digest, seen.hexdigest())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _quarantine(self, digest: str, actual: str, place: Place | None, data: bytes) -> None:
        """Take a damaged blob out of the way, so that it can be uploaded again, and raise IntegrityError."""
        _log.error("a blob is damaged and was put into quarantine", extra={"digest": digest, "actual": actual})
        if place is None:
            self._objects.set_aside(_key(digest), f"quarantine/{digest}")
            self._seen.pop(_key(digest), None)
        else:
            self._objects.write(f"quarantine/{digest}", data)
            with self._mending:
                self._mend(place.pack)
        raise IntegrityError(
            f"The stored bytes of {digest[:12]}… are damaged.",
            hint="Upload them again; the damaged bytes are kept in quarantine.",
            details={"expected": digest, "actual": actual},
        )

    def _mend(self, pack: str) -> None:
        """Write the sound blobs of a damaged pack anew and remove it."""
        members = self._packs.members(pack)
        found = self._objects.stat(key_of(pack))
        if not members or found is None:
            return
        blobs = [(digest, self._packs.read(place)) for digest, place in members.items()]
        sound = [(digest, data) for digest, data in blobs if hashlib.sha256(data).hexdigest() == digest]
        if sound:
            self._packs.write(sound)
        self._packs.remove(pack, found.modified)

    def _files_of(self, digest: str) -> Iterable[str]:
        """Return the digests that a manifest lists; nothing for any other blob, or one that is not here."""
        raw = bytes.fromhex(digest)
        if raw in self._plain:
            return ()
        try:
            place = self._find_packed(digest)
            if place is None:
                head = self._objects.read(_key(digest), 0, len(_MANIFEST_START))
            else:
                head = self._packs.read(place)[: len(_MANIFEST_START)]
        except NotFoundError:
            if self._objects.stat(f"quarantine/{digest}") is not None:
                raise IntegrityError(
                    f"The blob {digest[:12]}… is named and damaged, so that its files are not known; nothing was collected.",
                    hint="Upload it again, or delete the record that names it.",
                    details={"expected": digest, "actual": ""},
                ) from None
            return ()
        if head == _MANIFEST_START:
            try:
                return [entry.digest for entry in read_manifest(self.get(digest)).files]
            except (SpecError, ArchiveError):
                pass  # JSON that only begins like a manifest
        if len(self._plain) >= _MAX_REMEMBERED:
            self._plain.clear()
        self._plain.add(raw)
        return ()

    def _each(self, act: Callable[[str], T], digests: Sequence[str]) -> list[T]:
        """Return `act` of each, several at a time where a call is a request."""
        if len(digests) < 2 or self._objects.renew_after_s == 0:
            return [act(digest) for digest in digests]
        with ThreadPoolExecutor(min(self._objects.width, len(digests)), thread_name_prefix="blobs") as pool:
            return list(pool.map(act, digests))


def _key(digest: str) -> str:
    if not is_digest(digest):
        raise UsageError(f"{digest[:80]!r} is not a sha256 in lower-case hex.", hint="Send 64 hex digits.")
    return f"objects/{digest[:2]}/{digest}"


def _agree(expected: str, actual: str) -> None:
    if expected != actual:
        raise IntegrityError(
            f"The bytes have the sha256 {actual[:12]}…, not {expected[:12]}… as announced; nothing was stored.",
            hint="Upload them again; if it happens again, the file changed while it was read.",
            details={"expected": expected, "actual": actual},
        )


def _digest_of(data: Iterable[bytes]) -> str:
    seen = hashlib.sha256()
    for chunk in data:
        seen.update(chunk)
    return seen.hexdigest()


def _not_here(digest: str) -> NotFoundError:
    return NotFoundError(f"The blob {digest[:12]}… is not here.", hint="Upload it first.", details={"digest": digest})
