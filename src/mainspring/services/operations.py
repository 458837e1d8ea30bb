"""Operations: what people ask of engines. The door never calls one: it writes a row, a controller acts and records the answer."""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError
from mainspring.core.operations import Operation, OperationKind
from mainspring.services.context import Context


def ask(ctx: Context, actor: Actor, kind: OperationKind, subject: str, asked: Mapping[str, object]) -> Operation:
    """Write what is asked; whoever calls has checked that the actor may."""
    now = ctx.clock.now()
    operation = Operation(id=ctx.ids.new("op"), kind=kind, subject=subject, actor=actor.name, asked=dict(asked), created_at=now)
    return ctx.store.operations.ask(operation, now=now)


def get(ctx: Context, actor: Actor, id: str) -> Operation:
    """Return what became of it, to whoever asked and to administrators. Raises NotFoundError."""
    found = ctx.store.operations.get(id)
    if found is None or not (actor.is_admin or found.actor == actor.name):
        raise NotFoundError(f"There is no operation {id[:80]!r}.", hint="Ask again; answers are kept for a week.")
    return found
