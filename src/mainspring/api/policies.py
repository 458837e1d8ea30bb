"""Routes of the planner's policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.policy import Policy
from mainspring.services import policies
from mainspring.store.policies import SetPolicy

router = APIRouter(prefix=PREFIX, tags=["policy"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy as TOML. `after` is the number of the policy that it replaces (None: whichever is in force)."""

    text: str
    after: int | None = None


Body = Annotated[PolicyText, Depends(body_of(PolicyText))]


@router.get("/policy")
@shaped(gives=SetPolicy)
def current(ctx: Ctx, actor: Who) -> Response:
    """Return the policy in force."""
    return answer(policies.current(ctx, actor))


@router.get("/policy/history")
@shaped(gives=SetPolicy, is_page=True)
def history(ctx: Ctx, actor: Who) -> Response:
    """Return the policies that were set, newest first."""
    return answer_all(policies.history(ctx, actor))


@router.post("/policy/check")
@shaped(takes=PolicyText, gives=Policy)
def check(ctx: Ctx, actor: Who, body: Body) -> Response:
    """Return the policy that a text describes; changes nothing."""
    return answer(policies.check(ctx, actor, body.text))


@router.put("/policy")
@shaped(takes=PolicyText, gives=SetPolicy)
def change(ctx: Ctx, actor: Who, body: Body) -> Response:
    """Put a policy in force."""
    return answer(policies.change(ctx, actor, body.text, after=body.after))
