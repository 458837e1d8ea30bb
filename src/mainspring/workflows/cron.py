"""When is it due? Cron expressions of five fields, in the zone of the moment given."""

from __future__ import annotations

from datetime import datetime
from itertools import islice

from cronsim import CronSim, CronSimError

from mainspring.core.errors import SpecError

FIELDS = 5  # a sixth would be seconds, which people write by mistake


def next_times(expression: str, after: datetime, count: int = 1) -> list[datetime]:
    """Return the next `count` moments strictly after `after`, oldest first, in the zone of `after`.

    Raises SpecError for an expression that is not cron's or names a day that never comes, or a moment without a zone.
    """
    if after.tzinfo is None:
        raise SpecError("The moment has no time zone.", hint="Use UTC.", details={"path": "after"})
    try:
        moments = CronSim(expression, after)
    except CronSimError as wrong:
        raise _wrong(expression, str(wrong)) from wrong
    if len(expression.split()) != FIELDS:
        raise _wrong(expression, "it does not have five fields")
    return list(islice(moments, count))


def _wrong(expression: str, why: str) -> SpecError:
    return SpecError(
        f"{expression[:80]!r} is not a schedule: {why}.",
        hint='Write five fields: minute hour day month weekday, "0 6 * * 1-5" for workdays at six.',
        details={"path": "cron"},
    )
