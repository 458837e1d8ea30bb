"""Places that are kept for a run ahead, for a share's window, or for a run whose place is being cleared; and who may use them
meanwhile (EASY backfill: Lifka, JSSPP 1995; advance reservations; nominated places).

What must stay free of a row is taken from the state like an allocation (a hold), so that placing needs no second rule. A run
that is believed to be gone in time is tried a second time with the holds given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from mainspring.core.policy import Policy
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Place, PlacedRun, Reservation, Snapshot, WaitingRun
from mainspring.scheduler.cluster import Cluster, Ints
from mainspring.scheduler.holdings import Holdings, taken_by
from mainspring.scheduler.placement import Failed, Placement
from mainspring.scheduler.shares import CPU, GPU, Account, Tree
from mainspring.scheduler.timeline import Kept, Timeline

MOST_TRIES = 8  # blocked runs without a known moment that are passed over when places are kept


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """What must stay free of some rows until `until_s` (from now; 0: nobody may use it meanwhile).

    For the run `run`, or for the share `account` and those below it while the window `reservation` is open.
    """

    until_s: float
    held: tuple[tuple[int, Ints, Ints], ...]  # row, (cpu, memory, disk), milli of each device column
    run: str = ""
    reservation: Reservation | None = None
    account: Account | None = None


@dataclass(slots=True)
class Backfill:
    """Places runs around what is kept."""

    placement: Placement
    policy: Policy
    now: datetime
    holdings: Holdings
    holds: list[Hold] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)  # by run: its reservation
    is_relaid: bool = False  # a window was laid anew: more may be free than when others were tried
    _started: list[PlacedRun] = field(default_factory=list)
    _timeline: Timeline | None = None
    _knows_end: bool | None = None
    _tries: int = 0  # blocked runs for which a moment was looked for
    _seen: int = 0  # starts that the timeline knows
    _later: list[Kept] = field(default_factory=list)  # what the timeline counts on
    _failed: dict[tuple[int, ...], Failed] = field(default_factory=dict)  # by the holds that were given back

    def place(self, run: WaitingRun, account: Account) -> tuple[Place, ...] | None:
        """Put every replica where nothing is delayed that is kept for others, and return where; None if that is nowhere."""
        places = self.placement.place(run)
        if places is not None or not self.holds:
            return places
        passable = [number for number, hold in enumerate(self.holds) if self.may_pass(hold, run, account)]
        if not passable:
            return None
        for number in passable:
            self._give(self.holds[number], sign=1)
        places = self.placement.place(run, self._failed.setdefault(tuple(passable), {}))
        for number in passable:
            self._give(self.holds[number], sign=-1)
        return places

    def has_windows(self) -> bool:
        """Say whether anything is kept for a share."""
        return any(hold.reservation is not None for hold in self.holds)

    def reserve(self, run: WaitingRun, asks: Iterable[Resources]) -> bool:
        """Keep the earliest places for a blocked run if a moment is known or it has waited for long; say whether.

        `asks`: the requests that would do, of which the first is taken where two are met at the same moment.
        """
        is_patient = (self.now - run.submitted_at).total_seconds() < self.policy.backfill.patience_s
        if self._tries >= self.policy.backfill.reserved + MOST_TRIES or (is_patient and not self._is_any_end_known()):
            return False
        self._tries += 1
        replicas, same = run.least, run.together
        requests = [self.placement.request(asked, run.sites) for asked in asks]
        found = [self.timeline().earliest(one, replicas, is_patient=is_patient, same=same) for one in requests]
        kept = min((one for one in found if one is not None), key=lambda one: one.at_s, default=None)
        if kept is None or kept.at_s <= 0:  # 0: it is not room that it waits for
            return False
        self.kept[run.id] = kept
        self._keep(kept)
        self._hold(Hold(until_s=kept.at_s if np.isfinite(kept.at_s) else 0.0, held=kept.held, run=run.id))
        return True

    def nominate(self, run: WaitingRun, places: Sequence[Place], stopping: Iterable[PlacedRun]) -> bool:
        """Keep `places` for a run until what stops there is gone; say whether they will then be free."""
        cluster = self.placement.cluster
        if any(place.node not in cluster.row_of for place in places):
            return False
        coming = {
            row: (need, milli) for row, need, milli in taken_by(cluster, [place for one in stopping for place in one.places])
        }
        held: list[tuple[int, Ints, Ints]] = []
        for row, need, milli in taken_by(cluster, places):
            more, more_milli = coming.get(row, (np.zeros_like(need), np.zeros_like(milli)))
            if not cluster.is_ready[row] or (cluster.free[row] + more < need)[need > 0].any():
                return False
            if (cluster.gpu_free[row] + more_milli < milli)[milli > 0].any():
                return False
            held.append((row, np.maximum(need - more, 0), np.maximum(milli - more_milli, 0)))
        self._hold(Hold(until_s=0.0, held=tuple(held), run=run.id))
        return True

    def open_windows(self, snapshot: Snapshot, tree: Tree) -> None:
        """Keep what advance reservations promise and their shares do not hold yet."""
        for kept in sorted(snapshot.reservations, key=lambda one: (one.begins_at, one.id)):
            if kept.ends_at <= self.now:
                continue
            self._open(kept, tree.account(kept.share))

    def _open(self, kept: Reservation, account: Account) -> None:
        until = max(0.0, (kept.begins_at - self.now).total_seconds())
        left = kept.replicas - (_used(account, kept) if until == 0.0 else 0)
        if left <= 0:
            return
        found = self.timeline().at(self.placement.request(kept.resources), left, until)
        if until:  # an open window holds today all that it takes
            self._keep(found)
        self._hold(Hold(until_s=until, held=found.held, reservation=kept, account=account))

    def relay(self, account: Account) -> None:
        """Lay the open windows of a share anew, after it was charged with a run that started in them."""
        for hold in [one for one in self.holds if self.is_for(one, account)]:
            self.release([hold])
            self.is_relaid = True
            if hold.reservation is not None and hold.account is not None:
                self._open(hold.reservation, hold.account)

    def started(self, run: PlacedRun) -> None:
        """Count on the end of a run that this plan starts."""
        self._started.append(run)
        if run.estimate_s > 0:
            self._knows_end = True

    def give(self, which: Iterable[Hold]) -> None:
        """Give holds back for a while."""
        for hold in which:
            self._give(hold, sign=1)

    def take(self, which: Iterable[Hold]) -> None:
        """Take them again."""
        for hold in which:
            self._give(hold, sign=-1)

    def forget(self, run: str) -> None:
        """Drop the reservation of a run whose hold was given back."""
        self.holds = [hold for hold in self.holds if hold.run != run]
        self.kept.pop(run, None)

    def start_over(self) -> None:
        """Give back all reservations of runs: who comes first has changed."""
        self.release([hold for hold in self.holds if hold.run in self.kept])
        self._later = [one for one in self._later if one not in self.kept.values()]
        self.kept.clear()
        self.is_relaid = False
        self._timeline, self._tries = None, 0
        self._failed.clear()
        self.placement.forget()

    def adopt(self, run: str, places: Sequence[Place]) -> None:
        """Keep places that were put already for a run that will start there later."""
        self.holds.append(Hold(until_s=0.0, held=tuple(taken_by(self.placement.cluster, places)), run=run))

    def is_for(self, hold: Hold, account: Account) -> bool:
        """Say whether a hold is an open window of the share or of one above it."""
        return hold.account is not None and hold.until_s <= 0 and hold.account in account.path()

    def may_pass(self, hold: Hold, run: WaitingRun, account: Account) -> bool:
        """Say whether a run may use what is kept meanwhile: a window of its own share, or it is believed to be gone in time."""
        if hold.until_s <= 0:
            return self.is_for(hold, account)
        if run.estimate_s > 0:
            return run.estimate_s * self.policy.backfill.safety <= hold.until_s
        # Nobody knows its end. Before a window it may run if it can be sent away when the window opens.
        return hold.reservation is not None and run.is_preemptible and hold.until_s >= self.policy.preemption.min_run_s

    def release(self, which: Iterable[Hold]) -> None:
        """Give holds back for good."""
        gone = list(which)
        for hold in gone:
            self._give(hold, sign=1)
        self.holds = [hold for hold in self.holds if hold not in gone]

    def timeline(self) -> Timeline:
        """Return the believed ends, those of the starts until now too."""
        if self._timeline is None or self._seen < len(self._started):
            self._timeline = Timeline(
                cluster=self.placement.cluster,
                holdings=self.holdings,
                started=self._started,
                now=self.now,
                safety=self.policy.backfill.safety,
            )
            self._seen = len(self._started)
            for kept in self._later:
                self._timeline.keep(kept)
        return self._timeline

    def _is_any_end_known(self) -> bool:
        if self._knows_end is None:
            self._knows_end = self.holdings.is_any_end_known() or any(run.estimate_s > 0 for run in self._started)
        return self._knows_end

    def _keep(self, kept: Kept) -> None:
        timeline = self.timeline()
        self._later.append(kept)
        timeline.keep(kept)

    def _hold(self, hold: Hold) -> None:
        self.holds.append(hold)
        self._give(hold, sign=-1)

    def _give(self, hold: Hold, *, sign: int) -> None:
        cluster = self.placement.cluster
        for row, need, milli in hold.held:
            put(cluster, row, need, milli, sign=sign)


def put(cluster: Cluster, row: int, need: Ints, milli: Ints, *, sign: int) -> None:
    """Take from a row (`sign` -1) or give back (1)."""
    cluster.put(row, -sign * need, [(column, -sign * one) for column, one in enumerate(milli.tolist()) if one])


def _used(account: Account, kept: Reservation) -> int:
    """Return how many replicas of a reservation its share holds already."""
    unit, each = (GPU, kept.resources.gpu_milli) if kept.resources.gpu_milli else (CPU, kept.resources.cpu_milli)
    return account.used[unit] // each if each else 0
