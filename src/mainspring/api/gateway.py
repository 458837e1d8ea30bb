"""The gateway: requests for predictions go by name to a replica that answers; the name stays when replicas and revisions change.

Round robin; a replica that cannot be reached is passed over at once. One on this machine is dialled, others are reached through
the tunnels of their runners. One ASGI function without FastAPI's machinery on the way. Where the replicas are is asked of the
store at most once a second for each endpoint, and when the topic `endpoints` moves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mainspring.api.answers import PREFIX
from mainspring.api.errors import answer_error
from mainspring.api.prometheus import Measured
from mainspring.api.replicas import ReplicaDownError, Replicas, Reply
from mainspring.api.tunnels import Tunnels
from mainspring.core.actors import Actor
from mainspring.core.errors import AuthError, MainspringError, NotFoundError, StateError, TooLargeError, UnreachableError
from mainspring.core.records import Role
from mainspring.services import endpoints
from mainspring.services.context import Context
from mainspring.services.endpoints import Goal
from mainspring.services.runs import check_project

log = logging.getLogger(__name__)
FRESH_S = 1.0
FLUSH_S = 1.0
TIMEOUT_S = 60.0
MAX_BODY_BYTES = 16 << 20
_PASSED_ON = frozenset({b"content-type", b"accept", b"x-request-id", b"inference-header-content-length"})


@dataclass(slots=True)
class _Target:
    """Where an endpoint's requests go; `turn` is the round robin's."""

    id: str
    revision: int
    goals: list[Goal]
    until: float
    version: int
    turn: int = 0


class Gateway:
    """The ASGI application behind `/endpoints/{name}/predict` and `/endpoints/{name}/v2/…`. Belongs to one event loop."""

    def __init__(self, ctx: Context, measured: Measured, tunnels: Tunnels) -> None:
        self._ctx = ctx
        self._measured = measured
        self._replicas = Replicas(tunnels)
        self._targets: dict[tuple[str, str], _Target] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[_Target]] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._flushing: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """Return the routes to put in front of all others."""
        base = f"{PREFIX}/endpoints/{{name}}"
        return [
            Route(f"{base}/predict", self, methods=["POST"], include_in_schema=False),
            Route(f"{base}/v2", self, methods=["GET", "POST"], include_in_schema=False),
            Route(f"{base}/v2/{{rest:path}}", self, methods=["GET", "POST"], include_in_schema=False),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authorise, pass on, answer."""
        name = scope["path_params"]["name"]
        began = time.perf_counter()
        try:
            project = _project(scope)
            target = await self._target(_may(scope, project), project, name)
        except MainspringError as refused:
            await answer_error(refused)(scope, receive, send)
            return
        try:
            reply = await self._pass_on(scope, await _read(receive), target, name)
        except UnreachableError as nobody:
            self._count(target, 503, time.perf_counter() - began, name)
            answer = answer_error(nobody)
            answer.status_code = 503
            answer.headers["Retry-After"] = "1"
            await answer(scope, receive, send)
            return
        except TooLargeError as wrong:
            await answer_error(wrong)(scope, receive, send)
            return
        self._count(target, reply.status, time.perf_counter() - began, name)
        body = _with_revision(reply, target) if scope["path"].endswith("/predict") else reply.body
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", str(len(body)).encode()),
            (b"revision", str(target.revision).encode()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def close(self) -> None:
        """Write the last counts and close the connections."""
        self._replicas.close()
        await self._flush()

    async def _pass_on(self, scope: Scope, body: bytes, target: _Target, name: str) -> Reply:
        headers = b"".join(
            key + b": " + value + b"\r\n" for key, value in scope["headers"] if key in _PASSED_ON and b"\n" not in value
        )
        path = scope["path"].removeprefix(f"{PREFIX}/endpoints/{name}")
        place = quote(path, safe="/:@!$&'()*+,;=~-._")
        failures: list[str] = []
        for _ in range(len(target.goals)):
            target.turn += 1
            goal = target.goals[target.turn % len(target.goals)]
            try:
                return await self._replicas.ask(goal, scope["method"], place, headers=headers, body=body, timeout_s=TIMEOUT_S)
            except ReplicaDownError as down:
                failures.append(f"{goal.address}: {down}")
                log.warning("replica did not answer", extra={"endpoint": target.id, "address": goal.address, "why": str(down)})
        target.until = 0.0  # look again at the next request
        raise UnreachableError(
            f"No replica of endpoint {name!r} answers now.",
            hint=f"mainspring endpoint show {name} tells why; it is started again by itself.",
            details={"reason": "no_replica", "tried": failures},
        )

    async def _target(self, actor: Actor, project: str, name: str) -> _Target:
        actor.need(project, Role.VIEWER)
        key = (project, name)
        found = self._targets.get(key)
        if (
            found is not None
            and found.goals
            and self._ctx.clock.monotonic() < found.until
            and found.version == self._ctx.signals.version("endpoints")
        ):
            return found
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(project, name))
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, project: str, name: str) -> _Target:
        version = self._ctx.signals.version("endpoints")
        found = await run_in_threadpool(endpoints.answering, self._ctx, name, project)
        endpoint = found.endpoint
        if endpoint is None:
            await run_in_threadpool(check_project, self._ctx, project)
            raise NotFoundError(f"There is no endpoint {name[:60]!r}.", hint="mainspring endpoint ls")
        if endpoint.stopped_at is not None:
            raise StateError(f"Endpoint {name!r} was stopped.", hint=f"mainspring deploy MODEL --name {name}")
        before = self._targets.get((project, name))
        target = _Target(
            id=endpoint.id,
            revision=found.revision or endpoint.revision,
            goals=list(found.goals),
            until=self._ctx.clock.monotonic() + FRESH_S,
            version=version,
            turn=before.turn if before is not None else 0,
        )
        self._targets[(project, name)] = target
        self._replicas.keep_only({goal for one in self._targets.values() for goal in one.goals})
        return target

    def _count(self, target: _Target, status: int, seconds: float, name: str) -> None:
        self._measured.predicted(name, status, seconds)
        requests, errors = self._counts.get(target.id, (0, 0))
        self._counts[target.id] = (requests + 1, errors + (status >= 500))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_S)
        await self._flush()

    async def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        for endpoint, (requests, errors) in counts.items():
            await run_in_threadpool(self._ctx.store.endpoints.count, endpoint, requests, errors)


def _project(scope: Scope) -> str:
    query = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("project", ["default"])[0] if query else "default"


def _may(scope: Scope, project: str) -> Actor:
    actor = scope["state"].get("actor")
    if not isinstance(actor, Actor):
        raise AuthError("This needs a user's token.", hint="Send the header Authorization: Bearer TOKEN")
    actor.need(project, Role.VIEWER)
    return actor


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"The body is over the limit of {MAX_BODY_BYTES:,} bytes.", hint="Send fewer records at once.")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _with_revision(reply: Reply, target: _Target) -> bytes:
    """Return the replica's predictions with the revision that made them, without reading them."""
    body = reply.body
    if reply.status == 200 and body.startswith(b'{"predictions"') and body.endswith(b"}"):
        return body[:-1] + b',"revision":' + str(target.revision).encode() + b"}"
    return body
