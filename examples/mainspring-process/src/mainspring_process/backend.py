"""Each replica is a folder and a process. The runner holds a lock on `attempt.lock` for its life: the lock tells who lives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.grants import granted_env
from mainspring.backends.launches import exit_record, launch_record, runner_zip
from mainspring.core.backend import (
    Capabilities,
    Engine,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Observation,
    ObservedState,
    Option,
    OptionKind,
    Probe,
)
from mainspring.core.errors import LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device

MARGIN_S = 2.0


@dataclass(slots=True)
class ProcessBackend:
    """Nothing is remembered but our own children, so that they are reaped; everything else is in the folders."""

    cluster: Cluster
    folder: Path
    installation: str
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines of stops to this backend."""
        self._deadlines = Deadlines(self._kill)

    @property
    def capabilities(self) -> Capabilities:
        """Return what it can do: share GPUs, as nothing keeps runs apart."""
        return Capabilities(fractions=True)

    def probe(self) -> Probe:
        """Say that the machine is there."""
        return Probe(is_ready=True, version=sys.version.split()[0], facts={"folder": str(self.folder)})

    def inventory(self) -> Inventory:
        """Return this machine."""
        config = self.cluster.config
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        node = Node(
            id=f"{self.cluster.id}.{socket.gethostname()}",
            cluster=self.cluster.id,
            name=socket.gethostname(),
            cpu_milli=int(float(str(config.get("cpus") or os.cpu_count() or 1)) * 1000),
            memory_bytes=memory,
            devices=tuple(Device(index=number, declared=True) for number in range(int(str(config.get("gpus") or 0)))),
        )
        return Inventory(nodes=(node,))

    def launch(self, request: LaunchRequest) -> Handle:
        """Write the files and start the runner, unless it lives; then it is told where the server is."""
        name = f"{request.attempt}.{request.replica}"
        place = self.folder / "attempts" / name
        record = launch_record(request, str(self.folder / "cache"), granted_env(request.granted))
        with self._lock:
            try:
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write(place / "token", request.token)
                _write(place / "launch.json", json.dumps(record))
                if not self._lives(name):
                    self._children[name] = self._start(request, place)
            except OSError as wrong:
                raise LaunchError(f"The runner cannot be started in {place}: {wrong.strerror}.") from wrong
        return Handle(attempt=request.attempt, replica=request.replica, data={"name": name})

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at each lock."""
        states = {True: ObservedState.RUNNING, False: ObservedState.GONE}
        return [Observation(handle=one, state=states[self._lives(_name(one))]) for one in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM the runner, which passes it on; kill what is left once the grace is over."""
        pid = self._pid(_name(handle))
        if pid and self._lives(_name(handle)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each replica whose runner lives."""
        found = []
        for place in (self.folder / "attempts").glob("*.*"):
            attempt, _, replica = place.name.rpartition(".")
            if replica.isdecimal() and self._lives(place.name):
                found.append(Handle(attempt=AttemptId(attempt), replica=int(replica), data={"name": place.name}))
        return found

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the process and its folder."""
        return {"pid": self._pid(_name(handle)), "folder": str(self.folder / "attempts" / _name(handle))}

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        return exit_record(_read(self.folder / "attempts" / _name(handle) / "exit.json"))

    def forget(self, handle: Handle) -> None:
        """Remove the folder."""
        self._deadlines.drop(handle)
        shutil.rmtree(self.folder / "attempts" / _name(handle), ignore_errors=True)

    def _start(self, request: LaunchRequest, place: Path) -> subprocess.Popen[bytes]:
        marks = {"MAINSPRING_INSTALLATION": self.installation, "MAINSPRING_ATTEMPT": request.attempt}
        return subprocess.Popen(
            [sys.executable, "-S", "-E", str(runner_zip(self.folder)), str(place)],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **marks, "MAINSPRING_REPLICA": str(request.replica)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=place,
        )

    def _lives(self, name: str) -> bool:
        child = self._children.get(name)
        if child is not None and child.poll() is None:
            return True
        try:
            with (self.folder / "attempts" / name / "attempt.lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    def _pid(self, name: str) -> int:
        return int(str(_read(self.folder / "attempts" / name / "runner.json").get("pid") or 0))

    def _kill(self, handle: Handle, is_last: bool) -> float:
        """Kill every process that carries the marks of the replica."""
        del is_last
        for pid in _marked(f"MAINSPRING_ATTEMPT={handle.attempt}", f"MAINSPRING_REPLICA={handle.replica}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return 0.0


def create(cluster: Cluster, folder: Path, installation: str) -> ProcessBackend:
    """Build the backend."""
    return ProcessBackend(cluster, folder, installation)


def _name(handle: Handle) -> str:
    return f"{handle.attempt}.{handle.replica}"


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def _read(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _marked(*marks: str) -> Iterator[int]:
    wanted = [mark.encode() for mark in marks]
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (place / "environ").read_bytes().split(b"\0")
                if all(mark in words for mark in wanted):
                    yield int(place.name)


ENGINE = Engine(
    create=create,
    help="Processes of this machine, without limits: an example of a plug-in.",
    options=(
        Option(name="cpus", help="CPUs that runs may hold.", kind=OptionKind.NUMBER),
        Option(name="gpus", help="GPUs declared by you.", kind=OptionKind.NUMBER),
    ),
)
