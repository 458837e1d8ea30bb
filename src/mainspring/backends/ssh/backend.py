"""The SSH backend: many hosts as one cluster, each asked over a connection that is kept.

What a host is asked is in `runner/host.py`; this side knows which hosts there are, keeps the deadlines of stops, and turns
silence into UNKNOWN.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.grants import granted_env
from mainspring.backends.launches import exit_record, launch_record, runner_zip
from mainspring.backends.ssh.channel import Agent, Answer, Channel
from mainspring.backends.ssh.nodes import node_of, notices_of, summary_of
from mainspring.backends.ssh.options import OPTIONS, Target, number, targets_of, text
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
Told = Answer | BackendError


def create(cluster: Cluster, folder: Path, installation: str) -> SshBackend:
    """Build the backend of a cluster of hosts; nobody is called yet."""
    can = Capabilities(fractions=True, limits=True, needs_network=bool(cluster.config.get("direct")))
    return SshBackend(cluster, folder, installation, can)


@dataclass(slots=True)
class SshBackend:
    """One cluster of hosts. Thread safe: launches of one replica are kept apart by the host's agent and the runner's lock."""

    cluster: Cluster
    folder: Path
    installation: str
    capabilities: Capabilities
    _channels: dict[str, Channel] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _zip: tuple[str, bytes] | None = None
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines to this backend."""
        self._deadlines = Deadlines(self._kill)

    def probe(self) -> Probe:
        """Ask every host what it has; ready when one answers and none refuses us."""
        try:
            targets = targets_of(self.cluster, self.folder)
        except LaunchError as wrong:
            return Probe(is_ready=False, notices=(Notice(text=wrong.message, command=wrong.hint),))
        told = self._ask_all(targets, "inventory", PROBE_S, is_fresh=True)
        notices: list[Notice] = []
        is_refused = False
        for name, one in told.items():
            if isinstance(one, BackendError):
                is_refused = is_refused or not isinstance(one, UnreachableError)
                notices.append(Notice(text=one.message, command=one.hint))
            else:
                notices += notices_of(name, one, number(self.cluster.config, "min_free_gib"))
        answers = {name: one for name, one in told.items() if not isinstance(one, BackendError)}
        if not targets:
            notices.append(Notice(text="No host was named.", command="mainspring cluster add ssh HOST..."))
        facts = summary_of(len(targets), answers)
        return Probe(is_ready=bool(answers) and not is_refused, version="OpenSSH", notices=tuple(notices), facts=facts)

    def inventory(self) -> Inventory:
        """Return the hosts; one that does not answer is out of reach with what it had the last time."""
        targets = targets_of(self.cluster, self.folder)
        told = self._ask_all(targets, "inventory", LOOK_S)
        nodes = []
        for name, one in told.items():
            answer = self._remembered(name, one)
            if answer is not None:
                is_here = not isinstance(one, BackendError)
                nodes.append(node_of(self.cluster, targets[name], answer, is_here=is_here))
        if not nodes:
            raise next((one for one in told.values() if isinstance(one, BackendError)), UnreachableError("No host was named."))
        return Inventory(nodes=tuple(nodes))

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the runner on its host unless it lives; see the contract."""
        if request.overrides:
            raise LaunchError(f"A host over SSH has no option {next(iter(request.overrides))[:60]!r} for a run.")
        channel = self._channel(request.node.name)
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
        answer = channel.ask("launch", asked)
        return self._handle(request.attempt, request.replica, request.node.name, str(answer["folder"]))

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Ask each host once for all that is on it."""
        by_host: dict[str, list[Handle]] = {}
        for handle in handles:
            by_host.setdefault(_host(handle), []).append(handle)
        by_host.pop("", None)
        until = time.monotonic() + LOOK_S
        asked = {
            name: partial(self._begin, name, "look", {"replicas": [_of(one) for one in known]}, until)
            for name, known in by_host.items()
        }
        seen: dict[tuple[str, int], Observation] = {}
        for name, told in self._gather(asked, until).items():
            for index, handle in enumerate(by_host[name]):
                seen[handle.attempt, handle.replica] = _observation(handle, told, index)
        nowhere = partial(Observation, state=ObservedState.GONE, detail="It was never launched.")
        return [seen.get((one.attempt, one.replica)) or nowhere(handle=one) for one in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM the runner, which passes it on; kill every process of the replica once the grace is over."""
        if _host(handle) and self._channel(_host(handle)).ask("stop", _of(handle))["is_asked"]:
            self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each replica of which a process lives, by the marks in its environment. Hosts that are away are left out."""
        targets = targets_of(self.cluster, self.folder)
        found = []
        for name, told in self._ask_all(targets, "owned", LOOK_S).items():
            if not isinstance(told, BackendError):
                for attempt, replica in told["replicas"]:
                    found.append(self._handle(attempt, replica, name, f"{told['root']}/attempts/{attempt}.{replica}"))
        return found

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the process, its command line, groups and folder."""
        return dict(self._channel(_host(handle)).ask("native", _of(handle)))

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        told = self._channel(_host(handle)).ask("exit", _of(handle))["exit"] if _host(handle) else None
        return exit_record(told or {})

    def forget(self, handle: Handle) -> None:
        """Remove the replica's folder and groups."""
        self._deadlines.drop(handle)
        if _host(handle):
            self._channel(_host(handle)).ask("forget", _of(handle))

    def close(self) -> None:
        """End the connections; runners live on."""
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()

    def _tunnel(self, server_url: str, channel: Channel) -> str:
        """Return the socket on the host that leads to the server."""
        parts = urlsplit(server_url)
        return channel.tunnel(parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))

    def _kill(self, handle: Handle, is_last: bool) -> float:
        return float(self._channel(_host(handle)).ask("kill", {**_of(handle), "is_last": is_last})["left_s"])

    def _ask_all(self, targets: Mapping[str, Target], do: str, limit_s: float, *, is_fresh: bool = False) -> dict[str, Told]:
        """Ask all hosts at once; return the answer or what is wrong with each."""
        until = time.monotonic() + limit_s
        for name in targets:
            self._channel(name).wake(is_fresh=is_fresh)
        return self._gather({name: partial(self._begin, name, do, {}, until) for name in targets}, until)

    def _begin(self, name: str, do: str, asked: Mapping[str, object], until: float) -> tuple[Channel, Future[Answer]]:
        channel = self._channel(name)
        return channel, channel.begin(do, asked, until)

    def _gather(self, asked: Mapping[str, Callable[[], tuple[Channel, Future[Answer]]]], until: float) -> dict[str, Told]:
        begun: dict[str, tuple[Channel, Future[Answer]] | BackendError] = {}
        for name, begin in asked.items():
            try:
                begun[name] = begin()
            except BackendError as wrong:
                begun[name] = wrong
        found: dict[str, Told] = {}
        for name, one in begun.items():
            try:
                found[name] = one if isinstance(one, BackendError) else one[0].result(one[1], until)
            except BackendError as wrong:
                found[name] = wrong
        return found

    def _channel(self, name: str) -> Channel:
        """Return the connection of a host. Raises UnreachableError for one that is not of this cluster any more."""
        with self._lock:
            found = self._channels.get(name)
            if found is None:
                target = targets_of(self.cluster, self.folder).get(name)
                if target is None:
                    raise UnreachableError(f"{name or 'It'} is not among the hosts of cluster {self.cluster.name}.")
                found = self._channels[name] = Channel(target.login, partial(self._agent, name))
            return found

    def _agent(self, name: str) -> Agent:
        with self._lock:
            if self._zip is None:
                path = runner_zip(self.folder)
                self._zip = (path.name, path.read_bytes())
            file, data = self._zip
        base = text(self.cluster.config, "folder") or "~/.mainspring"
        return Agent(
            runner=f"{base}/{file}", data=data, root=f"{base}/{self.installation}/{name}", installation=self.installation
        )

    def _handle(self, attempt: str, replica: int, host: str, folder: str) -> Handle:
        return Handle(attempt=AttemptId(attempt), replica=replica, data={"host": host, "folder": folder})

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


def _host(handle: Handle) -> str:
    return str(handle.data.get("host") or "")


def _of(handle: Handle) -> dict[str, object]:
    return _key(handle.attempt, handle.replica)


def _key(attempt: str, replica: int) -> dict[str, object]:
    return {"attempt": attempt, "replica": replica}


def _observation(handle: Handle, told: Told, index: int) -> Observation:
    if isinstance(told, BackendError):
        return Observation(handle=handle, state=ObservedState.UNKNOWN, detail=told.message)
    word = str(told["states"][index])
    return Observation(handle=handle, state=_STATES[word], detail=_DETAILS.get(word, ""))


ENGINE = Engine(
    create=create,
    help="Machines that you reach over SSH. They need sshd and Python 3.9; nothing is installed on them.",
    options=OPTIONS,
    targets="HOST",
)
