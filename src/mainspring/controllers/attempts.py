"""The attempts loop: launch what was placed, stop what is to end; what has died is noticed by `observations.py`.

Each open attempt is driven from its row alone: whatever this process knew before a crash is not needed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import cast

from mainspring.controllers.fleet import Engines, Reach
from mainspring.controllers.loop import Lanes
from mainspring.controllers.observations import Observations
from mainspring.core.backend import Backend, Handle, LaunchesMany, LaunchRequest, ObservedState
from mainspring.core.errors import BackendError, CapacityError, CredentialsError, LaunchError, MainspringError, UnreachableError
from mainspring.core.records import Attempt, AttemptState, Cause, Node, Outcome, Replica
from mainspring.core.specs import RunSpec
from mainspring.plugins import reach
from mainspring.services import attempts, secrets
from mainspring.services.context import Context
from mainspring.store.attempts import Lease

log = logging.getLogger(__name__)
LEASE_S = 30.0
CROWD = 500  # attempts in one call, where an engine takes many
LOOK_S = 1.0  # how often living attempts are looked at while there are any
LOOK_SHARE = 0.1  # of the time at most: with thousands of them it is done less often
AGAIN_S = 5.0  # the pause after a call that an engine did not take
Place = tuple[Lease, Attempt, Replica, Node]


@dataclass(slots=True)
class Attempts:
    """Drives open attempts. What is kept in memory here only saves work; losing it costs nothing but time."""

    ctx: Context
    fleet: Engines
    loops: Lanes
    owner: str
    reach: Reach
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped_at: dict[tuple[str, int], float] = field(default_factory=dict)
    _stop_until: dict[str, tuple[datetime, float]] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _launched: dict[str, Attempt] = field(default_factory=dict)
    _observations: Observations = field(init=False)
    _look_at: float = 0.0

    def __post_init__(self) -> None:
        """Make what looks at launched attempts."""
        self._observations = Observations(self.ctx, self.fleet, self.loops, self._request)

    def tick(self) -> float | None:
        """Take each due step; now and then look at every attempt. Return the pause until then, None when there is none."""
        pending = self.ctx.store.attempts.pending()  # rows may move a hundred times a second, engines are asked once
        due = [attempt for attempt in pending if self._is_due(attempt) and attempt.id not in self._busy]
        nodes = {node.id: node for node in self.ctx.store.nodes.all()} if due else {}
        self._launch_due(due, nodes)
        began = self.ctx.clock.monotonic()
        if began < self._look_at:
            return self._look_at - began
        living = self.ctx.store.attempts.open()
        self._forget_ended(living)
        is_quiet = not self._observations.look(living, nodes or {node.id: node for node in self.ctx.store.nodes.all()})
        ended = self.ctx.clock.monotonic()
        self._look_at = ended + max(LOOK_S, (ended - began) / LOOK_SHARE)
        return None if is_quiet and not living and not self._launched else self._look_at - ended

    def _is_due(self, attempt: Attempt) -> bool:
        """Pass on an intent to stop; say whether the attempt has replicas that are to be launched."""
        if attempt.stop_cause is not None and attempt.state is AttemptState.STOPPING and attempt.launched_at is None:
            for replica in attempt.replicas:
                self._end_unlaunched(attempt, replica)
            return False
        if attempt.stop_cause is not None:
            self._stop(attempt)
        is_bare = any(not one.handle and one.ended_at is None for one in attempt.replicas)
        return is_bare and self._not_before.get(attempt.id, 0.0) <= self.ctx.clock.monotonic()

    def _launch_due(self, due: Sequence[Attempt], nodes: Mapping[str, Node]) -> None:
        """Let the lanes launch: each attempt by itself, or in crowds where the engine takes many in one call."""
        by_cluster: dict[str, list[Attempt]] = {}
        for attempt in due:
            by_cluster.setdefault(attempt.cluster, []).append(attempt)
        for cluster, waiting in by_cluster.items():
            size = CROWD if self._takes_many(cluster) else 1
            with self._lock:
                fresh = [attempt for attempt in waiting if attempt.id not in self._busy]
                self._busy.update(attempt.id for attempt in fresh)
            for crowd in batched(fresh, size):
                self.loops.submit(partial(self._launch_crowd, crowd, nodes), lane=cluster)

    def _takes_many(self, cluster: str) -> bool:
        try:
            return self.fleet.backend(cluster).capabilities.launch_many
        except MainspringError:  # a plug-in that is gone: launching one says so
            return False

    def _launch_crowd(self, crowd: Sequence[Attempt], nodes: Mapping[str, Node]) -> None:
        try:
            self._launch(crowd, nodes)
        except Exception:  # the pool's top: the rows are unchanged, the next look tries again
            log.exception("launch failed", extra={"attempts": [attempt.id for attempt in crowd]})
            for attempt in crowd:
                self._not_before[attempt.id] = self.ctx.clock.monotonic() + AGAIN_S
        finally:
            with self._lock:
                self._busy.difference_update(attempt.id for attempt in crowd)

    def _in_lane(self, cluster: str, key: str, act: Callable[[], None]) -> None:
        """Let the cluster's lane do something, unless it does it already."""
        with self._lock:
            if key in self._busy:
                return
            self._busy.add(key)

        def work() -> None:
            try:
                act()
            finally:
                with self._lock:
                    self._busy.discard(key)

        self.loops.submit(work, lane=cluster)

    def _unanswered(self, attempt: Attempt, wrong: UnreachableError | CredentialsError) -> None:
        """The engine may have taken the launch or not: nothing is known of the replicas that have no handle (P4)."""
        self.fleet.note(attempt.cluster, wrong.message)
        self._not_before[attempt.id] = self.ctx.clock.monotonic() + AGAIN_S
        fresh = self.ctx.store.attempts.get(attempt.id)
        for replica in fresh.replicas if fresh is not None else ():
            if not replica.handle and fresh is not None:
                self._observations.unknown(fresh, replica)

    def _launch(self, crowd: Sequence[Attempt], nodes: Mapping[str, Node]) -> None:
        """W3, launch, W4 of each. Safe to repeat at any point: launching is idempotent by attempt and replica."""
        places: list[Place] = []
        for attempt in crowd:
            lease = self.ctx.store.attempts.lease(attempt.id, owner=self.owner, ttl_s=LEASE_S)
            if lease is None:
                continue
            try:
                places += self._begin(lease, attempt, nodes)
            except (UnreachableError, CredentialsError) as wrong:
                self.ctx.store.attempts.release(lease)
                self._unanswered(attempt, wrong)
        if not places:
            return
        backend = self.fleet.backend(crowd[0].cluster)
        requests = [self._request(attempt, replica, node) for _, attempt, replica, node in places]
        silent: set[str] = set()
        for (lease, attempt, replica, _), answer in zip(places, launched(backend, requests), strict=True):
            match answer:
                case Handle():
                    reach("after-S1")
                    self.ctx.store.attempts.record_handle(lease, replica.index, answer.data, now=self.ctx.clock.now())
                    self._observations.greeted.add((attempt.id, replica.index))
                    reach("after-W4")
                case CapacityError() | LaunchError():
                    self._refuse(attempt, replica, str(answer))
                case UnreachableError() | CredentialsError():
                    self._unanswered(attempt, answer)
                    silent.add(attempt.id)
        for lease, attempt in {attempt.id: (lease, attempt) for lease, attempt, *_ in places}.values():
            self.ctx.store.attempts.release(lease)
            if attempt.id not in silent:
                with self._lock:
                    self._launched[attempt.id] = attempt

    def _begin(self, lease: Lease, attempt: Attempt, nodes: Mapping[str, Node]) -> list[Place]:
        """W3; return the replicas that the engine is to be asked for. The lease stays with us if there are any."""
        ctx = self.ctx
        hashed = attempts.token_hash(attempts.make_token(ctx, attempt.id))
        reach("before-W3")
        current = ctx.store.attempts.launching(lease, token_hash=hashed, now=ctx.clock.now())
        reach("after-W3")
        found: list[Place] = []
        if current is None:
            self._adopt(lease, attempt, nodes)
        for replica in current.replicas if current is not None else ():
            node = nodes.get(replica.node)
            if replica.handle or replica.ended_at is not None:
                continue
            if node is None:
                self._refuse(attempt, replica, f"Node {replica.node} is gone.")
            elif current is not None:
                found.append((lease, current, replica, node))
        if not found:
            ctx.store.attempts.release(lease)
            if current is not None:
                with self._lock:
                    self._launched[attempt.id] = current
        return found

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
        spec = run.spec if run is not None else RunSpec()
        url, fingerprint = self.reach.of(self.fleet.backend(attempt.cluster))
        return LaunchRequest(
            installation=self.ctx.store.installation,
            attempt=attempt.id,
            run=attempt.run,
            replica=replica.index,
            node=node,
            granted=replica.granted,
            server_url=url,
            server_fingerprint=fingerprint,
            token=attempts.make_token(self.ctx, attempt.id),
            grace_s=spec.grace_s,
            name=run.name if run is not None else "",
            owner=run.owner if run is not None else "",
            project=run.project if run is not None else "",
            image=spec.environment.image,
            overrides=secrets.reveal_overrides(self.ctx, spec, self.fleet.kind(attempt.cluster)) if spec.overrides else {},
            world_size=len(attempt.replicas),
            timeout_s=spec.timeout_s,
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
            self._in_lane(attempt.cluster, f"stop {attempt.id}.{replica.index}", partial(self._stop_one, attempt, replica, left))

    def _stop_one(self, attempt: Attempt, replica: Replica, grace_s: float) -> None:
        try:
            self.fleet.backend(attempt.cluster).stop(_handle(attempt, replica), grace_s)
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

    def _forget_ended(self, living: list[Attempt]) -> None:
        """Let the backends clean up after attempts that have ended since the last look."""
        alive = {attempt.id for attempt in living}
        with self._lock:
            ended = [one for id, one in self._launched.items() if id not in alive and id not in self._busy]
        for attempt in ended:
            self._in_lane(attempt.cluster, f"forget {attempt.id}", partial(self._forget, attempt))

    def _forget(self, attempt: Attempt) -> None:
        fresh = self.ctx.store.attempts.get(attempt.id) or attempt
        given_up = any(replica.unknown_since is not None for replica in fresh.replicas)
        if not given_up:  # else it is cleaned up after when its end is seen
            backend = self.fleet.backend(attempt.cluster)
            handles = [_handle(fresh, replica) for replica in fresh.replicas if replica.handle]
            try:
                gone = all(one.state is ObservedState.GONE for one in backend.observe(handles))
                if not gone and fresh.state is AttemptState.ENDED:
                    return
                for handle in handles:
                    backend.forget(handle)
            except (UnreachableError, CredentialsError) as wrong:
                self.fleet.note(attempt.cluster, wrong.message)
                return
        for replica in fresh.replicas:
            self._stopped_at.pop((attempt.id, replica.index), None)
        self._observations.forget(fresh)
        self._not_before.pop(attempt.id, None)
        self._stop_until.pop(attempt.id, None)
        with self._lock:
            self._launched.pop(attempt.id, None)


def _handle(attempt: Attempt, replica: Replica) -> Handle:
    return Handle(attempt=attempt.id, replica=replica.index, data=replica.handle)


def launched(backend: Backend, requests: Sequence[LaunchRequest]) -> Iterator[Handle | BackendError]:
    """Yield what came of each request: as it comes, or all of them in one call where the engine can."""
    if backend.capabilities.launch_many:
        try:
            yield from cast(LaunchesMany, backend).launch_many(requests)
        except (UnreachableError, CredentialsError) as wrong:
            yield from [wrong] * len(requests)
        return
    rest = iter(requests)
    for request in rest:
        try:
            yield backend.launch(request)
        except (UnreachableError, CredentialsError) as wrong:
            yield wrong
            yield from (wrong for _ in rest)  # it is not asked again for the others
        except BackendError as wrong:
            yield wrong


def batched(all: Sequence[Attempt], size: int) -> Iterator[Sequence[Attempt]]:
    """Yield runs of at most `size`."""
    rest = iter(all)
    while crowd := tuple(islice(rest, size)):
        yield crowd
