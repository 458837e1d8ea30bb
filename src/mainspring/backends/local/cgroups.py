"""Limits by control groups, version 1 or 2, where this process may make them; else a notice says that limits do not hold."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from mainspring.backends.local import processes
from mainspring.core.resources import Granted

PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where groups of this installation are made; `roots` is empty when it is not permitted."""

    version: int
    roots: tuple[Path, ...]
    notice: str = ""

    @property
    def is_enforced(self) -> bool:
        """Say whether limits hold."""
        return bool(self.roots)

    def make(self, name: str, granted: Granted) -> tuple[Path, ...]:
        """Make the groups of one replica with its limits and return them, memory first. A refused limit is none."""
        made = []
        for root in self.roots:
            group = root / name
            try:
                group.mkdir(exist_ok=True)
                self._limit(group, granted)
            except OSError:
                continue
            made.append(group)
        return tuple(made)

    def _limit(self, group: Path, granted: Granted) -> None:
        quota = max(1000, granted.cpu_milli * PERIOD_US // 1000)
        if self.version == 2:
            _write(group / "cpu.max", f"{quota} {PERIOD_US}")
            if granted.memory_bytes:
                _write(group / "memory.max", str(granted.memory_bytes))
        elif (group / "memory.limit_in_bytes").exists():
            if granted.memory_bytes:
                _write(group / "memory.limit_in_bytes", str(granted.memory_bytes))
        else:
            _write(group / "cpu.cfs_period_us", str(PERIOD_US))
            _write(group / "cpu.cfs_quota_us", str(quota))


def find(installation: str, root: Path = Path("/sys/fs/cgroup")) -> Cgroups:
    """Return where groups may be made, trying it out."""
    if (root / "cgroup.controllers").exists():
        candidates, version = [root], 2
    else:
        candidates, version = [_innermost(root, "memory"), _innermost(root, "cpu")], 1
    roots = []
    for base in candidates:
        home = base / "mainspring" / installation
        try:
            home.mkdir(parents=True, exist_ok=True)
            if version == 2:
                for parent in (base, base / "mainspring", home):
                    _write(parent / "cgroup.subtree_control", "+memory +cpu")
        except OSError:
            continue
        if version == 1 or _has_limits(home):
            roots.append(home)
    if len(roots) == len(candidates):
        return Cgroups(version, tuple(roots))
    return Cgroups(version, (), "Memory and CPU limits are not enforced: control groups cannot be made here.")


def own(controller: str, root: Path = Path("/sys/fs/cgroup"), told: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return the groups that hold this process for `controller`, outermost first; what limits one of them limits us."""
    is_v2 = (root / "cgroup.controllers").exists()
    base = root if is_v2 else root / controller
    path = "/"
    with contextlib.suppress(OSError):
        for line in told.read_text().splitlines():
            _, names, found = line.split(":", 2)
            if names == "" if is_v2 else controller in names.split(","):
                path = found
    inner = [base.joinpath(*Path(path).parts[1 : n + 1]) for n in range(len(Path(path).parts))]
    return [group for group in inner if group.is_dir()]


def _innermost(root: Path, controller: str) -> Path:
    """Return our own group, so that what limits this process limits its runs too; the root when it cannot be seen."""
    return (own(controller, root) or [root / controller])[-1]


def _has_limits(home: Path) -> bool:
    """Say whether groups below `home` get the files that limit memory and CPU (their controllers may be elsewhere)."""
    probe = home / "probe"
    try:
        probe.mkdir(exist_ok=True)
        return (probe / "memory.max").exists() and (probe / "cpu.max").exists()
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def kill_all(groups: tuple[Path, ...], spared: Container[int] = ()) -> None:
    """Kill every process in the groups but `spared`."""
    for group in groups:
        with contextlib.suppress(OSError, ValueError):
            for line in (group / "cgroup.procs").read_text().split():
                if int(line) not in spared:
                    processes.kill(int(line), signal.SIGKILL)


def remove(groups: tuple[Path, ...], patience_s: float = 0.5) -> None:
    """Remove groups; what was killed takes a moment to leave them. Silent when something stays."""
    until = time.monotonic() + patience_s
    for group in groups:
        while group.is_dir():
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > until:
                    break
                time.sleep(0.01)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
