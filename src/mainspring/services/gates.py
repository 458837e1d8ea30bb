"""Gates: an objective judged on one candidate, with the sentence kept as evidence."""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.core.actors import Actor
from mainspring.core.ids import check_name
from mainspring.core.objectives import Objective
from mainspring.core.objectives import judge as judged
from mainspring.core.records import GateResult, ModelVersion, Role
from mainspring.services.context import Context
from mainspring.services.runs import check_project, said


def judge(
    ctx: Context,
    actor: Actor,
    objective: Objective,
    figures: Mapping[str, float],
    *,
    project: str = "default",
    run: str = "",
    model: str = "",
    model_version: int = 0,
) -> GateResult:
    """Compare an evaluation with the objective and keep the verdict; a refusal is a result, not an error.

    The champion is the last candidate of the same model that passed. Raises UsageError when the figure is missing.
    """
    check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    check_name(objective.name, "objective")
    earlier = [one for one in ctx.store.gates.all(project, objective=objective.name) if one.is_passed]
    champion = max(earlier, key=lambda one: one.created_at).value if earlier else None
    verdict = judged(objective, dict(figures), champion)
    result = GateResult(
        id=ctx.ids.new("gate"),
        project=project,
        objective=objective.name,
        kpi=objective.kpi,
        value=verdict.value,
        is_passed=verdict.is_passed,
        sentence=verdict.sentence,
        created_at=ctx.clock.now(),
        run=run,
        model=model,
        model_version=model_version,
    )
    kind = "gate.passed" if result.is_passed else "gate.refused"
    ctx.store.gates.add(result, objective, event=said(actor, kind, objective.name, project, sentence=result.sentence, run=run))
    return result


def all(ctx: Context, actor: Actor, *, project: str = "default", objective: str = "", model: str = "") -> list[GateResult]:
    """Return verdicts, newest first."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.gates.all(project, objective=objective, model=model)


def is_about(verdict: GateResult, version: ModelVersion) -> bool:
    """Say whether the verdict judged that version: by name and number, or as the model that its run had just made."""
    by_name = verdict.model == version.model and verdict.model_version in (0, version.number)
    return by_name or (bool(version.run) and verdict.run == version.run)


def objectives(ctx: Context, actor: Actor, *, project: str = "default") -> list[Objective]:
    """Return the objectives that were ever judged in the project, by name."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.gates.objectives(project)
