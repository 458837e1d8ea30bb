"""The garbage loop: what nobody names any more, what is older than its rule, what runs without a row."""

from __future__ import annotations

import logging
from concurrent.futures import wait
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from mainspring.controllers.fleet import Engines
from mainspring.controllers.loop import Loops
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Handle
from mainspring.core.errors import CredentialsError, UnreachableError
from mainspring.core.records import AttemptState, Cluster
from mainspring.services import adoption
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.retention import Rules

log = logging.getLogger(__name__)
SWEEP_S = 60.0
ANSWER_S = 15.0  # how long a sweep waits for its engines; what a slower one shows is judged when it comes
COLLECT_S = 3600.0
UNADOPTED_S = 86400.0  # how long an attempt that the database does not know may go on, for an admin to adopt it
STOP_GRACE_S = 10.0
Key = tuple[str, int]


@dataclass(slots=True)
class Garbage:
    """Sweeps processes every minute, rows and blobs every hour. Counts by a clock that is never set, anew in each process.

    Each engine is asked in its own lane: one that is slow holds up nobody else, and is not asked again before it has answered.
    """

    ctx: Context
    fleet: Engines
    loops: Loops
    _asking: set[str] = field(default_factory=set)
    _seen_since: dict[Key, float] = field(default_factory=dict)  # replicas without a living row
    _gone_since: dict[str, tuple[datetime, float]] = field(default_factory=dict)  # unadopted attempts that no engine shows
    _collected_at: float | None = None

    def tick(self) -> float | None:
        """Sweep once."""
        self._sweep()
        now = self.ctx.clock.monotonic()
        if self._collected_at is None:
            self._collected_at = now  # not at start: a restart loop must not scan the store each time
        elif now - self._collected_at >= COLLECT_S:
            self._collected_at = now
            self._collect()
        return SWEEP_S

    def _sweep(self) -> None:
        """End what carries our installation id and belongs to no living row, after a grace.

        An attempt that the database does not know at all (an older backup was restored) is left alone for a day.
        """
        clusters = self.ctx.store.clusters.all()
        shown: dict[str, set[Key]] = {}
        asked = []
        for cluster in clusters:
            if cluster.id not in self._asking:
                self._asking.add(cluster.id)
                asked.append(self.loops.submit(partial(self._sweep_one, cluster, shown), lane=cluster.id))
        wait(asked, ANSWER_S)
        answered = dict(shown)
        owned = {key for keys in answered.values() for key in keys}
        if len(answered) == len(clusters):
            self._seen_since = {key: since for key, since in self._seen_since.items() if key in owned}
        self._forget_gone({attempt for attempt, _ in owned}, set(answered), is_all=len(answered) == len(clusters))

    def _sweep_one(self, cluster: Cluster, shown: dict[str, set[Key]]) -> None:
        """Judge what an engine shows, and note that in `shown` if it answers."""
        try:
            keys: set[Key] = set()
            for handle in self.fleet.backend(cluster.id).owned():
                keys.add((handle.attempt, handle.replica))
                self._judge(cluster, handle)
            shown[cluster.id] = keys
        except (UnreachableError, CredentialsError) as wrong:
            self.fleet.note(cluster.id, wrong.message)
        except Exception:  # the pool's top: the rows are unchanged, the next sweep asks again
            log.exception("sweep failed", extra={"cluster": cluster.id})
        finally:
            self._asking.discard(cluster.id)

    def _judge(self, cluster: Cluster, handle: Handle) -> None:
        now = self.ctx.clock.monotonic()
        key = (handle.attempt, handle.replica)
        attempt = self.ctx.store.attempts.get(handle.attempt)
        if attempt is not None and attempt.state is not AttemptState.ENDED:
            self._seen_since.pop(key, None)
            return
        grace_s = self.ctx.settings.sweep_grace_s if attempt is not None else UNADOPTED_S
        if now - self._seen_since.setdefault(key, now) >= grace_s:
            self.fleet.backend(cluster.id).stop(handle, STOP_GRACE_S)
            self.ctx.store.events.append(said(SYSTEM, "attempt.swept", handle.attempt, "", cluster=cluster.name))

    def _forget_gone(self, owned: set[str], answered: set[str], *, is_all: bool) -> None:
        """Forget unadopted attempts of which nothing is left: only then may their runs be tried again.

        That an engine was told to stop one is not enough, nor that it shows nothing while a runner still speaks.
        """
        now = self.ctx.clock.monotonic()
        waiting = self.ctx.store.unadopted.all()
        for one in waiting:
            cluster = adoption.cluster_of(self.ctx, one)
            if one.attempt in owned or not (cluster in answered if cluster else is_all):
                self._gone_since.pop(one.attempt, None)
                continue
            heard_at, since = self._gone_since.get(one.attempt, (None, now))
            if heard_at != one.seen_at:
                heard_at, since = one.seen_at, now
            self._gone_since[one.attempt] = (heard_at, since)
            if now - since >= self.ctx.settings.sweep_grace_s:
                event = said(SYSTEM, "attempt.vanished", one.attempt, "", run=one.run)
                self.ctx.store.unadopted.forget(one.attempt, event=event)
        known = {one.attempt for one in waiting}
        self._gone_since = {attempt: since for attempt, since in self._gone_since.items() if attempt in known}

    def _collect(self) -> None:
        settings = self.ctx.settings
        rules = Rules(logs_days=settings.logs_days, events_days=settings.events_days, archived_days=settings.archived_days)
        removed = self.ctx.store.retention.apply(self.ctx.clock.now(), rules)
        blobs = self.ctx.blobs.collect(self.ctx.store.blobs.named, grace_s=settings.blob_grace_s, now=self.ctx.clock.now())
        log.info("garbage collected", extra={"rows": removed, "blobs": str(blobs)})
