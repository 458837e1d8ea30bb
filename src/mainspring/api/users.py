"""Routes of users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.records import User
from mainspring.services import users

router = APIRouter(prefix=PREFIX, tags=["people"])


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to add."""

    name: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChange:
    """What to change about a user; None leaves it."""

    is_admin: bool | None = None
    is_disabled: bool | None = None


@router.get("/whoami")
@shaped()
async def whoami(actor: Who) -> Response:
    """Return who the token belongs to, and the rights."""
    return answer({"name": actor.name, "is_admin": actor.is_admin, "roles": actor.roles})


@router.get("/users")
@shaped(gives=User, is_page=True)
def all_users(ctx: Ctx, actor: Who) -> Response:
    """Return every user."""
    return answer_all(users.all(ctx, actor))


@router.post("/users", status_code=201)
@shaped(takes=NewUser, gives=User, status=201)
def add(ctx: Ctx, actor: Who, body: Annotated[NewUser, Depends(body_of(NewUser))]) -> Response:
    """Add a user."""
    return answer(users.add(ctx, actor, body.name, is_admin=body.is_admin), status=201)


@router.patch("/users/{name}")
@shaped(takes=UserChange, gives=User)
def edit(ctx: Ctx, actor: Who, name: str, body: Annotated[UserChange, Depends(body_of(UserChange))]) -> Response:
    """Change a user's rights, or shut the user out."""
    return answer(users.edit(ctx, actor, name, is_admin=body.is_admin, is_disabled=body.is_disabled))
