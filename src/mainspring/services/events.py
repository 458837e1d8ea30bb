"""Events: the feed of the page and the audit trail."""

from __future__ import annotations

from mainspring.core.actors import Actor
from mainspring.core.records import Event, Role
from mainspring.services.context import Context


def since(ctx: Context, actor: Actor, seq: int, *, limit: int = 500, project: str = "") -> list[Event]:
    """Return up to `limit` events after `seq` that the actor may see, in order."""
    seen: list[Event] = []
    while len(seen) < limit:
        batch = ctx.store.events.since(seq, limit=limit, project=project)
        if not batch:
            break
        seen += [one for one in batch if actor.is_admin or (one.project and actor.may(one.project, Role.VIEWER))]
        seq = batch[-1].seq
    return seen[:limit]
