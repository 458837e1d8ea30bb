"""A real server for a measurement: a home of its own, started by the command, taken down and removed afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A running server: where its home is, who it is, how to ask it. `ready_s` is what `mainspring up` took."""

    home: Path
    url: str
    pid: int
    ready_s: float
    http: httpx2.Client

    def get(self, path: str, **params: str | int) -> Any:
        """Return the JSON answer of a route."""
        answer = self.http.get(PREFIX + path, params=params)
        answer.raise_for_status()
        return answer.json()

    def submit(
        self, *command: str, cpu_milli: int = 1000, gpu_milli: int = 0, name: str = "", labels: Mapping[str, str] | None = None
    ) -> str:
        """Submit a command and return the run's id."""
        spec = {
            "kind": "command",
            "command": command,
            "name": name,
            "resources": {"cpu_milli": cpu_milli, "gpu_milli": gpu_milli, "labels": labels or {}},
        }
        answer = self.http.post(f"{PREFIX}/runs", json=spec)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def wait(self, run: str, deadline_s: float = 60) -> Mapping[str, Any]:
        """Wait until the run has ended; return it."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            found: Mapping[str, Any] = self.get(f"/runs/{run}/wait", timeout_s=10)
            if found["state"] in ("succeeded", "failed", "cancelled"):
                return found
        raise TimeoutError(f"{run} did not end within {deadline_s} s")

    def open_page(self, path: str) -> None:
        """Open a web page as its user; the cookie of the first time is kept."""
        if not self.http.cookies:
            link = self.http.post(f"{PREFIX}/login-link").json()["url"]
            self.http.get(link, follow_redirects=True).raise_for_status()
        self.http.get(path, follow_redirects=True).raise_for_status()

    def log(self, run: str) -> str:
        """Return the log of a run."""
        answer = self.http.get(f"{PREFIX}/runs/{run}/logs")
        answer.raise_for_status()
        return answer.text


def command(
    home: Path, *words: str, timeout_s: float = 60, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `mainspring` command with its own home."""
    return subprocess.run(
        [Path(sys.executable).parent / "mainspring", *words],
        env={**os.environ, **(env or {}), "MAINSPRING_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


@contextmanager
def installation(
    *,
    gpus: int = 0,
    up: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Installation]:
    """Start a server with `gpus` declared devices; take it down, and whatever it runs with it, at the end.

    `up` are further words for `mainspring up`, `env` what is added to its environment. `prepare` is given its home before
    it starts.
    """
    home = Path(tempfile.mkdtemp(prefix="mainspring-bench-"))
    try:
        if prepare is not None:
            prepare(home)
        began = time.perf_counter()
        made = command(home, "up", *(["--gpus", str(gpus)] if gpus else []), *up, env=env)
        ready_s = time.perf_counter() - began
        if made.returncode != 0:
            raise RuntimeError(f"mainspring up: {made.stdout}{made.stderr}")
        server = json.loads((home / "server.json").read_text(encoding="utf-8"))
        token = (home / "token").read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {token}", "Mainspring-Protocol": "1"}
        with httpx2.Client(base_url=server["url"], headers=headers, timeout=40) as http:
            yield Installation(home=home, url=server["url"], pid=server["pid"], ready_s=ready_s, http=http)
            for run in http.get(f"{PREFIX}/runs", params={"state": "running", "limit": 200}).json().get("items", []):
                http.post(f"{PREFIX}/runs/{run['id']}/cancel", json={"grace_s": 0})
            _settled(http)
    finally:
        command(home, "down")
        _end_what_is_left(home)
        shutil.rmtree(home, ignore_errors=True)


def _end_what_is_left(home: Path) -> None:
    """End runners that outlived the server: with the home gone they would look for it for ever."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(home) in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)


def _settled(http: httpx2.Client) -> None:
    """Wait a little until nothing runs any more, so that nothing outlives the measurement."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if not http.get(f"{PREFIX}/runs", params={"state": "running", "limit": 1}).json().get("items"):
            return
        time.sleep(0.1)


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory")


def pss_mb(pid: int) -> float:
    """Return the memory of a process in megabytes, with shared pages divided among those that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_below(pid: int) -> float:
    """Return the CPU time that the processes started by `pid` have used, and those started by them, whether ended or alive."""
    used: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
                used[int(folder.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, todo = used[pid], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            total += used[child]
            todo.append(child)
    return total - cpu_seconds(pid)
