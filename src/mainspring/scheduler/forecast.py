"""When a waiting run will start: an interval, by sampling a compact surrogate of the plan.

Three steps. `sampled` first lets the queue run once through with expected durations and future arrivals like those of
late, by the rule of the planner in small (least served share first, shortest first inside it): that gives an order of
service. Then all samples at once draw true durations and take the places in that order (list scheduling, one numpy step
for each run: `places.py`). `ask` puts one more run into the kept order and takes the places again.

What the surrogate leaves out is in docs/internals/scheduling.md; what that costs is measured by the record of forecasts
(were the intervals right?), and `recalibrated` corrects for it.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np

from mainspring.core.forecasts import CONFIDENCE, Forecast
from mainspring.core.ids import RunId
from mainspring.core.resources import GPU_MILLI
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Snapshot, WaitingRun
from mainspring.scheduler.cluster import Bools, Floats
from mainspring.scheduler.places import build_places

SAMPLES = 64
UNKNOWN_S = 1800.0  # the median length of a run of which nothing is known
SPREAD = 1.0  # of the logarithm of true over estimated length, where no past estimates are given
MOST_ARRIVALS = 2000  # future arrivals looked at
LEAST, MOST = 0.02, 0.98  # quantiles are not taken outside
FEWEST = 20  # past runs that tell how long one lasts
DRAWN = 256  # lengths that stand for a distribution
ALIKE = 0.7  # estimates that differ by less than this in their logarithm (twofold) are alike
STEPS = 8  # of so many parts of that
REMEMBERED = 200  # settled forecasts from which intervals are taken
UNSURE = tuple(np.linspace(-2.0, 2.0, 20).tolist())  # what is held of the error (a factor of seven) until they were seen
NOTICED_S = 10.0  # differences of seconds are none


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What was learned. `lengths`: (estimated, true) of runs that ended lately. `arrivals`: (seconds before now, run)."""

    lengths: tuple[tuple[float, float], ...] = ()
    arrivals: tuple[tuple[float, WaitingRun], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How past forecasts turned out: the confidence to ask for, and the `error_of` each that was settled, the newest last."""

    asked: float = CONFIDENCE
    errors: tuple[float, ...] = ()


FRESH = Record()


def error_of(told_s: float, waited_s: float) -> float:
    """Return by what factor a wait was longer than its median said, as a logarithm; seconds hardly count."""
    return math.log((waited_s + NOTICED_S) / (told_s + NOTICED_S))


class Lengths:
    """How long runs last that are estimated so: true over estimated length of those with the nearest estimates.

    A low estimate is more often too low than a high one (who is told "a second" takes what runs take), so that one
    distribution for all would let those who go first be gone at once. Runs that still go on count for as long as they have:
    of runs that came together the short ones end first, and by these alone all would seem short (Kaplan and Meier, 1958).
    """

    def __init__(self, past: Past, snapshot: Snapshot, seed: int) -> None:
        seen = [(estimated, true, True) for estimated, true in past.lengths]
        seen += [
            (run.estimate_s, (snapshot.now - run.since).total_seconds(), False)
            for run in snapshot.placed
            if run.begins_at is None
        ]
        known = sorted((max(1.0, estimated), true, is_over) for estimated, true, is_over in seen if estimated > 0 and true > 0)
        self._is_known = len(past.lengths) >= FEWEST and len(known) >= FEWEST
        self._at = np.log([estimated for estimated, _, _ in known])
        self._ratios = np.array([true / estimated for estimated, true, _ in known])
        self._is_over = np.array([is_over for _, _, is_over in known])
        self._drawn = np.exp(np.random.default_rng(seed).normal(0.0, SPREAD, DRAWN))
        self._of: dict[int, Floats] = {}
        self._medians: dict[int, float] = {}

    def of(self, estimated: float) -> Floats:
        """Return equally likely lengths by those that were estimated alike: within `ALIKE`, and `FEWEST` at least.

        Of runs without an estimate (0) nothing is known: not what those took that had one.
        """
        return (estimated or UNKNOWN_S) * self._ratios_of(estimated)

    def _ratios_of(self, estimated: float) -> Floats:
        if not self._is_known or not estimated:
            return self._drawn
        step = _step_of(estimated)
        if step not in self._of:
            self._of[step] = self._near(step * ALIKE / STEPS)
        return self._of[step]

    def expected_s(self, estimated: float) -> float:
        """Return the median length of such runs."""
        if not estimated:
            return UNKNOWN_S
        step = _step_of(estimated)
        if step not in self._medians:
            self._medians[step] = float(np.median(self._ratios_of(estimated)))
        return estimated * self._medians[step]

    def _near(self, at: float) -> Floats:
        low, high = np.searchsorted(self._at, [at - ALIKE, at + ALIKE]).tolist()
        while high - low < FEWEST:
            before = at - self._at[low - 1] if low else np.inf
            after = self._at[high] - at if high < len(self._at) else np.inf
            low, high = (low - 1, high) if before <= after else (low, high + 1)
        return _survival(self._ratios[low:high], self._is_over[low:high])


def _step_of(estimated: float) -> int:
    """Return the number of the part of the scale of estimates that an estimate is in."""
    return round(math.log(max(1.0, estimated)) / ALIKE * STEPS)


def _survival(lengths: Floats, is_over: Bools) -> Floats:
    """Return `DRAWN` equally likely lengths by the product-limit estimate.

    Who outlives all of them is drawn from a heavy tail: of those, one in two goes on for twice as long.
    """
    order = np.lexsort((~is_over, lengths))
    lengths, is_over = lengths[order], is_over[order]
    left = np.cumprod(np.where(is_over, 1 - 1 / np.arange(len(lengths), 0, -1), 1.0))  # the part that is left after each
    wanted = 1 - (np.arange(DRAWN) + 0.5) / DRAWN
    at = np.searchsorted(-left, -wanted)
    known = lengths[np.minimum(at, len(lengths) - 1)]
    return np.asarray(np.where(at < len(lengths), known, lengths[-1] * left[-1] / wanted))


@dataclass(frozen=True, slots=True)
class _Job:
    """One run in the surrogate; `waits_s` is when it arrives (0: it waits now), `estimated_s` 0 where nothing is known."""

    run: WaitingRun
    share: str
    gpus: float
    cpus: float
    estimated_s: float
    expected_s: float  # what runs take that are estimated so
    key: tuple[float, ...]
    waits_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sample of the near future, to be asked; `starts` are seconds from `now`, (jobs in order of service, samples)."""

    now: datetime
    snapshot: Snapshot
    lengths: Lengths
    seed: int
    order: tuple[_Job, ...]
    starts: Floats

    def forecast(self, run: RunId, record: Record = FRESH) -> Forecast | None:
        """Return the interval of a run that waited when the sample was taken, None for any other."""
        for number, job in enumerate(self.order):
            if job.run.id == run and not job.waits_s:
                return _interval(self.now, self.starts[number], record)
        return None

    def ask(self, run: WaitingRun, record: Record = FRESH) -> Forecast:
        """Return the interval of a run that does not wait yet, as if it were submitted now."""
        job = _job(run, self.snapshot, self.lengths, 0.0, _least_milli(self.snapshot))
        at = _position(self.order, job)
        order = (*self.order[:at], job, *self.order[at:])
        return _interval(self.now, _take_places(self.snapshot, self.lengths, self.seed, order, upto=at)[at], record)


def sampled(snapshot: Snapshot, past: Past, *, seed: int, samples: int = SAMPLES) -> Sampled:
    """Return a sample of what may happen from now on. Deterministic by `seed`; O(runs x (samples + log runs))."""
    lengths = Lengths(past, snapshot, seed)
    order = tuple(_Line(snapshot, past, lengths).run())
    return Sampled(snapshot.now, snapshot, lengths, seed, order, _take_places(snapshot, lengths, seed, order, samples=samples))


def recalibrated(confidence: float, were_inside: Sequence[bool], *, wanted: float = CONFIDENCE, step: float = 0.02) -> float:
    """Return the confidence to ask the surrogate for, so that `wanted` of the intervals hold, given how past ones did.

    Adaptive conformal inference (Gibbs and Candès 2021): each miss widens the next intervals a little, each hit narrows them.
    """
    for was_inside in were_inside:
        confidence += step * (wanted - was_inside)
    return min(MOST - LEAST, max(0.1, confidence))


# --- the order of service -----------------------------------------------------------------------------------------------


def _least_milli(snapshot: Snapshot) -> int:
    """Return the least that is given of a GPU: all of it where no node gives parts (the devices of a node are alike in this)."""
    return GPU_MILLI if all(device.whole for node in snapshot.nodes for device in node.devices[:1]) else 1


def _job(run: WaitingRun, snapshot: Snapshot, lengths: Lengths, waits_s: float, least_milli: int) -> _Job:
    asked = run.resources
    least = run.least  # a gang starts with as few as will do
    gpu = (max(asked.gpu_milli, least_milli) if asked.is_gpu() else 0) / GPU_MILLI
    estimated = run.estimate_s
    waited = max(0.0, (snapshot.now - run.submitted_at).total_seconds()) if not waits_s else 0.0
    policy = snapshot.policy.order
    work = (estimated or UNKNOWN_S) * max(run.replicas * gpu, 0.1)
    size = work / (1 + waited / policy.aging_s) if policy.is_shortest_first else 0.0
    held = float(run.is_held)
    share = run.share or run.owner
    key = (held, -run.priority, size, waits_s)
    return _Job(run, share, least * gpu, least * asked.cpu_milli / 1000, estimated, lengths.expected_s(estimated), key, waits_s)


class _Line:
    """One run of the queue into the future, everything as expected: counts of GPUs and CPUs, no nodes."""

    def __init__(self, snapshot: Snapshot, past: Past, lengths: Lengths) -> None:
        self._gpus = sum(len(node.devices) for node in snapshot.nodes) or 1
        self._cpus = sum(node.cpu_milli for node in snapshot.nodes) / 1000 or 1.0
        self._free_gpus, self._free_cpus = float(self._gpus), self._cpus
        self._weights = _weights(snapshot)
        self._used: dict[str, float] = {}
        served = {state.share.name: state.served_at for state in snapshot.shares}
        self._served_s = {name: (at - snapshot.now).total_seconds() for name, at in served.items() if at is not None}
        self._ends: list[tuple[float, int, str, float, float]] = []
        self._queues: dict[str, list[_Job]] = {}
        self.order: list[_Job] = []
        for placed in snapshot.placed:
            gpus = sum(one.milli for place in placed.places for one in place.granted.devices) / GPU_MILLI
            cpus = sum(place.granted.cpu_milli for place in placed.places) / 1000
            elapsed = (snapshot.now - placed.since).total_seconds()
            left_s = lengths.expected_s(placed.estimate_s) - elapsed
            self._hold(placed.share or placed.owner, gpus, cpus, max(60.0, left_s))
        least = _least_milli(snapshot)
        for run in snapshot.waiting:
            self._add(_job(run, snapshot, lengths, 0.0, least))
        self._waiting = len(snapshot.waiting)
        coming = [_job(run, snapshot, lengths, before, least) for before, run in past.arrivals[:MOST_ARRIVALS] if before > 0]
        self._coming = sorted(coming, key=lambda job: -job.waits_s)  # the nearest last

    def run(self) -> list[_Job]:
        """Serve until nobody who waits now is left; return the order of service."""
        now = 0.0
        while self._waiting:
            self._serve(now)
            if self._coming and (not self._ends or self._coming[-1].waits_s <= self._ends[0][0]):
                job = self._coming.pop()
                now = job.waits_s
                self._add(job)
            elif self._ends:
                now, _, share, gpus, cpus = heapq.heappop(self._ends)
                self._free_gpus, self._free_cpus = self._free_gpus + gpus, self._free_cpus + cpus
                self._used[share] -= max(gpus / self._gpus, cpus / self._cpus)
            else:
                break
        return self.order

    def _serve(self, now: float) -> None:
        """Start whoever fits, the least served share first; behind one who is blocked its GPUs are kept."""
        blocked = 0.0
        ranked = [(self._rank(share), share) for share, queue in self._queues.items() if queue]
        heapq.heapify(ranked)
        while ranked:
            _, share = heapq.heappop(ranked)
            job = self._queues[share][0]
            never = job.gpus > self._gpus or job.cpus > self._cpus
            if not never and (job.gpus > self._free_gpus - blocked or job.cpus > self._free_cpus):
                blocked += job.gpus
                continue
            del self._queues[share][0]
            self.order.append(job)
            self._waiting -= not job.waits_s
            if not never:  # what fits nowhere goes out of the way
                self._served_s[share] = now
                self._hold(share, job.gpus, job.cpus, now + job.expected_s)
            if self._queues[share]:
                heapq.heappush(ranked, (self._rank(share), share))

    def _rank(self, share: str) -> tuple[float, float]:
        """Return what it holds for its weight; of those who hold equally much the one served longest ago is next."""
        return round(self._used.get(share, 0.0) / self._weights.get(share, 1.0), 9), self._served_s.get(share, -math.inf)

    def _add(self, job: _Job) -> None:
        bisect.insort(self._queues.setdefault(job.share, []), job, key=lambda one: (one.key, one.run.seq))

    def _hold(self, share: str, gpus: float, cpus: float, until: float) -> None:
        heapq.heappush(self._ends, (until, len(self._ends) + len(self.order), share, gpus, cpus))
        self._free_gpus, self._free_cpus = self._free_gpus - gpus, self._free_cpus - cpus
        self._used[share] = self._used.get(share, 0.0) + max(gpus / self._gpus, cpus / self._cpus)


def _weights(snapshot: Snapshot) -> dict[str, float]:
    """Return how much of the whole each leaf is entitled to, were all its siblings asking; unknown leaves weigh like one."""
    own = {state.share.name: state.share.weight for state in snapshot.shares}
    leaves = {run.share or run.owner for run in snapshot.waiting} | {run.share or run.owner for run in snapshot.placed}
    children: dict[str, set[str]] = {}
    for leaf in leaves:
        steps = path_of(leaf)
        for above, below in pairwise(steps):
            children.setdefault(above, set()).add(below)
    found: dict[str, float] = {}
    for leaf in leaves:
        steps, part = path_of(leaf), 1.0
        for above, below in pairwise(steps):
            part *= own.get(below, 1.0) / sum(own.get(one, 1.0) for one in children[above])
        found[leaf] = max(part, 1e-9)
    return found


def _position(order: Sequence[_Job], job: _Job) -> int:
    """Return where a new job is served: behind the last of its own share that goes before it, as many turns later."""
    mine = [number for number, one in enumerate(order) if one.share == job.share and not one.waits_s]
    ahead = sum(order[number].key <= job.key for number in mine)
    if not mine:
        shares = {one.share for one in order}
        return min(len(order), len(shares))  # a share that waits for nothing is served in the first round
    return mine[ahead - 1] + 1 if ahead else mine[0]


# --- the sampled durations ----------------------------------------------------------------------------------------------


def _take_places(
    snapshot: Snapshot, lengths: Lengths, seed: int, order: Sequence[_Job], *, samples: int = SAMPLES, upto: int | None = None
) -> Floats:
    """Return the start of each job in each sample; jobs after `upto` are left out."""
    rng = np.random.default_rng(seed)
    places = build_places(snapshot, samples)
    for placed in snapshot.placed:
        elapsed = max(0.0, (snapshot.now - placed.since).total_seconds())
        later = 0.0
        if placed.begins_at is not None:  # it waits in its engine's queue: all of it is still to come
            elapsed, later = 0.0, max(0.0, (placed.begins_at - snapshot.now).total_seconds())
        places.hold(placed.places, later + _rest(rng, lengths, placed.estimate_s, elapsed, samples))
    places.seal()
    starts = np.full((len(order), samples), np.inf)
    for number, job in enumerate(order if upto is None else order[: upto + 1]):
        true_s = rng.choice(lengths.of(job.estimated_s), samples)
        starts[number] = places.take(job.run, true_s, job.waits_s)
    return starts


def _rest(rng: np.random.Generator, lengths: Lengths, estimate: float, elapsed: float, samples: int) -> Floats:
    """Return how long a run goes on that has run for `elapsed`: lengths that are over already did not happen."""
    alike = lengths.of(estimate)
    possible = alike[alike > elapsed]
    if len(possible) >= 8:
        return np.asarray(rng.choice(possible, samples) - elapsed)
    return np.asarray(elapsed * (np.exp(rng.exponential(0.5, samples)) - 1) + 1.0)  # the longer it runs, the longer it will


def _interval(now: datetime, starts: Floats, record: Record) -> Forecast:
    """Return the interval of one run from its sampled starts, (samples,)."""
    return _intervals(now, starts[np.newaxis], record)[0]


def _intervals(now: datetime, starts: Floats, record: Record) -> list[Forecast]:
    """Return the intervals of runs: quantiles of their samples (runs, samples), and once some were settled those of how
    past medians were wrong.

    What all samples of one moment have in common (a sweep whose runs last longer than any before) is in no spread of theirs,
    only in the record (split conformal prediction: Vovk et al., 2005).
    """
    horizon = 366 * 86400.0
    bounded = np.minimum(np.where(np.isfinite(starts), starts, horizon), horizon)
    tail = (1 - record.asked) / 2
    tails = [max(LEAST, tail), min(MOST, 1 - tail)]
    factors = np.exp(np.quantile([*UNSURE, *record.errors][-REMEMBERED:], tails)) if record.errors else None
    found = []
    quantiles = np.quantile(bounded, [tails[0], 0.5, tails[1]], axis=1).T.tolist()
    bounds: list[bool] = np.asarray(np.isfinite(starts).all(axis=1)).tolist()
    for (low, middle, high), is_bounded in zip(quantiles, bounds, strict=True):
        if factors is not None and high > 0:
            shortest, longest = ((middle + NOTICED_S) * factors - NOTICED_S).tolist()
            low, high = min(shortest, middle), max(longest, middle)
        first, at, last = (now + timedelta(seconds=min(max(0.0, one), horizon)) for one in (low, middle, high))
        found.append(Forecast(earliest=first, median=at, latest=last, confidence=record.asked, is_bounded=is_bounded))
    return found


def by_run(sample: Sampled, record: Record = FRESH) -> Mapping[RunId, Forecast]:
    """Return the intervals of all runs that wait, in one pass."""
    asked = [(number, job.run.id) for number, job in enumerate(sample.order) if not job.waits_s]
    told = _intervals(sample.now, sample.starts[[number for number, _ in asked]], record) if asked else []
    return dict(zip((run for _, run in asked), told, strict=True))
