"""Sweeps: what to try next, how many at once, which was best. Pure: rows and a seed in, a suggestion out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mainspring.core.records import RunState, SweepSpec, Trial
from mainspring.workflows.grids import grid_size

if TYPE_CHECKING:  # samplers bring Optuna with them: they are loaded by their entry point, when there is a sweep
    from mainspring.workflows.samplers import Sampler

Factory = Callable[[SweepSpec], "Sampler"]
WAITING_AT_MOST = 64  # in the queue, when the user names no `parallel`; what runs does not count


def ask(spec: SweepSpec, trials: Sequence[Trial], number: int, factory: Factory) -> dict[str, object]:
    """Return the parameters of trial `number` (the first is 1), the same for the same spec and history.

    `factory` makes the sampler that the spec names (entry point `mainspring.samplers`).
    """
    return factory(spec).suggest(trials, number)


def limit(spec: SweepSpec) -> int:
    """Return how many trials there will be at most: a grid ends when each of its points has been tried."""
    return min(spec.trials, grid_size(spec)) if spec.sampler == "grid" else spec.trials


def how_many_more(spec: SweepSpec, trials: Sequence[Trial]) -> int:
    """Return how many trials to ask for now.

    With `parallel` at most so many are untold at any time. Without it, TPE asks no more than a few ahead of the queue
    (a suggestion made before the results are in is a guess), the others WAITING_AT_MOST.
    """
    left = limit(spec) - len(trials)
    untold = [trial for trial in trials if trial.told_at is None]
    if spec.parallel > 0:
        room = spec.parallel - len(untold)
    elif spec.sampler == "tpe":
        ahead = max(4, math.isqrt(max(0, spec.trials - 1)) + 1)
        room = ahead - _waiting(untold)
    else:
        room = WAITING_AT_MOST - _waiting(untold)
    return max(0, min(left, room))


def _waiting(trials: Sequence[Trial]) -> int:
    return sum(trial.state is RunState.QUEUED for trial in trials)


def is_over(spec: SweepSpec, trials: Sequence[Trial]) -> bool:
    """Say whether every trial was asked and told."""
    return len(trials) >= limit(spec) and all(trial.told_at is not None for trial in trials)


def best(spec: SweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the best finite value, the earlier of equals; None while there is none."""
    told = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    sign = -1.0 if spec.is_maximized else 1.0
    return min(told, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)
