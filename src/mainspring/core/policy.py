"""The planner's settings. They travel in the snapshot, so that a plan can be rehearsed and replayed under any policy.

All times in seconds. `check_policy` refuses what makes no sense; the defaults suit a small team.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields
from enum import StrEnum

from mainspring.core.budgets import is_money
from mainspring.core.errors import SpecError


class BurstMode(StrEnum):
    """The gate of the cloud: every on-premises GPU that could serve the run is allocated; none can host it; never."""

    ALL_ALLOCATED = "all_allocated"
    NO_FIT = "no_fit"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPolicy:
    """Who comes first. `aging_s`: waiting that long halves the weight of a run's size in its share's own queue.

    `half_life_s` and `history` (0..1) say how fast, and how strongly, past use counts against what a share may borrow.
    `learns`: estimates of a kind that has shown to be more than ten times too low are replaced by what such runs took.
    `is_fair` False is strict priority and order of submission over all (rehearsals compare with it).
    """

    is_fair: bool = True
    is_shortest_first: bool = True  # inside a share, by estimated GPU-seconds; else by order of submission
    learns: bool = False  # a model of the order gained by it, plays of the whole planner did not (docs/benchmarks.md)
    aging_s: float = 86_400.0
    half_life_s: float = 604_800.0
    history: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPolicy:
    """Who may pass a blocked run. `reserved` blocked runs keep their time; `depth` runs behind them are tried.

    `patience_s`: a blocked run that has waited so long keeps places even where nobody knows when they come free.
    """

    reserved: int = 1
    depth: int = 1000
    patience_s: float = 21_600.0
    safety: float = 1.0  # a running run is believed to end after `safety` times its estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionPolicy:
    """Who may be stopped for another. Nobody before `min_run_s` (checkpointable runs: `min_checkpointed_run_s`)."""

    mode: str = "reclaim"  # "never", "reclaim" (between shares), "priority" (inside a share too)
    min_run_s: float = 600.0
    min_checkpointed_run_s: float = 120.0
    max_victims: int = 64  # runs stopped for one beneficiary
    max_tried: int = 16  # blocked runs for which a plan looks for victims


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstPolicy:
    """When work goes to a paid site, and when it comes home. All conditions must hold."""

    mode: BurstMode = BurstMode.ALL_ALLOCATED
    min_wait_s: float = 1800.0  # waited at least
    min_gain_s: float = 600.0  # expected wait here less the time until the site is ready
    max_estimate_s: float = 14_400.0
    max_gpus: int = 128  # rented at one time, over all sites
    safety: float = 2.0  # reserved spend is price x GPUs x estimate x safety
    idle_s: float = 300.0  # a machine idle for that long goes home
    min_life_s: float = 600.0  # and not before that age
    come_home: bool = True  # runs with a checkpoint go on at home once there is room
    home_data: str = ""  # data sets that go to no paid site: NAME or PROJECT/NAME, separated by commas
    budget_usd: str = ""  # of all shares together in a calendar month (UTC), empty for no bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All of them. `scorer` places (`mainspring policy show` lists the names); `max_starts` bounds one plan."""

    scorer: str = "fill"
    max_starts: int = 10_000
    order: OrderPolicy = field(default_factory=OrderPolicy)
    backfill: BackfillPolicy = field(default_factory=BackfillPolicy)
    preemption: PreemptionPolicy = field(default_factory=PreemptionPolicy)
    burst: BurstPolicy = field(default_factory=BurstPolicy)


def check_policy(policy: Policy) -> Policy:
    """Return `policy` if every number is finite and in range; raises SpecError with `details["path"]`."""
    for part in ("order", "backfill", "preemption", "burst"):
        section = getattr(policy, part)
        for one in fields(section):
            value = getattr(section, one.name)
            if isinstance(value, float | int) and not isinstance(value, bool) and (not math.isfinite(value) or value < 0):
                raise _wrong(f"{part}.{one.name}", f"is {value:g}, which is not 0 or more")
    if policy.order.history > 1:
        raise _wrong("order.history", f"is {policy.order.history:g}, which is not between 0 and 1")
    for path, value in (("order.aging_s", policy.order.aging_s), ("order.half_life_s", policy.order.half_life_s)):
        if value <= 0:
            raise _wrong(path, "is 0; a time above 0 is needed")
    if policy.preemption.mode not in ("never", "reclaim", "priority"):
        near = difflib.get_close_matches(policy.preemption.mode, ("never", "reclaim", "priority"), n=1)
        meant = f"; do you mean {near[0]!r}?" if near else ""
        raise _wrong("preemption.mode", f"is {policy.preemption.mode!r}; known are never, reclaim and priority{meant}")
    if policy.burst.budget_usd and not is_money(policy.burst.budget_usd):
        raise _wrong("burst.budget_usd", f'is {policy.burst.budget_usd[:20]!r}; say for example "500"')
    if policy.max_starts < 1:
        raise _wrong("max_starts", "is below 1: nothing would ever start")
    return policy


def _wrong(path: str, what: str) -> SpecError:
    return SpecError(f"Policy: {path} {what}.", hint="`mainspring policy show` prints the one in force.", details={"path": path})
