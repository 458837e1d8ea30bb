"""Cron: the next moments, and errors that say how to write it."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from mainspring.core.errors import SpecError
from mainspring.workflows.cron import next_times

FRIDAY = datetime(2026, 1, 2, 6, 0, tzinfo=UTC)


def test_the_next_moments_come_strictly_after() -> None:
    found = next_times("0 6 * * 1-5", FRIDAY, 2)
    assert found == [datetime(2026, 1, 5, 6, tzinfo=UTC), datetime(2026, 1, 6, 6, tzinfo=UTC)]
    assert next_times("*/15 * * * *", FRIDAY) == [datetime(2026, 1, 2, 6, 15, tzinfo=UTC)]


def test_the_zone_is_that_of_the_moment() -> None:
    zone = ZoneInfo("Europe/Berlin")
    found = next_times("30 12 * * *", datetime(2026, 3, 28, 13, tzinfo=zone), 2)
    assert [one.astimezone(UTC).hour for one in found] == [10, 10]  # summer time begins on the 29th
    assert all(one.hour == 12 for one in found)


def test_a_leap_day_is_waited_for() -> None:
    assert next_times("0 0 29 2 *", FRIDAY) == [datetime(2028, 2, 29, tzinfo=UTC)]


@pytest.mark.parametrize("expression", ["", "61 * * * *", "* * *", "whenever", "* * * * * *", "0 0 30 2 *"])
def test_other_texts_are_refused(expression: str) -> None:
    with pytest.raises(SpecError, match="is not a schedule"):
        next_times(expression, FRIDAY)


def test_a_moment_needs_a_zone() -> None:
    with pytest.raises(SpecError):
        next_times("* * * * *", FRIDAY.replace(tzinfo=None))
