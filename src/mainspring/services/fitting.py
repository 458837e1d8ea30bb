"""What was found to fit a moment ago, so that a thousand submissions of one kind are judged by one look at the nodes.

Only that something fits is kept: what is refused is judged by the nodes as they are now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mainspring.core.resources import Resources
from mainspring.scheduler import request_key

FRESH_S = 2.0  # a node that went since then lets a run wait that would have been refused: it says why
MOST = 1000  # kinds of requests that are remembered

Choices = Sequence[Resources]
Gang = tuple[int, int, str]  # replicas, how many will do, what they share
Kind = tuple[tuple[object, ...], Gang]


@dataclass(slots=True)
class Fitting:
    """The kinds of requests that fitted lately. Thread safe; never blocks."""

    _until_s: dict[Kind, float] = field(default_factory=dict)

    def is_known(self, choices: Choices, gang: Gang, *, now_s: float) -> bool:
        """Say whether one of these was found to fit in the last `FRESH_S` seconds of the monotonic clock."""
        return self._until_s.get(_kind(choices, gang), -math.inf) > now_s

    def note(self, choices: Choices, gang: Gang, *, now_s: float) -> None:
        """Remember that this fits now."""
        if len(self._until_s) >= MOST:
            self._until_s = {}
        self._until_s[_kind(choices, gang)] = now_s + FRESH_S


def _kind(choices: Choices, gang: Gang) -> Kind:
    return tuple(request_key(asked) for asked in choices), gang
