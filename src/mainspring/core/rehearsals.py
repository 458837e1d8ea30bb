"""What another policy would have done with the load of the last days, beside what the one in force would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring.core.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Seconds that runs wait, or lose by being stopped: of one share, or of all."""

    runs: int
    mean_s: float
    p50_s: float
    p90_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """The load under one policy. `lost`: the part (0..1) of GPU time that was worked twice; `jain`: how fairly it was shared.

    `cost_usd` is what the machines cost that would have been rented.
    """

    policy: Policy
    all: Outlook
    by_share: Mapping[str, Outlook] = field(default_factory=dict)
    jain: float = 1.0
    evictions: int = 0
    lost: float = 0.0
    makespan_s: float = 0.0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Both of them, over the same runs. `left_out` runs were older than the newest that are replayed, or fit nowhere now."""

    now: Rehearsed
    then: Rehearsed
    runs: int
    left_out: int = 0
