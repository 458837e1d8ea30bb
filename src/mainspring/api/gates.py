"""Routes of objectives and gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.errors import UsageError
from mainspring.core.objectives import Objective
from mainspring.core.records import GateResult
from mainspring.services import gates

router = APIRouter(prefix=PREFIX, tags=["models"])
Project = Annotated[str, Query(max_length=128)]
MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is judged: an objective, and the figures of one evaluation."""

    objective: Objective
    figures: Mapping[str, float]
    run: str = ""
    model: str = ""
    model_version: int = 0


@router.post("/gates", status_code=201)
@shaped(takes=Candidate, gives=GateResult, status=201)
def judge(
    ctx: Ctx, actor: Who, body: Annotated[Candidate, Depends(body_of(Candidate))], project: Project = "default"
) -> Response:
    """Judge a candidate and keep the verdict; a refusal is a result."""
    if not 0 <= body.model_version <= MAX_NUMBER:
        raise UsageError(f"{body.model_version} is no version.", hint="Versions begin at 1; 0 for none.")
    result = gates.judge(
        ctx,
        actor,
        body.objective,
        body.figures,
        project=project,
        run=body.run,
        model=body.model,
        model_version=body.model_version,
    )
    return answer(result, status=201)


@router.get("/gates")
@shaped(gives=GateResult, is_page=True)
def all_gates(
    ctx: Ctx,
    actor: Who,
    project: Project = "default",
    objective: Annotated[str, Query(max_length=128)] = "",
    model: Annotated[str, Query(max_length=128)] = "",
) -> Response:
    """Return verdicts, newest first."""
    return answer_all(gates.all(ctx, actor, project=project, objective=objective, model=model))


@router.get("/objectives")
@shaped(gives=Objective, is_list=True)
def objectives(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return the objectives that were judged in the project."""
    return answer(gates.objectives(ctx, actor, project=project))
