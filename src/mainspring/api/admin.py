"""Routes about the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.api.streams import drain
from mainspring.services import admin, status

router = APIRouter(prefix=PREFIX, tags=["server"])
health = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to write; empty for the folder `backups` of the installation."""

    path: str = ""


@router.get("/status")
@shaped()
def tell_status(request: Request, ctx: Ctx, actor: Who) -> Response:
    """Return the server's version, place and load."""
    return answer(status.status(ctx, actor, url=str(request.app.state.url) or str(request.base_url).rstrip("/")))


@router.post("/backup")
@shaped(takes=Place)
def backup(ctx: Ctx, actor: Who, body: Annotated[Place, Depends(body_of(Place, default=Place()))]) -> Response:
    """Write a consistent copy of the database."""
    return answer(admin.backup(ctx, actor, body.path))


@router.post("/shutdown", status_code=202)
@shaped(status=202)
async def shut_down(request: Request, actor: Who) -> Response:
    """Let the server answer what it has begun and end; runs go on."""
    actor.need_admin()
    app = request.app

    async def end() -> None:
        drain(app)
        if app.state.shutdown is not None:
            app.state.shutdown()

    response = answer({"is_draining": True}, status=202)
    response.background = BackgroundTask(end)
    return response


@health.get("/healthz")
async def is_alive() -> Response:
    """Say that the process answers; the one thing that anybody may ask."""
    return answer({"ok": True})
