"""Sizes, durations and fractions as people write them: `4GiB`, `90m`, `0.5`.

A number without a unit is refused where a unit is meant: `memory=4` has meant 4 bytes, 4 MB and 4 GiB to different people.
"""

from __future__ import annotations

import math
import re

from mainspring.core.errors import UsageError

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGTP]i?B|B)\s*\Z")
_SPAN = re.compile(r"^\s*(?:([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d|w)|0)\s*\Z")
_FACTOR = {
    "B": 1,
    **{p + "B": 1000**n for n, p in enumerate("kMGTP", 1)},
    "KB": 1000,
    **{p + "iB": 1024**n for n, p in enumerate("kMGTP", 1)},
    "KiB": 1024,
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
MAX_BYTES = 2**60
MAX_SECONDS = 10 * 366 * 86400.0
MILLI = 1000


def parse_bytes(text: str, field: str = "size") -> int:
    """Return the bytes of `text` such as `4GiB`, `500MB`, `0.5TiB`; 0 <= result <= 2**60.

    Raises UsageError for a missing unit, a negative, a NaN or an absurd size.
    """
    found = _SIZE.match(text) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f"{field} {text!r} is not a size.", hint=f"Write a number and a unit: {field}=4GiB or 500MB.")
    value = float(found[1]) * _FACTOR[found[2]]
    if value > MAX_BYTES:
        raise UsageError(f"{field} {text!r} is more than any machine has.", hint="Check the unit; GiB is usual.")
    return int(value)


def parse_seconds(text: str, field: str = "duration") -> float:
    """Return the seconds of `text` such as `90s`, `15m`, `2h`, `1d`; 0 <= result <= ten years. Raises UsageError.

    0 needs no unit.
    """
    found = _SPAN.match(text) if isinstance(text, str) else None
    if found is None:
        raise UsageError(
            f"{field} {text!r} is not a duration.", hint=f"Write a number and a unit (s, m, h, d or w): {field}=90s or 2h."
        )
    value = float(found[1]) * _SECONDS[found[2]] if found[1] else 0.0
    if value > MAX_SECONDS:
        raise UsageError(f"{field} {text!r} is longer than ten years.", hint="Leave it out for no limit.")
    return value


def to_milli(value: float, field: str) -> int:
    """Return thousandths of `value`, rounded up to 1; 0 <= value <= 1,000,000. Raises UsageError for NaN and negatives."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{field} {value!r} is not an amount.", hint=f"Write a number of zero or more: {field}=2.")
    if value > 1_000_000:
        raise UsageError(f"{field} {value!r} is more than any fleet has.", hint="Check the number.")
    return math.ceil(round(value * MILLI, 6))


def show_bytes(count: int) -> str:
    """Return `count` as people read it: `3.4 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def show_seconds(seconds: float) -> str:
    """Return `seconds` as people read it: `340 ms`, `12 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `3 runs`, `1,200 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_or_are(milli: int) -> str:
    """Return the verb of an amount in thousandths: `0.5 is`, `1 is`, `3 are`, `0 are`."""
    return "is" if 0 < milli <= MILLI else "are"


def show_milli(milli: int) -> str:
    """Return thousandths as people read them: `2`, `0.5`."""
    return f"{milli / MILLI:g}"
