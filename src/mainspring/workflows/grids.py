"""The points of a grid: all choices, and of each range as many numbers as the trials leave for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mainspring.core.records import Dimension, SweepSpec


def grid_size(spec: SweepSpec) -> int:
    """Return how many points the grid of `spec` has."""
    return math.prod(len(axis) for axis in axes_of(spec))


def axes_of(spec: SweepSpec) -> list[Sequence[object]]:
    """Return the points of each dimension: all choices, and as many numbers as `trials` leaves for the ranges."""
    listed = math.prod(len(one.choices) for one in spec.space if one.kind == "choice")
    ranges = sum(one.kind != "choice" for one in spec.space)
    levels = max(2, math.floor((spec.trials / listed) ** (1 / ranges) + 1e-9)) if ranges else 0
    return [one.choices if one.kind == "choice" else _levels(one, levels) for one in spec.space]


def _levels(one: Dimension, count: int) -> Sequence[object]:
    if one.low == one.high:
        return [int(one.low) if one.kind == "int" else one.low]
    if one.kind == "int":
        low, high = int(one.low), int(one.high)
        if high - low < count:
            return range(low, high + 1)
        return sorted({low + round((high - low) * place / (count - 1)) for place in range(count)})
    if one.kind == "log":
        inner = np.geomspace(one.low, one.high, count)
    else:
        inner = np.linspace(one.low, one.high, count)
    return [min(max(float(value), one.low), one.high) for value in inner]
