"""An installation that can be killed: a real server process in a folder of its own, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from engines import warm

TERMINAL = {"succeeded", "failed", "cancelled"}
GPU_MILLI = (0, 1000, 500, 500)  # what runs ask for in turn: nothing, a device, half of one
TLS = ssl.create_default_context()  # made once: reading the system's authorities takes 50 ms, and polling calls often
LEASE_S = 30.0  # of an attempt; one whose holder was killed runs out by then
LEASES = (
    "SELECT id, lease_owner, lease_until_s, NOW FROM attempts WHERE lease_until_s <> 0"
    " UNION ALL SELECT name, owner, until_s, NOW FROM leases WHERE until_s <> 0"
)
# Each user command says who it is, logs lines and a metric, and leaves one line in a file of its own.
USER = """
import os, sys, time
sys.path.insert(0, os.environ["CHAOS_SHIM"]) if os.environ.get("CHAOS_SHIM") else None
who = os.environ["MAINSPRING_RUN"] + " " + os.environ["MAINSPRING_ATTEMPT"]
descriptor = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(descriptor, (who + "\\n").encode())
spool = open(os.environ["MAINSPRING_SPOOL"] + "/metrics", "ab", 0)
for n in range(20):
    print("line", n, flush=True)
    spool.write(b'["step", %d, %d, %f]\\n' % (n, n, time.time()))
    time.sleep(float(os.environ.get("CHAOS_PAUSE", "0.01")))
"""


def poll(check: Callable[[], bool], timeout_s: float, what: str, left: Callable[[], object] = lambda: "") -> None:
    """Wait until `check` holds; fail naming `what`, and what is `left`, when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.05)
    pytest.fail(f"{what} did not happen within {timeout_s:g} s {left()}".rstrip())


@dataclass
class Installation:
    """One MAINSPRING_HOME with a server that may be killed and started again. `begin` starts its process: see `engines.warm`."""

    home: Path
    begin: Callable[..., warm.Process] = warm.start
    cpus: int = 64
    gpus: int = 64
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    process: warm.Process | None = None
    starts: int = 0
    deaths: list[int] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """The file that user commands write into."""
        return self.home / "ledger"

    def start(self, fault: str = "", *, runner_fault: str = "") -> None:
        """Start the server and wait until it answers; `fault` is where it dies, `runner_fault` where its runners do."""
        self.starts += 1
        env = {**os.environ, "MAINSPRING_HOME": str(self.home), "MAINSPRING_HAS_UI": "false"}
        env |= {"MAINSPRING_CPUS": str(self.cpus), "MAINSPRING_GPUS": str(self.gpus)}
        env |= {"MAINSPRING_SWEEP_GRACE_S": "1", "MAINSPRING_QUIET_BEAT_S": "1", **self.env}
        for name, point in (("MAINSPRING_FAULT", fault), ("MAINSPRING_RUNNER_FAULT", runner_fault)):
            env.pop(name, None)
            if point:
                env[name] = point
        (self.home / "server.json").unlink(missing_ok=True)
        with (self.home / "server.out").open("ab") as out:
            words = ["server", "--home", str(self.home), *self.flags]
            self.process = self.begin(words, env=env, stdout=out, stderr=out, start_new_session=True)
        poll(lambda: self.is_dead() or self.answers(), 90, "the server's start")

    def answers(self) -> bool:
        """Say whether the server is ready."""
        try:
            return self.call("GET", "/status").status_code == 200
        except (OSError, ValueError, httpx2.HTTPError):
            return False

    def is_dead(self) -> bool:
        """Say whether the server process has ended."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """Kill the server at once, as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.deaths.append(self.process.wait(10))

    def call(self, method: str, path: str, **more: object) -> httpx2.Response:
        """Call the API as the embedded user."""
        url = json.loads((self.home / "server.json").read_text())["url"]
        headers = {"Authorization": f"Bearer {(self.home / 'token').read_text().strip()}", "Mainspring-Protocol": "1"}
        headers |= dict(more.pop("headers", {}))  # type: ignore[call-overload]
        return httpx2.request(method, f"{url}/api/v1{path}", headers=headers, timeout=60, verify=TLS, **more)

    def submit(self, number: int, *, pause_s: float = 0.01, retries: int = 0) -> str | None:
        """Submit a run under a key of its own; None when nobody answered (the caller repeats it with the same key)."""
        spec = {
            "command": [sys.executable, "-c", USER],
            "name": f"chaos-{number}",
            "env": {"CHAOS_LEDGER": str(self.ledger), "CHAOS_PAUSE": str(pause_s)},
            "retries": retries,
            "resources": {"cpu_milli": 1000, "gpu_milli": GPU_MILLI[number % len(GPU_MILLI)] if self.gpus else 0},
        }
        try:
            answer = self.call("POST", "/runs", json=spec, headers={"Idempotency-Key": f"chaos-{number}"})
        except (OSError, ValueError, httpx2.HTTPError):
            return None
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def runs(self) -> list[dict[str, object]]:
        """Return all runs."""
        return list(self.call("GET", "/runs?limit=1000").json()["items"])

    def lines(self) -> Counter[tuple[str, str]]:
        """Return how often each (run, attempt) began its user code."""
        told = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter((line.split()[0], line.split()[1]) for line in told)

    def runners(self) -> list[int]:
        """Return the pids of living runners and their children that carry this installation's attempts.

        A child of the living server is none: it is the fork server, which has to end with it.
        """
        found = []
        server = b"0" if self.process is None else b"%d" % self.process.pid
        mine = str(self.home).encode()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    stat = (folder / "stat").read_bytes()
                    words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                except OSError:
                    continue
                state, parent = stat.rpartition(b")")[2].split()[:2]
                if mine in words and state != b"Z" and server not in (os.fsencode(folder.name), parent):
                    found.append(int(folder.name))
        return found

    def runner_pids(self) -> list[int]:
        """Return the living runners themselves: not user code, nor a child that is about to become it."""
        told = []
        for place in (self.home / "clusters").glob("*/attempts/*/runner.json"):
            with contextlib.suppress(OSError, ValueError):
                told.append(json.loads(place.read_text())["pid"])
        alive = set(self.runners())
        return sorted(pid for pid in told if pid in alive)

    def leases(self) -> list[str]:
        """Return who has the right to act on an attempt or to lead, read from the database itself: no route tells of leases.

        Not the lead of the server that lives, nor what ran out with its dead holder. What a living one did not give up counts
        also when it ran out.
        """
        server = str(self.process.pid) if self.process is not None and not self.is_dead() else "0"
        found = []
        for what, owner, until_s, now_s in self._rows(LEASES):
            is_ours = owner.split(":")[1:2] == [server]
            if until_s > now_s or (is_ours and until_s):
                found += [] if is_ours and what == "leader" else [f"{what} by {owner} for {until_s - now_s:.1f} s"]
        return found

    def _rows(self, question: str) -> list[tuple[Any, ...]]:
        """Ask the database beside the server. `NOW` is the time that leases run on."""
        address = self.flags[self.flags.index("--database-url") + 1] if "--database-url" in self.flags else ""
        if address:
            with psycopg.connect(address.replace("+psycopg", "")) as rows:
                return rows.execute(question.replace("NOW", "extract(epoch from clock_timestamp())::float8")).fetchall()
        with contextlib.closing(sqlite3.connect(f"file:{self.home}/mainspring.db?mode=ro", uri=True)) as file:
            return file.execute(question.replace("NOW", str(time.monotonic()))).fetchall()

    def check(self, wanted: int, *, were_runners_killed: bool = False) -> None:
        """Check promises P1, P2, P3, P6, P7 and P8 after everything has come to rest."""
        found = self.runs()
        assert len(found) == wanted, f"{wanted} were accepted, {len(found)} are there"
        assert {run["state"] for run in found} == {"succeeded"}, Counter(str(run["state"]) for run in found)
        lines = self.lines()
        assert max(lines.values()) == 1, "an attempt began its user code twice"
        by_run = Counter(run for run, _ in lines)
        if not were_runners_killed:
            assert set(by_run.values()) == {1}, "a run was executed twice though no runner was killed"
        assert set(by_run) == {str(run["id"]) for run in found}
        for run in found:
            attempts = self.call("GET", f"/runs/{run['id']}/attempts").json()
            attempts = attempts["items"] if isinstance(attempts, dict) else attempts
            assert [one["outcome"]["cause"] for one in attempts].count("succeeded") == 1
            assert all(one["state"] == "ended" for one in attempts)
            log = self.call("GET", f"/runs/{run['id']}/logs").text.splitlines()
            told = [line for line in log if line.startswith("line ")]
            assert told == [f"line {n}" for n in range(20)], f"{run['id']}: {told}"
            metrics = self.call("GET", f"/runs/{run['id']}/metrics").json()
            assert metrics["step"]["last"] == 19
            points = self.call("GET", f"/runs/{run['id']}/metrics/step").json()["points"]
            if by_run[str(run["id"])] == 1:
                assert metrics["step"]["count"] == 20, "a point is missing or counted twice"
                assert [(step, value) for step, value, _ in points] == [(n, n) for n in range(20)]
        for view in self.call("GET", "/clusters").json():
            for node in view["nodes"]:
                assert (node["used_cpu_milli"], node["used_memory_bytes"]) == (0, 0), "an allocation leaked"
                assert node["used_devices"] == [], f"a device is held though all is over: {node['used_devices']}"
        poll(lambda: not self.leases(), LEASE_S + 5, "the end of every lease", left=self.leases)
        poll(lambda: not self.runners(), 90, "the end of every runner")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(home=tmp_path / "home")
    made.home.mkdir(mode=0o700)
    yield made
    made.kill()
    for pid in made.runners():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def on_postgres(installation: Installation, postgres: Any) -> Iterator[Installation]:
    """An installation whose database is a PostgreSQL."""
    name = postgres.new_database()
    installation.flags = ("--database-url", postgres.url(name))
    yield installation
    installation.kill()
    postgres.drop_database(name)


@pytest.fixture(name="poll")
def poll_fixture() -> Callable[..., None]:
    """`poll(check, timeout_s, what)` waits."""
    return poll
