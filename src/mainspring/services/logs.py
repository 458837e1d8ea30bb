"""Logs: bytes of an attempt's streams by offset. Nothing is decoded here: what the user's process wrote is what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, AttemptState, Run
from mainspring.services import runs
from mainspring.services.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """Some bytes of one attempt's log. `is_end`: the attempt has ended and these were its last bytes."""

    attempt: str
    number: int
    offset: int
    data: bytes
    next_offset: int
    is_end: bool


def read(
    ctx: Context,
    actor: Actor,
    ref: str,
    *,
    attempt: int | None = None,
    replica: int = 0,
    offset: int = 0,
    limit: int = 1 << 20,
    stream: str = "log",
) -> LogPart:
    """Return up to `limit` bytes of the log from `offset`; a negative offset counts from the end. Newest attempt by default.

    The stream `events` has JSON lines `{"kind", ...}`: what a backend or a runner told of the attempt, such as its image.
    """
    chosen = choose(ctx, actor, ref, attempt)
    if chosen is None:
        return LogPart(attempt="", number=0, offset=0, data=b"", next_offset=0, is_end=False)
    if replica >= len(chosen.replicas):
        raise _no_replica(replica, len(chosen.replicas), ref)
    if offset < 0:
        offset = max(0, ctx.store.logs.size(chosen.id, replica, stream) + offset)
    data = ctx.store.logs.read(chosen.id, replica, stream, offset=offset, limit=limit)
    after = offset + len(data)
    is_end = chosen.state is AttemptState.ENDED and after >= ctx.store.logs.size(chosen.id, replica, stream)
    return LogPart(attempt=chosen.id, number=chosen.number, offset=offset, data=data, next_offset=after, is_end=is_end)


def check_replica(run: Run, tries: Sequence[Attempt], number: int, replica: int) -> None:
    """Raise NotFoundError when neither the attempt of that number has such a replica nor a later one can.

    A gang may start with fewer replicas than it asks for, and the next time with more.
    """
    known = [len(one.replicas) for one in tries if one.number >= number] if run.state in TERMINAL_RUN else []
    count = max(known, default=run.spec.replicas)
    if replica >= count:
        raise _no_replica(replica, count, run.id)


def choose(ctx: Context, actor: Actor, ref: str, number: int | None) -> Attempt | None:
    """Return the attempt of that number, or the newest; None when there is none yet. Raises NotFoundError."""
    run = runs.get(ctx, actor, ref)
    tries = ctx.store.attempts.of_run(run.id)
    if number is None:
        return tries[-1] if tries else None
    for one in tries:
        if one.number == number:
            return one
    raise NotFoundError(f"Run {run.name} has no attempt {number}; it has {len(tries)}.", hint=f"mainspring show {run.name}")


def _no_replica(replica: int, count: int, ref: str) -> NotFoundError:
    return NotFoundError(f"The run has no replica {replica}; it has {count}, counted from 0.", hint=f"mainspring show {ref[:80]}")
