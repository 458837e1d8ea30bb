"""All that can be said about one waiting run: its reason, its place in the order, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mainspring.core.ids import RunId
from mainspring.core.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A run that comes before, and the rule by which it does: `share`, `priority`, `shorter` or `earlier`."""

    run: RunId
    share: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would let the run start: now when `at` is None, else then. `facts` are what would be asked for instead."""

    sentence: str
    at: datetime | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a run waits. `position` counts from 1 among the `waiting` runs, in the order in which the plan takes them."""

    run: RunId
    reason: Reason
    position: int
    waiting: int
    ahead: tuple[Ahead, ...] = ()  # the nearest first
    expected_at: datetime | None = None
    changes: tuple[Change, ...] = ()
