"""Objects in an S3 bucket, over obstore. A PUT is whole or nothing there; create-if-absent is the server's own condition.

S3 cannot touch an object, so `renew` writes an empty object under `renewed/` whose time counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.exceptions import NotFoundError as AbsentError
from obstore.store import S3Store

from mainspring.blobs.disk import room_left
from mainspring.blobs.objects import CHUNK_BYTES, Stat
from mainspring.core.errors import CredentialsError, NotFoundError, UnreachableError, UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_KNOWN = frozenset({"endpoint", "access_key_id", "secret_access_key", "session_token", "region"})
_REFUSALS = frozenset({"SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "ExpiredToken", "InvalidToken"})
_WHOLE_BYTES = 64 << 20  # above this an upload is made of parts, where S3 has no create-if-absent


class Bucket:
    """A bucket, or a prefix of one, as `Objects`; several servers may share it."""

    renew_after_s = 3600.0
    width = 16

    def __init__(self, bucket: str, prefix: str, *, folder: Path, config: Mapping[str, str]) -> None:
        unknown = sorted(set(config) - _KNOWN)
        if unknown:
            raise UsageError(f"Nothing about S3 is called {unknown[0]!r}.", hint="Known: " + ", ".join(sorted(_KNOWN)) + ".")
        options: ClientConfig = {"timeout": "60s", "connect_timeout": "10s"}
        if config.get("endpoint", "").startswith("http://"):
            options["allow_http"] = True
        settings = cast("S3Config", {key: value for key, value in config.items() if value})
        retry: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
        self._store = S3Store(bucket, prefix=prefix or None, config=settings, client_options=options, retry_config=retry)
        self.scratch = folder / "incoming"
        with room_left(folder):
            self.scratch.mkdir(parents=True, exist_ok=True)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of `key`."""
        with _answered(key):
            if length == 0:
                return b""
            if start == 0 and length is None:
                return bytes(obstore.get(self._store, key).bytes())
            size = int(obstore.head(self._store, key)["size"]) if length is None else start + length
            return bytes(obstore.get_range(self._store, key, start=start, end=size))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield `key` in chunks of about 1 MiB."""
        with _answered(key):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def write(self, key: str, data: bytes) -> bool:
        """Keep `data` under `key`."""
        with _answered(key):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                self.renew(key)
                return False
            return True

    def adopt(self, key: str, path: Path) -> bool:
        """Upload the file at `path` as `key`."""
        try:
            if path.stat().st_size <= _WHOLE_BYTES:
                return self.write(key, path.read_bytes())
            is_new = self.stat(key) is None
            with _answered(key):
                obstore.put(self._store, key, path)
            return is_new
        finally:
            path.unlink(missing_ok=True)

    def stat(self, key: str) -> Stat | None:
        """Return size and time of `key`."""
        try:
            with _answered(key):
                found = obstore.head(self._store, key)
        except NotFoundError:
            return None
        modified = found["last_modified"].timestamp()
        with suppress(NotFoundError), _answered(key):
            modified = max(modified, obstore.head(self._store, f"renewed/{key}")["last_modified"].timestamp())
        return Stat(key, found["size"], modified)

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield what lies below `prefix`."""
        with _answered(prefix):
            renewed = {
                meta["path"].removeprefix("renewed/"): meta["last_modified"].timestamp()
                for page in obstore.list(self._store, f"renewed/{prefix}")
                for meta in page
            }
            for page in obstore.list(self._store, prefix):
                for meta in page:
                    key, modified = meta["path"], meta["last_modified"].timestamp()
                    yield Stat(key, meta["size"], max(modified, renewed.get(key, modified)))

    def renew(self, key: str) -> bool:
        """Write the object that says `key` was wanted just now."""
        with _answered(key):
            obstore.put(self._store, f"renewed/{key}", b"", use_multipart=False)
        try:
            with _answered(key):
                obstore.head(self._store, key)  # afterwards: a sweep that did not see our mark has removed it by now
        except NotFoundError:
            return False
        return True

    def remove(self, key: str, seen: float) -> bool:
        """Delete `key` and its mark. Between the look and the deletion lies one request: the grace covers it."""
        found = self.stat(key)
        if found is not None and found.modified != seen:
            return False
        for one in (key, f"renewed/{key}"):
            with suppress(NotFoundError), _answered(one):
                obstore.delete(self._store, one)
        return True

    def set_aside(self, key: str, to: str) -> None:
        """Copy, then delete."""
        with suppress(NotFoundError), _answered(key):
            obstore.copy(self._store, key, to)
            obstore.delete(self._store, key)

    def tidy(self, older_than: float) -> int:
        """Remove broken uploads from the local folder."""
        removed = 0
        for path in self.scratch.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < older_than:
                    path.unlink()
                    removed += 1
        return removed

    def signed_url(self, key: str, ttl_s: float) -> str | None:
        """Return a URL signed with our keys."""
        with _answered(key):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=ttl_s))


@contextmanager
def _answered(key: str) -> Iterator[None]:
    """Turn obstore's errors into ours."""
    try:
        yield
    except (FileNotFoundError, AbsentError) as gone:
        raise NotFoundError(f"There is no object {key!r}.", details={"key": key}) from gone
    except BaseError as wrong:
        found = re.search(r"<Code>([A-Za-z0-9]+)</Code>", str(wrong))
        code = found[1] if found else type(wrong).__name__
        if isinstance(wrong, PermissionDeniedError | UnauthenticatedError) or code in _REFUSALS:
            raise CredentialsError(
                f"The object storage refuses our keys ({code}).",
                hint="Check the keys and what they may do.",
                details={"key": key},
            ) from wrong
        raise UnreachableError(
            f"The object storage did not do what was asked ({code}).",
            hint="Check its address, that the bucket is there, and the network.",
            details={"key": key},
        ) from wrong
