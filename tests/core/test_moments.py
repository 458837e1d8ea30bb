"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mainspring.core.errors import UsageError
from mainspring.core.moments import parse_deadline, parse_moment

NOW = datetime.fromisoformat("2026-03-10T15:30:20").astimezone()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("14:05", "2026-03-10T14:05"),
        (" 9:00 ", "2026-03-10T09:00"),
        ("today", "2026-03-10T00:00"),
        ("yesterday", "2026-03-09T00:00"),
        ("Tomorrow 9:00", "2026-03-11T09:00"),
        ("tomorrow at 18:30", "2026-03-11T18:30"),
        ("2h ago", NOW - timedelta(hours=2)),
        ("90 min ago", NOW - timedelta(minutes=90)),
        ("in 30m", NOW + timedelta(minutes=30)),
        ("2026-03-01", "2026-03-01T00:00"),
        ("2026-03-01T09:00", "2026-03-01T09:00"),
        ("2026-03-01 09:00", "2026-03-01T09:00"),
        ("2026-03-01T09:00Z", datetime(2026, 3, 1, 9, tzinfo=UTC)),
        ("2026-03-01T09:00+02:00", datetime(2026, 3, 1, 7, tzinfo=UTC)),
    ],
)
def test_moments_are_read_in_local_time_unless_they_say_another(text, meant):
    found = parse_moment(text, NOW.astimezone(UTC))
    assert found == (datetime.fromisoformat(meant).astimezone() if isinstance(meant, str) else meant)
    assert found.tzinfo is not None


@pytest.mark.parametrize("text", ["", "soon", "25:00", "9:75", "yesterday9:00", "in", "ago", "in ever", "3 ago", "2026-13-01"])
def test_nonsense_is_told_with_what_would_be_right(text):
    with pytest.raises(UsageError, match="--begin") as wrong:
        parse_moment(text, NOW, "--begin")
    assert wrong.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [("30m", NOW + timedelta(minutes=30)), ("now", NOW), ("18:00", "2026-03-10T18:00"), ("tomorrow 9:00", "2026-03-11T09:00")],
)
def test_deadlines_are_moments_to_come_or_spans_from_now(text, meant):
    assert parse_deadline(text, NOW) == (datetime.fromisoformat(meant).astimezone() if isinstance(meant, str) else meant)


@pytest.mark.parametrize("text", ["9:00", "yesterday", "2h ago", "2020-01-01"])
def test_a_deadline_that_has_passed_is_refused_with_what_it_means(text):
    with pytest.raises(UsageError, match=r"by .* has passed: it means 20"):
        parse_deadline(text, NOW, "by")


@pytest.mark.parametrize("text", ["", "soon", "30", "-5m"])
def test_what_is_no_deadline_is_refused(text):
    with pytest.raises(UsageError, match="by"):
        parse_deadline(text, NOW, "by")
