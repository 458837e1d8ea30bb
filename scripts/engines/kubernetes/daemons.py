"""Processes of the Kubernetes for tests: started with a log in a folder, waited for, and ended with all that they left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engines.sharing import end

READY_S = 240.0  # the machine may be busy with other engines
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def spawn(folder: Path, name: str, words: Sequence[str]) -> int:
    """Start a program whose log is `NAME.log` in the folder; return its pid."""
    path = shutil.which(words[0], path=PATH)
    assert path is not None
    env = {**os.environ, "PATH": PATH}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [path, *words[1:]], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder, env=env
        )
    return process.pid


def until(is_so: Callable[[], bool], folder: Path) -> None:
    """Look ten times a second until it is so. Raises RuntimeError with the ends of the folder's logs."""
    deadline = time.monotonic() + READY_S
    while not is_so():
        if time.monotonic() > deadline:
            tails = "\n".join(f"{path.name}: {tail(path)}" for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Kubernetes does not come up within {READY_S:g} s:\n{tails}")
        time.sleep(0.1)


def tail(path: Path) -> str:
    """Return the end of a log."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-1500:]
    return ""


def end_containers(folder: Path, containerd: int) -> None:
    """End what runs in the containers of a folder's containerd, then itself, then the shims, all at once as a power cut would."""
    shims = _shims(folder)
    for pid in _below(shims):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in (containerd, *shims):
        end(pid)


def unmount(folder: Path) -> None:
    """Unmount whatever lies below a folder."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]
    for path in sorted(found, reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)


def make_groups(name: str) -> None:
    """Make the control groups in which a kubelet keeps its pods: another kubelet of this machine leaves them alone."""
    for root in _roots():
        path = root / name
        path.mkdir(exist_ok=True)
        for setting in ("cpuset.mems", "cpuset.cpus"):  # version 1: empty, and nothing can run there
            if (path / setting).exists() and not (path / "cgroup.controllers").exists():
                (path / setting).write_text((root / setting).read_text())


def remove_groups(name: str) -> None:
    """Remove the control groups of a kubelet, the innermost first."""
    for root in _roots():
        for group in sorted((root / name).glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()


def _roots() -> list[Path]:
    """Return the roots of the control groups: one for each controller of version 1, or the one of version 2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()]


def _shims(folder: Path) -> list[int]:
    """Return the processes that hold our containers: they carry containerd's socket in their arguments."""
    mark = f"{folder}/containerd.sock".encode()
    return [pid for pid in _pids() if _words(pid)[:1] and b"containerd-shim" in _words(pid)[0] and mark in _words(pid)]


def _below(roots: Sequence[int]) -> list[int]:
    """Return all descendants, the newest first."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = list(roots)
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found[::-1]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _words(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []
