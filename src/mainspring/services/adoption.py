"""Attempts whose runners outlived the rows about them (an older backup was restored): listed, and adopted by an admin.

A runner proves what it is about by a claim: the rows of run and attempt, as this installation signed them when it gave out the
work. Nothing that a runner, or user code beside it, could have written is believed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
from dataclasses import replace
from datetime import timedelta

from mainspring.core.actors import Actor
from mainspring.core.beats import Beat
from mainspring.core.codec import decode, encode
from mainspring.core.errors import AuthError, MainspringError, NotFoundError, SpecError
from mainspring.core.records import Attempt, Claim, Run, Unadopted
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.unadopted import as_launched

KEY = "attempt-tokens"
NAMELESS_S = 60.0


def seal(ctx: Context, run: Run, attempt: Attempt) -> str:
    """Return the claim that a runner shows when nobody knows its attempt any more."""
    body = base64.b64encode(encode(Claim(run=replace(run, outputs={}, metrics={}), attempt=attempt))).decode()
    return f"{body}.{_sign(ctx, body)}"


def note(ctx: Context, attempt: str, beat: Beat) -> None:
    """Record that a runner spoke whose attempt nobody knows."""
    now = ctx.clock.now()
    run = _open(ctx, attempt, beat.claim).run.id if beat.claim else ""
    ctx.store.unadopted.note(
        Unadopted(attempt=attempt, first_seen_at=now, seen_at=now, host=beat.host[:200], run=run, claim=beat.claim)
    )


def all(ctx: Context, actor: Actor) -> list[Unadopted]:
    """Return the attempts that wait to be adopted."""
    actor.need_admin()
    return [replace(one, claim="") for one in ctx.store.unadopted.all()]


def adopt(ctx: Context, actor: Actor, attempt: str) -> Run:
    """Make the rows of an attempt again; its runner then sends what it kept. Raises NotFoundError, StateError, ConflictError."""
    actor.need_admin()
    for one in ctx.store.unadopted.all():
        if one.attempt == attempt and one.claim:
            claim = _open(ctx, attempt, one.claim)
            event = said(actor, "attempt.adopted", attempt, claim.run.project, run=claim.run.id)
            return ctx.store.unadopted.adopt(claim.run, as_launched(claim.attempt), now=ctx.clock.now(), event=event)
    raise NotFoundError(
        f"No runner has told of an attempt {attempt[:60]!r} that nobody knows.", hint="mainspring adopt lists those that have."
    )


def is_pending(ctx: Context) -> bool:
    """Say whether a runner was seen that has not told yet which run it is about: starting that run would run it twice."""
    since = ctx.clock.now() - timedelta(seconds=NAMELESS_S)
    return any(not one.run and one.first_seen_at > since for one in ctx.store.unadopted.all())


def cluster_of(ctx: Context, seen: Unadopted) -> str:
    """Return the cluster where an attempt was placed, empty while its runner has not told, or not so that it can be read."""
    if seen.claim:
        with contextlib.suppress(MainspringError):  # an upgrade, or another backup, lay between
            return str(_open(ctx, seen.attempt, seen.claim).attempt.cluster)
    return ""


def _open(ctx: Context, attempt: str, claim: str) -> Claim:
    body, _, mark = claim.partition(".")
    if not hmac.compare_digest(_sign(ctx, body), mark):
        raise AuthError("The claim was not signed by this installation.", hint="Only its own runners can be adopted.")
    try:
        found = decode(base64.b64decode(body), Claim)
    except binascii.Error as wrong:
        raise SpecError("The claim is not base64.", details={"path": "claim"}) from wrong
    if found.attempt.id != attempt:
        raise AuthError("The claim is another attempt's.")
    return found


def _sign(ctx: Context, body: str) -> str:
    return hmac.new(ctx.store.key(KEY), b"claim:" + body.encode(), hashlib.sha256).hexdigest()
