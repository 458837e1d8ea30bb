"""Routes of logs: bytes by offset, and following them as they are written."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.streams import HEARTBEAT, HEARTBEAT_S, frame, is_draining, send_events
from mainspring.core.actors import Actor
from mainspring.core.errors import UsageError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.services import logs, runs
from mainspring.services.context import Context

router = APIRouter(prefix=PREFIX, tags=["logs"])
MAX_BYTES = 8 << 20
FRAME_BYTES = 256 << 10
_FAR = 2**53
Number = Annotated[int | None, Query(ge=1, le=2**31)]
Replica = Annotated[int, Query(ge=0, le=4096)]
Offset = Annotated[int, Query(ge=-_FAR, le=_FAR)]


@router.get("/runs/{ref}/logs")
@shaped(gives_bytes="application/octet-stream")
def read(
    ctx: Ctx,
    actor: Who,
    ref: str,
    attempt: Number = None,
    replica: Replica = 0,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=0, le=MAX_BYTES)] = 1 << 20,
    stream: Literal["log", "events"] = "log",
) -> Response:
    """Return bytes of an attempt's log, as they were written; a negative offset counts from the end.

    The stream `events` is what its runner and its engine told of it, in JSON lines.
    """
    part = logs.read(ctx, actor, ref, attempt=attempt, replica=replica, offset=offset, limit=limit, stream=stream)
    headers = {
        "X-Offset": str(part.offset),
        "X-Next-Offset": str(part.next_offset),
        "X-Attempt": str(part.number),
        "X-End": "1" if part.is_end else "0",
    }
    return Response(part.data, media_type="application/octet-stream", headers=headers)


@router.get("/runs/{ref}/logs/follow")
@shaped(gives_bytes="text/event-stream")
async def follow(
    request: Request,
    ctx: Ctx,
    actor: Who,
    ref: str,
    attempt: Number = None,
    replica: Replica = 0,
    offset: Offset = 0,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", max_length=100)] = "",
) -> Response:
    """Stream the log from `offset` on, over all later attempts, until the run ends: events `attempt`, `log`, `end`.

    An attempt of a gang that has no such replica is passed over.
    """
    run = await run_in_threadpool(runs.get, ctx, actor, ref)
    tries = await run_in_threadpool(runs.attempts, ctx, actor, run.id)
    if last_event_id:
        attempt, offset = _resumed(last_event_id)
    elif attempt is None:
        attempt = tries[-1].number if tries else 1
    logs.check_replica(run, tries, attempt, replica)  # now, while there still is a status to tell it
    return send_events(_follow(request.app, ctx, actor, run.id, attempt, replica, offset))


async def _follow(
    app: FastAPI, ctx: Context, actor: Actor, run_id: str, number: int, replica: int, offset: int
) -> AsyncIterator[bytes]:
    """Yield events: level-triggered, so that a lost signal costs a heart-beat's time and never a byte."""
    watched = ""  # the id of the attempt that is being followed
    with ExitStack() as following:
        while not is_draining(app):
            topics = (f"logs:{watched}", "runs", "shutdown")
            seen = ctx.signals.version(*topics)
            if not watched:
                tries = await run_in_threadpool(runs.attempts, ctx, actor, run_id)
                found = next((one for one in tries if one.number >= number and replica < len(one.replicas)), None)
                if found is not None:
                    if found.number > number:
                        offset = 0
                    watched, number = found.id, found.number
                    following.enter_context(ctx.signals.follow(watched))
                    yield frame("attempt", {"number": number, "id": watched})
                    continue
            else:
                part = await run_in_threadpool(
                    logs.read, ctx, actor, run_id, attempt=number, replica=replica, offset=offset, limit=FRAME_BYTES
                )
                offset = part.next_offset
                if part.data:
                    data = {"attempt": number, "offset": part.offset, "data": base64.b64encode(part.data).decode()}
                    yield frame("log", data, cursor=f"{number}:{offset}")
                    continue
                if part.is_end:
                    following.close()
                    watched, number, offset = "", number + 1, 0
                    continue
            run = await run_in_threadpool(runs.get, ctx, actor, run_id)
            if run.state in TERMINAL_RUN and not watched:
                yield frame("end", {"state": run.state})
                return
            if await ctx.signals.wait_async(topics, seen, HEARTBEAT_S) == seen:
                yield HEARTBEAT


def _resumed(cursor: str) -> tuple[int, int]:
    number, _, offset = cursor.partition(":")
    if not (number.isdigit() and offset.isdigit() and len(cursor) < 40 and int(number) >= 1):
        raise UsageError(f"{cursor[:40]!r} is no cursor of a log.", hint="Leave Last-Event-ID out to begin again.")
    return int(number), int(offset)
