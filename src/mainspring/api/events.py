"""Routes of events: pages, the live feed, the audit trail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer_page, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.streams import HEARTBEAT, HEARTBEAT_S, frame, is_draining, send_events
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.queries import Page
from mainspring.core.records import Event, Role
from mainspring.services import events
from mainspring.services.context import Context

router = APIRouter(prefix=PREFIX, tags=["events"])
MAX_EVENTS = 1000
BATCH = 500
Since = Annotated[int, Query(ge=0, le=2**53)]
Limit = Annotated[int, Query(ge=1, le=MAX_EVENTS)]
Project = Annotated[str, Query(max_length=128)]


@router.get("/events")
@shaped(gives=Event, is_page=True)
def page(ctx: Ctx, actor: Who, since: Since = 0, limit: Limit = 500, project: Project = "") -> Response:
    """Return events after `since`, in order; the cursor is the `since` of the next page, empty at the end."""
    found = events.since(ctx, SYSTEM, since, limit=limit, project=project)
    return _page(found, _visible(found, actor), limit)


@router.get("/audit")
@shaped(gives=Event, is_page=True)
def audit(ctx: Ctx, actor: Who, since: Since = 0, limit: Limit = 500) -> Response:
    """Return everything that anybody did, in order."""
    actor.need_admin()
    found = events.since(ctx, actor, since, limit=limit)
    return _page(found, found, limit)


@router.get("/changes")
@shaped(gives_bytes="text/event-stream")
async def changes(
    request: Request,
    ctx: Ctx,
    actor: Who,
    since: Since = 0,
    project: Project = "",
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", max_length=20, pattern=r"^[0-9]*$")] = "",
) -> Response:
    """Stream events as they happen, from `since` on: event `change`, one Event each."""
    return send_events(_changes(request.app, ctx, actor, int(last_event_id or since), project))


async def _changes(app: FastAPI, ctx: Context, actor: Actor, seq: int, project: str) -> AsyncIterator[bytes]:
    while not is_draining(app):
        seen = ctx.signals.version("events", "shutdown")
        found = await run_in_threadpool(events.since, ctx, SYSTEM, seq, limit=BATCH, project=project)
        for event in _visible(found, actor):
            yield frame("change", event, cursor=str(event.seq))
        if found:
            seq = found[-1].seq
        elif await ctx.signals.wait_async(("events", "shutdown"), seen, HEARTBEAT_S) == seen:
            yield HEARTBEAT


def _visible(found: Sequence[Event], actor: Actor) -> list[Event]:
    """Return what the actor may see; filtered here and not by the question, so that the cursor passes over the rest."""
    return [one for one in found if actor.is_admin or (one.project and actor.may(one.project, Role.VIEWER))]


def _page(found: Sequence[Event], visible: Sequence[Event], limit: int) -> Response:
    cursor = str(found[-1].seq) if len(found) == limit else ""
    return answer_page(Page(items=tuple(visible), cursor=cursor, total=len(visible)))
