"""The attempts loop: launch what was placed, stop what is to end, notice what has died.

Each open attempt is driven from its row alone: whatever this process knew before a crash is not needed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mainspring.controllers.fleet import Fleet
from mainspring.controllers.loop import Loops
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Backend, Handle, LaunchRequest, ObservedState
from mainspring.core.errors import CapacityError, CredentialsError, LaunchError, UnreachableError
from mainspring.core.records import Attempt, AttemptState, Cause, Node, NodeState, Outcome, Replica
from mainspring.plugins import reach
from mainspring.services import attempts
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.attempts import Lease

log = logging.getLogger(__name__)
LEASE_S = 30.0
LOOK_S = 1.0  # how often living attempts are looked at while there are any
STALE_S = 5.0  # a replica without a beat for so long after its launch is looked at
MAX_RELAUNCHES = 3


@dataclass(slots=True)
class Attempts:
    """Drives open attempts. What is kept in memory here only saves work; losing it costs nothing but time."""

    ctx: Context
    fleet: Fleet
    loops: Loops
    owner: str
    server_url: str
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped_at: dict[tuple[str, int], float] = field(default_factory=dict)
    _stop_until: dict[str, tuple[datetime, float]] = field(default_factory=dict)
    _relaunches: dict[tuple[str, int], int] = field(default_factory=dict)
    _unknown_since: dict[tuple[str, int], float] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _launched: dict[str, Attempt] = field(default_factory=dict)
    _greeted: set[tuple[str, int]] = field(default_factory=set)
    _look_at: float = 0.0

    def tick(self) -> float | None:
        """Look at every open attempt once; return the pause until the next look, None when none is open."""
        living = self.ctx.store.attempts.open()
        nodes = {node.id: node for node in self.ctx.store.nodes.all()}
        for attempt in living:
            self._step(attempt, nodes)
        if self.ctx.clock.monotonic() >= self._look_at:  # rows may move a hundred times a second, engines are asked once
            self._look_at = self.ctx.clock.monotonic() + LOOK_S
            self._forget_ended(living)
            self._observe([one for one in living if one.state is not AttemptState.ALLOCATED], nodes)
        return LOOK_S if living or self._launched else None

    def _step(self, attempt: Attempt, nodes: Mapping[str, Node]) -> None:
        """Launch an attempt that has no handle yet, or pass on an intent to stop."""
        if attempt.stop_cause is not None and attempt.state is AttemptState.STOPPING and attempt.launched_at is None:
            for replica in attempt.replicas:
                self._end_unlaunched(attempt, replica)
            return
        if any(not one.handle and one.ended_at is None for one in attempt.replicas):
            self._later(attempt, nodes)
        if attempt.stop_cause is not None:
            self._stop(attempt)

    def _later(self, attempt: Attempt, nodes: Mapping[str, Node]) -> None:
        now = self.ctx.clock.monotonic()
        with self._lock:
            if attempt.id in self._busy or self._not_before.get(attempt.id, 0.0) > now:
                return
            self._busy.add(attempt.id)

        def work() -> None:
            try:
                self._launch(attempt, nodes)
            except Exception:  # the pool's top: the row is unchanged, the next look tries again
                log.exception("launch failed", extra={"attempt": attempt.id})
                self._not_before[attempt.id] = self.ctx.clock.monotonic() + 5.0
            finally:
                with self._lock:
                    self._busy.discard(attempt.id)

        self.loops.submit(work)

    def _launch(self, attempt: Attempt, nodes: Mapping[str, Node]) -> None:
        """W3, launch, W4. Safe to repeat at any point: `launch` is idempotent by attempt and replica."""
        ctx = self.ctx
        lease = ctx.store.attempts.lease(attempt.id, owner=self.owner, ttl_s=LEASE_S)
        if lease is None:
            return
        hashed = attempts.token_hash(attempts.make_token(ctx, attempt.id))
        reach("before-W3")
        current = ctx.store.attempts.launching(lease, token_hash=hashed, now=ctx.clock.now())
        reach("after-W3")
        if current is None:
            self._adopt(lease, attempt, nodes)
            ctx.store.attempts.release(lease)
            return
        backend = self.fleet.backend(attempt.cluster)
        for replica in current.replicas:
            if replica.handle or replica.ended_at is not None:
                continue
            node = nodes.get(replica.node)
            if node is None:
                self._refuse(current, replica, f"Node {replica.node} is gone.")
                continue
            try:
                handle = backend.launch(self._request(current, replica, node))
            except (CapacityError, LaunchError) as wrong:
                self._refuse(current, replica, wrong.message)
                continue
            except (UnreachableError, CredentialsError) as wrong:
                self.fleet.note(attempt.cluster, wrong.message)
                self._not_before[attempt.id] = ctx.clock.monotonic() + 5.0
                break
            reach("after-S1")
            ctx.store.attempts.record_handle(lease, replica.index, handle.data, now=ctx.clock.now())
            reach("after-W4")
        ctx.store.attempts.release(lease)
        with self._lock:
            self._launched[attempt.id] = current

    def _adopt(self, lease: Lease, attempt: Attempt, nodes: Mapping[str, Node]) -> None:
        """Find the handles that a crash between S1 and W4 left unwritten, for an attempt that has moved on meanwhile.

        Launching again gives the handle of a runner that lives, and lets one that died report. Only an attempt that is to
        stop and never began is not launched for that: what the engine has of it is stopped, and if it has nothing, nothing ran.
        """
        fresh = self.ctx.store.attempts.get(attempt.id)
        if fresh is None or fresh.state in (AttemptState.ALLOCATED, AttemptState.ENDED):
            return
        backend = self.fleet.backend(attempt.cluster)
        never_began = fresh.state is AttemptState.STOPPING and fresh.started_at is None
        owned = {one.replica: one for one in backend.owned() if one.attempt == attempt.id} if never_began else {}
        for replica in fresh.replicas:
            node = nodes.get(replica.node)
            if replica.handle or replica.ended_at is not None or node is None:
                continue
            handle = owned.get(replica.index)
            if never_began and handle is None:
                self._end_unlaunched(fresh, replica)
                continue
            if handle is None:
                handle = backend.launch(self._request(fresh, replica, node))
            self.ctx.store.attempts.record_handle(lease, replica.index, handle.data, now=self.ctx.clock.now())

    def _end_unlaunched(self, attempt: Attempt, replica: Replica) -> None:
        outcome = Outcome(cause=attempt.stop_cause or Cause.CANCELLED, message="Stopped before it was launched.")
        attempts.finish(self.ctx, attempt, replica.index, outcome, {})

    def _request(self, attempt: Attempt, replica: Replica, node: Node) -> LaunchRequest:
        run = self.ctx.store.runs.get(attempt.run)
        return LaunchRequest(
            installation=self.ctx.store.installation,
            attempt=attempt.id,
            run=attempt.run,
            replica=replica.index,
            node=node,
            granted=replica.granted,
            server_url=self.server_url,
            token=attempts.make_token(self.ctx, attempt.id),
            grace_s=run.spec.grace_s if run else 10.0,
        )

    def _refuse(self, attempt: Attempt, replica: Replica, message: str) -> None:
        outcome = Outcome(cause=Cause.LAUNCH_FAILED, message=message)
        attempts.finish(self.ctx, attempt, replica.index, outcome, {})

    def _stop(self, attempt: Attempt) -> None:
        now = self.ctx.clock.monotonic()
        left = self._left(attempt, now)
        for replica in attempt.replicas:
            key = (attempt.id, replica.index)
            if not replica.handle or replica.ended_at is not None or now - self._stopped_at.get(key, -1e9) < max(5.0, left):
                continue
            self._stopped_at[key] = now
            try:
                self.fleet.backend(attempt.cluster).stop(_handle(attempt, replica), left)
            except (UnreachableError, CredentialsError) as wrong:
                self.fleet.note(attempt.cluster, wrong.message)

    def _left(self, attempt: Attempt, now: float) -> float:
        """Return the seconds of grace that are left: by the time that passes, once the intent to stop has been seen."""
        if attempt.stop_by is None:
            return 0.0
        seen = self._stop_until.get(attempt.id)
        if seen is None or seen[0] != attempt.stop_by:
            seen = (attempt.stop_by, now + (attempt.stop_by - self.ctx.clock.now()).total_seconds())
            self._stop_until[attempt.id] = seen
        return max(0.0, seen[1] - now)

    def _observe(self, living: list[Attempt], nodes: Mapping[str, Node]) -> None:
        """Look at replicas whose runner is silent; silence alone concludes nothing."""
        now = self.ctx.clock.now()
        by_cluster: dict[str, list[tuple[Attempt, Replica]]] = {}
        for attempt in living:
            for replica in attempt.replicas:
                if replica.ended_at is not None:
                    continue
                node = nodes.get(replica.node)
                if node is not None and node.state is NodeState.DEAD:
                    self._lost(attempt, replica, f"Node {replica.node} was declared dead.")
                elif replica.handle and self._is_suspect(attempt, replica, now):
                    by_cluster.setdefault(attempt.cluster, []).append((attempt, replica))
        for cluster, pairs in by_cluster.items():
            backend = self.fleet.backend(cluster)
            try:
                seen = backend.observe([_handle(attempt, replica) for attempt, replica in pairs])
            except (UnreachableError, CredentialsError) as wrong:
                self.fleet.note(cluster, wrong.message)
                continue
            for (attempt, replica), one in zip(pairs, seen, strict=True):
                self._judge(backend, attempt, replica, one.state, nodes)

    def _is_suspect(self, attempt: Attempt, replica: Replica, now: datetime) -> bool:
        return self.fleet.is_local(attempt.cluster) or (
            (now - (replica.last_beat_at or attempt.launched_at or now)).total_seconds()
            > self.ctx.settings.quiet_beat_s * 2 + STALE_S
        )

    def _judge(
        self, backend: Backend, attempt: Attempt, replica: Replica, state: ObservedState, nodes: Mapping[str, Node]
    ) -> None:
        key = (attempt.id, replica.index)
        if state is ObservedState.RUNNING:
            self._unknown_since.pop(key, None)
            self._greet(backend, attempt, replica, nodes)
        elif state is ObservedState.GONE:
            self._unknown_since.pop(key, None)
            self._gone(backend, attempt, replica, nodes)
        else:
            since = self._unknown_since.setdefault(key, self.ctx.clock.monotonic())
            run = self.ctx.store.runs.get(attempt.run)
            if self.ctx.clock.monotonic() - since > self.ctx.settings.lost_after_s and run and not run.spec.is_exclusive:
                self._lost(attempt, replica, "Its node has not answered for too long.")

    def _greet(self, backend: Backend, attempt: Attempt, replica: Replica, nodes: Mapping[str, Node]) -> None:
        """Tell a runner that an earlier process launched where this server is, once: launching again starts nothing."""
        key = (attempt.id, replica.index)
        if key in self._greeted or attempt.id in self._launched or replica.node not in nodes:
            return
        try:
            backend.launch(self._request(attempt, replica, nodes[replica.node]))
        except (CapacityError, LaunchError, UnreachableError, CredentialsError) as wrong:
            log.warning("greeting failed", extra={"attempt": attempt.id, "error": wrong.message})
            return
        self._greeted.add(key)

    def _gone(self, backend: Backend, attempt: Attempt, replica: Replica, nodes: Mapping[str, Node]) -> None:
        """The runner is dead. Unless its last beat came meanwhile, start it again in its folder to drain and report."""
        key = (attempt.id, replica.index)
        fresh = self.ctx.store.attempts.get(attempt.id)
        if fresh is None or fresh.state is AttemptState.ENDED or fresh.replicas[replica.index].ended_at is not None:
            return
        tries = self._relaunches.get(key, 0)
        handle = _handle(attempt, replica)
        if tries >= MAX_RELAUNCHES or nodes.get(replica.node) is None:
            backend.stop(handle, 0.0)
            record = backend.read_exit(handle)
            if record is not None:
                attempts.finish(self.ctx, fresh, replica.index, record.outcome, {})
            else:
                self._lost(fresh, replica, "Its runner died and could not be started again.")
            return
        if self._not_before.get(attempt.id, 0.0) > self.ctx.clock.monotonic():
            return
        self._relaunches[key] = tries + 1
        self._not_before[attempt.id] = self.ctx.clock.monotonic() + 2.0
        log.info("runner died, draining", extra={"attempt": attempt.id, "replica": replica.index, "try": tries + 1})
        try:
            backend.launch(self._request(fresh, replica, nodes[replica.node]))
        except (CapacityError, LaunchError, UnreachableError, CredentialsError) as wrong:
            log.warning("drain failed", extra={"attempt": attempt.id, "error": wrong.message})

    def _lost(self, attempt: Attempt, replica: Replica, message: str) -> None:
        outcome = Outcome(cause=attempt.stop_cause or Cause.NODE_LOST, message=message)
        attempts.finish(self.ctx, attempt, replica.index, outcome, {})

    def _forget_ended(self, living: list[Attempt]) -> None:
        """Let the backend clean up after attempts that have ended since the last look."""
        alive = {attempt.id for attempt in living}
        with self._lock:
            ended = [self._launched.pop(one) for one in list(self._launched) if one not in alive and one not in self._busy]
        for attempt in ended:
            fresh = self.ctx.store.attempts.get(attempt.id) or attempt
            backend = self.fleet.backend(attempt.cluster)
            handles = [_handle(fresh, replica) for replica in fresh.replicas if replica.handle]
            gone = all(one.state is ObservedState.GONE for one in backend.observe(handles))
            if not gone and fresh.state is AttemptState.ENDED:
                with self._lock:
                    self._launched[attempt.id] = fresh
                continue
            for handle in handles:
                backend.forget(handle)
            for replica in fresh.replicas:
                for table in (self._stopped_at, self._relaunches, self._unknown_since):
                    table.pop((attempt.id, replica.index), None)
                self._greeted.discard((attempt.id, replica.index))
            self._not_before.pop(attempt.id, None)
            self._stop_until.pop(attempt.id, None)


def _handle(attempt: Attempt, replica: Replica) -> Handle:
    return Handle(attempt=attempt.id, replica=replica.index, data=replica.handle)


def sweep(ctx: Context, fleet: Fleet, first_seen: dict[tuple[str, int], float]) -> int:
    """End what carries our installation id and belongs to no living row, after a grace; return how many were ended.

    An attempt that the database does not know at all (an older backup was restored) is left alone for a day.
    """
    now = ctx.clock.monotonic()
    ended = 0
    for cluster in ctx.store.clusters.all():
        try:
            owned = fleet.backend(cluster.id).owned()
        except (UnreachableError, CredentialsError) as wrong:
            fleet.note(cluster.id, wrong.message)
            continue
        for handle in owned:
            attempt = ctx.store.attempts.get(handle.attempt)
            key = (handle.attempt, handle.replica)
            if attempt is not None and attempt.state is not AttemptState.ENDED:
                first_seen.pop(key, None)
                continue
            grace_s = ctx.settings.sweep_grace_s if attempt is not None else 86400.0
            if now - first_seen.setdefault(key, now) >= grace_s:
                fleet.backend(cluster.id).stop(handle, 10.0)
                ctx.store.events.append(said(SYSTEM, "attempt.swept", handle.attempt, "", cluster=cluster.name))
                ended += 1
    return ended
