"""Who is behind a request, for routes: `Who` a user, `Runner` the runner of the attempt in the address, `Carrier` either."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request

from mainspring.core.actors import Actor
from mainspring.core.errors import AccessDeniedError, AuthError
from mainspring.core.records import Role
from mainspring.services import attempts
from mainspring.services.context import Context

CARRIES_FOR = timedelta(hours=24)


def actor_of(request: HTTPConnection) -> Actor:
    """Return the user that the door let in, by token or by cookie. Raises AuthError for anybody else."""
    actor = getattr(request.state, "actor", None)
    if not isinstance(actor, Actor):
        raise AuthError("This needs a user's token.", hint="Send the header Authorization: Bearer TOKEN")
    return actor


async def context_of(request: Request) -> Context:
    """Return the object graph."""
    found = request.app.state.ctx
    if not isinstance(found, Context):
        raise TypeError("build_api was not given a Context")
    return found


async def _who(request: Request) -> Actor:
    return actor_of(request)


async def _runner(request: Request, attempt_id: str) -> str:
    """Return the attempt whose runner speaks; the route loads it, in the thread where it works."""
    token = str(request.state.attempt_token)
    if not token:
        raise AccessDeniedError("Only the attempt's own runner may speak for it.")
    ctx = await context_of(request)
    if attempts.is_instant(ctx):
        attempts.check_token(ctx, attempt_id, token)
    else:
        await run_in_threadpool(attempts.check_token, ctx, attempt_id, token)
    return attempt_id


async def _carrier(request: Request) -> Actor:
    """Return a user who may upload somewhere, or an actor without rights that stands for a runner."""
    token = str(request.state.attempt_token)
    if token:
        return await run_in_threadpool(_runner_of, await context_of(request), token)
    actor = actor_of(request)
    if not (actor.is_admin or any(role is not Role.VIEWER for role in actor.roles.values())):
        raise AccessDeniedError(f"{actor.name} may upload into no project.", hint="Ask an owner for the role editor.")
    return actor


async def _reader(request: Request) -> Actor:
    return await _carrier(request) if request.state.attempt_token else actor_of(request)


def _runner_of(ctx: Context, token: str) -> Actor:
    attempt = ctx.store.attempts.by_token_hash(hashlib.sha256(token.encode("utf-8", "replace")).hexdigest())
    if attempt is None or (attempt.ended_at is not None and ctx.clock.now() - attempt.ended_at > CARRIES_FOR):
        raise AuthError("Nobody knows this token.", hint="It is valid as long as its attempt.")
    return Actor(name=attempt.id)


Ctx = Annotated[Context, Depends(context_of)]
Who = Annotated[Actor, Depends(_who)]
Runner = Annotated[str, Depends(_runner)]
Carrier = Annotated[Actor, Depends(_carrier)]
Reader = Annotated[Actor, Depends(_reader)]
