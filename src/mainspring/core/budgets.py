"""What is left of budgets. A share's budget bounds what it and all below it spend in a calendar month (UTC)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from mainspring.core.shares import ROOT, with_ancestors

MICROS = 1_000_000


def left_of(budgets: Mapping[str, str], gone: Mapping[str, Decimal], total_usd: str = "") -> dict[str, Decimal]:
    """Return what is left of each budget, by share; the root's is also that of all (`total_usd`, empty: no bound).

    `gone` is what each share, with those below it, has spent and reserved; where it lacks the root, the top shares are added up.
    """
    left = {name: Decimal(budget) - gone.get(name, Decimal(0)) for name, budget in budgets.items() if budget}
    if total_usd:
        tops = sum((amount for name, amount in gone.items() if name and "/" not in name), Decimal(0))
        rest = Decimal(total_usd) - gone.get(ROOT, tops)
        left[ROOT] = min(left.get(ROOT, rest), rest)
    return left


def is_money(text: str) -> bool:
    """Say whether a text is an amount of money: a number of 0 or more."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return False
    return amount.is_finite() and amount >= 0


def up_the_tree(by_leaf: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return for each share what it and all below it have."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for leaf, amount in by_leaf.items():
        for name in with_ancestors([leaf]):
            found[name] += amount
    return dict(found)
