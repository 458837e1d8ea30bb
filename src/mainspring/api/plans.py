"""Routes of recorded plans."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.core.codec import parse_time
from mainspring.core.replays import PlanRecord
from mainspring.services import plans

router = APIRouter(prefix=PREFIX, tags=["plans"])


@router.get("/plan")
@shaped(gives=PlanRecord)
def recorded(ctx: Ctx, actor: Who, at: Annotated[str, Query(max_length=64)] = "", snapshot: bool = False) -> Response:
    """Return the last recorded plan, or the last one at a time; with `snapshot`, also what it was made from."""
    return answer(plans.recorded(ctx, actor, at=parse_time(at) if at else None, has_snapshot=snapshot))
