"""Shares in Python: who holds and is owed what, and what was used; administrators configure them with the same words."""

from __future__ import annotations

import warnings

from mainspring.client.connection import connect
from mainspring.core.errors import UsageError
from mainspring.core.shares import parse_amounts, parse_budget
from mainspring.core.standings import Standing
from mainspring.core.usage import UsageRow


def share(
    name: str = "",
    *,
    weight: float | None = None,
    guarantee: str | None = None,
    limit: str | None = None,
    budget: str | None = None,
    parent: str | None = None,
    held: bool | None = None,
) -> list[Standing]:
    """Return what a share and those below it hold and are owed (all of them without a name); configure it first where asked.

    `ms.share("team-a", guarantee="8gpu", weight=2)` is `mainspring share team-a --guarantee 8gpu --weight 2`. What a wise
    person would look at again is a warning. Raises UsageError, SpecError, AccessDeniedError.
    """
    client = connect()
    if any(one is not None for one in (weight, guarantee, limit, budget, parent, held)):
        if not name:
            raise UsageError("Which share?", hint='ms.share("team-a", weight=2)')
        made, notices = client.shares.change(
            name,
            weight=weight,
            guarantee=None if guarantee is None else parse_amounts(guarantee),
            limit=None if limit is None else parse_amounts(limit),
            budget_usd=None if budget is None else parse_budget(budget),
            is_held=held,
            parent=parent,
        )
        name = made.name
        for one in notices:
            warnings.warn(one, stacklevel=2)
    return client.shares.standings(name)


def usage(*, by: str = "share", month: str = "") -> list[UsageRow]:
    """Return what was used in a month (`2026-01`, default this one) by share, user or project, and what it cost."""
    return connect().shares.usage(by=by, month=month)
