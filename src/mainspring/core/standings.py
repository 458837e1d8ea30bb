"""Where each share stands: what it holds, what it is promised, what would be fair, what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mainspring.core.shares import Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One share at one moment. `guarantee` is what it can count on (scaled where more was promised than there is).

    `fair` is its part of the whole as things are now, never more than it could use; who holds less than that is owed the
    rest. `asked` is what its waiting runs ask for. `limit` names only what is limited. `weight` is after past use.
    `total` is what there is on nodes that take runs.
    """

    name: str
    depth: int
    weight: float = 1.0
    held: Amounts = field(default_factory=dict)
    guarantee: Amounts = field(default_factory=dict)
    fair: Amounts = field(default_factory=dict)
    asked: Amounts = field(default_factory=dict)
    limit: Amounts = field(default_factory=dict)
    total: Amounts = field(default_factory=dict)
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What each leaf held, on average, in equal stretches of time from `begin` on. Amounts are of `unit` (gpu or cpu, milli)."""

    begin: datetime
    stretch_s: float
    unit: str
    held: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
