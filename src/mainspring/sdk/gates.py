"""`ms.gate`: an objective judges figures; a refusal is a sentence, and stops what comes after."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mainspring.client.connection import connect
from mainspring.core.errors import ConflictError, UsageError
from mainspring.core.objectives import Objective, judge
from mainspring.core.records import GateResult
from mainspring.sdk.models import Model
from mainspring.sdk.recording import StepResult, active
from mainspring.sdk.runs import Run
from mainspring.sdk.tracking import in_run


def gate(
    figures: Mapping[str, float] | float | Run[Any],
    *,
    objective: Objective | None = None,
    model: Model | None = None,
    raises: bool = True,
    project: str = "default",
) -> GateResult:
    """Judge an evaluation (figures by name, the key figure alone, or a run that returns them); the verdict is kept.

    Raises ConflictError with the sentence when it is refused, unless `raises` is False. Inside a pipeline function it
    records a step; inside a run it judges and keeps nothing, since a run has no server.
    """
    recorder = active.get()
    if recorder is not None:
        if not isinstance(figures, StepResult):
            raise UsageError("Inside a pipeline ms.gate takes the result of a step.", hint="ms.gate(evaluate(model), ...)")
        made: Any = recorder.add_gate(figures, objective, model if isinstance(model, StepResult) else None)
        recorded: GateResult = made
        return recorded
    if objective is None:
        raise UsageError("The gate has no objective.", hint="ms.gate(figures, objective=ms.Objective(...))")
    run = ""
    found: Any = figures
    if isinstance(figures, Run):
        run, found = figures.id, figures.result()
    numbers = _numbers(found, objective)
    verdict = _judged(objective, numbers, model, run or (model.run if model is not None else ""), project)
    if raises and not verdict.is_passed:
        raise ConflictError(
            verdict.sentence,
            hint="Improve the candidate, or the objective.",
            details={"objective": objective.name, "value": verdict.value},
        )
    return verdict


def _judged(objective: Objective, numbers: dict[str, float], model: Model | None, run: str, project: str) -> GateResult:
    if in_run():
        verdict = judge(objective, numbers)
        return GateResult(
            id="",
            project=project,
            objective=objective.name,
            kpi=objective.kpi,
            value=verdict.value,
            is_passed=verdict.is_passed,
            sentence=verdict.sentence,
            created_at=datetime.now(UTC),
        )
    return connect().models.judge(
        objective,
        numbers,
        run=run,
        model=model.name if model is not None and model.version else "",
        model_version=model.version if model is not None else 0,
        project=project,
    )


def _numbers(figures: Any, objective: Objective) -> dict[str, float]:
    if isinstance(figures, int | float) and not isinstance(figures, bool):
        return {objective.kpi: float(figures)}
    if not isinstance(figures, Mapping):
        raise UsageError(f"A gate judges figures by name, not a {type(figures).__name__}.", hint="{'value_usd': 120.0}")
    return {str(name): float(value) for name, value in figures.items() if hasattr(value, "__float__")}
