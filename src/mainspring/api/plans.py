"""Routes of plans: those that were recorded, the one that would be made now, and one made again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.codec import parse_time
from mainspring.core.errors import UsageError
from mainspring.core.replays import PlanRecord
from mainspring.services import plans
from mainspring.services.plans import Replayed

router = APIRouter(prefix=PREFIX, tags=["plans"])


@router.get("/plan")
@shaped(gives=PlanRecord)
def recorded(
    ctx: Ctx, actor: Who, at: Annotated[str, Query(max_length=64)] = "", snapshot: bool = False, fresh: bool = False
) -> Response:
    """Return the last recorded plan, or the last one at a time, or the `fresh` one that would be made now.

    With `snapshot`, also what it was made from.
    """
    if fresh and at:
        raise UsageError("A plan is made now, or was recorded at a time.", hint="Say one of `at` and `fresh`.")
    if fresh:
        return answer(plans.fresh(ctx, actor, has_snapshot=snapshot))
    return answer(plans.recorded(ctx, actor, at=parse_time(at) if at else None, has_snapshot=snapshot))


@router.post("/plan/replay")
@shaped(takes=PlanRecord, gives=Replayed)
def replay(actor: Who, body: Annotated[PlanRecord, Depends(body_of(PlanRecord))]) -> Response:
    """Make a recorded plan again from its snapshot, and say whether it is the same to the byte; changes nothing."""
    return answer(plans.replay(actor, body))
