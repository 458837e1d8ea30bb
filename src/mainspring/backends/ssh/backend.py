"""The SSH backend: many hosts as one cluster, each asked over a connection that is kept.

What a host is asked is in `runner/host.py`; this side knows which hosts there are, keeps the deadlines of stops, and turns
silence into UNKNOWN.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.grants import granted_env
from mainspring.backends.launches import exit_record, launch_record
from mainspring.backends.openssh import USER
from mainspring.backends.ssh.channel import Channel
from mainspring.backends.ssh.hosts import Hosts, Told
from mainspring.backends.ssh.nodes import node_of, notices_of, summary_of
from mainspring.backends.ssh.options import OPTIONS, add_command, number, wrong_as_owner
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
from mainspring.core.errors import BackendError, LaunchError, UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster

PROBE_S = 4.5
LOOK_S = 8.0
MARGIN_S = 2.0
_STATES = {"running": ObservedState.RUNNING, "gone": ObservedState.GONE, "rebooted": ObservedState.GONE}
_DETAILS = {"gone": "Its runner has ended.", "rebooted": "The host was started anew; what ran there has ended."}


def create(cluster: Cluster, folder: Path, installation: str) -> SshBackend:
    """Build the backend of a cluster of hosts; nobody is called yet."""
    can = Capabilities(fractions=True, limits=True, needs_network=bool(cluster.config.get("direct")))
    return SshBackend(cluster, folder, installation, can, Hosts(cluster, folder, installation))


@dataclass(slots=True)
class SshBackend:
    """One cluster of hosts. Thread safe: launches of one replica are kept apart by the host's agent and the runner's lock."""

    cluster: Cluster
    folder: Path
    installation: str
    capabilities: Capabilities
    hosts: Hosts
    _unheard: dict[tuple[str, int], Handle] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines to this backend."""
        self._deadlines = Deadlines(self._kill)

    def probe(self) -> Probe:
        """Ask every host what it has; ready when one answers and none refuses us."""
        try:
            targets = self.hosts.targets()
        except LaunchError as wrong:
            return Probe(is_ready=False, notices=(Notice(text=wrong.message, command=wrong.hint),))
        wrong_options = wrong_as_owner(self.cluster)
        if wrong_options is not None:
            return Probe(is_ready=False, notices=(wrong_options,))
        told = self.hosts.ask_all("inventory", {name: {} for name in targets}, PROBE_S, is_fresh=True)
        if not self.capabilities.needs_network:
            told |= self.hosts.try_tunnels([name for name, one in told.items() if not isinstance(one, BackendError)])
        notices: list[Notice] = []
        shown: list[str] = []
        is_refused = is_late = False
        for name, one in told.items():
            if isinstance(one, BackendError):
                is_late = is_late or bool(one.details.get("is_late"))
                is_refused = is_refused or not isinstance(one, UnreachableError)
                found = one.details.get("fingerprints")
                shown += found if isinstance(found, list) else []
                notices.append(Notice(text=one.message, command="" if found else one.hint))
            else:
                notices += notices_of(name, one, number(self.cluster.config, "min_free_gib"))
        answers = {name: one for name, one in told.items() if not isinstance(one, BackendError)}
        if not targets:
            notices.append(Notice(text="No host was named.", command="mainspring cluster add ssh HOST..."))
        if shown:
            text = "Compare the host keys with what the hosts' administrator says, and accept them."
            notices.insert(0, Notice(text=text, command=add_command(self.cluster, shown)))
        facts = summary_of(len(targets), answers)
        is_late = is_late and not answers and not is_refused
        is_ready = bool(answers) and not is_refused
        return Probe(is_ready=is_ready, is_late=is_late, version="OpenSSH", notices=tuple(notices), facts=facts)

    def inventory(self) -> Inventory:
        """Return the hosts; one that does not answer is out of reach with what it had the last time."""
        targets = self.hosts.targets()
        told = self.hosts.ask_all("inventory", {name: {} for name in targets}, LOOK_S)
        nodes = []
        for name, one in told.items():
            answer = self._remembered(name, one)
            if answer is not None:
                wrong = one.message if isinstance(one, BackendError) else None
                nodes.append(node_of(self.cluster, targets[name], answer, wrong=wrong))
        if not nodes:
            raise _first_wrong(told)
        return Inventory(nodes=tuple(nodes))

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the runner on its host unless it lives; see the contract."""
        if request.overrides:
            raise LaunchError(f"A host over SSH has no option {next(iter(request.overrides))[:60]!r} for a run.")
        seat = self._seat(request)
        channel = self.hosts.channel(seat)
        socket = "" if self.capabilities.needs_network else self._tunnel(request.server_url, channel)
        record = launch_record(request, "", granted_env(request.granted), socket=socket)
        asked = {
            **_key(request.attempt, request.replica),
            "launch": record,
            "token": request.token,
            "cpu_milli": request.granted.cpu_milli,
            "memory_bytes": request.granted.memory_bytes,
            "min_free_bytes": int(number(self.cluster.config, "min_free_gib") * (1 << 30)),
        }
        handle = _handle(request.attempt, request.replica, seat)
        try:
            channel.ask("launch", asked)
        except UnreachableError:
            with self._lock:
                self._unheard[request.attempt, request.replica] = handle
            raise
        with self._lock:
            self._unheard.pop((request.attempt, request.replica), None)
        return handle

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Ask each host once for all that is on it."""
        by_host: dict[str, list[Handle]] = {}
        lost = self._found() if any(not _host(one) for one in handles) else {}
        for handle in handles:
            name = _host(handle) or lost.get((handle.attempt, handle.replica), "")
            if name:
                by_host.setdefault(name, []).append(handle)
        asked = {name: {"replicas": [_of(one) for one in known]} for name, known in by_host.items()}
        told = self.hosts.ask_all("look", asked, LOOK_S)
        seen = {(one.attempt, one.replica): _observation(one, told[name]) for name, known in by_host.items() for one in known}
        nowhere = partial(Observation, state=ObservedState.GONE, detail="It was never launched.")
        return [seen.get((one.attempt, one.replica)) or nowhere(handle=one) for one in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM the runner, which passes it on; kill every process of the replica once the grace is over."""
        name = _host(handle) or self._found().get((handle.attempt, handle.replica), "")
        if name and self.hosts.channel(name).ask("stop", _of(handle))["is_asked"]:
            self._deadlines.set(_handle(handle.attempt, handle.replica, name), grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each replica of which a process lives, by the marks in its environment.

        So is one whose launch a host has not answered, as long as that host is away: it may have begun.
        """
        told = self.hosts.ask_all("owned", {seat: {} for seat in self.hosts.seats()}, LOOK_S)
        answers = {name: one for name, one in told.items() if not isinstance(one, BackendError)}
        if not answers:
            raise _first_wrong(told)
        with self._lock:
            self._unheard = {key: one for key, one in self._unheard.items() if _host(one) not in answers}
            unheard = list(self._unheard.values())
        return unheard + [
            _handle(attempt, replica, name) for name, one in answers.items() for attempt, replica in one["replicas"]
        ]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the process, its command line, groups and folder."""
        return dict(self.hosts.channel(_host(handle)).ask("native", _of(handle)))

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        told = self.hosts.channel(_host(handle)).ask("exit", _of(handle))["exit"] if _host(handle) else None
        return exit_record(told or {})

    def forget(self, handle: Handle) -> None:
        """Remove the replica's folder and groups."""
        self._deadlines.drop(handle)
        if _host(handle):
            self.hosts.channel(_host(handle)).ask("forget", _of(handle))

    def close(self) -> None:
        """End the connections; runners live on."""
        self.hosts.close()

    def _seat(self, request: LaunchRequest) -> str:
        """Return the host that a run goes to, or the seat of its owner there. Raises LaunchError for one who can have none."""
        if not self.cluster.config.get("as_owner"):
            return request.node.name
        if not USER.fullmatch(request.owner) or request.owner == "root":
            raise LaunchError(
                f"Runs in cluster {self.cluster.name} are their owners' unix users, and {request.owner[:60]!r} may be none.",
                hint="Submit it as another user, or to another cluster: --label cluster=NAME",
            )
        return self.hosts.take_seat(request.owner, request.node.name)

    def _tunnel(self, server_url: str, channel: Channel) -> str:
        """Return the socket on the host that leads to the server."""
        parts = urlsplit(server_url)
        return channel.tunnel(parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))

    def _found(self) -> dict[tuple[str, int], str]:
        """Return the host of each replica that lives."""
        return {(one.attempt, one.replica): _host(one) for one in self.owned()}

    def _kill(self, handle: Handle, is_last: bool) -> float:
        return float(self.hosts.channel(_host(handle)).ask("kill", {**_of(handle), "is_last": is_last})["left_s"])

    def _remembered(self, name: str, told: Told) -> Mapping[str, Any] | None:
        """Return what a host has, or had when it last told; kept in a file, for a server that begins while it is away."""
        path = self.folder / "hosts" / name / "inventory.json"
        if not isinstance(told, BackendError):
            data = json.dumps(dict(told))
            if not path.exists() or path.read_text() != data:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.write_text(data)
            return told
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _handle(attempt: str, replica: int, host: str) -> Handle:
    return Handle(attempt=AttemptId(attempt), replica=replica, data={"host": host})


def _host(handle: Handle) -> str:
    return str(handle.data.get("host") or "")


def _first_wrong(told: Mapping[str, Told]) -> BackendError:
    return next((one for one in told.values() if isinstance(one, BackendError)), UnreachableError("No host was named."))


def _of(handle: Handle) -> dict[str, object]:
    return _key(handle.attempt, handle.replica)


def _key(attempt: str, replica: int) -> dict[str, object]:
    return {"attempt": attempt, "replica": replica}


def _observation(handle: Handle, told: Told) -> Observation:
    if isinstance(told, BackendError):
        return Observation(handle=handle, state=ObservedState.UNKNOWN, detail=told.message)
    word = told["states"].get(f"{handle.attempt}.{handle.replica}")
    if word is None:  # the answer to an earlier question, which came late
        return Observation(handle=handle, state=ObservedState.UNKNOWN, detail="Its host answers slowly.")
    return Observation(handle=handle, state=_STATES[word], detail=_DETAILS.get(word, ""))


ENGINE = Engine(
    create=create,
    help="Machines that you reach over SSH. They need sshd and Python 3.9; nothing is installed on them.",
    options=OPTIONS,
    targets="HOST",
)
