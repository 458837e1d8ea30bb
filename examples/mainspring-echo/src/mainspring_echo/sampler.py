"""A sampler that always suggests the middle of each range."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.core.records import SweepSpec, Trial


class Middle:
    """Suggests the middle of each range, or the middle choice."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec

    def suggest(self, history: Sequence[Trial], number: int) -> dict[str, object]:
        """Return the same suggestion each time."""
        del history, number
        return {
            one.name: one.choices[len(one.choices) // 2] if one.choices else (one.low + one.high) / 2 for one in self.spec.space
        }


def middle(spec: SweepSpec) -> Middle:
    """Build the sampler."""
    return Middle(spec)
