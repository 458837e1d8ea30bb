"""Control groups of this machine, version 1 or 2, where they may be made: memory and CPU limits of one replica."""

from __future__ import annotations

import os
import signal
import time

PERIOD_US = 100_000
ROOT = "/sys/fs/cgroup"


class Limits:
    """Where groups are made; `homes` is empty where that is not permitted."""

    def __init__(self, name: str, root: str = ROOT) -> None:
        self.is_v2 = os.path.exists(os.path.join(root, "cgroup.controllers"))
        bases = [root] if self.is_v2 else [os.path.join(root, "memory"), os.path.join(root, "cpu")]
        self.homes = [home for home in (self._home(base, name) for base in bases) if home]
        if len(self.homes) < len(bases):
            self.homes = []

    def make(self, name: str, cpu_milli: int, memory_bytes: int) -> list[str]:
        """Make the groups of one replica and return them, memory first. A refused limit is none."""
        made = []
        for home in self.homes:
            group = os.path.join(home, name)
            try:
                os.makedirs(group, exist_ok=True)
                self._set(group, cpu_milli, memory_bytes)
            except OSError:
                continue
            made.append(group)
        return made

    def _home(self, base: str, name: str) -> str:
        home = os.path.join(base, "mainspring", name)
        try:
            os.makedirs(home, exist_ok=True)
            if self.is_v2:
                for parent in (base, os.path.dirname(home), home):
                    _write(os.path.join(parent, "cgroup.subtree_control"), "+memory +cpu")
        except OSError:
            return ""
        return home if os.access(home, os.W_OK) else ""

    def _set(self, group: str, cpu_milli: int, memory_bytes: int) -> None:
        quota = max(1000, cpu_milli * PERIOD_US // 1000)
        if self.is_v2:
            _write(os.path.join(group, "cpu.max"), f"{quota} {PERIOD_US}")
            if memory_bytes:
                _write(os.path.join(group, "memory.max"), str(memory_bytes))
        elif os.path.exists(os.path.join(group, "memory.limit_in_bytes")):
            if memory_bytes:
                _write(os.path.join(group, "memory.limit_in_bytes"), str(memory_bytes))
        else:
            _write(os.path.join(group, "cpu.cfs_period_us"), str(PERIOD_US))
            _write(os.path.join(group, "cpu.cfs_quota_us"), str(quota))


def members(groups: list[str]) -> set[int]:
    """Return the processes in the groups."""
    found: set[int] = set()
    for group in groups:
        try:
            with open(os.path.join(group, "cgroup.procs")) as file:
                found.update(int(line) for line in file)
        except (OSError, ValueError):
            continue
    return found


def remove(groups: list[str], patience_s: float = 0.5) -> None:
    """Remove groups; what was killed takes a moment to leave them. Silent when something stays."""
    until = time.monotonic() + patience_s
    for group in groups:
        while os.path.isdir(group):
            try:
                os.rmdir(group)
            except OSError:
                if time.monotonic() > until:
                    break
                time.sleep(0.01)


def send(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; silent when the process is gone or another's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
