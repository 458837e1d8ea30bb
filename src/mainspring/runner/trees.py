"""Code that a run left as it was goes to the next run of the same code: most of a short run is copying a repository.

    trees/DIGEST/SEAL     a folder laid out by the manifest DIGEST, free to be taken. SEAL names what its files looked like then
    trees/DIGEST/.NAME    one that a run has used; nobody has looked yet whether it is as it was

A run has the tree for itself and may do to it what it likes. Whatever a program does to a file changes the time of its inode
(ctime), which nobody can set: a tree in which one is another goes away, and what was added to it goes in any case.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from .blobs import kept_manifest
from .cache import DamagedError, is_short

MAX_TREES = 16  # on this node
MAX_BYTES = 64 << 20  # of one: larger files are copied fast enough
IDLE_S = 3600.0
_REALTIME_COARSE = 5  # of Linux: the clock by which the times of files are set
_TICKS = 20
_REMOVED = ".removed."


class Tree:
    """The code of one run in its folder `target`: `take` or `seal` before anybody works in it, `lift` and `give` afterwards."""

    def __init__(self, cache: str, manifest: str, target: str) -> None:
        self._cache = cache
        self._manifest = manifest
        self._target = target
        self._place = os.path.join(cache, "trees", manifest)
        self._looks = ""  # how it looked, nothing if it goes to nobody
        self._lifted = ""

    def take(self) -> bool:
        """Make a free tree the folder, which is empty or absent; say whether one was."""
        for name in _names(self._place):
            path = os.path.join(self._place, name)
            try:
                if name.startswith(".") or os.stat(path).st_uid != os.geteuid():
                    continue
                os.rename(path, self._target)
            except OSError:
                continue  # somebody else took it, or the cache is on another disk
            self._looks = name
            return True
        return False

    def seal(self) -> None:
        """Note the looks of the folder that was just laid out; not of a large one."""
        try:
            files = kept_manifest(self._cache, self._manifest)
            if sum(int(entry["size"]) for entry in files) > MAX_BYTES:
                return
            looks, newest = _looks(self._target, [str(entry["path"]) for entry in files])
            for _ in range(_TICKS):  # until the next write has another time than those before
                if time.clock_gettime_ns(_REALTIME_COARSE) > newest:
                    self._looks = looks
                    return
                time.sleep(0.001)
        except (OSError, DamagedError):
            pass

    def lift(self) -> None:
        """Take the folder of a run that is over out of its attempt, which others may clear."""
        lifted = os.path.join(self._place, f".{os.getpid()}.{os.path.basename(os.path.dirname(self._target))}")
        if not self._looks:
            return
        try:
            os.makedirs(self._place, mode=0o700, exist_ok=True)
            os.rename(self._target, lifted)
            os.utime(lifted)
        except OSError:
            return
        self._lifted = lifted

    def give(self) -> None:
        """Leave the lifted tree to the next run if it looks as it did; else it goes."""
        if not self._lifted:
            return
        is_kept = False
        try:
            paths = [str(entry["path"]) for entry in kept_manifest(self._cache, self._manifest)]
            if _looks(self._lifted, paths)[0] == self._looks and not is_short(self._cache):  # first: no link in a folder's place
                _strip(self._lifted, set(paths))
                os.rename(self._lifted, os.path.join(self._place, self._looks))
                is_kept = True
        except (OSError, DamagedError):
            pass
        if not is_kept:
            _remove(self._lifted)
        clear(self._cache, keeping=MAX_TREES)


def clear(cache: str, keeping: int = 0, idle_s: float = 0.0) -> int:
    """Remove the trees that nobody has taken for so long, but for the `keeping` newest; return how many."""
    found = []
    root = os.path.join(cache, "trees")
    for manifest in _names(root):
        place = os.path.join(root, manifest)
        for name in _names(place):
            path = os.path.join(place, name)
            try:
                found.append((os.stat(path).st_mtime, name, path))
            except OSError:
                continue  # it was taken
    free = sorted(((at, path) for at, name, path in found if not name.startswith(".")), reverse=True)
    left = [(at, path) for at, name, path in found if name.startswith(".") and time.time() - at > IDLE_S]  # by a crash
    useless = [path for at, path in [*free[keeping:], *left] if time.time() - at >= idle_s]
    for path in useless:
        _remove(path)
    return len(useless)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _looks(folder: str, paths: list[str]) -> tuple[str, int]:
    """Return (digest of how files and folders look, newest change in nanoseconds). Raises OSError when one is not there."""
    import hashlib  # slow to load, as is shutil

    seen = hashlib.sha256()
    newest = 0
    for path in sorted(paths):
        told = os.lstat(os.path.join(folder, path))
        newest = max(newest, told.st_ctime_ns)
        look = f"{path}\0{told.st_ino} {told.st_mode} {told.st_size} {told.st_mtime_ns} {told.st_ctime_ns}\n"
        seen.update(look.encode("utf-8", "surrogatepass"))
    for parent in _parents(paths):
        told = os.lstat(os.path.join(folder, parent) if parent else folder)
        seen.update(f"{parent}\0{told.st_mode} {told.st_uid}\n".encode("utf-8", "surrogatepass"))
    return seen.hexdigest(), newest


def _parents(paths: Iterable[str]) -> list[str]:
    """Return the folders of these files, outermost first."""
    found = {""}
    for path in paths:
        parent = os.path.dirname(path)
        while parent not in found:
            found.add(parent)
            parent = os.path.dirname(parent)
    return sorted(found)


def _strip(folder: str, paths: set[str]) -> None:
    """Remove what is not of the manifest."""
    import shutil

    parents = _parents(paths)
    wanted = paths.union(parents)
    for parent in parents:
        with os.scandir(os.path.join(folder, parent)) as entries:
            for entry in entries:
                if os.path.join(parent, entry.name) in wanted:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)


def _remove(path: str) -> None:
    """Remove a tree, so that nobody takes half of one."""
    place, name = os.path.split(path)
    gone = name if name.startswith(_REMOVED) else f"{_REMOVED}{os.getpid()}.{name}"
    gone = os.path.join(place, gone)
    try:
        os.rename(path, gone)
        if os.path.islink(gone):
            os.unlink(gone)
    except OSError:
        return
    import shutil

    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.rmdir(place)
    except OSError:
        pass  # there are others
