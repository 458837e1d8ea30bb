"""Moments as people write them: `2026-03-01T09:00`, `14:05`, `yesterday`, `tomorrow 9:00`, `2h ago`, `in 30m`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from mainspring.core.errors import UsageError
from mainspring.core.units import parse_seconds

_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_CLOCK = re.compile(r"(?:(?P<day>yesterday|today|tomorrow)(?:\s+(?:at\s+)?|\Z))?(?:(?P<hour>\d{1,2}):(?P<minute>\d{2}))?\Z")
_AGO = re.compile(r"(?P<span>.+?)\s+ago\Z")
_IN = re.compile(r"in\s+(?P<span>.+)\Z")


def parse_deadline(text: str, now: datetime, field: str = "time") -> datetime:
    """Return the moment to come that `text` means: as `parse_moment`, or a span from now (`30m`).

    Raises UsageError that names `field`, also for a moment that has passed.
    """
    try:
        found = now.astimezone() + timedelta(seconds=parse_seconds(text.strip(), field))
    except UsageError:
        found = parse_moment(text, now, field)
    if found < now - timedelta(seconds=1):
        raise UsageError(
            f"{field} {text[:60]!r} has passed: it means {found:%Y-%m-%d %H:%M}.",
            hint="Write a moment to come: 30m, now, 18:00, tomorrow 9:00 or 2026-03-01T09:00.",
        )
    return found


def parse_moment(text: str, now: datetime, field: str = "time") -> datetime:
    """Return the moment that `text` means at `now`, with a time zone: the local one where none is said.

    A day alone is its midnight; a time alone is today's. Raises UsageError that names `field`.
    """
    said = text.strip()
    try:
        found = datetime.fromisoformat(said)
        return found.astimezone() if found.tzinfo is None else found
    except (ValueError, OverflowError):
        pass
    words = said.casefold()
    if words == "now":
        return now.astimezone()
    if (span := _AGO.match(words)) is not None:
        return now.astimezone() - timedelta(seconds=parse_seconds(span["span"], field))
    if (span := _IN.match(words)) is not None:
        return now.astimezone() + timedelta(seconds=parse_seconds(span["span"], field))
    clock = _CLOCK.match(words)
    if words and clock is not None and int(clock["hour"] or 0) < 24 and int(clock["minute"] or 0) < 60:
        day = now.astimezone().replace(tzinfo=None) + timedelta(days=_DAYS[clock["day"] or "today"])
        return day.replace(hour=int(clock["hour"] or 0), minute=int(clock["minute"] or 0), second=0, microsecond=0).astimezone()
    raise UsageError(
        f"{field} {text[:60]!r} is no moment.",
        hint="Write for example 2026-03-01T09:00, 14:05, yesterday, tomorrow 9:00, 2h ago or in 30m.",
    )
