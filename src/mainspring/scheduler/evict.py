"""Who is stopped for whom, least disruption first: move, reclaim, guarantee, preempt (after KAI-Scheduler's ladder).

- *move*: a run that lost little and fits elsewhere makes room; nobody loses anything but the work since its checkpoint.
- *reclaim*: between shares. The victim's shares stay at or above their fair amounts, the beneficiary's at or below theirs,
  at every level below the share that both have in common. Nobody whose place a guarantee would take back at once.
- *guarantee*: a share takes back what others borrowed of it. That was lent under this condition, so that neither a minimum
  run time nor their fair amounts protect them, only their own guarantees.
- *preempt*: inside one share, for a run of higher priority.

Nobody is stopped in vain: victims are the smallest set that makes room (dropping any one makes the placement fail), and what
they free is kept for the beneficiary (NOMINATE). Why this ends, on trees too: docs/internals/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mainspring.core.resources import GPU_MILLI
from mainspring.core.snapshot import Place, PlacedRun, WaitingRun
from mainspring.scheduler.backfill import Backfill, Hold, put
from mainspring.scheduler.cluster import Bools, Cluster, Ints
from mainspring.scheduler.fit import most_in_one_cluster
from mainspring.scheduler.holdings import taken_by
from mainspring.scheduler.order import CPUS_PER_GPU, Entry
from mainspring.scheduler.requests import Request
from mainspring.scheduler.shares import CPU, GPU, ROUNDING, Account, Need, Tree

SOON_S = 60.0  # a run that starts sooner without it stops nobody; those that outlived their estimate end no sooner (`timeline`)
MOST_DOMAINS = 64  # racks or machines that are looked at for one run
MOST_ROWS = 64  # rows looked at for one replica, the cheapest first
May: TypeAlias = Callable[["Victim"], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Victim:
    """A run that may be stopped: what it holds where, and the work that would be lost (GPU-seconds since its checkpoint)."""

    run: PlacedRun
    account: Account
    amounts: Sequence[int]
    taken: Sequence[tuple[int, Ints, Ints]]
    lost: float
    level: int  # its priority, where that decides


@dataclass(frozen=True, slots=True, eq=False)
class Cleared:
    """Room made for one run: who stops, by which rule, and where it goes then."""

    rule: str
    victims: list[Victim]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class _Index:
    """Who may be stopped by row, cheapest first, and what they hold of each row."""

    of_row: dict[int, list[Victim]]
    free: Ints
    gpu_free: Ints


@dataclass(frozen=True, slots=True)
class _Search:
    """Whom one beneficiary may stop."""

    entry: Entry
    request: Request
    index: _Index
    may: May
    part: Bools | None = None


@dataclass(slots=True)
class Evictions:
    """Looks for victims, one beneficiary after the other; what was cleared is taken into account."""

    room: Backfill
    tree: Tree
    gone: set[str] = field(default_factory=set)
    tried: int = 0  # beneficiaries
    _indexes: dict[bool, _Index] = field(default_factory=dict)  # with the young, and without

    def clear(self, entry: Entry) -> Cleared | None:
        """Make room for a blocked run and put it there, or change nothing and return None."""
        mode = self.room.policy.preemption.mode
        if mode == "never" or entry.run.is_bursting:
            return None
        cleared = None
        if all(one.has_room(entry.need) for one in entry.account.path()):
            cleared = self._search(entry, "move", self._can_move)
        if cleared is None and entry.account.has_room(entry.need):
            cleared = self._search(entry, "reclaim", lambda victim: self._may_reclaim(entry, victim))
        if cleared is None and any(one.is_promised(entry.need) for one in entry.account.path()):
            cleared = self._search(entry, "guarantee", lambda victim: _may_recall(entry, victim), with_young=True)
        if cleared is None and mode == "priority":
            cleared = self._search(entry, "preempt", lambda victim: _may_preempt(entry, victim))
        return cleared

    def _index(self, *, with_young: bool) -> _Index:
        """Return who may be stopped at all; made once for each of both."""
        found = self._indexes.get(with_young)
        if found is not None:
            return found
        cluster = self.room.placement.cluster
        index = _Index({}, np.zeros_like(cluster.free), np.zeros_like(cluster.gpu_free))
        for victim in self._list(with_young=with_young):
            for row, need, milli in victim.taken:
                index.of_row.setdefault(row, []).append(victim)
                index.free[row] += need
                index.gpu_free[row] += milli
        self._indexes[with_young] = index
        return index

    def _list(self, *, with_young: bool) -> list[Victim]:
        """List who holds more than its share has guaranteed or lost little by now, cheapest first."""
        policy, now = self.room.policy.preemption, self.room.now
        victims: list[Victim] = []
        is_beyond: dict[Account, bool] = {}
        for held in self.room.holdings.by_run.values():
            run = held.run
            age = (now - run.since).total_seconds()
            if not run.is_preemptible or run.is_stopping or age <= 0:
                continue
            least = policy.min_run_s if run.checkpointed_at is None else min(policy.min_run_s, policy.min_checkpointed_run_s)
            if age < least and not with_young:
                continue
            account = self.tree.account(run.share or run.owner)
            idle = max(0.0, (now - (run.checkpointed_at or run.since)).total_seconds())
            if account not in is_beyond:
                sure = (min(own, fair) for own, fair in zip(account.guarantee, account.fair, strict=True))
                is_beyond[account] = any(used > least + ROUNDING for used, least in zip(account.used, sure, strict=True))
            if not (is_beyond[account] or idle <= policy.min_run_s or policy.mode == "priority"):
                continue
            amounts = held.amounts
            size = max(amounts[GPU], amounts[CPU] / CPUS_PER_GPU) / GPU_MILLI
            # where priority decides, whoever is stopped would stop those below it in turn: the lowest go first
            level = run.priority if policy.mode == "priority" else 0
            victims.append(Victim(run, account, amounts, held.taken, size * idle, level))
        victims.sort(key=lambda one: (one.level, one.lost, one.run.priority, -one.run.seq, one.run.id))
        return victims

    def _search(self, entry: Entry, rule: str, may: May, *, with_young: bool = False) -> Cleared | None:
        own = [hold for hold in self.room.holds if hold.run == entry.run.id or self.room.is_for(hold, entry.account)]
        self.room.give(own)
        chosen: list[Victim] = []
        try:
            for part in self._parts(entry):
                request = self.room.placement.request(entry.run.resources, entry.run.sites)
                chosen = self._choose(_Search(entry, request, self._index(with_young=with_young), may, part))
                if chosen:
                    break
        finally:
            self.room.take(own)
        return None if not chosen else self._carry_out(entry, rule, chosen, own)

    def _parts(self, entry: Entry) -> Iterable[Bools | None]:
        """Give the rows that all replicas may share: each cluster, or each rack or machine that could hold them empty."""
        run, cluster = entry.run, self.room.placement.cluster
        if run.replicas == 1 or (len(cluster.clusters) == 1 and not run.same):
            return (None,)
        domain = cluster.domain_of(run.same)
        counts = self.room.placement.empty_counts(self.room.placement.request(run.resources, run.sites))
        counts = np.where(cluster.is_ready & (domain >= 0), np.minimum(counts, run.replicas), 0)
        able = np.flatnonzero(np.bincount(np.maximum(domain, 0), weights=counts) >= run.replicas)
        return (domain == one for one in able[:MOST_DOMAINS].tolist())

    def _choose(self, search: _Search) -> list[Victim]:
        """Return the cheapest victims found that let all replicas fit, as few as can be; none if none do."""
        cluster = self.room.placement.cluster
        free, gpu_free = cluster.free.copy(), cluster.gpu_free.copy()
        chosen: list[Victim] = []
        most = self.room.policy.preemption.max_victims
        try:
            while not self._is_enough(search, free, gpu_free):
                found = self._cheapest(search, chosen, free, gpu_free)
                if not found or len(chosen) + len(found) > most:
                    return []
                for victim in found:
                    _free(victim, free, gpu_free, sign=1)
                    self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
                chosen += found
            for victim in list(reversed(chosen)):
                _free(victim, free, gpu_free, sign=-1)
                self.tree.charge(victim.account, victim.amounts, is_pinned=False)
                if self._is_enough(search, free, gpu_free):
                    chosen.remove(victim)
                else:
                    _free(victim, free, gpu_free, sign=1)
                    self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
            return list(chosen) if self._may_all(search, chosen) else []
        finally:
            for victim in chosen:
                self.tree.charge(victim.account, victim.amounts, is_pinned=False)

    def _may_all(self, search: _Search, victims: Sequence[Victim]) -> bool:
        """Say whether each of these, charged off by now, may be stopped beside the others.

        One that turned out not to be needed may have been what let the run take from others (those of a share nearer to it).
        """
        for victim in victims:
            self.tree.charge(victim.account, victim.amounts, is_pinned=False)
            is_allowed = search.may(victim)
            self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
            if not is_allowed:
                return False
        return True

    def _is_enough(self, search: _Search, free: Ints, gpu_free: Ints) -> bool:
        entry = search.entry
        if self.tree.over_limit(entry.account, entry.need) is not None:
            return False
        return _fitting(self.room.placement.cluster, search.request, free, gpu_free, search.part) >= entry.run.replicas

    def _cheapest(self, search: _Search, chosen: Sequence[Victim], free: Ints, gpu_free: Ints) -> list[Victim]:
        """Return the victims that make room for one more replica on one row (or below a limit) at the least loss."""
        cluster, taken = self.room.placement.cluster, set(chosen)
        index, of_row = search.index, search.index.of_row
        before = search.request.counts(cluster, free, gpu_free)
        after = search.request.counts(cluster, free + index.free, gpu_free + index.gpu_free)
        able = cluster.is_ready & (after > before)
        if search.part is not None:
            able &= search.part
        best: tuple[int, float, int, int, list[Victim]] | None = None
        rows = [row for row in np.flatnonzero(able).tolist() if row in of_row]
        rows.sort(key=lambda row: (of_row[row][0].level, of_row[row][0].lost, row))
        for row in rows[:MOST_ROWS]:
            found = self._on_row(search, row, [one for one in of_row[row] if one not in taken], free, gpu_free)
            if found:
                level = max(victim.level for victim in found)
                rank = (level, sum(victim.lost for victim in found), len(found), row, found)
                if best is None or rank[:4] < best[:4]:
                    best = rank
        return best[4] if best is not None else []

    def _on_row(self, search: _Search, row: int, victims: Sequence[Victim], free: Ints, gpu_free: Ints) -> list[Victim]:
        """Return the first victims of a row that let one more replica fit, else the first that does alone.

        Those before it may hold too little, and take with them all that may be taken of their share.
        """
        found = self._first(search, row, victims, free, gpu_free)
        if found or len(victims) == 1:
            return found
        alone = (self._first(search, row, [victim], free, gpu_free) for victim in victims)
        return next((one for one in alone if one), [])

    def _first(self, search: _Search, row: int, victims: Sequence[Victim], free: Ints, gpu_free: Ints) -> list[Victim]:
        """Return the first victims that let one more replica fit, without those that turn out not to be needed."""
        cluster, request = self.room.placement.cluster, search.request
        room, devices = free[row].copy(), gpu_free[row].copy()
        goal = _on_one(cluster, request, row, room, devices) + 1
        found: list[Victim] = []
        try:
            for victim in victims:
                if victim.run.id in self.gone or not search.may(victim):
                    continue
                self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
                found.append(victim)
                _free_row(victim, row, room, devices, sign=1)
                if _on_one(cluster, request, row, room, devices) >= goal:
                    break
            else:
                return []
            for victim in list(reversed(found)):
                _free_row(victim, row, room, devices, sign=-1)
                if _on_one(cluster, request, row, room, devices) < goal:
                    _free_row(victim, row, room, devices, sign=1)
                else:
                    found.remove(victim)
                    self.tree.charge(victim.account, victim.amounts, is_pinned=False)
            return list(found) if self._may_all(search, found) else []
        finally:
            for victim in found:
                self.tree.charge(victim.account, victim.amounts, is_pinned=False)

    def _carry_out(self, entry: Entry, rule: str, chosen: list[Victim], own: list[Hold]) -> Cleared | None:
        """Take the victims out, put the run in, and for a move every victim elsewhere; undo all if one has no place."""
        cluster = self.room.placement.cluster
        self.room.give(own)
        for victim in chosen:
            for row, need, milli in victim.taken:
                put(cluster, row, need, milli, sign=1)
        places = self.room.placement.place(entry.run, {})
        moved: list[tuple[PlacedRun, tuple[Place, ...]]] = []
        is_done = places is not None
        if is_done and rule == "move":
            for victim in sorted(chosen, key=lambda one: (-one.amounts[2], -one.amounts[0], one.run.seq, one.run.id)):
                new = self.room.placement.place(waits_again(victim.run), {})
                if new is None:
                    is_done = False
                    break
                moved.append((victim.run, new))
        if places is None or not is_done:
            for put_back in (*(new for _, new in moved), places or ()):
                for row, need, milli in taken_by(cluster, put_back):
                    put(cluster, row, need, milli, sign=1)
            for victim in chosen:
                for row, need, milli in victim.taken:
                    put(cluster, row, need, milli, sign=-1)
            self.room.take(own)
            return None
        self.room.take([hold for hold in own if hold.run != entry.run.id])
        self.room.forget(entry.run.id)
        self.room.adopt(entry.run.id, places)
        for run, new in moved:
            self.room.adopt(run.id, new)
        for victim in chosen:
            self.gone.add(victim.run.id)
            if rule != "move":
                self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
        return Cleared(rule, chosen, places)

    def _may_reclaim(self, entry: Entry, victim: Victim) -> bool:
        """Say whether fairness lets the run take from this victim, and the victim's shares could not take it back at once."""
        return _may_reclaim(entry, victim) and not self._is_covered(entry, victim)

    def _is_covered(self, entry: Entry, victim: Victim) -> bool:
        """Say whether what a run holds is within the guarantee of its share, judged as for one that waits.

        Were it stopped for fairness, its guarantee would stop the beneficiary in turn, and so on without end.
        """
        _, theirs = _apart(entry, victim)
        if not any(theirs[-1].guarantee):
            return False
        run = victim.run
        need = self.tree.need(self.room.placement.request(run.resources, run.sites), len(run.places))
        self.tree.charge(victim.account, victim.amounts, is_pinned=False, sign=-1)
        try:
            return _is_promised(theirs, need)
        finally:
            self.tree.charge(victim.account, victim.amounts, is_pinned=False)

    def _can_move(self, victim: Victim) -> bool:
        """Say whether a run has lost little by stopping now and seems to fit elsewhere."""
        run, cluster = victim.run, self.room.placement.cluster
        age = (self.room.now - (run.checkpointed_at or run.since)).total_seconds()
        if age > self.room.policy.preemption.min_run_s or not run.places:
            return False
        request = self.room.placement.request(run.resources, run.sites)
        return _fitting(cluster, request, cluster.free, cluster.gpu_free, None) >= len(run.places)


def _apart(entry: Entry, victim: Victim) -> tuple[list[Account], list[Account]]:
    """Return the shares of a run, and of a victim, below the one that both have in common; the lowest first."""
    mine = list(entry.account.path())
    theirs: list[Account] = []
    for one in victim.account.path():
        if one in mine:
            return mine[: mine.index(one)], theirs
        theirs.append(one)
    return [], []


def _may_reclaim(entry: Entry, victim: Victim) -> bool:
    """Say whether fairness lets the run take from this victim: judged at every level below what both have in common.

    A share is judged by what is scarce among its siblings, and by what the victim holds of that.
    """
    below, theirs = _apart(entry, victim)
    if not theirs or not below or not all(one.has_room(entry.need) for one in below):
        return False
    scarce = below[-1].parent.scarce if below[-1].parent is not None else []
    if not any(scarce[place] and victim.amounts[place] for place in entry.need.mask):
        return False
    return all(
        one.used[place] - amount >= one.fair[place] - ROUNDING
        for one in theirs
        for place, amount in enumerate(victim.amounts)
        if amount and one.parent is not None and one.parent.scarce[place]
    )


def _may_recall(entry: Entry, victim: Victim) -> bool:
    """Say whether a guarantee takes what this victim borrowed: no share of the victim falls below its own guarantee.

    Nothing need be scarce: places that are free in pieces do not keep the promise of whole ones.
    """
    below, theirs = _apart(entry, victim)
    if not theirs or not below or not _is_promised(below, entry.need):
        return False
    return all(
        one.used[place] - amount >= min(one.guarantee[place], one.fair[place]) - ROUNDING
        for one in theirs
        for place, amount in enumerate(victim.amounts)
        if amount
    )


def _is_promised(below: Sequence[Account], need: Need) -> bool:
    """Say whether a run stays within what shares have guaranteed, the lowest first: the highest, and each that is configured."""
    return all(one.is_promised(need) for one in below if one.pledged or one is below[-1])


def _may_preempt(entry: Entry, victim: Victim) -> bool:
    return victim.account is entry.account and victim.run.priority < entry.run.priority


def _fitting(cluster: Cluster, request: Request, free: Ints, gpu_free: Ints, part: Bools | None) -> int:
    counts = np.where(cluster.is_ready, request.counts(cluster, free, gpu_free), 0)
    if part is not None:
        return int(counts[part].sum())
    return most_in_one_cluster(cluster, counts)


def _on_one(cluster: Cluster, request: Request, row: int, room: Ints, devices: Ints) -> int:
    """Return how many replicas a row could hold with so much free."""
    most = [max(0, int(room[column])) // int(request.need[column]) for column in range(3) if request.need[column]]
    if request.devices:
        takes = request.milli_of_kind[cluster.kind_of[row]]
        most.append(int((np.maximum(devices, 0) // takes).sum()) // request.devices)
    return min(most)


def _free(victim: Victim, free: Ints, gpu_free: Ints, *, sign: int) -> None:
    for row, need, milli in victim.taken:
        free[row] += sign * need
        gpu_free[row] += sign * milli


def _free_row(victim: Victim, row: int, room: Ints, devices: Ints, *, sign: int) -> None:
    for held, need, milli in victim.taken:
        if held == row:
            room += sign * need
            devices += sign * milli


def waits_again(run: PlacedRun) -> WaitingRun:
    """Return a placed run as one that waits again, with its old place in the order."""
    return WaitingRun(
        id=run.id,
        owner=run.owner,
        project=run.project,
        seq=run.seq,
        priority=run.priority,
        submitted_at=run.submitted_at or run.since,
        resources=run.resources,
        replicas=len(run.places),
        version=run.version,
        share=run.share,
        estimate_s=run.estimate_s,
        same=run.same,
        sites=run.sites,
        is_preemptible=run.is_preemptible,
    )
