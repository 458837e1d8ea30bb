"""What was used in a month, by share, person or project: the bill."""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum

from mainspring.core.actors import Actor
from mainspring.core.errors import UsageError
from mainspring.core.records import Role
from mainspring.core.shares import path_of
from mainspring.core.usage import UsageRow, Used, begin_of, month_of, row_of
from mainspring.services.context import Context


class By(StrEnum):
    """What lines of the bill are grouped by. `share` counts what is below a share too."""

    SHARE = "share"
    USER = "user"
    PROJECT = "project"


def usage(ctx: Context, actor: Actor, *, by: By = By.SHARE, month: str = "") -> list[UsageRow]:
    """Return the lines of a month (default: this one), by name. Everybody sees the shares; of projects what one may see.

    Raises UsageError for a month that is none.
    """
    now = ctx.clock.now()
    try:
        begin_of(month or month_of(now))
    except ValueError as wrong:
        raise UsageError(f"{month[:20]!r} is no month.", hint="Write it as 2026-01.") from wrong
    sums: dict[str, Used] = defaultdict(Used)
    for (_, share, project, owner), used in ctx.store.usage.of_month(month or month_of(now), now).items():
        match by:
            case By.SHARE:
                for name in path_of(share):
                    sums[name] += used
            case By.USER:
                sums[owner] += used
            case By.PROJECT:
                if actor.may(project, Role.VIEWER):
                    sums[project] += used
    return [row_of(key, sums[key]) for key in sorted(sums)]
