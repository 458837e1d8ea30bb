"""Metrics, parameters and system use of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, UsageError
from mainspring.services import runs
from mainspring.services.context import Context

MAX_POINTS = 10_000


def summary(ctx: Context, actor: Actor, ref: str) -> dict[str, dict[str, object]]:
    """Return last, min, max, count and last step of each metric."""
    return ctx.store.metrics.summary(runs.get(ctx, actor, ref).id)


def series(
    ctx: Context,
    actor: Actor,
    ref: str,
    name: str,
    *,
    points: int = 1000,
    start: float | None = None,
    end: float | None = None,
) -> Sequence[tuple[int | float | None, float | str, float]]:
    """Return at most `points` (step, value, unix seconds); minimum and maximum of each bucket are kept."""
    if not 2 <= points <= MAX_POINTS:
        raise UsageError(f"points is {points}; it must be between 2 and {MAX_POINTS}.")
    run = runs.get(ctx, actor, ref)
    if name not in ctx.store.metrics.summary(run.id):
        raise NotFoundError(f"Run {run.name} has no metric {name[:60]!r}.", hint=f"mainspring show {run.id}")
    return ctx.store.metrics.series(run.id, name, points=points, start=start, end=end)


def curves(
    ctx: Context,
    actor: Actor,
    ref: str,
    names: Sequence[str],
    *,
    points: int = 1000,
    start: float | None = None,
    end: float | None = None,
) -> dict[str, Sequence[tuple[int | float | None, float | str, float]]]:
    """Return several metrics of one run as `series` gives them; a name that the run does not have is empty."""
    run = runs.get(ctx, actor, ref)
    return {name: ctx.store.metrics.series(run.id, name, points=points, start=start, end=end) for name in names}


def usage(ctx: Context, actor: Actor, ref: str, *, points: int = 300) -> Sequence[Mapping[str, object]]:
    """Return at most `points` samples of CPU, memory and GPU use."""
    return ctx.store.metrics.usage(runs.get(ctx, actor, ref).id, points=min(max(points, 2), MAX_POINTS))


def params(ctx: Context, actor: Actor, ref: str) -> dict[str, object]:
    """Return the parameters: those of the spec, then those the run logged."""
    run = runs.get(ctx, actor, ref)
    return {**run.spec.params, **ctx.store.metrics.params(run.id)}
