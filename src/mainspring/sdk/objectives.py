"""`ms.Objective("flight-delays", kpi="value_usd", at_least=0)`: core's record with the name first."""

from __future__ import annotations

from mainspring.core import objectives
from mainspring.core.errors import UsageError
from mainspring.core.ids import check_name


class Objective(objectives.Objective):
    """What a model is for: one key figure, the least (or the most) it must reach, who answers for it."""

    __slots__ = ()

    def __init__(
        self,
        name: str,
        *,
        kpi: str,
        at_least: float | None = None,
        at_most: float | None = None,
        beats_by: float | None = None,
        owner: str = "",
        ticket: str = "",
    ) -> None:
        check_name(name, "objective")
        if at_least is None and at_most is None and beats_by is None:
            raise UsageError(f"Objective {name!r} asks for nothing.", hint="Give at_least, at_most or beats_by.")
        super().__init__(name=name, kpi=kpi, at_least=at_least, at_most=at_most, beats_by=beats_by, owner=owner, ticket=ticket)
