"""The hosts of a cluster: one channel for each, and rounds in which all of them are asked at once.

A *seat* is the name of a host, or `ann@gpu01`: an agent there that is the user ann, where runs are to be their owners'. Which
seats there are is kept in a file: a server that begins anew looks for runs at all of them.

A host that answers too late delays a round once; from then on it is waited for a moment only, and its answer counts in the round
after.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mainspring.backends.launches import runner_zip
from mainspring.backends.ssh.channel import Agent, Answer, Channel
from mainspring.backends.ssh.options import Target, targets_of, text
from mainspring.core.errors import BackendError, UnreachableError
from mainspring.core.records import Cluster

MOMENT_S = 0.5
AT_ONCE = 16  # ways that are tried
SEATS = "seats.json"
FRESH_S = 30.0  # an answer that was asked for longer ago tells nothing any more
Told = Answer | BackendError
Late = tuple[float, Future[Answer]]  # since when it is awaited


@dataclass(slots=True)
class Hosts:
    """The channels of a cluster. Thread safe."""

    cluster: Cluster
    folder: Path
    installation: str
    _channels: dict[str, Channel] = field(default_factory=dict)
    _late: dict[tuple[str, str], Late] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _zip: tuple[str, bytes] | None = None

    def targets(self) -> dict[str, Target]:
        """Return the hosts that there are now. Raises LaunchError when what names them cannot be read."""
        return targets_of(self.cluster, self.folder)

    def seats(self) -> list[str]:
        """Return the seats where something of ours may be: all hosts, and whom runs there were started as."""
        targets = self.targets()
        return [*targets, *(one for one in self._taken() if one.rpartition("@")[2] in targets)]

    def take_seat(self, user: str, host: str) -> str:
        """Return the seat of a user on a host; it is written down before anything is started there."""
        seat = f"{user}@{host}"
        with self._lock:
            taken = self._taken()
            if seat not in taken:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                draft = self.folder / f"{SEATS}.draft"
                draft.write_text(json.dumps([*taken, seat]))
                draft.replace(self.folder / SEATS)
        return seat

    def channel(self, seat: str) -> Channel:
        """Return the connection of a seat. Raises UnreachableError for a host that is not of this cluster any more."""
        with self._lock:
            found = self._channels.get(seat)
            if found is None:
                user, _, name = seat.rpartition("@")
                target = self.targets().get(name)
                if target is None:
                    raise UnreachableError(f"{name or 'It'} is not among the hosts of cluster {self.cluster.name}.")
                found = self._channels[seat] = Channel(target.login, partial(self._agent, name), user)
            return found

    def ask_all(
        self, do: str, asked: Mapping[str, Mapping[str, object]], limit_s: float, *, is_fresh: bool = False
    ) -> dict[str, Told]:
        """Ask each seat that `asked` names, all at once; return the answer or what is wrong with each.

        `is_fresh`: also those that could not be reached just now.
        """
        until = time.monotonic() + limit_s
        found: dict[str, Told] = {}
        channels: dict[str, Channel] = {}
        for name in asked:
            try:
                channels[name] = self.channel(name)
                channels[name].wake(is_fresh=is_fresh)
            except BackendError as wrong:
                found[name] = wrong
        begun: dict[str, Late] = {}
        for name, channel in channels.items():
            try:
                begun[name] = self._take_late(name, do) or (0.0, channel.begin(do, asked[name], until))
            except BackendError as wrong:
                found[name] = wrong
        for name, (since, future) in begun.items():
            now = time.monotonic()
            try:
                found[name] = channels[name].result(future, min(until, now + MOMENT_S) if since else until)
            except BackendError as wrong:
                found[name] = wrong
                if not future.done():
                    with self._lock:
                        self._late[name, do] = (since or now, future)
        return {name: found[name] for name in asked}

    def try_tunnels(self, names: Iterable[str]) -> dict[str, BackendError]:
        """Return what is wrong with the way to this server at each of these hosts where something is; all are asked at once."""

        def attempt(name: str) -> tuple[str, BackendError | None]:
            try:
                self.channel(name).try_tunnel()
            except BackendError as wrong:
                return name, wrong
            return name, None

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tunnel") as pool:
            return {name: wrong for name, wrong in pool.map(attempt, names) if wrong is not None}

    def close(self) -> None:
        """End the connections; runners live on."""
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()

    def _taken(self) -> list[str]:
        try:
            found = json.loads((self.folder / SEATS).read_text())
        except (OSError, ValueError):
            return []
        return [str(one) for one in found] if isinstance(found, list) else []

    def _take_late(self, name: str, do: str) -> Late | None:
        """Return what the host was asked in an earlier round and has not told in time."""
        with self._lock:
            late = self._late.pop((name, do), None)
        return late if late is not None and (not late[1].done() or time.monotonic() - late[0] < FRESH_S) else None

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
