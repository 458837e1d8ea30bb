"""Routes of metrics and system use."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.services import metrics

router = APIRouter(prefix=PREFIX, tags=["metrics"])
Points = Annotated[int, Query(ge=2, le=10_000)]


@router.get("/runs/{ref}/metrics")
@shaped()
def summary(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return last, least, largest, count and last step of each metric."""
    return answer(metrics.summary(ctx, actor, ref))


@router.get("/runs/{ref}/metrics/{name:path}")
@shaped()
def series(
    ctx: Ctx,
    actor: Who,
    ref: str,
    name: str,
    points: Points = 1000,
    start: Annotated[float | None, Query(alias="from", allow_inf_nan=False)] = None,
    end: Annotated[float | None, Query(alias="to", allow_inf_nan=False)] = None,
) -> Response:
    """Return a metric's points, thinned so that the least and the largest of each stretch are kept."""
    found = metrics.series(ctx, actor, ref, name, points=points, start=start, end=end)
    return answer({"points": found, "count": len(found)})


@router.get("/runs/{ref}/usage")
@shaped()
def usage(ctx: Ctx, actor: Who, ref: str, points: Points = 300) -> Response:
    """Return samples of CPU, memory and GPU use."""
    return answer({"points": metrics.usage(ctx, actor, ref, points=points)})


@router.get("/runs/{ref}/params")
@shaped()
def params(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return the parameters: those of the spec, then those the run logged."""
    return answer(metrics.params(ctx, actor, ref))
