"""Shares: the tree of those who own resources (organisation, team, person), and amounts as people write them.

A share's name is its path (`team-a/alice`); the root is the empty name. A project belongs to a share and a person is a
leaf below it, so nobody has to be declared: a leaf that nobody configured has weight 1, no guarantee and no limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from mainspring.core.errors import SpecError, UsageError
from mainspring.core.units import MILLI, parse_bytes, show_bytes, show_milli

ROOT = ""
Amounts: TypeAlias = Mapping[str, int]
"""So much of each resource: `cpu` (milli), `memory` (bytes), `gpu` (milli, any model), `gpu:a100` (milli of one model)."""

_AMOUNT = re.compile(r"^(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[A-Za-z]*)(?::(?P<model>[A-Za-z0-9._-]+))?\Z")
_BUDGET = re.compile(r"^(?P<usd>\d+(?:\.\d+)?)\s*(?:usd)?(?:\s*/\s*month)?\Z", re.IGNORECASE)
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._@-]{0,63}){0,7}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One node of the tree as configured. What is not in `guarantee` is not guaranteed, not in `limit` is not limited.

    `weight` splits, among siblings that ask, what nobody has guaranteed. `budget_usd` bounds cloud spend of a calendar
    month (UTC), empty for no bound of its own. `is_held`: its waiting runs are not started until it is released.
    """

    name: str
    weight: float = 1.0
    guarantee: Amounts = field(default_factory=dict)
    limit: Amounts = field(default_factory=dict)
    budget_usd: str = ""
    is_held: bool = False
    version: int = 1


def parent_of(name: str) -> str | None:
    """Return the name of the share above, None for the root."""
    if name == ROOT:
        return None
    return name.rpartition("/")[0]


def path_of(name: str) -> tuple[str, ...]:
    """Return the names from the root down to `name`, both included."""
    parts = name.split("/") if name else []
    return (ROOT, *("/".join(parts[: depth + 1]) for depth in range(len(parts))))


def leaf_of(share: str, owner: str) -> str:
    """Return the leaf that a person's runs count to: the person below the project's share."""
    return f"{share}/{owner}" if share else owner


def parse_amounts(text: str) -> dict[str, int]:
    """Return the amounts of `8gpu, 64cpu, 256GiB, 4gpu:A100`. Raises SpecError that names the wrong part."""
    found: dict[str, int] = {}
    for part in (one.strip() for one in text.replace(" and ", ",").split(",")):
        if not part:
            continue
        match = _AMOUNT.match(part)
        if match is None:
            raise _wrong(part)
        unit, model = match["unit"].casefold(), match["model"]
        if unit in ("gpu", "gpus"):
            key, amount = ("gpu:" + model.casefold() if model else "gpu"), round(float(match["number"]) * MILLI)
        elif unit in ("cpu", "cpus") and not model:
            key, amount = "cpu", round(float(match["number"]) * MILLI)
        elif unit and not model:
            try:
                key, amount = "memory", parse_bytes(part)
            except UsageError as wrong:
                raise _wrong(part) from wrong
        else:
            raise _wrong(part)
        if key in found:
            raise SpecError(f"{part!r} says {key} a second time.", hint="Name each resource once.")
        found[key] = amount
    return found


def parse_budget(text: str) -> str:
    """Return the amount of `500usd/month`; empty for empty. Raises UsageError."""
    if not text.strip():
        return ""
    found = _BUDGET.match(text.strip())
    if found is None:
        raise UsageError(f"{text[:40]!r} is no budget.", hint="Say for example 500usd/month.")
    return found["usd"]


def show_amounts(amounts: Amounts) -> str:
    """Return amounts as `parse_amounts` reads them, in one order."""
    return ", ".join(_show(name, amounts[name]) for name in sorted(amounts, key=_rank))


def check_share(share: Share) -> Share:
    """Return `share` if it is meaningful; raises SpecError with `details["path"]`."""
    if not _NAME.match(share.name):
        raise _bad("name", f"{share.name!r} is no name of a share.", "Use letters, digits and -._@, with / between levels.")
    if not math.isfinite(share.weight) or not 0 < share.weight <= 1_000_000:
        raise _bad(
            "weight", f"The weight of {share.name} is {share.weight:g}.", "A weight is above 0; use --hold to start nothing."
        )
    for field_name, amounts in (("guarantee", share.guarantee), ("limit", share.limit)):
        for name, amount in amounts.items():
            if name not in ("cpu", "memory", "gpu") and not re.fullmatch(r"gpu:[a-z0-9._-]+", name):
                raise _bad(field_name, f"{name!r} is no resource that can be shared.", "Known: cpu, memory, gpu, gpu:MODEL.")
            if not 0 <= amount <= 2**62:
                raise _bad(field_name, f"{field_name} of {name} is {amount}.", "Amounts are 0 or more.")
            if field_name == "limit" and amount < share.guarantee.get(name, 0):
                raise _bad("limit", f"{share.name} may hold less {name} than it has guaranteed.", "Raise the limit.")
    if share.budget_usd:
        try:
            budget = Decimal(share.budget_usd)
        except InvalidOperation:
            budget = Decimal("NaN")
        if not budget.is_finite() or budget < 0:
            raise _bad("budget_usd", f"{share.budget_usd!r} is no budget.", "Say for example 500usd/month.")
    return share


def with_ancestors(names: Iterable[str]) -> set[str]:
    """Return `names` and all shares above them, the root too."""
    return {step for name in names for step in path_of(name)} | {ROOT}


def _show(name: str, amount: int) -> str:
    if name == "memory":
        return show_bytes(amount)
    unit, _, model = name.partition(":")
    return f"{show_milli(amount)}{unit}{':' + model if model else ''}"


def _rank(name: str) -> tuple[int, str]:
    return (0 if name.startswith("gpu") else 1 if name == "cpu" else 2, name)


def _wrong(part: str) -> SpecError:
    return SpecError(f"{part!r} is no amount.", hint="Say for example 8gpu, 4gpu:A100, 64cpu or 256GiB.")


def _bad(path: str, message: str, hint: str) -> SpecError:
    return SpecError(message, hint=hint, details={"path": path})
