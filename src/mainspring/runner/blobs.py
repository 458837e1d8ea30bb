"""Files of the attempt from and to the server, by digest: fetched through a cache that is checked, sent only where missing."""

from __future__ import annotations

import json
import os
from typing import IO, Any

from .cache import DamagedError, NoRoomError, Turn, cached, digest_of, is_there, keep, make_room
from .exchange import Answer, Connection, split
from .wire import AwayError, Wire

SMALL_BYTES = 64 * 1024
BATCH_BYTES = 8 << 20
BATCH_DIGESTS = 2000
_TRIES = 3  # a blob that was just there may be gone again where the cache is short of room


def fetch(wire: Wire, cache: str, sizes: dict[str, int]) -> None:
    """Bring blobs (digest → size, -1 unknown) into the cache. Raises AwayError, RefusedError, DamagedError, NoRoomError."""
    missing = [digest for digest in sizes if not is_there(cache, digest, sizes[digest])]
    if not missing:
        return
    try:
        _bring(wire, cache, missing, sizes)
    except NoRoomError:
        missing = [digest for digest in sizes if not is_there(cache, digest, sizes[digest])]
        wanted = sum(max(0, sizes[digest]) for digest in missing)
        if not make_room(cache, 1 << 62, wanted + SMALL_BYTES):
            raise
        _bring(wire, cache, missing, sizes)


def _bring(wire: Wire, cache: str, missing: list[str], sizes: dict[str, int]) -> None:
    small = [digest for digest in missing if sizes[digest] <= SMALL_BYTES]
    if small:
        with Turn(cache, small, is_large=False):
            small = [digest for digest in small if not is_there(cache, digest, sizes[digest])]
            for start in range(0, len(small), BATCH_DIGESTS):
                _fetch_frames(wire, cache, small[start : start + BATCH_DIGESTS])
    for digest in missing:
        if sizes[digest] > SMALL_BYTES:
            with Turn(cache, [digest], is_large=True):
                if not is_there(cache, digest, sizes[digest]):
                    _fetch_one(wire, cache, digest)


def _fetch_frames(wire: Wire, cache: str, digests: list[str]) -> None:
    body = json.dumps({"digests": digests}).encode()
    answer = wire.open("POST", "/blobs/fetch", body, {"Content-Type": "application/json"}, 120.0)
    try:
        for digest in digests:
            head = _exactly(answer, 40)
            if head[:32].hex() != digest:
                raise DamagedError(f"The server sent another blob than {digest}.")  # noqa: TRY301
            keep(cache, digest, answer, int.from_bytes(head[32:], "big"))
        answer.read()
    except OSError as broken:
        wire.close()
        raise AwayError(f"{broken!r}") from broken
    except (DamagedError, NoRoomError):
        wire.close()
        raise


def _fetch_one(wire: Wire, cache: str, digest: str) -> None:
    answer = wire.open("GET", f"/blobs/{digest}", timeout_s=120.0)
    other = None
    try:
        if answer.status >= 300:
            other, path = _elsewhere(answer.getheader("location"))
            answer.read()
            answer = other.request("GET", path, None, {})
            if answer.status != 200:
                raise AwayError(f"The object store answered {answer.status}.")
        keep(cache, digest, answer, int(answer.getheader("content-length") or -1))
        answer.read()
    except OSError as broken:
        wire.close()
        raise AwayError(f"{broken!r}") from broken
    except NoRoomError:
        wire.close()
        raise
    finally:
        if other is not None:
            other.close()


def _elsewhere(address: str) -> tuple[Connection, str]:
    """Return the way to an object store by a signed address, without our token."""
    try:
        scheme, host, port, path = split(address)
    except ValueError as wrong:
        raise AwayError(f"The server sent us to {address[:80]!r}.") from wrong
    return Connection(scheme, host, port, 120.0), path or "/"


def _exactly(source: IO[bytes] | Answer, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.read(size - len(data))
        if not piece:
            raise AwayError("The answer broke off.")
        data += piece
    return data


def send(wire: Wire, files: dict[str, tuple[str, int]]) -> None:
    """Send blobs (digest → path, size) that the server misses. Raises AwayError, RefusedError, OSError."""
    digests = sorted(files)
    missing: list[str] = []
    for start in range(0, len(digests), BATCH_DIGESTS):
        answer = wire.ask("POST", "/blobs/missing", {"digests": digests[start : start + BATCH_DIGESTS]})
        missing += [str(digest) for digest in answer.get("missing", [])]
    frames: list[bytes] = []
    size = 0
    for digest in missing:
        path, length = files[digest]
        if length > SMALL_BYTES:
            _put(wire, digest, path, length)
            continue
        with open(path, "rb") as file:
            data = file.read()
        frames.append(bytes.fromhex(digest) + len(data).to_bytes(8, "big") + data)
        size += len(data)
        if size >= BATCH_BYTES:
            _pack(wire, frames)
            frames, size = [], 0
    if frames:
        _pack(wire, frames)


def send_bytes(wire: Wire, digest: str, data: bytes) -> None:
    """Send one small blob. Raises AwayError, RefusedError."""
    _pack(wire, [bytes.fromhex(digest) + len(data).to_bytes(8, "big") + data])


def _pack(wire: Wire, frames: list[bytes]) -> None:
    _finish(wire, wire.open("POST", "/blobs/pack", b"".join(frames), {"Content-Type": "application/octet-stream"}, 120.0))


def _put(wire: Wire, digest: str, path: str, size: int) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    with open(path, "rb") as file:
        _finish(wire, wire.open("PUT", f"/blobs/{digest}", file, headers, 300.0))


def _finish(wire: Wire, answer: Answer) -> None:
    try:
        answer.read()
    except OSError as broken:
        wire.close()
        raise AwayError(f"{broken!r}") from broken


def read_manifest(data: bytes) -> list[dict[str, Any]]:
    """Return the entries of a manifest. Raises DamagedError for one that is malformed or leads outside its folder."""
    try:
        files = json.loads(data)["files"]
        paths = {str(entry["path"]) for entry in files}
        fine = len(paths) == len(files) and all(_is_fine(entry) for entry in files)
    except (ValueError, KeyError, TypeError) as wrong:
        raise DamagedError(f"A manifest is malformed: {wrong!r}.") from wrong
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and fine:
            fine = parent not in paths
            parent = parent.rpartition("/")[0]
    if not fine:
        raise DamagedError("A manifest is malformed or leads outside its folder.")
    return list(files)


def _is_fine(entry: dict[str, Any]) -> bool:
    path, digest = entry["path"], entry["digest"]
    if not isinstance(path, str) or not path or len(path) > 4096 or path.startswith("/") or "\\" in path or "\0" in path:
        return False
    if any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.split("/")):
        return False
    is_hex = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    return is_hex and isinstance(entry["size"], int) and entry["size"] >= 0 and entry.get("mode", 0o644) in (0o644, 0o755)


def fetch_manifest(wire: Wire, cache: str, manifest: str) -> list[dict[str, Any]]:
    """Return the entries of a manifest, through the cache. Raises AwayError, RefusedError, DamagedError."""
    fetch(wire, cache, {manifest: -1})
    return kept_manifest(cache, manifest)


def kept_manifest(cache: str, manifest: str) -> list[dict[str, Any]]:
    """Return the entries of a manifest that is in the cache. Raises OSError, DamagedError."""
    with open(cached(cache, manifest), "rb") as file:
        data = file.read()
    import hashlib  # slow to load, and a run without code needs none

    if hashlib.sha256(data).hexdigest() != manifest:
        os.unlink(cached(cache, manifest))
        raise DamagedError(f"The manifest {manifest} in the cache is damaged.")
    return read_manifest(data)


def lay_out(wire: Wire, cache: str, manifest: str, target: str, is_linked: bool) -> None:
    """Write the files of a manifest below `target`: copies to work in, or (`is_linked`) read-only links into the cache."""
    files = fetch_manifest(wire, cache, manifest)
    fetch(wire, cache, {str(entry["digest"]): int(entry["size"]) for entry in files})
    made = set()
    for entry in files:
        path = os.path.join(target, entry["path"])
        parent = os.path.dirname(path)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        source = cached(cache, str(entry["digest"]))
        mode = 0o444 if is_linked else int(entry.get("mode", 0o644))
        if os.path.lexists(path):
            os.unlink(path)  # left by a runner that died while it set up
        if not (_link(source, path) if is_linked else _copied(source, path, mode)):
            copy(wire, cache, str(entry["digest"]), int(entry["size"]), path)
            os.chmod(path, mode)


def _copied(source: str, path: str, mode: int) -> bool:
    """Copy a file of the cache by as few calls as there can be, for code is many small files; say whether that went well."""
    held: list[int] = []
    try:
        held.append(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
        held.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode))
        os.fchmod(held[1], mode)
        while os.sendfile(held[1], held[0], None, 1 << 30):
            pass
    except OSError:
        return False  # gone for others' sake, or a file system that cannot do this
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True


def _link(source: str, path: str) -> bool:
    try:
        os.link(source, path)
    except OSError:
        return False  # another file system, too many links, or gone for others' sake
    return True


def copy(wire: Wire, cache: str, digest: str, size: int, path: str) -> None:
    """Write a blob to `path`, through the cache. Raises AwayError, RefusedError, DamagedError, NoRoomError, OSError."""
    import shutil  # only where there is something to lay out

    for left in reversed(range(_TRIES)):
        fetch(wire, cache, {digest: size})
        try:
            shutil.copyfile(cached(cache, digest), path)
        except FileNotFoundError:  # it was there, and was removed for others' sake
            if not left:
                raise
        else:
            return


def make_manifest(folder: str) -> tuple[bytes, dict[str, tuple[str, int]], int]:
    """Return (canonical manifest, digest → (path, size), bytes) of the plain files below a folder; links are left out."""
    entries: list[dict[str, Any]] = []
    files: dict[str, tuple[str, int]] = {}
    for path in plain_files(folder):
        digest, size = digest_of(path)
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
        entries.append({"digest": digest, "mode": mode, "path": name, "size": size})
        files[digest] = (path, size)
    data = pack_manifest(entries)
    return data, files, sum(int(entry["size"]) for entry in entries)


def pack_manifest(entries: list[dict[str, Any]]) -> bytes:
    """Return the canonical manifest of these entries."""
    entries = sorted(entries, key=lambda entry: str(entry["path"]))
    return json.dumps({"files": entries}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plain_files(folder: str) -> list[str]:
    """Return the paths of all plain files below a folder, sorted."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found.append(path)
    return sorted(found)
