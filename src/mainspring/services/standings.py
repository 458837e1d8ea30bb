"""Who holds what, who is promised what, who is owed what: the tree of shares as the planner sees it now."""

from __future__ import annotations

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.standings import Standing
from mainspring.services.context import Context


def standings(ctx: Context, actor: Actor) -> tuple[Standing, ...]:
    """Return every share that holds or asks for something or was configured. Everybody sees it: it is what fairness is about."""
    del actor
    return scheduler.standings(ctx.store.snapshot(ctx.clock.now()))
