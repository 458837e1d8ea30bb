"""Who comes next. Between shares: who is owed most; inside a share: priority, then the shortest with aging, then who came first.

Hierarchical dominant-resource fairness (Ghodsi et al., NSDI 2011; Bhattacharya et al., SoCC 2013): from the root down, the
child is taken whose next run is within its guarantee; then the child that holds least beyond its guarantee, measured by its
dominant resource over its weight. Only resources that the child's next run asks for are compared. That is the correction
of SoCC'13: a person who asks for CPUs does not starve because a colleague holds all GPUs.

A pick touches one path: use changes only there, so heaps need no search. O(depth · log siblings) for each pick.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from statistics import median_low
from typing import TypeAlias

from mainspring.core.policy import OrderPolicy
from mainspring.core.resources import GPU_MILLI
from mainspring.core.shares import ROOT
from mainspring.core.snapshot import WaitingRun
from mainspring.scheduler.shares import Account, Need, Tree

CPUS_PER_GPU = 16  # so many CPUs weigh as much as one GPU when a run's size is measured
Kind: TypeAlias = int
_Rank: TypeAlias = tuple[int, float, float, int, str]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A waiting run with what it takes, from whom, and its kind: of one kind and share, all fail when one does."""

    run: WaitingRun
    account: Account
    need: Need
    kind: Kind
    shape: Kind  # its kind without its length, for its share


@dataclass(slots=True, eq=False)
class _Spot:
    """A share's place in the order: its line of runs, or the heap of those below it."""

    account: Account
    above: _Spot | None
    heap: list[tuple[_Rank, _Spot]] = field(default_factory=list)
    line: list[Entry] = field(default_factory=list)
    at: int = 0
    tries: int = 0
    failed: set[Kind] = field(default_factory=set)
    too_long: dict[Kind, float] = field(default_factory=dict)  # by shape: the shortest that failed

    def is_failed(self, entry: Entry) -> bool:
        shortest = self.too_long.get(entry.shape)
        return entry.kind in self.failed or (shortest is not None and _length_s(entry) >= shortest)

    def head(self) -> Entry | None:
        spot = self
        while spot.heap:
            spot = spot.heap[0][1]
        return spot.line[spot.at] if spot.at < len(spot.line) else None


class Queue:
    """Gives the waiting runs one after the other; `started` or `failed` says what became of the one given last.

    Of each share's line at most `depth` kinds that fail are tried; who comes after them is `untried`.
    """

    def __init__(self, *, entries: Sequence[Entry], tree: Tree, policy: OrderPolicy, depth: int, now: datetime) -> None:
        self._depth = depth
        self.blocked: list[Entry] = []
        self.untried: list[Entry] = []
        self._root = _Spot(tree.accounts[ROOT], None)
        lines = {ROOT: list(entries)} if not policy.is_fair else _by_share(entries)
        rank = _ranking(entries, policy, now)
        spots = {ROOT: self._root}
        made: list[_Spot] = []
        for name, line in lines.items():
            above = _spot_of(tree.accounts[name], spots, made)
            made.append(_Spot(tree.accounts[name], above, line=sorted(line, key=rank)))
        # those below first: a rank is known when the heads below are
        for spot in sorted(made, key=lambda one: (one.account.depth, bool(one.line)), reverse=True):
            heapq.heapify(spot.heap)
            if spot.above is not None and (head := spot.head()) is not None:
                spot.above.heap.append((_rank(spot, head), spot))
        heapq.heapify(self._root.heap)

    def next(self) -> Entry | None:
        """Return the run to be tried now, None when all were."""
        return self._root.head()

    def started(self) -> None:
        """Go on after a start, which was charged before."""
        self._advance(self._leaf(), None)

    def failed(self, *, is_for_length: bool = False) -> None:
        """Go on after a run that cannot start, past all of its kind in its line.

        `is_for_length`: whoever takes as much for longer fails as well.
        """
        spot = self._leaf()
        entry = spot.line[spot.at]
        if is_for_length:
            spot.too_long[entry.shape] = min(_length_s(entry), spot.too_long.get(entry.shape, inf))
        self._advance(spot, entry)

    def rest(self) -> None:
        """Try nobody any more."""
        while (head := self.next()) is not None:
            self.untried.append(head)
            self._advance(self._leaf(), None)

    def _leaf(self) -> _Spot:
        spot = self._root
        while spot.heap:
            spot = spot.heap[0][1]
        return spot

    def _advance(self, spot: _Spot, failed: Entry | None) -> None:
        if failed is not None:
            spot.failed.add(failed.kind)
            spot.tries += 1
            if spot.tries >= self._depth:
                self.blocked.append(failed)
                self._close(spot)
                spot.at = len(spot.line)
            # else it is listed below, with those of its kind
        else:
            spot.at += 1
        while spot.at < len(spot.line) and spot.is_failed(spot.line[spot.at]):
            self.blocked.append(spot.line[spot.at])
            spot.at += 1
        above = spot.above
        while above is not None:
            head = spot.head()
            if head is None:
                heapq.heappop(above.heap)
            else:
                heapq.heapreplace(above.heap, (_rank(spot, head), spot))
            spot, above = above, above.above

    def _close(self, spot: _Spot) -> None:
        for entry in spot.line[spot.at + 1 :]:
            (self.blocked if spot.is_failed(entry) else self.untried).append(entry)


def _length_s(entry: Entry) -> float:
    return entry.run.estimate_s or inf


def _rank(spot: _Spot, head: Entry) -> _Rank:
    """Return how early a share comes among its siblings: promised amounts first, then the smallest dominant share.

    Of those that hold equally much the one served longest ago comes first: with fewer GPUs than people, they take turns.
    """
    account, need = spot.account, head.need
    if spot.line:
        return (1, 0.0, 0.0, head.run.seq, head.run.id)  # the share's own runs beside those of the shares below it
    capacity, used, guarantee = account.capacity, account.used, account.guarantee
    if account.is_promised(need):
        held = max((used[place] / guarantee[place] for place in need.mask if guarantee[place]), default=0.0)
        return (0, held, account.served_s, head.run.seq, account.name)
    most = 0.0
    for place in need.mask:
        if capacity[place]:
            most = max(most, (used[place] - guarantee[place]) / capacity[place])
    return (1, most / account.weight, account.served_s, head.run.seq, account.name)


def _spot_of(account: Account, spots: dict[str, _Spot], made: list[_Spot]) -> _Spot:
    found = spots.get(account.name)
    if found is None:
        above = _spot_of(account.parent, spots, made) if account.parent is not None else None
        found = spots[account.name] = _Spot(account, above)
        made.append(found)
    return found


def _by_share(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        lines.setdefault(entry.account.name, []).append(entry)
    return lines


def _ranking(entries: Sequence[Entry], policy: OrderPolicy, now: datetime) -> Callable[[Entry], tuple[int, float, int, str]]:
    """Return the key inside a share. A run of unknown length counts as one of median length; waiting makes a run smaller."""
    known = [entry.run.estimate_s for entry in entries if entry.run.estimate_s > 0] if _is_sized(policy) else []
    usual = median_low(known) if known else 0.0

    def key(entry: Entry) -> tuple[int, float, int, str]:
        run = entry.run
        size = 0.0
        if usual:
            asked = run.resources
            gpus = max(asked.gpu_milli, asked.cpu_milli // CPUS_PER_GPU) * run.replicas / GPU_MILLI
            waited = max(0.0, (now - run.submitted_at).total_seconds())
            size = gpus * (run.estimate_s or usual) / (1 + waited / policy.aging_s)
        return (-run.priority, size, run.seq, run.id)

    return key


def _is_sized(policy: OrderPolicy) -> bool:
    return policy.is_fair and policy.is_shortest_first
