"""What is concluded about attempts that were launched: they live, they are gone, or nobody can tell (protocol P3 to P5).

Engines are asked in their own lanes: one that answers slowly, or never, holds up nobody else's attempts. What is kept in memory
only saves work, or counts time by a clock that is never set; a server that begins counts from its own first look.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from mainspring.controllers.fleet import Engines
from mainspring.controllers.loop import Lanes
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Backend, Handle, LaunchRequest, Observation, ObservedState
from mainspring.core.errors import CapacityError, CredentialsError, LaunchError, UnreachableError
from mainspring.core.records import Attempt, AttemptState, Cause, Node, NodeState, Outcome, Replica, Unadopted
from mainspring.core.silence import patience_s
from mainspring.core.waiting import kept_waiting
from mainspring.services import attempts
from mainspring.services.context import Context
from mainspring.services.runs import said

log = logging.getLogger(__name__)
STALE_S = 5.0  # a replica without a beat for so long after its launch is looked at
HANG_S = 30.0  # an engine that has not answered a look for so long cannot tell
MAX_RELAUNCHES = 3
Key = tuple[str, int]
Pairs = list[tuple[Attempt, Replica]]


class Requests(Protocol):
    """How the request to launch a replica is made; the attempts loop knows."""

    def __call__(self, attempt: Attempt, replica: Replica, node: Node) -> LaunchRequest:
        """Return the request."""
        ...


@dataclass(slots=True)
class Observations:
    """Looks at launched attempts. One look at a cluster at a time."""

    ctx: Context
    fleet: Engines
    loops: Lanes
    request: Requests
    greeted: set[Key] = field(default_factory=set)  # replicas whose runner knows where this server is
    _looking: dict[str, float] = field(default_factory=dict)  # cluster: since when
    _relaunches: dict[Key, tuple[int, float]] = field(default_factory=dict)  # how often, and when the last time
    _unknown_since: dict[Key, float] = field(default_factory=dict)
    _words: dict[Key, tuple[str, datetime | None]] = field(default_factory=dict)  # of engines that have not begun a replica

    def look(self, living: Sequence[Attempt], nodes: Mapping[str, Node]) -> bool:
        """Look at each replica of which too little is known; returns at once, True if there is one.

        Silence alone concludes nothing.
        """
        now = self.ctx.clock.now()
        by_cluster: dict[str, Pairs] = {}
        for attempt in (*living, *self.ctx.store.attempts.given_up()):
            for replica in attempt.replicas:
                if replica.ended_at is not None and replica.unknown_since is None:
                    continue
                node = nodes.get(replica.node)
                if node is not None and node.state is NodeState.DEAD:
                    self._declared_dead(attempt, replica)
                elif (replica.handle or replica.unknown_since is not None) and self._is_suspect(attempt, replica, now):
                    by_cluster.setdefault(attempt.cluster, []).append((attempt, replica))
                elif replica.unknown_since is not None:
                    self._known(attempt, replica)  # it was heard
        for cluster, pairs in by_cluster.items():
            self._look_at(cluster, pairs, nodes)
        return bool(by_cluster)

    def unknown(self, attempt: Attempt, replica: Replica) -> None:
        """Take note that the engine cannot tell how a replica is; give it up when that has lasted too long (P4).

        A runner that beats is known to live, whatever its engine can tell: its credentials may have expired.
        """
        key = (attempt.id, replica.index)
        if self._is_heard(replica):
            self._known(attempt, replica)
            return
        ticks = self.ctx.clock.monotonic()
        run = self.ctx.store.runs.get(attempt.run)
        if run is None or replica.ended_at is not None:
            return
        patience = patience_s(run.spec, replica, self.ctx.settings.lost_after_s)
        if key not in self._unknown_since or replica.unknown_since is None:
            self._unknown_since[key] = ticks
            attempts.mark_unknown(self.ctx, attempt, replica.index, patience)
            self._sight(replica.node, is_reachable=False)
        elif patience is not None and ticks - self._unknown_since[key] > patience:
            heard = "" if not run.spec.is_exclusive else " Its runner has ended it by its own limit meanwhile."
            attempts.give_up(self.ctx, attempt, replica.index, f"Node {replica.node} could not be reached for too long.{heard}")

    def forget(self, attempt: Attempt) -> None:
        """Drop what is remembered of an attempt that has ended."""
        for replica in attempt.replicas:
            self._relaunches.pop((attempt.id, replica.index), None)
            self._unknown_since.pop((attempt.id, replica.index), None)
            self._words.pop((attempt.id, replica.index), None)
            self.greeted.discard((attempt.id, replica.index))

    def _is_suspect(self, attempt: Attempt, replica: Replica, now: datetime) -> bool:
        if self.fleet.hears_ends(attempt.cluster) or replica.ended_at is not None:
            return True
        seen = replica.last_beat_at or attempt.launched_at or now
        if replica.last_beat_at is None and (now - seen).total_seconds() > STALE_S and self.fleet.may_wait(attempt.cluster):
            return True  # its engine may keep it waiting: it is asked why
        return not self._is_fresh(seen, now)

    def _is_heard(self, replica: Replica) -> bool:
        """Say whether the runner of a replica that has not ended has beaten lately."""
        heard = replica.last_beat_at if replica.ended_at is None else None
        return heard is not None and self._is_fresh(heard, self.ctx.clock.now())

    def _is_fresh(self, moment: datetime, now: datetime) -> bool:
        quiet_s = (now - moment).total_seconds()
        return 0 <= quiet_s <= self.ctx.settings.quiet_beat_s * 2 + STALE_S  # below: the clock was set back

    def _look_at(self, cluster: str, pairs: Pairs, nodes: Mapping[str, Node]) -> None:
        ticks = self.ctx.clock.monotonic()
        if cluster in self._looking:
            if ticks - self._looking[cluster] > HANG_S:
                self.fleet.note(cluster, f"The engine has not answered for {HANG_S:g} s.")
                self._none_known(pairs)
            return
        self._looking[cluster] = ticks

        def work() -> None:
            try:
                self._observe(cluster, pairs, nodes)
            except Exception:  # the pool's top: the rows are unchanged, the next look tries again
                log.exception("look failed", extra={"cluster": cluster})
            finally:
                self._looking.pop(cluster, None)

        self.loops.submit(work, lane=cluster)

    def _observe(self, cluster: str, pairs: Pairs, nodes: Mapping[str, Node]) -> None:
        backend = self.fleet.backend(cluster)
        try:
            owned = {(one.attempt, one.replica): one for one in backend.owned()} if _has_bare(pairs) else {}
            handles = [_handle(*pair) if pair[1].handle else owned.get((pair[0].id, pair[1].index)) for pair in pairs]
            seen = iter(backend.observe([one for one in handles if one is not None]))
            looks = [None if one is None else next(seen) for one in handles]
        except (UnreachableError, CredentialsError) as wrong:
            self.fleet.note(cluster, wrong.message)
            self._none_known(pairs)
            return
        for (attempt, replica), handle, look in zip(pairs, handles, looks, strict=True):
            state = look.state if look is not None else ObservedState.GONE
            if state is ObservedState.UNKNOWN:
                self.unknown(attempt, replica)
                continue
            if replica.ended_at is not None:
                self._superseded(backend, attempt, replica, handle, state)
                continue
            self._known(attempt, replica)
            if handle is None:
                continue  # never launched, as far as the engine knows: the attempts loop launches it, if it is wanted
            if look is not None and state is ObservedState.RUNNING:
                self._tell_waiting(attempt, replica, look)
                self._greet(backend, attempt, replica, nodes)
            else:
                self._gone(backend, attempt, replica, nodes)

    def _none_known(self, pairs: Pairs) -> None:
        for attempt, replica in pairs:
            self.unknown(attempt, replica)

    def _known(self, attempt: Attempt, replica: Replica) -> None:
        self._unknown_since.pop((attempt.id, replica.index), None)
        if replica.unknown_since is not None:
            self.ctx.store.attempts.set_unknown(attempt.id, replica.index, None)
            self._sight(replica.node, is_reachable=True)

    def _superseded(
        self, backend: Backend, attempt: Attempt, replica: Replica, handle: Handle | None, state: ObservedState
    ) -> None:
        """End what came back after it had been given up; its node takes runs again when nothing of it is left."""
        if handle is not None and state is ObservedState.RUNNING:
            run = self.ctx.store.runs.get(attempt.run)
            backend.stop(handle, run.spec.grace_s if run is not None else 10.0)
            return
        if handle is not None:
            backend.forget(handle)
        self._known(attempt, replica)

    def _sight(self, node: str, *, is_reachable: bool) -> None:
        kind = "node.reachable" if is_reachable else "node.unreachable"
        if self.ctx.store.nodes.sight(node, is_reachable=is_reachable, event=said(SYSTEM, kind, node, "")):
            log.info("node sighted", extra={"node": node, "is_reachable": is_reachable})
            if not is_reachable:
                self.ctx.signals.hint("clusters")  # its engine is asked why, and from now on often

    def _declared_dead(self, attempt: Attempt, replica: Replica) -> None:
        """An admin's word that nothing runs there any more is as good as having seen the end."""
        if replica.unknown_since is not None:
            self.ctx.store.attempts.set_unknown(attempt.id, replica.index, None)
        if replica.ended_at is None:
            self._lost(attempt, replica, f"Node {replica.node} was declared dead.")

    def _tell_waiting(self, attempt: Attempt, replica: Replica, look: Observation) -> None:
        """Tell on the run why its engine has not begun it. What lasts a moment only, as the making of a container, is no news."""
        key = (attempt.id, replica.index)
        waited_s = (self.ctx.clock.now() - (attempt.launched_at or self.ctx.clock.now())).total_seconds()
        words = "" if replica.last_beat_at is not None or waited_s < STALE_S else look.waiting
        known = self._words.get(key)
        if (known or ("", None)) == (words, look.expected_at if words else None):
            return
        if words:
            self._words[key] = (words, look.expected_at)
        else:
            del self._words[key]
            if replica.last_beat_at is not None:
                return  # its first beat has cleared it
        cluster = self.ctx.store.clusters.get(attempt.cluster)
        named = cluster.name if cluster is not None else attempt.cluster
        reason = kept_waiting(named, words, look.expected_at) if words else None
        self.ctx.store.attempts.set_waiting(attempt.id, reason)
        log.info("engine keeps a run waiting", extra={"attempt": attempt.id, "replica": replica.index, "is_over": not words})

    def _greet(self, backend: Backend, attempt: Attempt, replica: Replica, nodes: Mapping[str, Node]) -> None:
        """Tell a runner that an earlier process launched where this server is, once: launching again starts nothing."""
        key = (attempt.id, replica.index)
        if key in self.greeted or replica.node not in nodes:
            return
        try:
            backend.launch(self.request(attempt, replica, nodes[replica.node]))
        except (CapacityError, LaunchError, UnreachableError, CredentialsError) as wrong:
            log.warning("greeting failed", extra={"attempt": attempt.id, "error": wrong.message})
            return
        self.greeted.add(key)

    def _gone(self, backend: Backend, attempt: Attempt, replica: Replica, nodes: Mapping[str, Node]) -> None:
        """The runner is dead. Unless its last beat came meanwhile, start it again in its folder to drain and report."""
        key = (attempt.id, replica.index)
        fresh = self.ctx.store.attempts.get(attempt.id)
        if fresh is None or fresh.state is AttemptState.ENDED or fresh.replicas[replica.index].ended_at is not None:
            return
        ticks = self.ctx.clock.monotonic()
        tries, last = self._relaunches.get(key, (0, ticks - 2.0))
        is_last = tries >= MAX_RELAUNCHES or nodes.get(replica.node) is None
        if is_last:
            backend.stop(_handle(attempt, replica), 0.0)
        record = backend.read_exit(_handle(attempt, replica))
        if record is not None and (is_last or record.is_final):  # final: a runner would have nothing to add
            attempts.finish(self.ctx, fresh, replica.index, _meant(fresh, record.outcome), {})
            return
        if is_last:
            self._lost(fresh, replica, "Its runner died and could not be started again.")
            return
        if ticks - last < 2.0:
            return
        self._relaunches[key] = (tries + 1, ticks)
        log.info("runner died, draining", extra={"attempt": attempt.id, "replica": replica.index, "try": tries + 1})
        try:
            backend.launch(self.request(fresh, replica, nodes[replica.node]))
        except (CapacityError, LaunchError, UnreachableError, CredentialsError) as wrong:
            if (
                isinstance(wrong, LaunchError) and fresh.started_at is None
            ):  # it never began, and cannot: nothing is to be drained
                attempts.finish(self.ctx, fresh, replica.index, Outcome(cause=Cause.LAUNCH_FAILED, message=str(wrong)), {})
                return
            log.warning("drain failed", extra={"attempt": attempt.id, "error": wrong.message})

    def _lost(self, attempt: Attempt, replica: Replica, message: str) -> None:
        outcome = Outcome(cause=attempt.stop_cause or Cause.NODE_LOST, message=message)
        attempts.finish(self.ctx, attempt, replica.index, outcome, {})


def _meant(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Return the outcome as it is told: what was killed because it was to stop has ended for that reason."""
    if attempt.stop_cause is None or outcome.cause in (Cause.SUCCEEDED, Cause.TIMEOUT, Cause.OUT_OF_MEMORY):
        return outcome
    return Outcome(cause=attempt.stop_cause, exit_code=outcome.exit_code, message=outcome.message)


def note_strangers(ctx: Context, fleet: Engines, cluster: str) -> int:
    """Note the living runners that no row knows (an older backup was restored); return how many. Before the first plan."""
    now, found = ctx.clock.now(), 0
    for one in fleet.backend(cluster).owned():
        if ctx.store.attempts.get(one.attempt) is None:
            ctx.store.unadopted.note(Unadopted(attempt=one.attempt, first_seen_at=now, seen_at=now))
            found += 1
    return found


def _has_bare(pairs: Pairs) -> bool:
    """Say whether some replica has no handle: its launch was not answered, so the engine is asked for all that is ours."""
    return any(not replica.handle for _, replica in pairs)


def _handle(attempt: Attempt, replica: Replica) -> Handle:
    return Handle(attempt=attempt.id, replica=replica.index, data=replica.handle)
