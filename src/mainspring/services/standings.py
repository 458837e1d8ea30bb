"""Who holds what, who is promised what, who is owed what: the tree of shares as the planner sees it, now and before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.records import Allocation
from mainspring.core.standings import History, Standing
from mainspring.services.context import Context

STRETCHES = 144


def standings(ctx: Context, actor: Actor, *, age_s: float = 0.0) -> tuple[Standing, ...]:
    """Return every share that holds or asks for something or was configured. Everybody sees it: it is what fairness is about.

    With a long queue it may be `age_s` seconds old.
    """
    del actor
    return ctx.recent.get(
        "standings", lambda: scheduler.standings(ctx.store.snapshot(ctx.clock.now())), clock=ctx.clock, age_s=age_s
    )


def history(ctx: Context, actor: Actor, *, hours: float = 24.0, stretches: int = STRETCHES) -> History:
    """Return what each leaf of the tree held over the last `hours`: GPUs where any was held, else CPUs."""
    del actor
    now = ctx.clock.now()
    begin = now - timedelta(hours=hours)
    found = ctx.store.nodes.allocations_since(begin)
    unit = "gpu" if any(one.granted.devices for one in found) else "cpu"
    return averaged(found, begin, now, stretches, unit)


def averaged(found: Sequence[Allocation], begin: datetime, end: datetime, stretches: int, unit: str) -> History:
    """Return the average amount that each leaf held in each of `stretches` equal parts of the time."""
    size = (end - begin).total_seconds() / stretches
    held: dict[str, list[float]] = {}
    for one in found:
        amount = sum(share.milli for share in one.granted.devices) if unit == "gpu" else one.granted.cpu_milli
        first = max(0.0, (one.opened_at - begin).total_seconds())
        last = min(size * stretches, ((one.freed_at or end) - begin).total_seconds())
        if not amount or last <= first:
            continue
        row = held.setdefault(one.share or one.owner, [0.0] * stretches)
        for number in range(int(first / size), min(stretches, int(last / size) + 1)):
            part = min(last, (number + 1) * size) - max(first, number * size)
            row[number] += amount * max(part, 0.0) / size
    most = sorted(held, key=lambda leaf: -sum(held[leaf]))
    return History(begin=begin, stretch_s=size, unit=unit, held={leaf: tuple(held[leaf]) for leaf in most})
