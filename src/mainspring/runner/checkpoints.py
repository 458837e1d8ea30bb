"""Checkpoints: complete ones go to the server while user code goes on, and the newest is laid out for the next attempt.

Complete is what was renamed into the folder (a file, or a folder with all in it), and everything that lies there when
`spool/checkpoint_complete` appears. Nothing else is taken: what is written where it lies may be half written. Who overwrites
files in place holds `spool/checkpoint.lock` (flock) meanwhile. What is taken is linked aside first, so that it may be replaced
or removed while it is sent, and it is looked at again before it counts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from typing import Any

from . import blobs
from .beats import Link
from .cache import digest_of
from .folder import Folder
from .wire import AwayError, RefusedError, Wire, pause_after

COMPLETE = "checkpoint_complete"
LOCK = "checkpoint.lock"
LIMIT_BYTES = 64 << 30
MAX_FILES = 100_000
LOOK_S = 0.25  # where the kernel tells nothing
_BARRED_S = 0.002  # the first pause while somebody writes, doubled from look to look: a block that ends says its word inside
_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80
_EVENT = struct.Struct("iIII")
Signature = tuple[int, int, int]  # inode, moment of change (ns), bytes


class NotKeptError(Exception):
    """This checkpoint does not count, and the log says why. `code` is one word for programs."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Checkpoints(threading.Thread):
    """Takes what is complete, one at a time; `finish` once user code is over."""

    def __init__(self, folder: Folder, wire: Wire, link: Link, *, limit_bytes: int, is_restored: bool) -> None:
        super().__init__(daemon=True, name="checkpoints")
        self._folder = folder
        self._wire = wire
        self._link = link
        self._limit = limit_bytes
        self._aside = folder.checkpoint + ".taken"
        # what is complete together: by the name that was renamed in, or "" for what one mark declared
        self._groups: dict[str, dict[str, Signature]] = {}
        self._digests: dict[Signature, str] = {}
        self._cleared: dict[str, int] = {}  # when a file's second name was removed (ns)
        self._is_due = False
        self._barred = 0  # looks in a row at which somebody was writing: no event tells when that ends
        self._made_at = 0.0
        self._is_useless = False
        self._not_before = 0.0
        self._failures = 0
        self._told: set[str] = set()
        self._events, self._place = _listen(folder)
        self._wake = os.pipe()
        self._is_over = threading.Event()
        for name in sorted(os.listdir(folder.checkpoint)) if is_restored else ():
            self._groups[name] = _signatures(folder.checkpoint, name)

    def run(self) -> None:
        """Look whenever something appeared, until user code is over."""
        waited = select.poll()
        for descriptor in (self._events, self._wake[0]):
            if descriptor >= 0:
                waited.register(descriptor, select.POLLIN)
        while not self._is_over.is_set():
            if waited.poll(self._pause_ms()):
                self._barred = 0
            if self._is_over.wait(max(0.0, self._not_before - time.monotonic())):
                return
            try:
                self.look()
                self._failures = 0
            except AwayError as away:
                self._failures += 1
                self._not_before = time.monotonic() + pause_after(self._failures, away.pause_s)
            except Exception as wrong:  # the loop's top: a checkpoint that cannot be taken must not end the next one's chance
                self._is_due = False
                self._folder.event("checkpoint_failed", code="failed", message=repr(wrong)[:300])

    def _pause_ms(self) -> int | None:
        if self._barred:
            return int(min(LOOK_S, _BARRED_S * 2.0 ** min(self._barred - 1, 10)) * 1000)
        return None if self._events >= 0 and not self._is_due else int(LOOK_S * 1000)

    def finish(self, *, is_useful: bool) -> None:
        """End the thread: user code is over. `look` may be called for what it left last, if that `is_useful`."""
        self._is_useless = not is_useful
        self._is_over.set()
        os.write(self._wake[1], b"1")
        if is_useful and self.ident is not None:
            self.join()

    def look(self) -> None:
        """Take what became complete, unless it is being written. Raises AwayError: it is still due then."""
        self._note_renamed()
        lock = _lock(self._folder)
        if lock < 0:
            self._barred += 1
            return
        self._barred = 0
        try:
            self._note_marked()
            if self._is_due:
                self._take()
        except NotKeptError as wrong:
            self._is_due = False
            self._say(wrong)
        finally:
            self._clear()
            os.close(lock)

    def _clear(self) -> None:
        """Remove what was linked aside, and note when that changed the files: it is no writing (`_note_marked`)."""
        if os.path.isdir(self._aside):
            import shutil  # slow to load, and most runs make no checkpoint

            shutil.rmtree(self._aside, ignore_errors=True)
            for path in self._cleared:
                try:
                    self._cleared[path] = os.lstat(os.path.join(self._folder.checkpoint, path)).st_ctime_ns
                except OSError:
                    continue

    def _note_renamed(self) -> None:
        for name in self._drain():
            for group in self._groups.values():
                for path in [one for one in group if one == name or one.startswith(name + "/")]:
                    del group[path]
            self._groups[name] = _signatures(self._folder.checkpoint, name)
            self._is_due, self._made_at = True, time.time()

    def _drain(self) -> list[str]:
        """Return the names that were renamed into the folder since the last look."""
        names: dict[str, None] = {}
        while self._events >= 0:
            try:
                data = os.read(self._events, 65536)
            except BlockingIOError:
                break
            at = 0
            while at < len(data):
                place, mask, _, length = _EVENT.unpack_from(data, at)
                name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
                at += _EVENT.size + length
                if place == self._place and mask & _IN_MOVED_TO:
                    names[name] = None
        return list(names)

    def _note_marked(self) -> None:
        mark = self._folder.in_spool(COMPLETE)
        try:
            marked_ns = os.stat(mark).st_mtime_ns
            os.unlink(mark)
        except FileNotFoundError:
            return
        found = {}
        for name in os.listdir(self._folder.checkpoint):
            found.update(_signatures(self._folder.checkpoint, name))
        for path in found:
            told = os.lstat(os.path.join(self._folder.checkpoint, path))
            is_ours = told.st_mtime_ns <= marked_ns and told.st_ctime_ns == self._cleared.get(path)
            if told.st_ctime_ns > marked_ns and not is_ours:  # renaming and copying keep the time of writing, not this one
                raise _changed(path)
        self._groups = {"": found}
        self._is_due, self._made_at = True, marked_ns / 1e9

    def _whole(self) -> dict[str, Signature]:
        """Return the files of every group that is still as it was when it became complete."""
        files: dict[str, Signature] = {}
        for name, group in list(self._groups.items()):
            if all(_signature(os.path.join(self._folder.checkpoint, path)) == seen for path, seen in group.items()):
                files.update(group)
            else:
                del self._groups[name]
        return files

    def _take(self) -> None:
        files = self._whole()
        size = sum(seen[2] for seen in files.values())
        if size > self._limit or len(files) > MAX_FILES:
            raise NotKeptError("too_large", f"{size:,} bytes in {len(files):,} files are over the limit of {self._limit:,} bytes")
        manifest = self._send(files) if files else ""
        if manifest and not self._is_useless:
            self._folder.event("checkpoint", manifest=manifest, size_bytes=size, at=self._made_at)
            self._link.tell()
        self._is_due = False

    def _send(self, files: dict[str, Signature]) -> str:
        """Send the files that the server misses and their manifest; return its digest."""
        wanted: dict[str, tuple[str, int]] = {}
        entries: list[dict[str, Any]] = []
        places = {}
        known = {}
        self._cleared.clear()
        for path, seen in files.items():
            places[path] = self._linked(path)
            known[seen] = digest = self._digests.get(seen) or _digest(places[path], path)
            wanted[digest] = (places[path], seen[2])
            mode = 0o755 if os.stat(places[path]).st_mode & 0o100 else 0o644
            entries.append({"digest": digest, "mode": mode, "path": path, "size": seen[2]})
        self._digests = known
        data = blobs.pack_manifest(entries)
        import hashlib  # slow to load, and most runs make no checkpoint

        manifest = hashlib.sha256(data).hexdigest()
        try:
            blobs.send(self._wire, wanted)
            self._look_again(files, places)
            blobs.send_bytes(self._wire, manifest, data)
        except RefusedError as refused:
            self._look_again(files, places)  # the usual reason: other bytes than their digest says
            raise NotKeptError("refused", f"the server refused it: {refused}") from refused
        except AwayError:
            self._look_again(files, places)  # a file that shrank breaks the request off too
            raise
        except OSError as wrong:
            raise NotKeptError("unreadable", f"{wrong.strerror or wrong}") from wrong
        return manifest

    def _look_again(self, files: dict[str, Signature], places: dict[str, str]) -> None:
        for path, seen in files.items():
            if _signature(places[path]) != seen:
                raise _changed(path)

    def _linked(self, path: str) -> str:
        """Return a second name of a file, so that it may be replaced or removed meanwhile; its own where links cannot be."""
        source, target = os.path.join(self._folder.checkpoint, path), os.path.join(self._aside, path)
        try:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.link(source, target, follow_symlinks=False)
        except OSError:
            return source
        self._cleared[path] = 0
        return target

    def _say(self, wrong: NotKeptError) -> None:
        self._folder.event("checkpoint_failed", code=wrong.code, message=str(wrong)[:300])
        if wrong.code not in self._told:  # one that cannot be kept is followed by many that cannot be kept
            self._told.add(wrong.code)
            self._folder.say(f"A checkpoint was not kept (checkpoint_{wrong.code}): {wrong}.")


def restore(wire: Wire, cache: str, manifest: str, target: str) -> None:
    """Make a folder what a checkpoint holds, and nothing else; files that are right already stay. Repeatable.

    Raises AwayError, RefusedError, DamagedError, OSError.
    """
    import shutil  # slow to load, and most attempts begin from nothing

    entries = {str(entry["path"]): entry for entry in blobs.fetch_manifest(wire, cache, manifest)}
    for parent, folders, names in os.walk(target, topdown=False):
        for name in (*names, *folders):
            path = os.path.join(parent, name)
            inside = os.path.relpath(path, target).replace(os.sep, "/")
            if os.path.isdir(path) and not os.path.islink(path):
                if not any(one.startswith(inside + "/") for one in entries):
                    shutil.rmtree(path)
            elif inside not in entries:
                os.unlink(path)
    missing = {inside: entry for inside, entry in entries.items() if not _is_there(os.path.join(target, inside), entry)}
    blobs.fetch(wire, cache, {str(entry["digest"]): int(entry["size"]) for entry in missing.values()})
    for inside, entry in missing.items():
        path = os.path.join(target, inside)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = path + ".draft"
        blobs.copy(wire, cache, str(entry["digest"]), int(entry["size"]), draft)
        os.chmod(draft, int(entry.get("mode", 0o644)))
        os.rename(draft, path)


def _is_there(path: str, entry: dict[str, Any]) -> bool:
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    return bool(os.path.getsize(path) == entry["size"] and digest_of(path)[0] == entry["digest"])


def _changed(path: str) -> NotKeptError:
    return NotKeptError(
        "changed",
        f"{path} was written while it was read. Write under another name and rename it, or write within ms.writing_checkpoint()",
    )


def _signature(path: str) -> Signature | None:
    try:
        told = os.lstat(path)
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


def _signatures(folder: str, name: str) -> dict[str, Signature]:
    """Return the plain files that `name` in the folder is, or holds; links are left out."""
    top = os.path.join(folder, name)
    if os.path.islink(top):
        return {}
    paths = [top] if os.path.isfile(top) else blobs.plain_files(top)
    found = {os.path.relpath(path, folder).replace(os.sep, "/"): _signature(path) for path in paths}
    return {path: seen for path, seen in found.items() if seen is not None}


def _digest(place: str, path: str) -> str:
    try:
        return digest_of(place)[0]
    except OSError as wrong:
        raise NotKeptError("unreadable", f"{path} cannot be read: {wrong.strerror or wrong}") from wrong


def _lock(folder: Folder) -> int:
    """Return a descriptor that keeps writers in place away while it is open, -1 where one is at work."""
    descriptor = os.open(folder.in_spool(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _listen(folder: Folder) -> tuple[int, int]:
    """Return (descriptor that is readable when a name appears, the watch of the checkpoint folder); -1 where that cannot be."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = int(library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        place = int(library.inotify_add_watch(descriptor, os.fsencode(folder.checkpoint), _IN_MOVED_TO))
        spool = int(library.inotify_add_watch(descriptor, os.fsencode(folder.spool), _IN_CREATE | _IN_MOVED_TO))
    except (OSError, AttributeError):
        descriptor = place = spool = -1  # not Linux
    if min(descriptor, place, spool) >= 0:
        return descriptor, place
    if descriptor >= 0:
        os.close(descriptor)
    folder.event("checkpoint_unwatched", message="Renamed files are not seen here; checkpoint_complete is.")
    return -1, -1
