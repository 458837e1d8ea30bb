"""Where each share stands, by the same tree that the plan uses, so that pages and commands show what the planner sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mainspring.core.shares import Amounts
from mainspring.core.snapshot import Snapshot
from mainspring.core.standings import Standing
from mainspring.scheduler.cycle import Cycle
from mainspring.scheduler.reading import read
from mainspring.scheduler.shares import UNBOUNDED, Account


def standings(snapshot: Snapshot) -> tuple[Standing, ...]:
    """Return every share that holds or asks for something or was configured, the root first, each before those below it."""
    tree = Cycle.begin(snapshot, read(snapshot)).tree
    names = tree.units.names

    def amounts(values: Sequence[float]) -> Amounts:
        return {name: round(value) for name, value in zip(names, values, strict=True) if 0 < value < UNBOUNDED}

    def below(account: Account) -> Iterator[Standing]:
        yield Standing(
            name=account.name,
            depth=account.depth,
            weight=account.weight,
            held=amounts(account.used),
            guarantee=amounts(account.guarantee),
            fair=amounts(account.fair),
            asked=amounts(account.asked),
            limit={name: value for name, value in zip(names, account.limit, strict=True) if value < UNBOUNDED},
            total=amounts(tree.units.capacity),
            is_held=account.is_held,
        )
        for child in sorted(account.children, key=lambda one: one.name):
            yield from below(child)

    return tuple(below(tree.account("")))
