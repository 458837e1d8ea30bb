"""Routes of shares: the tree, what is configured, what was used, advance reservations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, answer_nothing, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.shares import Share
from mainspring.core.snapshot import Reservation
from mainspring.core.standings import History, Standing
from mainspring.core.usage import UsageRow
from mainspring.services import shares, standings, usage
from mainspring.services.shares import Changed, NewReservation, Reserved, ShareChange
from mainspring.services.usage import By

router = APIRouter(prefix=PREFIX, tags=["shares"])
MOST_HOURS = 24.0 * 31


@router.get("/shares")
@shaped(gives=Share, is_page=True)
def all_shares(ctx: Ctx, actor: Who) -> Response:
    """Return the shares as configured, by name."""
    return answer_all(shares.all(ctx, actor))


@router.get("/standings")
@shaped(gives=Standing, is_page=True)
def where_they_stand(ctx: Ctx, actor: Who) -> Response:
    """Return who holds what, is promised what and is owed what: the root first, each share before those below it."""
    return answer_all(standings.standings(ctx, actor))


@router.get("/standings/history")
@shaped(gives=History)
def what_they_held(
    ctx: Ctx,
    actor: Who,
    hours: Annotated[float, Query(gt=0, le=MOST_HOURS)] = 24.0,
    stretches: Annotated[int, Query(ge=1, le=1000)] = standings.STRETCHES,
) -> Response:
    """Return what each leaf of the tree held on average in equal stretches of the last hours, who held most first."""
    return answer(standings.history(ctx, actor, hours=hours, stretches=stretches))


@router.patch("/shares/{ref:path}")
@shaped(takes=ShareChange, gives=Changed)
def change(ctx: Ctx, actor: Who, ref: str, body: Annotated[ShareChange, Depends(body_of(ShareChange))]) -> Response:
    """Configure a share; it is made if there is none."""
    return answer(shares.change(ctx, actor, ref, body))


@router.delete("/shares/{ref:path}", status_code=204)
@shaped(status=204)
def remove(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Forget what was configured for a share."""
    shares.remove(ctx, actor, ref)
    return answer_nothing()


@router.get("/usage")
@shaped(gives=UsageRow, is_page=True)
def tell_usage(ctx: Ctx, actor: Who, by: By = By.SHARE, month: Annotated[str, Query(max_length=20)] = "") -> Response:
    """Return what was used in a month by share, user or project."""
    return answer_all(usage.usage(ctx, actor, by=by, month=month))


@router.get("/reservations")
@shaped(gives=Reservation, is_page=True)
def all_reservations(ctx: Ctx, actor: Who) -> Response:
    """Return the advance reservations, the first to begin first."""
    return answer_all(shares.reservations(ctx, actor))


@router.post("/reservations", status_code=201)
@shaped(takes=NewReservation, gives=Reserved, status=201)
def reserve(ctx: Ctx, actor: Who, body: Annotated[NewReservation, Depends(body_of(NewReservation))]) -> Response:
    """Keep resources for a share in a window."""
    return answer(shares.reserve(ctx, actor, body), status=201)


@router.delete("/reservations/{id}", status_code=204)
@shaped(status=204)
def release(ctx: Ctx, actor: Who, id: str) -> Response:
    """Give an advance reservation up."""
    shares.release(ctx, actor, id)
    return answer_nothing()
