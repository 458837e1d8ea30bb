"""Routes of sweeps."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.records import Sweep, SweepSpec, Trial
from mainspring.services import sweeps

router = APIRouter(prefix=PREFIX, tags=["sweeps"])
Project = Annotated[str, Query(max_length=128)]


@router.post("/sweeps", status_code=201)
@shaped(takes=SweepSpec, gives=Sweep, status=201)
def start(
    ctx: Ctx,
    actor: Who,
    spec: Annotated[SweepSpec, Depends(body_of(SweepSpec))],
    key: Annotated[str, Header(alias="Idempotency-Key", max_length=200)] = "",
) -> Response:
    """Accept a sweep."""
    return answer(sweeps.start(ctx, actor, spec, key=key), status=201)


@router.get("/sweeps")
@shaped(gives=Sweep, is_page=True)
def all_sweeps(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return the sweeps, newest first."""
    return answer_all(sweeps.all(ctx, actor, project=project))


@router.get("/sweeps/{ref}")
@shaped(gives=Sweep)
def get(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the sweep of that id, or the newest of that name."""
    return answer(sweeps.get(ctx, actor, ref))


@router.get("/sweeps/{ref}/trials")
@shaped(gives=Trial, is_page=True)
def trials(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the trials by number."""
    return answer_all(sweeps.trials(ctx, actor, ref))


@router.post("/sweeps/{ref}/stop")
@shaped(gives=Sweep)
def stop(ctx: Ctx, actor: Who, ref: str) -> Response:
    """End the sweep."""
    return answer(sweeps.stop(ctx, actor, ref))
