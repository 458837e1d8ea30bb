"""What each share had lately, as the server keeps it: decayed use, when it was last given something, what it rented."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from math import log

from mainspring.core.shares import ROOT, Share, parent_of, path_of
from mainspring.core.snapshot import ShareState


@dataclass(slots=True)
class Past:
    """Amounts are GPU-seconds. Shares that nobody configured are remembered too, as soon as they have had something."""

    half_life_s: float
    configured: Iterable[ShareState] = ()
    _states: dict[str, ShareState] = field(default_factory=dict)
    _held: dict[str, float] = field(default_factory=dict)
    _used: dict[str, float] = field(default_factory=dict)
    _at_s: float = 0.0

    def __post_init__(self) -> None:
        self._states = {state.share.name: state for state in self.configured}

    def change(self, share: str, gpus: float, now_s: float) -> None:
        """Note that a share holds so much more, or less, from now on."""
        self._pass(now_s)
        for name in path_of(share):
            self._held[name] = self._held.get(name, 0.0) + gpus

    def serve(self, share: str, now: datetime) -> None:
        """Note that a share was given a start."""
        for name in path_of(share):
            if name != ROOT:
                state = self._states.get(name)
                self._states[name] = replace(state or ShareState(share=Share(name=name)), served_at=now)

    def owe(self, share: str, *, reserved: Decimal, spent: Decimal = Decimal(0)) -> None:
        """Note that rented machines of a share may cost so much more (or less), and that so much of it was spent."""
        for name in path_of(share):
            if name != ROOT:
                state = self._states.get(name) or ShareState(share=Share(name=name))
                owed, gone = Decimal(state.reserved_usd) + reserved, Decimal(state.spent_usd) + spent
                self._states[name] = replace(state, reserved_usd=str(owed), spent_usd=str(gone))

    def states(self, now_s: float) -> tuple[ShareState, ...]:
        """Return the shares as the planner sees them."""
        self._pass(now_s)
        sums: dict[str | None, float] = {}
        for name, used in self._used.items():
            above = parent_of(name)
            sums[above] = sums.get(above, 0.0) + used
        return tuple(
            replace(state, history=self._used[name] / sums[parent_of(name)])
            if self._used.get(name) and sums[parent_of(name)] > 0
            else state
            for name, state in self._states.items()
        )

    def _pass(self, now_s: float) -> None:
        passed = now_s - self._at_s
        if passed > 0:
            kept = 0.5 ** (passed / self.half_life_s)
            fresh = (1 - kept) * self.half_life_s / log(2)
            for name, held in self._held.items():
                self._used[name] = self._used.get(name, 0.0) * kept + held * fresh
            self._at_s = now_s
