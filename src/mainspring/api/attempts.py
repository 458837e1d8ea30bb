"""Routes of runners: an attempt's work, its beats, its commands."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Runner
from mainspring.api.bodies import body_of
from mainspring.api.prometheus import measured_of
from mainspring.api.streams import is_draining
from mainspring.core.beats import LINE_STREAMS, Beat, BeatAnswer, Work
from mainspring.core.errors import GoneError, SpecError
from mainspring.services import adoption, attempts

router = APIRouter(prefix=PREFIX, tags=["runners"])
MAX_HOLD_S = 60.0
STATES = ("starting", "running", "stopping", "ended")
STREAMS = frozenset({"log", *LINE_STREAMS})
Replica = Annotated[int, Query(ge=0, le=4096)]


@router.get("/attempts/{attempt_id}/work")
@shaped(gives=Work)
def work(request: Request, ctx: Ctx, attempt: Runner, replica: Replica = 0) -> Response:
    """Return what the runner is to do."""
    found = attempts.find(ctx, attempt)
    run = attempts.run_of(ctx, found)
    told = attempts.work(ctx, found, run, replica)
    measured_of(request).began(found, run, replica)
    return answer(told)


@router.get("/attempts/{attempt_id}/peers")
@shaped()
def peers(ctx: Ctx, attempt: Runner, replica: Replica = 0) -> Response:
    """Return where each member of a gang is, by its number; empty for one that has not told yet."""
    found = attempts.peers(attempts.find(ctx, attempt), replica)
    return answer({"addresses": {str(index): address for index, address in found.items()}})


@router.post("/attempts/{attempt_id}/beat")
@shaped(takes=Beat, gives=BeatAnswer)
def beat(ctx: Ctx, attempt: Runner, body: Annotated[Beat, Depends(body_of(Beat))]) -> Response:
    """Take what a runner says, and tell it what to do."""
    try:
        found = attempts.find(ctx, attempt)
    except GoneError:
        adoption.note(ctx, attempt, _checked(body))
        raise
    return answer(attempts.beat(ctx, found, _checked(body)))


@router.get("/attempts/{attempt_id}/commands")
@shaped()
async def commands(
    request: Request,
    ctx: Ctx,
    attempt: Runner,
    replica: Replica = 0,
    after: Annotated[int, Query(ge=0, le=2**31)] = 0,
    hold_s: Annotated[float, Query(ge=0, le=MAX_HOLD_S)] = 20.0,
) -> Response:
    """Return the commands above `after`, as soon as there is one, somebody begins to follow the log or waits for the tunnel,
    else after `hold_s`."""
    topics = (f"attempt:{attempt}", "shutdown")
    was_followed = ctx.signals.is_followed(attempt)
    until = ctx.clock.monotonic() + hold_s
    while True:
        seen = ctx.signals.version(*topics)
        found, is_followed = await run_in_threadpool(attempts.commands, ctx, attempt, replica, after)
        left = until - ctx.clock.monotonic()
        is_wanted = ctx.signals.is_wanted(attempt, replica)
        if found or is_wanted or is_followed != was_followed or left <= 0 or is_draining(request.app):
            return answer({"commands": found, "is_followed": is_followed, "is_tunnel_wanted": is_wanted})
        await ctx.signals.wait_async(topics, seen, left)


def _checked(beat: Beat) -> Beat:
    if beat.state not in STATES:
        raise SpecError(f"{beat.state[:40]!r} is no state.", hint="One of " + ", ".join(STATES) + ".", details={"path": "state"})
    for chunk in beat.chunks:
        if chunk.stream not in STREAMS:
            raise SpecError(
                f"There is no stream {chunk.stream[:40]!r}.",
                hint="One of " + ", ".join(sorted(STREAMS)) + ".",
                details={"path": "chunks.stream"},
            )
    return beat
