"""Points of metrics as lines and back: parsed many at once, thinned so that no peak is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import msgspec

from mainspring.core.codec import decoder

Point = tuple[str, float | str, float | None, float]
Shown = tuple[int | float | None, float | str, float]  # step, value, unix seconds
MAX_NAME = 256
_POINT = decoder(cast("type[Point]", Point))
_ODD = {"nan": "nan", "inf": "inf", "+inf": "inf", "-inf": "-inf", "infinity": "inf", "-infinity": "-inf"}


def parsed(lines: bytes) -> tuple[list[Point], int]:
    """Return the points of `lines` and the number of malformed ones."""
    try:
        points = _POINT.decode_lines(lines)  # all at once: several million lines a second
    except (msgspec.MsgspecError, ValueError):
        points, skipped = _parsed_one_by_one(lines.splitlines())
    else:
        skipped = 0
    good = [_plain(point) for point in points if _is_good(point)]
    return good, skipped + len(points) - len(good)


def _parsed_one_by_one(lines: Iterable[bytes]) -> tuple[list[Point], int]:
    points, skipped = [], 0
    for line in lines:
        try:
            points.append(_POINT.decode(line))
        except (msgspec.MsgspecError, ValueError):
            skipped += bool(line.strip())
    return points, skipped


def _is_good(point: Point) -> bool:
    name, value, _, _ = point
    is_value = value.lower() in _ODD if isinstance(value, str) else True
    return is_value and 0 < len(name) <= MAX_NAME and "\x00" not in name


def _plain(point: Point) -> Point:
    name, value, step, at = point
    return (name, _ODD[value.lower()], step, at) if isinstance(value, str) else point


def as_step(step: float | None) -> int | float | None:
    """Return a step as people wrote it: whole when it is."""
    return int(step) if step is not None and step.is_integer() else step


def thinned(found: Sequence[Shown], points: int) -> list[Shown]:
    """Return about `points` of them; of each stretch the smallest and the largest value are kept."""
    if len(found) <= points:
        return list(found)
    stride = math.ceil(len(found) * 2 / points)  # two points a bucket
    kept: list[Shown] = []
    for begin in range(0, len(found), stride):
        kept.extend(found[position] for position in _extremes(found, begin, min(begin + stride, len(found))))
    return kept


def _extremes(found: Sequence[Shown], begin: int, end: int) -> Iterator[int]:
    finite = [position for position in range(begin, end) if isinstance(found[position][1], float)]
    if not finite:
        yield begin
        return
    low = min(finite, key=lambda position: found[position][1])
    high = max(finite, key=lambda position: found[position][1])
    yield from sorted({low, high})
