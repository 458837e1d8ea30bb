"""The operations loop: carries out what people ask of engines, and records what came of it.

A pending operation is acted upon by whoever leads; one that died in the middle is followed by one that acts again. Each acts in
a lane of its subject, so that an engine that does not answer holds up nobody else's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from mainspring.controllers.fleet import Fleet, Reach, close, dressed
from mainspring.controllers.loop import Loops
from mainspring.core.actors import Actor
from mainspring.core.backend import Backend, Handle, Notice
from mainspring.core.codec import to_plain
from mainspring.core.errors import ClusterRefusedError, ConflictError, MainspringError, NotFoundError, ServerError, StateError
from mainspring.core.machines import Renter
from mainspring.core.operations import Operation, OperationKind
from mainspring.core.records import Cluster, Node
from mainspring.services.context import Context
from mainspring.services.runs import said

log = logging.getLogger(__name__)
LATE_LOOKS = 3
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
Result = Mapping[str, Any]


@dataclass(slots=True)
class Operations:
    """Acts on pending operations."""

    ctx: Context
    fleet: Fleet
    loops: Loops
    reach: Reach
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tick(self) -> None:
        """Begin each operation that nobody is at."""
        for operation in self.ctx.store.operations.pending():
            with self._lock:
                if operation.id in self._busy:
                    continue
                self._busy.add(operation.id)
            self.loops.submit(partial(self._work, operation), lane=f"operation {operation.subject}")

    def _work(self, operation: Operation) -> None:
        now = self.ctx.clock.now
        try:
            result = self._act(operation)(operation)
            self.ctx.store.operations.end(operation.id, now=now(), result=to_plain(result))
        except MainspringError as wrong:
            self.ctx.store.operations.end(operation.id, now=now(), error=_told(wrong))
        except Exception as wrong:  # the pool's top: a stranger's backend may raise anything; whoever waits is told
            log.exception("operation failed", extra={"operation": operation.id, "kind": operation.kind})
            unexpected = ServerError(
                f"This should not have happened: {type(wrong).__name__}: {wrong}.", hint="See the server's log."
            )
            self.ctx.store.operations.end(operation.id, now=now(), error=_told(unexpected))
        finally:
            with self._lock:
                self._busy.discard(operation.id)

    def _act(self, operation: Operation) -> Callable[[Operation], Result]:
        match operation.kind:
            case OperationKind.ADD_CLUSTER:
                return self._add
            case OperationKind.PROBE_CLUSTER:
                return self._probe
            case OperationKind.SHOW_NATIVE:
                return self._native

    def _add(self, operation: Operation) -> Result:
        """Look at the engine; register the cluster if it can be used."""
        config = operation.asked["config"]
        cluster = Cluster(
            id=operation.subject,
            name=operation.subject,
            backend=str(operation.asked["backend"]),
            config=config if isinstance(config, Mapping) else {},
            created_at=operation.created_at,
        )
        known = self.ctx.store.clusters.get(cluster.name)
        if known is not None and known.created_at != cluster.created_at:
            raise ConflictError(f"There is a cluster {cluster.name!r} already.", hint="mainspring cluster ls")
        backend = self.fleet.build(cluster)
        try:
            looked = self._look(cluster, backend)
        except MainspringError:
            close(backend)
            raise
        if known is None:
            actor = Actor(name=operation.actor)
            event = said(actor, "cluster.added", cluster.name, "", backend=cluster.backend, nodes=len(looked["nodes"]))
            self.ctx.store.clusters.add(cluster, event=event)
        self.fleet.keep(cluster, backend)
        self.fleet.take_inventory(cluster, looked["probe"])
        return {**looked, "nodes": self.ctx.store.nodes.all(cluster.id)}

    def _probe(self, operation: Operation) -> Result:
        cluster = self.ctx.store.clusters.get(operation.subject)
        if cluster is None:
            raise NotFoundError(f"There is no cluster {operation.subject!r}.", hint="mainspring cluster ls")
        try:
            looked = self._look(cluster, self.fleet.backend(cluster.id))
        except MainspringError:
            self.ctx.signals.hint("clusters")  # what is wrong belongs into the rows: `why` and the page read it there
            raise
        self.fleet.take_inventory(cluster, looked["probe"])
        return {**looked, "nodes": self.ctx.store.nodes.all(cluster.id)}

    def _look(self, cluster: Cluster, backend: Backend) -> dict[str, Any]:
        """Return what the engine has. Raises ClusterRefusedError when it cannot be used, and what its calls raise."""
        began = self.ctx.clock.monotonic()
        probe = backend.probe()
        for _ in range(LATE_LOOKS):  # a first connection through jump hosts takes longer than a look may
            if not probe.is_late:
                break
            probe = backend.probe()
        latency_s = self.ctx.clock.monotonic() - began
        probe = replace(probe, latency_s=latency_s)
        mends = _unreachable(self.reach.of(backend)[0]) if backend.capabilities.needs_network else None
        if mends is not None:
            probe = replace(probe, is_ready=False, notices=(mends, *probe.notices))
        nodes: list[Node] = dressed(cluster, backend) if probe.is_ready else []
        looked = {"cluster": cluster.name, "backend": cluster.backend, "probe": probe, "nodes": nodes, "latency_s": latency_s}
        if not probe.is_ready or not (nodes or isinstance(backend, Renter)):
            first = probe.notices[0] if probe.notices else Notice(text="It has no node.")
            raise ClusterRefusedError(
                f"Cluster {cluster.name!r} cannot be used: {first.text}",
                hint=f"Mend it: {first.command}" if first.command else "",
                details=to_plain(looked),
            )
        return looked

    def _native(self, operation: Operation) -> Result:
        """Return the engine's own objects of an attempt, as they are now."""
        attempt = self.ctx.store.attempts.get(operation.subject)
        if attempt is None or not any(replica.handle for replica in attempt.replicas):
            raise StateError("It has not been launched.", hint="mainspring why RUN")
        backend = self.fleet.backend(attempt.cluster)
        objects = [
            {
                "index": replica.index,
                "node": replica.node,
                "object": backend.native(Handle(attempt=attempt.id, replica=replica.index, data=replica.handle)),
            }
            for replica in attempt.replicas
            if replica.handle
        ]
        return {"replicas": objects}


def _unreachable(server_url: str) -> Notice | None:
    """Return what is wrong with an address that only this machine reaches."""
    if urlsplit(server_url).hostname not in LOOPBACK:
        return None
    return Notice(
        text="Its runs cannot reach this server, which listens on loopback alone.",
        command="mainspring down; mainspring up --bind 0.0.0.0 --advertise https://ADDRESS-OF-THIS-MACHINE:PORT",
    )


def _told(wrong: MainspringError) -> Mapping[str, object]:
    told = wrong.to_wire()["error"]
    return told if isinstance(told, Mapping) else {}
