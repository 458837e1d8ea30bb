"""Websockets into runs: a runner's own tunnel, shells, ports. Text messages are JSON and steer; binary ones are bytes.

What is wrong before a websocket is open is told as an HTTP answer like everywhere else; afterwards as `{"error": …}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who, actor_of
from mainspring.api.errors import answer_error
from mainspring.api.tunnels import PROTOCOL, Stream, Tunnels, refusal
from mainspring.core import codec
from mainspring.core.actors import Actor
from mainspring.core.errors import (
    AccessDeniedError,
    MainspringError,
    StateError,
    UsageError,
)
from mainspring.core.records import Role
from mainspring.core.tunnels import Frame, Kind, read_number
from mainspring.services import attempts, inside
from mainspring.services.context import Context
from mainspring.services.inside import Place

router = APIRouter(prefix=PREFIX, tags=["runs"])
MAX_WORDS = 1024
MAX_COMMAND_BYTES = 48 * 1024
BEGIN_S = 30.0
RIGHTS_S = 15.0
EXTRA_MARK, OUT_MARK = b"\x02", b"\x01"
Route = Callable[[WebSocket], Coroutine[Any, Any, None]]


@router.post("/runs/{ref}/inside")
@shaped()
async def check(
    request: Request, ctx: Ctx, actor: Who, ref: str, replica: Annotated[int, Query(ge=0, le=4096)] = 0, port: int = 0
) -> Response:
    """Ask for the way inside a run, and wait until it is there; `port` is only looked at. Shells and ports then open at once."""
    place = await run_in_threadpool(inside.find, ctx, actor, ref, replica)
    if port:
        port_of(str(port))
    await tunnels_of(request).to(place)
    return answer({"run": place.run, "attempt": place.attempt, "replica": place.replica})


def routes() -> list[WebSocketRoute]:
    """Return the websockets of this module."""
    return [
        WebSocketRoute(f"{PREFIX}/attempts/{{attempt_id}}/tunnel", _told(tunnel)),
        WebSocketRoute(f"{PREFIX}/runs/{{ref}}/shell", _told(shell)),
        WebSocketRoute(f"{PREFIX}/runs/{{ref}}/tcp/{{port}}", _told(tcp)),
    ]


async def tunnel(websocket: WebSocket) -> None:
    """Take the tunnel of a runner."""
    ctx, attempt = context_of(websocket), str(websocket.path_params["attempt_id"])
    token = str(websocket.state.attempt_token)
    if not token:
        raise AccessDeniedError("Only the attempt's own runner may speak for it.")
    await run_in_threadpool(attempts.check_token, ctx, attempt, token)
    replica = number_in(websocket, "replica")
    await run_in_threadpool(attempts.check_open, ctx, attempt, replica)
    await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
    await tunnels_of(websocket).attend(websocket, attempt, replica)


async def shell(websocket: WebSocket) -> None:
    """Run a command inside a run. The first message is JSON: {command, has_terminal, rows, columns, term}.

    Then binary messages are input; `{"rows", "columns"}` tells a new size, `{"is_end": true}` the end of the input. What comes
    from here is binary (the first byte 1: output, 2: errors), and at the end `{"exit": code}` or `{"error": {…}}`.
    """
    ctx, actor = context_of(websocket), actor_of(websocket)
    place = await run_in_threadpool(inside.find, ctx, actor, str(websocket.path_params["ref"]), number_in(websocket, "replica"))
    held = await tunnels_of(websocket).to(place)
    await websocket.accept()
    try:
        async with asyncio.timeout(BEGIN_S):
            asked = _asked(await websocket.receive_text())
        async with held.open(asked) as stream:
            await run_in_threadpool(inside.note, ctx, actor, place, "run.shell_opened", has_terminal=asked["what"] == "pty")
            await websocket.send_text('{"is_open": true}')
            await _together(
                websocket, _from_client(websocket, stream), _to_client(websocket, stream), _while_allowed(websocket, place)
            )
    except TimeoutError:
        await _tell(websocket, UsageError("The first message did not come in time."))
    except MainspringError as wrong:
        await _tell(websocket, wrong)


async def tcp(websocket: WebSocket) -> None:
    """Connect to a port inside a run. Binary messages are its bytes, the text `end` the end of one direction."""
    ctx, actor = context_of(websocket), actor_of(websocket)
    place = await run_in_threadpool(inside.find, ctx, actor, str(websocket.path_params["ref"]), number_in(websocket, "replica"))
    port = port_of(str(websocket.path_params["port"]))
    held = await tunnels_of(websocket).to(place)
    async with held.open({"what": "tcp", "port": port}) as stream:
        await note_port(websocket, actor, place, port)
        await websocket.accept()
        try:
            await _together(
                websocket,
                _from_port_client(websocket, stream),
                _to_port_client(websocket, stream),
                _while_allowed(websocket, place),
            )
        except MainspringError as wrong:
            await _tell(websocket, wrong)


def context_of(websocket: WebSocket) -> Context:
    """Return the object graph."""
    found = websocket.app.state.ctx
    if not isinstance(found, Context):
        raise TypeError("build_api was not given a Context")
    return found


def tunnels_of(connection: HTTPConnection) -> Tunnels:
    """Return the tunnels of this process."""
    found = connection.app.state.tunnels
    if not isinstance(found, Tunnels):
        raise TypeError("build_api made no Tunnels")
    return found


async def note_port(connection: Any, actor: Actor, place: Place, port: int) -> None:
    """Write down once in ten minutes that this user looks at this port: a page is many connections."""
    known: dict[object, float] = connection.app.state.noted_ports
    ctx = connection.app.state.ctx
    now, key = ctx.clock.monotonic(), (actor.name, place.attempt, place.replica, port)
    if now - known.get(key, -NOTED_S) < NOTED_S:
        return
    for old in [one for one, at in known.items() if now - at >= NOTED_S]:
        del known[old]
    known[key] = now
    await run_in_threadpool(inside.note, ctx, actor, place, "run.port_opened", port=port)


NOTED_S = 600.0


def number_in(websocket: WebSocket, name: str) -> int:
    """Return a small number of the query, 0 without it. Raises UsageError."""
    text = websocket.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise UsageError(f"{name} is {text[:20]!r}; it is a number from 0 on.")
    return int(text)


def port_of(text: str) -> int:
    """Return the port that a path names. Raises UsageError."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise UsageError(f"{text[:20]!r} is no port.", hint="A number from 1 to 65535.")
    return int(text)


def _told(route: Route) -> Route:
    """Let what is wrong before the websocket is open be an HTTP answer."""

    async def guarded(websocket: WebSocket) -> None:
        try:
            await route(websocket)
        except MainspringError as wrong:
            await websocket.send_denial_response(answer_error(wrong))

    return guarded


async def _together(websocket: WebSocket, *jobs: Coroutine[Any, Any, None]) -> None:
    """Do all until the first is done; what it raises is raised. A client that went away ends it quietly."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        with contextlib.suppress(WebSocketDisconnect, asyncio.CancelledError):
            task.result()
    with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
        await websocket.close()


async def _while_allowed(websocket: WebSocket, place: Place) -> None:
    """Look now and then whether the user may still be here. Raises AccessDeniedError, AuthError."""
    ask_again: Callable[[], Actor] | None = websocket.state.ask_again
    while True:
        await asyncio.sleep(RIGHTS_S)
        if ask_again is not None:
            (await run_in_threadpool(ask_again)).need(place.project, Role.EDITOR)


async def _from_client(websocket: WebSocket, stream: Stream) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        data, text = message.get("bytes"), message.get("text")
        if data is not None:
            await stream.write(data)
            continue
        told = codec.decode_any(text or "")
        if not isinstance(told, Mapping):
            raise UsageError("A text message is a JSON object.")
        if told.get("is_end"):
            await stream.end()
        if "rows" in told:
            await stream.resize(_size(told.get("rows"), 24), _size(told.get("columns"), 80))


async def _to_client(websocket: WebSocket, stream: Stream) -> None:
    while True:
        frame = await stream.read()
        if frame.kind is Kind.DATA:
            await websocket.send_bytes(OUT_MARK + frame.payload)
        elif frame.kind is Kind.EXTRA:
            await websocket.send_bytes(EXTRA_MARK + frame.payload)
        elif frame.kind is Kind.EXIT:
            await websocket.send_text(codec.encode({"exit": read_number(frame.payload, is_signed=True)}).decode())
            return
        elif frame.kind is Kind.CLOSE:
            raise _closed(frame)


async def _from_port_client(websocket: WebSocket, stream: Stream) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        if message.get("bytes") is not None:
            await stream.write(message["bytes"])
        else:
            await stream.end()


async def _to_port_client(websocket: WebSocket, stream: Stream) -> None:
    while True:
        frame = await stream.read()
        if frame.kind is Kind.DATA:
            await websocket.send_bytes(frame.payload)
        elif frame.kind is Kind.EOF:
            await websocket.send_text("end")
        elif frame.kind is Kind.CLOSE and not frame.payload:
            return
        else:
            raise _closed(frame)


def _closed(frame: Frame) -> MainspringError:
    wrong = refusal(frame)
    if isinstance(wrong, StateError):
        return StateError("The run has ended, and with it all that was open inside.", details=wrong.details)
    return wrong


def _asked(text: str) -> dict[str, object]:
    """Return the opening that the client's first message asks for. Raises UsageError."""
    told = codec.decode_any(text)
    command = told.get("command", []) if isinstance(told, Mapping) else None
    if not isinstance(command, list) or not all(isinstance(word, str) and "\0" not in word for word in command):
        raise UsageError("command is a list of words.", details={"path": "command"})
    if len(command) > MAX_WORDS or sum(len(word.encode("utf-8", "replace")) for word in command) > MAX_COMMAND_BYTES:
        raise UsageError("The command is too long.", hint="Put it into a file of the run's code.", details={"path": "command"})
    if not told.get("has_terminal"):
        return {"what": "pipe", "command": command}
    return {
        "what": "pty",
        "command": command,
        "rows": _size(told.get("rows"), 24),
        "columns": _size(told.get("columns"), 80),
        "term": "".join(char for char in str(told.get("term", "")) if char.isalnum() or char in "+-._")[:64],
    }


def _size(told: object, default: int) -> int:
    return told if isinstance(told, int) and 0 < told < 65536 else default


async def _tell(websocket: WebSocket, wrong: MainspringError) -> None:
    with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
        await websocket.send_text(codec.encode(wrong.to_wire()).decode())
        await websocket.close()
