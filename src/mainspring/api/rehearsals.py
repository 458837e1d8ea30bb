"""The route of rehearsals: what another policy would have done with the load of the last days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.rehearsals import Rehearsal
from mainspring.services import policies, rehearsals

router = APIRouter(prefix=PREFIX, tags=["policy"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A policy as TOML, and how many days of load it is tried on."""

    text: str
    days: float = 7.0


@router.post("/policy/rehearse")
@shaped(takes=Trial, gives=Rehearsal)
def rehearse(ctx: Ctx, actor: Who, body: Annotated[Trial, Depends(body_of(Trial))]) -> Response:
    """Return what a policy and the one in force make of the runs of the last days; changes nothing. Takes seconds."""
    return answer(rehearsals.rehearse(ctx, actor, policies.check(ctx, actor, body.text), days=body.days))
