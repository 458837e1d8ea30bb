"""What the placed runs hold, as arrays and sums: read once for each run, kept while it is placed.

A line is what one run holds of one row. Sums are by the leaf that a run counts to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from mainspring.core.ids import RunId
from mainspring.core.snapshot import Place, PlacedRun
from mainspring.scheduler.cluster import Bools, Cluster, Floats, Ints

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = 1_000_000
FEWEST_LINES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """What one placed run holds: of each row (cpu, memory, disk) and milli of each device column; in all, by `Units`.

    `unused` is the milli-GPU that it might take on other devices beyond what it holds, `model` the place in `Units` of the GPU
    model that it names, if it may be no other; else 0.
    """

    run: PlacedRun
    taken: tuple[tuple[int, Ints, Ints], ...]
    amounts: tuple[int, ...]
    unused: int
    model: int
    lines: tuple[int, ...]


@dataclass(slots=True)
class Sums:
    """What the runs of one leaf hold together; `pinned` those that may not be preempted, `bound` of the model that each names."""

    runs: int
    used: list[int]
    pinned: list[int]
    bound: list[int]
    unused: int = 0


@dataclass(slots=True)
class Holdings:
    """All placed runs of one cluster's state."""

    cluster: Cluster
    by_run: dict[RunId, Holding] = field(default_factory=dict)
    by_leaf: dict[str, Sums] = field(default_factory=dict)
    _owners: dict[str, int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)  # lines that nobody uses
    _run: dict[int, PlacedRun] = field(default_factory=dict)  # by line
    _alive: Bools = field(init=False)
    _row: Ints = field(init=False)
    _need: Ints = field(init=False)
    _milli: Ints = field(init=False)
    _owner: Ints = field(init=False)
    _since: Ints = field(init=False)  # microseconds
    _estimate: Floats = field(init=False)
    _stopping: Bools = field(init=False)

    def __post_init__(self) -> None:
        width = self.cluster.gpu_free.shape[1]
        self._alive, self._stopping = np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
        self._row, self._owner, self._since = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self._need, self._milli = np.zeros((0, 3), dtype=np.int64), np.zeros((0, width), dtype=np.int64)
        self._estimate = np.zeros(0)

    def add(self, run: PlacedRun, amounts: Sequence[int], unused: int, model: int) -> None:
        """Count a run that is placed now."""
        taken = tuple(taken_by(self.cluster, run.places))
        since = micros(run.since)
        owner = self._owners.setdefault(run.owner, len(self._owners))
        lines = []
        for row, need, milli in taken:
            if not self._free:
                self._grow()
            line = self._free.pop()
            lines.append(line)
            self._run[line] = run
            self._alive[line], self._row[line], self._owner[line] = True, row, owner
            self._need[line], self._milli[line] = need, milli
            self._since[line], self._estimate[line], self._stopping[line] = since, run.estimate_s, run.is_stopping
        held = self.by_run[run.id] = Holding(run, taken, tuple(amounts), unused, model, tuple(lines))
        self._sum(held, sign=1)

    def remove(self, run: PlacedRun) -> None:
        """Forget a run that is placed no more."""
        gone = self.by_run.pop(run.id)
        for line in gone.lines:
            self._alive[line] = False
            self._free.append(line)
            del self._run[line]
        self._sum(gone, sign=-1)

    def ages(self, now: datetime) -> tuple[Ints, Floats, Floats, Bools]:
        """Return all lines; of each the seconds since its run began, its run's estimate, and whether it is stopping."""
        lines = np.flatnonzero(self._alive)
        return lines, (micros(now) - self._since[lines]) / MICRO, self._estimate[lines], self._stopping[lines]

    def is_any_end_known(self) -> bool:
        """Say whether of any run somebody knows when it ends."""
        return bool((self._alive & ((self._estimate > 0) | self._stopping)).any())

    def run_of(self, line: int) -> PlacedRun:
        """Return whose line it is."""
        return self._run[line]

    def of_lines(self, lines: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the rows of lines, and what is held there: (cpu, memory, disk), and milli of each device column."""
        return self._row[lines], self._need[lines], self._milli[lines]

    def by_owner(self, gone: Collection[RunId]) -> tuple[Sequence[str], Ints, Ints]:
        """Return the owners' names; and the lines of all runs but those `gone`, with the number of each line's owner."""
        alive = self._alive
        if gone:
            alive = alive.copy()
            alive[[line for run in gone for line in self.by_run[run].lines]] = False
        lines = np.flatnonzero(alive)
        return list(self._owners), lines, self._owner[lines]

    def _sum(self, held: Holding, *, sign: int) -> None:
        run, amounts = held.run, held.amounts
        leaf = run.share or run.owner
        sums = self.by_leaf.get(leaf)
        if sums is None:
            nothing = [0] * len(amounts)
            sums = self.by_leaf[leaf] = Sums(0, nothing, nothing.copy(), nothing.copy())
        sums.runs += sign
        sums.unused += sign * held.unused
        if held.model:
            sums.bound[held.model] += sign * amounts[held.model]
        for place, amount in enumerate(amounts):
            sums.used[place] += sign * amount
            if not run.is_preemptible:
                sums.pinned[place] += sign * amount
        if not sums.runs:
            del self.by_leaf[leaf]

    def _grow(self) -> None:
        before = len(self._alive)
        more = max(FEWEST_LINES, before)
        self._free.extend(range(before + more - 1, before - 1, -1))
        for name in ("_alive", "_row", "_need", "_milli", "_owner", "_since", "_estimate", "_stopping"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), dtype=old.dtype)]))


def micros(moment: datetime) -> int:
    """Return the microseconds since 1970."""
    passed = moment - EPOCH
    return (passed.days * 86_400 + passed.seconds) * MICRO + passed.microseconds


def columns_of(cluster: Cluster, row: int) -> dict[int, int]:
    """Return the column of each device index of a row, but of those that were taken out."""
    node = cluster.nodes[row]
    out = node.out()
    return {one: column for column, one in enumerate(sorted(device.index for device in node.devices)) if one not in out}


def taken_by(cluster: Cluster, places: Sequence[Place]) -> list[tuple[int, Ints, Ints]]:
    """Return what places take: row, (cpu, memory, disk), milli of each device column. Unknown nodes are left out."""
    found: dict[int, tuple[Ints, Ints]] = {}
    for place in places:
        row = cluster.row_of.get(place.node)
        if row is None:
            continue
        need, milli = found.setdefault(row, (np.zeros(3, dtype=np.int64), np.zeros(cluster.gpu_free.shape[1], dtype=np.int64)))
        granted = place.granted
        need += (granted.cpu_milli, granted.memory_bytes, granted.disk_bytes)
        columns = columns_of(cluster, row) if granted.devices else {}
        for share in granted.devices:
            if share.index in columns:
                milli[columns[share.index]] += share.milli
    return [(row, need, milli) for row, (need, milli) in found.items()]
