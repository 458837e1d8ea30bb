"""Server-sent events: the frame, the heart-beat, and the end of all streams when the server drains."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from mainspring.core import codec
from mainspring.services.context import Context

HEARTBEAT_S = 10.0
HEARTBEAT = b": still here\n\n"


def send_events(frames: AsyncIterator[bytes]) -> StreamingResponse:
    """Return the answer that streams `frames` unbuffered."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


def frame(event: str, data: object, *, cursor: str = "") -> bytes:
    """Return one event; `cursor` comes back as Last-Event-ID when the client resumes."""
    head = f"id: {cursor}\n" if cursor else ""
    return f"{head}event: {event}\ndata: ".encode() + codec.encode(data) + b"\n\n"


def is_draining(app: FastAPI) -> bool:
    """Say whether the server is about to end: streams end, long polls answer at once."""
    return bool(app.state.is_draining)


def drain(app: FastAPI) -> None:
    """End all streams and long polls now; thread safe. Clients come back to the next server by their cursors."""
    app.state.is_draining = True
    ctx = app.state.ctx
    if isinstance(ctx, Context):
        ctx.signals.hint("shutdown")
