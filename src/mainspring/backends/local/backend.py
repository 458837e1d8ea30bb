"""The local backend: starts runners as processes of this machine and finds them again after any restart of ours.

One folder for each replica: `launch.json` and `token` are written before the runner is started, `runner.json` by the
runner once it holds the folder's lock. Whoever launches twice starts a second runner that finds the lock taken and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.devices import nvidia_driver
from mainspring.backends.grants import granted_env
from mainspring.backends.launches import exit_record, launch_record, runner_zip
from mainspring.backends.local import cgroups, processes
from mainspring.backends.local.forks import UNKNOWN, Child, Forks
from mainspring.backends.local.inventory import this_node
from mainspring.core.backend import (
    Capabilities,
    Engine,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Notice,
    Observation,
    ObservedState,
    Probe,
)
from mainspring.core.errors import LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "USER", "TZ", "SSL_CERT_FILE")
PASSED_ON_PREFIXES = ("CUDA", "NVIDIA")
YOUNG_S = 3.0  # a runner needs a moment until it has written runner.json
MARGIN_S = 2.0
DRAIN_S = 30.0  # what a runner that only tells the end has left; after that a new one goes on from its spool
HELD = 75  # exit status of a runner that found the folder held by another one
ROOM = 512  # bytes that a runner's own arguments and marks may need beyond the fork server's


def create(cluster: Cluster, folder: Path, installation: str) -> LocalBackend:
    """Build the backend of a local cluster; `folder` is its own."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalBackend(cluster, folder, installation, cgroups.find(installation))


@dataclass(slots=True)
class LocalBackend:
    """This machine. Thread safe: launches of one replica are kept apart by the runner's lock on its folder."""

    cluster: Cluster
    folder: Path
    installation: str
    groups: cgroups.Cgroups
    _children: dict[tuple[str, int], Child] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _launching: threading.Lock = field(default_factory=threading.Lock)
    _bundle: Path | None = None
    _forks: Forks | None = None
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines to this backend."""
        self._deadlines = Deadlines(self._kill_tree)

    @property
    def capabilities(self) -> Capabilities:
        """Return what this machine can do."""
        return Capabilities(fractions=True, limits=self.groups.is_enforced)

    def probe(self) -> Probe:
        """Say that the machine is there, and what does not hold on it."""
        notices = (Notice(text=self.groups.notice),) if self.groups.notice else ()
        driver = nvidia_driver()
        facts = {"driver": driver} if driver else {}
        return Probe(is_ready=True, version=f"{platform.system()} {platform.release()}", notices=notices, facts=facts)

    def inventory(self) -> Inventory:
        """Return this machine as the one node."""
        return Inventory(nodes=(this_node(self.cluster, self.folder),))

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the runner unless it lives; see the contract. Raises LaunchError when the folder cannot be written."""
        handle = Handle(attempt=request.attempt, replica=request.replica, data={"folder": str(self._place(request))})
        place = self._place(request)
        with self._launching:
            if not self._lives(handle):
                self._start(request, place)
            else:
                self._readdress(request, place)
        return handle

    def _readdress(self, request: LaunchRequest, place: Path) -> None:
        """Tell a living runner where the server is now; it looks there whenever it has to connect anew."""
        told = processes.read_record(place / "launch.json")
        if told and told.get("server_url") != request.server_url:
            with contextlib.suppress(OSError):
                _write_private(place / "launch.json", json.dumps({**told, "server_url": request.server_url}))

    def _start(self, request: LaunchRequest, place: Path) -> None:
        name = f"{request.attempt}.{request.replica}"
        groups = self.groups.make(name, request.granted)
        try:
            self._write_request(request, place, groups)
            child = self._fork_server().begin(place, self._env(request), groups)
        except OSError as wrong:
            cgroups.remove(groups)
            why = wrong.strerror or wrong
            raise LaunchError(f"The runner of attempt {request.attempt} cannot be started in {place}: {why}.") from wrong
        with self._lock:
            self._children[request.attempt, request.replica] = child

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at each recorded process."""
        return [self._observation(handle) for handle in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM the runner, which passes it on; kill every process of the replica once the grace is over."""
        record = processes.read_record(_folder(handle) / "runner.json")
        if processes.is_alive(record):
            processes.kill(int(str(record["pid"])), signal.SIGTERM)
        elif (handle.attempt, handle.replica) not in self._children:
            self._kill_tree(handle, is_last=True)
            return
        self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each replica of which a process lives, by the marks in its environment."""
        found: dict[tuple[str, int], Handle] = {}
        for _, env in processes.marked(f"MAINSPRING_INSTALLATION={self.installation}"):
            attempt, number = env.get("MAINSPRING_ATTEMPT", ""), env.get("MAINSPRING_REPLICA", "")
            if attempt and number.isdecimal():  # user code may change what its children see
                replica = int(number)
                data = {"folder": str(self._attempts() / f"{attempt}.{replica}")}
                found[attempt, replica] = Handle(attempt=AttemptId(attempt), replica=replica, data=data)
        return list(found.values())

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the process, its command line, groups and folder."""
        place = _folder(handle)
        record = processes.read_record(place / "runner.json")
        pid = record.get("pid")
        words = b""
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        return {
            "pid": pid,
            "command": [word.decode("utf-8", "replace") for word in words.split(b"\0") if word],
            "cgroups": [str(group) for group in self._groups_of(handle)],
            "folder": str(place),
            "host": platform.node(),
        }

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        return exit_record(processes.read_record(_folder(handle) / "exit.json"))

    def forget(self, handle: Handle) -> None:
        """Remove the replica's folder and groups."""
        self._reap(handle)
        self._deadlines.drop(handle)
        cgroups.remove(self._groups_of(handle))
        shutil.rmtree(_folder(handle), ignore_errors=True)

    def _observation(self, handle: Handle) -> Observation:
        self._reap(handle)
        if self._lives(handle):
            return Observation(handle=handle, state=ObservedState.RUNNING)
        return Observation(handle=handle, state=ObservedState.GONE, detail="Its runner has ended.")

    def _lives(self, handle: Handle) -> bool:
        """Say whether the runner lives: our own child, the recorded process, or one that has only just been started."""
        with self._lock:
            child = self._children.get((handle.attempt, handle.replica))
        if child is not None and not self._has_ended(child):
            return True
        place = _folder(handle)
        record = processes.read_record(place / "runner.json")
        if processes.is_alive(record):
            return True
        if child is not None and child.status not in (HELD, UNKNOWN):
            return False
        with contextlib.suppress(OSError):
            return 0 <= time.time() - (place / "launch.json").stat().st_mtime < YOUNG_S and _has_runner(handle)
        return False

    def _reap(self, handle: Handle) -> None:
        with self._lock:
            child = self._children.get((handle.attempt, handle.replica))
            if child is not None and self._has_ended(child):
                del self._children[handle.attempt, handle.replica]

    def _has_ended(self, child: Child) -> bool:
        return self._forks is None or self._forks.has_ended(child)

    def _kill_tree(self, handle: Handle, is_last: bool) -> float:
        """Kill every process of the replica; return the seconds that a runner that is only telling the end still has."""
        place = _folder(handle)
        runner = processes.read_record(place / "runner.json")
        is_telling = not is_last and processes.is_alive(runner) and (place / "ended.json").exists()
        spared = {int(str(runner["pid"]))} if is_telling else set()
        started = processes.read_record(place / "started")
        cgroups.kill_all(self._groups_of(handle), spared)
        for pid, _ in processes.marked(*_marks(handle)):
            if pid not in spared:
                processes.kill(pid, signal.SIGKILL)
        if processes.is_alive(started):
            with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
                os.killpg(int(str(started.get("pgid") or started["pid"])), signal.SIGKILL)
        return DRAIN_S if is_telling else 0.0

    def _write_request(self, request: LaunchRequest, place: Path, groups: tuple[Path, ...]) -> None:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True, mode=0o700)
        _write_private(place / "token", request.token)
        told = launch_record(
            request,
            str(cache),
            granted_env(request.granted),
            cgroup=str(groups[0]) if groups else "",
            cgroups=[str(group) for group in groups],
        )
        _write_private(place / "launch.json", json.dumps(told))

    def _env(self, request: LaunchRequest) -> dict[str, str]:
        fault = os.environ.get("MAINSPRING_RUNNER_FAULT")  # chaos tests: where runners are to die
        return {
            **_passed_on(),
            **({"MAINSPRING_FAULT": fault} if fault else {}),
            "MAINSPRING_INSTALLATION": request.installation,
            "MAINSPRING_ATTEMPT": request.attempt,
            "MAINSPRING_REPLICA": str(request.replica),
        }

    def _fork_server(self) -> Forks:
        with self._lock:
            runner = self._runner()
            if self._forks is None:
                room = "." * (ROOM + len(os.fsencode(self._attempts())))
                command = [sys.executable, "-S", "-E", str(runner), "--fork-server", room]
                self._forks = Forks(command, self.folder, {**_passed_on(), "MAINSPRING_FORK_SERVER": room})
            return self._forks

    def _runner(self) -> Path:
        """Return the runner's zip, built once for each process."""
        if self._bundle is None or not self._bundle.exists():
            self._bundle = runner_zip(self.folder)
        return self._bundle

    def _attempts(self) -> Path:
        return self.folder / "attempts"

    def _place(self, request: LaunchRequest) -> Path:
        return self._attempts() / f"{request.attempt}.{request.replica}"

    def _groups_of(self, handle: Handle) -> tuple[Path, ...]:
        """Return the groups as they were at the launch: a server that was started elsewhere makes new ones elsewhere."""
        told = processes.read_record(_folder(handle) / "launch.json").get("cgroups")
        return tuple(Path(group) for group in told if isinstance(group, str)) if isinstance(told, list) else ()


ENGINE = Engine(create=create, help="The machine of the server; it is registered by itself.", shares_loopback=True)


def _passed_on() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)}


def _folder(handle: Handle) -> Path:
    return Path(str(handle.data.get("folder", "/nonexistent")))


def _has_runner(handle: Handle) -> bool:
    """Say whether a runner of the replica lives; user code has a spool in its environment, its runner has none."""
    return any("MAINSPRING_SPOOL" not in env for _, env in processes.marked(*_marks(handle)))


def _marks(handle: Handle) -> tuple[str, str]:
    return f"MAINSPRING_ATTEMPT={handle.attempt}", f"MAINSPRING_REPLICA={handle.replica}"


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    fresh.replace(path)
