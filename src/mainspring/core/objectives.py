"""Business objectives: one key figure, the least it must reach, who answers for it. A gate is a comparison with a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mainspring.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a model is for. `kpi` names a figure of an evaluation; it must be `at_least` (or `at_most`).

    With `beats_by` a candidate must also beat the champion's figure by that much.
    """

    name: str
    kpi: str
    at_least: float | None = None
    at_most: float | None = None
    beats_by: float | None = None
    owner: str = ""
    ticket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a gate says of one candidate."""

    is_passed: bool
    value: float
    sentence: str


def judge(objective: Objective, figures: dict[str, float], champion: float | None = None) -> Judgement:
    """Compare one evaluation with the objective. Pure. Raises UsageError when the key figure is missing or not a number."""
    if objective.kpi not in figures:
        known = ", ".join(sorted(figures)) or "none"
        raise UsageError(
            f"The evaluation has no figure {objective.kpi!r}, which objective {objective.name!r} is about.",
            hint=f"Return it from the evaluating task; it returned: {known}.",
        )
    value = float(figures[objective.kpi])
    if not math.isfinite(value):
        raise UsageError(f"{objective.kpi} is {value}, which cannot be judged.", hint="Look at the evaluating task.")
    broken = []
    if objective.at_least is not None and value < objective.at_least:
        broken.append(f"must be at least {objective.at_least:,.6g}")
    if objective.at_most is not None and value > objective.at_most:
        broken.append(f"must be at most {objective.at_most:,.6g}")
    if objective.beats_by is not None and champion is not None and value < champion + objective.beats_by:
        broken.append(f"must beat the champion's {champion:,.6g} by {objective.beats_by:,.6g}")
    verdict = "refused" if broken else "passed"
    tail = f": {objective.kpi} is {value:,.6g} and " + " and ".join(broken) if broken else f": {objective.kpi} is {value:,.6g}"
    return Judgement(is_passed=not broken, value=value, sentence=f"Gate {objective.name!r} {verdict}{tail}.")
