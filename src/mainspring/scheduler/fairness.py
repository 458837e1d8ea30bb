"""How fairly a stretch of time was shared: Jain's index of what each share received over what it was entitled to.

Only time counts in which at least two shares ask for more than they have: where nobody waits, nothing has to be fair.
Source of the index: Jain, Chiu, Hawe, "A quantitative measure of fairness", 1984.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One run, in seconds of any common zero: asked for from `submitted_s`, held from `started_s` to `ended_s`."""

    share: str
    gpus: float
    submitted_s: float
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """`index` is between 1 / shares and 1, and 1 where nothing was contended. Amounts are GPU-seconds of the contended time."""

    index: float
    contended_s: float
    received: Mapping[str, float]
    entitled: Mapping[str, float]


def fairness(runs: Iterable[Served], *, gpus: float, weights: Mapping[str, float] | None = None) -> Fairness:
    """Return how fairly `gpus` were shared. Shares that are not in `weights` weigh 1. O(runs x shares)."""
    moves: list[tuple[float, str, float, float]] = []  # when, share, change of asked, change of held
    for run in runs:
        moves.append((run.submitted_s, run.share, run.gpus, 0.0))
        if run.started_s is not None:
            moves.append((run.started_s, run.share, 0.0, run.gpus))
        if run.ended_s is not None:
            moves.append((run.ended_s, run.share, -run.gpus, -run.gpus if run.started_s is not None else 0.0))
    moves.sort(key=lambda move: move[0])
    asked: dict[str, float] = {}
    held: dict[str, float] = {}
    received: dict[str, float] = {}
    entitled: dict[str, float] = {}
    contended = 0.0
    before = moves[0][0] if moves else 0.0
    for when, share, more_asked, more_held in moves:
        if when > before and sum(asked[one] > held[one] + 1e-9 for one in asked) >= 2:
            span = when - before
            contended += span
            for one, amount in water_fill(asked, gpus, weights or {}).items():
                if amount > 1e-9:
                    entitled[one] = entitled.get(one, 0.0) + amount * span
                    received[one] = received.get(one, 0.0) + held[one] * span
        before = when
        asked[share] = asked.get(share, 0.0) + more_asked
        held[share] = held.get(share, 0.0) + more_held
    return Fairness(
        index=jain([received[one] / entitled[one] for one in entitled]),
        contended_s=contended,
        received=received,
        entitled=entitled,
    )


def water_fill(asked: Mapping[str, float], total: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Split `total` by weight among those who ask, nobody getting more than asked for."""
    given = dict.fromkeys(asked, 0.0)
    open_ = [share for share, amount in asked.items() if amount > 1e-9]
    left = total
    while open_ and left > 1e-9:
        level = left / sum(weights.get(share, 1.0) for share in open_)
        full = [share for share in open_ if asked[share] - given[share] <= level * weights.get(share, 1.0) + 1e-12]
        for share in full or open_:
            part = asked[share] - given[share] if full else level * weights.get(share, 1.0)
            given[share] += part
            left -= part
        if not full:
            break
        open_ = [share for share in open_ if share not in full]
    return given


def jain(values: Sequence[float]) -> float:
    """Return Jain's index of `values`, 1 for none."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
