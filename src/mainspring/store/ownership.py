"""Exactly one process owns a SQLite file: an `flock` on `<db>.lock`, with a note inside that says who.

The kernel frees the lock when the owner dies, however it dies. `database.py` adds a fence: a number in the file that grows
with each owner, so that an owner whose lock file was deleted under it finds out before its next write.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mainspring.core.errors import StoreError

_POLL_S = 0.05

# f_type of statfs(2), from linux/magic.h: file systems whose locks and mmap cannot be trusted between machines.
_NETWORK_MAGIC = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb2",
    0xFF534D42: "cifs",
    0x5346414F: "afs",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x01021997: "9p",
}
_FUSE_MAGIC = 0x65735546
_NETWORK_FUSE = ("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.glusterfs", "fuse.davfs", "fuse.juicefs")


@dataclass(slots=True)
class Ownership:
    """The held lock file. `release` gives it up; the file stays, only the lock counts."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def own(database: Path, *, wait_s: float = 0.0) -> Ownership:
    """Take the lock of `database`, waiting up to `wait_s`. Raises StoreError that names the owner."""
    path = database.with_name(database.name + ".lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as taken:
            if time.monotonic() < until:
                time.sleep(_POLL_S)
                continue
            owner = _read_owner(descriptor)
            os.close(descriptor)
            raise StoreError(
                f"The database {database} is owned by another process{_shown(owner)}.",
                hint="Stop it first (mainspring down), or use another MAINSPRING_HOME.",
                details={"owner": owner},
            ) from taken
        break
    note = json.dumps({"pid": os.getpid(), "boot_id": boot_id()}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, note, 0)
    return Ownership(path, descriptor)


def boot_id() -> str:
    """Return what tells this boot of the machine from every other, or an empty string where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def refuse_network_folder(folder: Path) -> None:
    """Raise StoreError when `folder` lies on a network file system: locks and shared memory are not to be trusted there."""
    kind = network_kind(folder)
    if kind:
        raise StoreError(
            f"{folder} is on a network file system ({kind}); SQLite loses data there.",
            hint="Put MAINSPRING_HOME on a local disk, or use --database-url postgresql+psycopg://…",
            details={"filesystem": kind},
        )


def network_kind(folder: Path) -> str:
    """Return the kind of network file system that `folder` lies on, or an empty string. Only Linux can tell."""
    if not sys.platform.startswith("linux"):
        return ""
    return kind_of(_statfs_type(folder), folder.resolve(), Path("/proc/self/mounts").read_text())


def kind_of(magic: int, folder: Path, mounts: str) -> str:
    """Return the network kind of a file system with this `f_type`; FUSE ones are told apart by the table of mounts."""
    if magic != _FUSE_MAGIC:
        return _NETWORK_MAGIC.get(magic, "")
    kind = _mount_kind(folder, mounts)
    return kind if kind.startswith(_NETWORK_FUSE) else ""


def _statfs_type(folder: Path) -> int:
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type on every Linux
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), ctypes.byref(buffer)) != 0:
        return 0
    return int(buffer[0]) & 0xFFFFFFFF


def _mount_kind(folder: Path, mounts: str) -> str:
    best, kind = "", ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        point = parts[1].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def _read_owner(descriptor: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(owner: dict[str, object]) -> str:
    return f" (pid {owner['pid']})" if "pid" in owner else ""
