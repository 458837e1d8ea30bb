"""The registered clusters and the backends that drive them; the only place where backends are built."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from mainspring import plugins
from mainspring.controllers.loop import Loops
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Backend, Closes, Probe
from mainspring.core.errors import BackendError, NotFoundError
from mainspring.core.records import Cluster, Node, NodeState
from mainspring.core.resources import ALONE, CONTAINERS, Device
from mainspring.core.silence import is_removable
from mainspring.services import secrets
from mainspring.services.context import Context
from mainspring.services.runs import said

log = logging.getLogger(__name__)
INVENTORY_S = 60.0
AGAIN_S = 5.0  # while an engine does not answer
PACE_S = 0.1  # what an engine takes longer, or less, is written down from there on, where it is twice or half as long
SHARED_S = 10.0  # while a run waits for work of others to end there


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where runners dial: `url` on this machine and through tunnels, `network_url` (empty: none) from elsewhere.

    `fingerprint` is that of the certificate at `network_url`; empty: an authority vouches for it, or there is no TLS.
    """

    url: str
    network_url: str = ""
    fingerprint: str = ""

    def of(self, backend: Backend) -> tuple[str, str]:
        """Return the address and the fingerprint for runners of a backend."""
        if self.network_url and backend.capabilities.needs_network:
            return self.network_url, self.fingerprint
        return self.url, ""


class Engines(Protocol):
    """What the loops that drive attempts ask of a `Fleet`; `testing.engine.Fleet` is another."""

    def backend(self, cluster_id: str, /) -> Backend:
        """Return the backend of a cluster. Raises NotFoundError."""
        ...

    def kind(self, cluster_id: str, /) -> str:
        """Return the engine kind of a cluster."""
        ...

    def hears_ends(self, cluster_id: str, /) -> bool:
        """Say whether the cluster's ends are known without asking."""
        ...

    def may_wait(self, cluster_id: str, /) -> bool:
        """Say whether the engine may keep what was launched."""
        ...

    def note(self, cluster_id: str, message: str, /) -> None:
        """Keep the backend's last word."""
        ...


@dataclass(slots=True)
class Fleet:
    """Builds each cluster's backend once and keeps its inventory in the rows."""

    ctx: Context
    folder: Path
    _backends: dict[str, Backend] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict)
    _asking: set[str] = field(default_factory=set)
    _troubled: set[str] = field(default_factory=set)  # clusters with nodes that are out of reach: asked more often
    _shared: set[str] = field(default_factory=set)  # clusters where others' work held something the last time
    _probes: dict[str, Probe] = field(default_factory=dict)
    _unlisted: dict[str, float] = field(default_factory=dict)  # node: since when, by a clock that is never set

    def backend(self, cluster_id: str) -> Backend:
        """Return the backend of a cluster. Raises NotFoundError."""
        if cluster_id not in self._backends:
            cluster = self.ctx.store.clusters.get(cluster_id)
            if cluster is None:
                raise NotFoundError(f"There is no cluster {cluster_id}.")
            self.keep(cluster, self.build(cluster))
        return self._backends[cluster_id]

    def build(self, cluster: Cluster) -> Backend:
        """Return a backend of a cluster that need not be registered. Raises NotFoundError, ServerError, StoreError."""
        create = plugins.engine(cluster.backend).create
        folder = self.folder / cluster.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        plain = replace(cluster, config=secrets.unseal(self.ctx, cluster.name, cluster.config))
        return create(plain, folder, self.ctx.store.installation)

    def keep(self, cluster: Cluster, backend: Backend) -> None:
        """Drive a cluster by this backend from now on."""
        self._backends[cluster.id] = backend
        self._kinds[cluster.id] = cluster.backend

    def is_local(self, cluster_id: str) -> bool:
        """Say whether looking at the cluster's processes costs next to nothing."""
        return self.kind(cluster_id) == "local"

    def hears_ends(self, cluster_id: str) -> bool:
        """Say whether the cluster's ends are known without asking; not of a cluster that nobody has asked anything yet."""
        backend = self._backends.get(cluster_id)
        return self.is_local(cluster_id) or (backend is not None and backend.capabilities.hears_ends)

    def may_wait(self, cluster_id: str) -> bool:
        """Say whether the engine may keep what was launched: it has a scheduler of its own, or pulls images first.

        Not of a cluster that nobody has asked anything yet.
        """
        backend = self._backends.get(cluster_id)
        return backend is not None and (backend.capabilities.places_itself or backend.capabilities.images)

    def kind(self, cluster_id: str) -> str:
        """Return the engine kind of a cluster; an empty string for an unknown one."""
        if cluster_id not in self._kinds:
            cluster = self.ctx.store.clusters.get(cluster_id)
            if cluster is None:
                return ""
            self._kinds[cluster_id] = cluster.backend  # a cluster never changes its engine
        return self._kinds[cluster_id]

    def note(self, cluster_id: str, message: str) -> None:
        """Keep the backend's last word where `mainspring cluster ls` shows it."""
        self.ctx.store.clusters.set_message(cluster_id, message)

    def ask_all(self, loops: Loops) -> float:
        """Ask every engine in its own lane what there is; return the pause until the next time."""
        registered = self.ctx.store.clusters.all()
        for gone in self._backends.keys() - {cluster.id for cluster in registered}:
            close(self._backends.pop(gone, None))
            self._kinds.pop(gone, None)
            self._probes.pop(gone, None)
            self._troubled.discard(gone)
            self._shared.discard(gone)
        self._look(registered, loops)
        return AGAIN_S if self._troubled else INVENTORY_S

    def ask_shared(self, loops: Loops) -> None:
        """Ask the engines again where others' work held something the last time: a run waits for its end."""
        self._look([cluster for cluster in self.ctx.store.clusters.all() if cluster.id in self._shared], loops)

    def _look(self, clusters: Sequence[Cluster], loops: Loops) -> None:
        for cluster in clusters:
            if cluster.id not in self._asking:  # a slow one is asked again when it has answered
                self._asking.add(cluster.id)
                loops.submit(partial(self._ask, cluster), lane=cluster.id)

    def take_inventory(self, cluster: Cluster, looked: Probe | None = None) -> None:
        """Write what there is in a cluster into the rows; blocks for as long as the engine does.

        `looked` is what the engine has just told whoever asked for it; it is kept as it is.
        """
        nodes = self.ctx.store.nodes
        try:
            backend = self.backend(cluster.id)
            probe = looked or self._timed(backend)
            found = nodes.upsert(cluster.id, dressed(cluster, backend), now=self.ctx.clock.now())
        except BackendError as wrong:
            self.note(cluster.id, wrong.message)
            for node in nodes.all(cluster.id):
                event = said(SYSTEM, "node.unreachable", node.id, "", reason=wrong.message)
                nodes.sight(node.id, is_reachable=False, detail=wrong.message, event=event)
            return
        self._retire({node.id for node in found}, nodes.all(cluster.id))
        message = " ".join(notice.text for notice in probe.notices)
        if message != cluster.message:
            self.note(cluster.id, message)
        known = self._probes.get(cluster.id)
        if looked is not None or known != probe or _is_other_pace(known.latency_s, probe.latency_s):
            self.ctx.store.clusters.set_probe(cluster.id, probe)
            self._probes[cluster.id] = probe

    def _timed(self, backend: Backend) -> Probe:
        """Return what the engine tells, and how long that took."""
        began = self.ctx.clock.monotonic()
        return replace(backend.probe(), latency_s=self.ctx.clock.monotonic() - began)

    def _ask(self, cluster: Cluster) -> None:
        try:
            self.take_inventory(cluster)
        except Exception:  # the pool's top: the rows are unchanged, the next time it is asked again
            log.exception("inventory failed", extra={"cluster": cluster.id})
        finally:
            self._asking.discard(cluster.id)
        nodes = self.ctx.store.nodes.all(cluster.id)
        if any(node.foreign != ALONE for node in nodes):
            self._shared.add(cluster.id)
        else:
            self._shared.discard(cluster.id)
        is_troubled = any(node.state is NodeState.UNREACHABLE for node in nodes)
        if is_troubled and cluster.id not in self._troubled:
            self._troubled.add(cluster.id)
            self.ctx.signals.hint("clusters")  # the loop thinks that it may sleep long
        elif not is_troubled:
            self._troubled.discard(cluster.id)

    def _retire(self, listed: set[str], known: list[Node]) -> None:
        """Let nodes that the inventory lists no longer take nothing, and forget them after a while if nothing is held there."""
        ticks = self.ctx.clock.monotonic()
        for node in known:
            if node.id in listed:
                self._unlisted.pop(node.id, None)
                continue
            since = self._unlisted.setdefault(node.id, ticks)
            self.ctx.store.nodes.sight(node.id, is_reachable=False, event=said(SYSTEM, "node.vanished", node.id, ""))
            if is_removable(node, ticks - since, self.ctx.settings.lost_after_s):
                event = said(SYSTEM, "node.removed", node.id, "", name=node.name)
                if self.ctx.store.nodes.remove(node.id, event=event):
                    self._unlisted.pop(node.id, None)
                    log.info("node removed", extra={"node": node.id})


def _is_other_pace(known_s: float, now_s: float) -> bool:
    """Say whether an engine answers so much faster or slower than what is shown of it that people should see it."""
    return abs(now_s - known_s) >= PACE_S and not known_s / 2 < now_s < known_s * 2


def close(backend: Backend | None) -> None:
    """Let go of what a backend keeps that nobody asks any more."""
    if isinstance(backend, Closes):
        backend.close()


def dressed(cluster: Cluster, backend: Backend) -> list[Node]:
    """Return the nodes there are now, with the pool and labels that the cluster gives all its nodes, and devices `as_given`."""
    pool, words = str(cluster.config.get("pool") or ""), cluster.config.get("labels")
    labels = dict(str(word).split("=", 1) for word in words if "=" in str(word)) if isinstance(words, Sequence) else {}
    if backend.capabilities.images:
        labels |= CONTAINERS
    return [
        replace(
            node,
            pool=pool or node.pool,
            labels={**node.labels, **labels},
            devices=as_given(node.devices, backend),
            foreign=replace(node.foreign, devices=as_given(node.foreign.devices, backend)),
        )
        for node in backend.inventory().nodes
    ]


def as_given(devices: tuple[Device, ...], backend: Backend) -> tuple[Device, ...]:
    """Return devices as the engine gives them to runs: whole ones, unless it can hold several runs on one."""
    if backend.capabilities.fractions:
        return devices
    return tuple(replace(device, whole=True) for device in devices)
