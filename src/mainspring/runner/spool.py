"""Streams of the attempt as files: what is to be sent, what the server has, what is given up when the disk would fill.

The log file is the spool. When more than the limit is unacknowledged, the oldest text is cut out of the file (a hole) and a
marker line stands in its place on the wire: offsets on the wire are those of the file with each hole replaced by its marker.
The list of holes is made durable before text is cut, and a hole changes only while it lies beyond what can have been sent.
"""

from __future__ import annotations

import ctypes
import json
import os

from .folder import Folder, write_durably

LINE_STREAMS = ("metrics", "params", "usage", "events")
MAX_BEAT_BYTES = 1 << 20
SAFE_BYTES = 4 * MAX_BEAT_BYTES  # text this far beyond the acknowledged end was never sent
PUNCH_BYTES = 8 << 20
_BLOCK = 4096


class Stream:
    """One stream; used by the beat's thread alone."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.name = name
        self.path = folder.in_spool(name)
        self.acked = 0
        self.is_lines = name in LINE_STREAMS
        self._map = folder.at("holes.json")
        self._holes: list[list[int]] = []
        self._punched = 0
        if not self.is_lines:
            try:
                with open(self._map, "rb") as file:
                    self._holes = json.loads(file.read())["holes"]
            except (OSError, ValueError, KeyError):
                pass

    def size(self) -> int:
        """Return the stream's length on the wire."""
        try:
            size = os.stat(self.path).st_size
        except OSError:
            return 0
        return size - sum(end - start - len(marker(end - start)) for start, end in self._holes)

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes from `offset` of the wire; whole lines only for a stream of lines."""
        found = b""
        wire = place = 0
        for start, end in [*self._holes, [1 << 62, 1 << 62]]:
            plain = start - place
            if offset + len(found) < wire + plain:
                at = offset + len(found) - wire + place
                found += self._bytes(at, min(limit - len(found), start - at))
            wire += plain
            text = marker(end - start)
            if wire <= offset + len(found) < wire + len(text) and len(found) < limit:
                found += text[offset + len(found) - wire :][: limit - len(found)]
            wire += len(text)
            place = end
            if len(found) >= limit or start == 1 << 62:
                break
        if self.is_lines:
            whole = found.rfind(b"\n") + 1
            if whole == 0 and len(found) < MAX_BEAT_BYTES and limit < MAX_BEAT_BYTES and len(found) == limit:
                return self.read(offset, MAX_BEAT_BYTES)
            return found[:whole] if whole or len(found) < MAX_BEAT_BYTES else found
        return found

    def acknowledge(self, end: int) -> None:
        """Take note of what the server holds, and give the acknowledged text's room back in large pieces."""
        self.acked = end
        if self.is_lines:
            return
        done = self._file_place(end) // _BLOCK * _BLOCK
        if done - self._punched >= PUNCH_BYTES and _punch(self.path, self._punched, done - self._punched):
            self._punched = done

    def thin(self, limit: int) -> int:
        """Cut the oldest text that was never sent when more than `limit` bytes wait; return how many were cut."""
        try:
            size = os.stat(self.path).st_size
        except OSError:
            return 0
        lost = sum(end - start for start, end in self._holes if start >= self._file_place(self.acked))
        waiting = size - self._file_place(self.acked) - lost
        if self.is_lines or waiting <= limit:
            return 0
        kept, first = self._frozen()
        end = size - limit // 2
        end -= end % _BLOCK
        if end <= max([first, *(hole[1] for hole in self._holes)]):
            return 0
        holes = [*kept, [first, end]]
        write_durably(self._map, {"holes": holes})
        self._holes = holes
        _punch(self.path, first, end - first)
        return end - first

    def _frozen(self) -> tuple[list[list[int]], int]:
        """Return the holes whose marker may have been sent, and where in the file a hole may begin."""
        safe = self.acked + SAFE_BYTES
        kept: list[list[int]] = []
        wire = place = 0
        for start, end in self._holes:
            if wire + start - place >= safe:
                return kept, start
            wire += start - place + len(marker(end - start))
            kept.append([start, end])
            place = end
        first = place + max(0, safe - wire)
        return kept, (first + _BLOCK - 1) // _BLOCK * _BLOCK

    def seal(self) -> None:
        """End a stream of lines at a line's end: half a line of a killed writer is dropped, a whole one gets its end."""
        if not self.is_lines or not os.path.exists(self.path):
            return
        with open(self.path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_BEAT_BYTES))
            tail = file.read().rpartition(b"\n")[2]
            if not tail:
                return
            try:
                json.loads(tail)
            except ValueError:
                file.truncate(size - len(tail))
            else:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")

    def _file_place(self, offset: int) -> int:
        """Return where in the file the wire's `offset` is; the end of the hole for one inside a marker."""
        wire = place = 0
        for start, end in self._holes:
            if offset < wire + start - place:
                break
            wire += start - place
            place = end
            text = len(marker(end - start))
            if offset < wire + text:
                return end
            wire += text
        return offset - wire + place

    def _bytes(self, offset: int, limit: int) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(descriptor, limit, offset) if limit > 0 else b""
        finally:
            os.close(descriptor)


def marker(size: int) -> bytes:
    """Return the line that stands for `size` lost bytes."""
    return b"\n[mainspring: %d bytes of log were dropped while the server was away]\n" % size if size else b""


def _punch(path: str, offset: int, size: int) -> bool:
    """Give a range's room back to the file system (keep size, punch hole); False where that is not possible."""
    call: object | None = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None or size <= 0:
        return False
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = call(descriptor, 3, ctypes.c_longlong(offset), ctypes.c_longlong(size))  # type: ignore[operator]
        return bool(done == 0)
    finally:
        os.close(descriptor)
