"""Routes of secrets: put, named, removed; a value goes in and never comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, answer_nothing, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.records import Secret
from mainspring.services import secrets

router = APIRouter(prefix=PREFIX, tags=["people"])
Project = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """The value to keep."""

    value: str


@router.get("/secrets")
@shaped(gives=Secret, is_page=True)
def all_secrets(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return the project's secrets, never their values."""
    return answer_all(secrets.all(ctx, actor, project=project))


@router.get("/secrets/{name}")
@shaped(gives=Secret)
def get(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Return who made the secret and when."""
    return answer(secrets.get(ctx, actor, name, project=project))


@router.put("/secrets/{name}")
@shaped(takes=NewSecret, gives=Secret)
def put(
    ctx: Ctx, actor: Who, name: str, body: Annotated[NewSecret, Depends(body_of(NewSecret))], project: Project = "default"
) -> Response:
    """Keep a value under a name."""
    return answer(secrets.put(ctx, actor, name, body.value, project=project))


@router.delete("/secrets/{name}", status_code=204)
@shaped(status=204)
def remove(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Forget a secret."""
    secrets.remove(ctx, actor, name, project=project)
    return answer_nothing()
