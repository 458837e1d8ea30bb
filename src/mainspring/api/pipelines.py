"""Routes of pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.graphs import Graph, PipelineRun
from mainspring.services import pipelines

router = APIRouter(prefix=PREFIX, tags=["pipelines"])
Project = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPipelineRun:
    """A recorded graph to carry out."""

    name: str
    graph: Graph
    project: str = "default"


@router.post("/pipelines", status_code=201)
@shaped(takes=NewPipelineRun, gives=PipelineRun, status=201)
def start(
    ctx: Ctx,
    actor: Who,
    body: Annotated[NewPipelineRun, Depends(body_of(NewPipelineRun))],
    key: Annotated[str, Header(alias="Idempotency-Key", max_length=200)] = "",
) -> Response:
    """Accept a pipeline run."""
    return answer(pipelines.start(ctx, actor, body.name, body.graph, project=body.project, key=key), status=201)


@router.get("/pipelines")
@shaped(gives=PipelineRun, is_page=True)
def all_pipelines(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return the pipeline runs, newest first."""
    return answer_all(pipelines.all(ctx, actor, project=project))


@router.get("/pipelines/{ref}")
@shaped(gives=PipelineRun)
def get(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the pipeline run."""
    return answer(pipelines.get(ctx, actor, ref))


@router.post("/pipelines/{ref}/retry", status_code=201)
@shaped(gives=PipelineRun, status=201)
def retry(ctx: Ctx, actor: Who, ref: str, key: Annotated[str, Header(alias="Idempotency-Key", max_length=200)] = "") -> Response:
    """Start a new run of the same graph after its last good steps."""
    return answer(pipelines.retry(ctx, actor, ref, key=key), status=201)


@router.post("/pipelines/{ref}/cancel")
@shaped(gives=PipelineRun)
def cancel(ctx: Ctx, actor: Who, ref: str) -> Response:
    """End the pipeline run."""
    return answer(pipelines.cancel(ctx, actor, ref))
