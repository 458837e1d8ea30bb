"""Routes of forecasts: when a run will start, and what another request would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.forecasts import Calibration, Choice, Forecast, Prospect
from mainspring.services import forecasts

router = APIRouter(prefix=PREFIX, tags=["forecasts"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Ways to ask for a run that is not submitted yet."""

    choices: tuple[Choice, ...]


@router.get("/runs/{ref}/forecast")
@shaped(gives=Forecast)
def of_run(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return when the waiting run is expected to start."""
    return answer(forecasts.of_run(ctx, actor, ref))


@router.get("/forecasts")
@shaped()
def of_queue(ctx: Ctx, actor: Who) -> Response:
    """Return `{run: Forecast}` of the first waiting runs, the soonest first."""
    return answer(forecasts.of_queue(ctx, actor))


@router.get("/forecasts/record")
@shaped(gives=Calibration)
def record(ctx: Ctx, actor: Who) -> Response:
    """Return how often the intervals held."""
    del actor  # any user may know
    return answer(forecasts.calibration(ctx))


@router.post("/forecasts")
@shaped(takes=Question, gives=Prospect, is_page=True)
def prospects(ctx: Ctx, actor: Who, body: Annotated[Question, Depends(body_of(Question))]) -> Response:
    """Return what each choice would give were it submitted now; nothing is submitted."""
    return answer_all(forecasts.prospects(ctx, actor, body.choices))
