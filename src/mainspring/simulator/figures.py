"""What a simulated history comes to: waits, completion times, fairness, what was lost and what was paid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mainspring.scheduler.fairness import Served, fairness
from mainspring.simulator.jobs import Done
from mainspring.simulator.simulate import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds that jobs did not spend on their own work, and until they were complete."""

    jobs: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    completion_s: float  # mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`lost` and `cloud` are parts (0..1) of all GPU time that the jobs needed."""

    waits: Waits
    by_share: Mapping[str, Waits]
    jain: float
    evictions: int
    lost: float
    cloud: float
    cost_usd: float
    makespan_s: float


def waits(done: Sequence[Done]) -> Waits:
    """Return the waits of `done`; raises ValueError for none."""
    if not done:
        raise ValueError("There are no waits of no jobs.")
    ordered = sorted(one.wait_s for one in done)
    return Waits(
        jobs=len(done),
        mean_s=fmean(ordered),
        p50_s=_rank(ordered, 0.5),
        p90_s=_rank(ordered, 0.9),
        p99_s=_rank(ordered, 0.99),
        completion_s=fmean(one.ended_s - one.job.submit_s for one in done),
    )


def figures(history: History, *, gpus: float, weights: Mapping[str, float] | None = None) -> Figures:
    """Return the figures of a whole history on so many GPUs (without rented ones)."""
    done = history.done
    needed = sum(one.job.duration_s * one.job.gpus for one in done) or 1.0
    return Figures(
        waits=waits(done),
        by_share=waits_by_share(done),
        jain=fairness(served(done), gpus=gpus, weights=weights).index,
        evictions=sum(one.evictions for one in done),
        lost=sum(one.lost_s * one.job.gpus for one in done) / needed,
        cloud=history.rented_gpu_s / needed,
        cost_usd=history.rented_usd,
        makespan_s=max(one.ended_s for one in done) - min(one.job.submit_s for one in done),
    )


def waits_by_share(done: Iterable[Done]) -> dict[str, Waits]:
    """Return the waits of each share."""
    found: dict[str, list[Done]] = {}
    for one in done:
        found.setdefault(one.job.share, []).append(one)
    return {share: waits(found[share]) for share in sorted(found)}


def worse_than_alone(pooled: Mapping[str, Waits], alone: Mapping[str, Waits]) -> list[str]:
    """Return the shares that wait longer, on average, in the pool than on their own part of it."""
    return [share for share in sorted(alone) if share in pooled and pooled[share].mean_s > alone[share].mean_s]


def served(done: Iterable[Done]) -> Iterable[Served]:
    """Give what `fairness` reads: each stretch of holding, asked for since the former one ended."""
    for one in done:
        since = one.job.submit_s
        for began, ended in one.spans:
            yield Served(share=one.job.share, gpus=one.job.gpus, submitted_s=since, started_s=began, ended_s=ended)
            since = ended


def _rank(ordered: Sequence[float], part: float) -> float:
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
