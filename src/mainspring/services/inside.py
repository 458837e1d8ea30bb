"""Reach inside a running run: who may, where it is, and what to say when nobody answers there."""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.core.actors import Actor
from mainspring.core.errors import MainspringError, NotFoundError, StateError, UnreachableError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, AttemptState, Replica, Role, Run, RunState
from mainspring.core.units import show_seconds
from mainspring.services import runs
from mainspring.services.context import Context

RECENT_S = 15.0
_IN_IT = frozenset({AttemptState.RUNNING, AttemptState.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One member of a run that runs."""

    run: RunId
    name: str
    project: str
    attempt: AttemptId
    replica: int


def find(ctx: Context, actor: Actor, ref: str, replica: int = 0) -> Place:
    """Return where the run's user code runs now. It takes the right to change the run: who is inside can do anything there.

    Raises NotFoundError, AccessDeniedError, StateError (it does not run), UnreachableError (nobody knows how it is).
    """
    run = runs.get(ctx, actor, ref)
    actor.need(run.project, Role.EDITOR)
    tries = ctx.store.attempts.of_run(run.id) if run.state is RunState.RUNNING else []
    if not tries:
        raise _not_running(run, None)
    last = tries[-1]
    member = next((one for one in last.replicas if one.index == replica), None)
    if member is None:
        numbers = f"replicas 0 to {len(last.replicas) - 1}" if len(last.replicas) > 1 else "replica 0 only"
        raise NotFoundError(f"Run {run.name} has no replica {replica}; it has {numbers}.", hint=f"mainspring show {run.id}")
    _check_runs(ctx, run, last, member)
    return Place(run=run.id, name=run.name, project=run.project, attempt=last.id, replica=replica)


def note(ctx: Context, actor: Actor, place: Place, kind: str, **facts: object) -> None:
    """Write down that somebody went in: who, where and when, and never what was said."""
    said = runs.said(actor, kind, place.run, place.project, attempt=place.attempt, replica=place.replica, **facts)
    ctx.store.events.append(said)


def silence(ctx: Context, place: Place) -> MainspringError:
    """Return the error for a runner that did not come, with what is known of it."""
    run, attempt = ctx.store.runs.get(place.run), ctx.store.attempts.get(place.attempt)
    member = None if attempt is None else next((one for one in attempt.replicas if one.index == place.replica), None)
    if run is None or attempt is None or member is None:
        return StateError(f"Run {place.name} was removed.")
    try:
        _check_runs(ctx, run, attempt, member)
    except MainspringError as wrong:
        return wrong
    if is_heard(ctx, member):
        return UnreachableError(
            f"The runner of {run.name} reports, and does not open a way inside.",
            hint="It may be older than this server (a new run has a new one), or something between them stops websockets.",
        )
    since = "" if member.last_beat_at is None else f" for {show_seconds((ctx.clock.now() - member.last_beat_at).total_seconds())}"
    return UnreachableError(
        f"The runner of {run.name} has not been heard{since}.", hint=f"mainspring why {run.id}; it may come back by itself."
    )


def is_heard(ctx: Context, member: Replica) -> bool:
    """Say whether its runner has spoken in the last seconds."""
    beat = member.last_beat_at
    return beat is not None and (ctx.clock.now() - beat).total_seconds() < RECENT_S + ctx.settings.quiet_beat_s


def member_of(ctx: Context, place: Place) -> Replica | None:
    """Return the replica as it is now; None when the attempt is no longer the run's, or is over."""
    attempt = ctx.store.attempts.get(place.attempt)
    if attempt is None or attempt.state is AttemptState.ENDED:
        return None
    return next((one for one in attempt.replicas if one.index == place.replica and one.ended_at is None), None)


def _check_runs(ctx: Context, run: Run, attempt: Attempt, member: Replica) -> None:
    if run.state is not RunState.RUNNING or attempt.state is AttemptState.ENDED:
        raise _not_running(run, attempt)
    if member.ended_at is not None or member.state is AttemptState.ENDED:
        raise StateError(f"Replica {member.index} of run {run.name} has ended.", hint=f"mainspring show {run.id}")
    if member.unknown_since is not None:
        gone = show_seconds((ctx.clock.now() - member.unknown_since).total_seconds())
        raise UnreachableError(f"Nobody knows how run {run.name} is since {gone}.", hint=f"mainspring why {run.id}")
    if member.state not in _IN_IT:
        raise _not_running(run, attempt)


def _not_running(run: Run, attempt: Attempt | None) -> StateError:
    if run.state in TERMINAL_RUN:
        hint = f"mainspring logs {run.id} shows what it wrote; mainspring rerun {run.id} begins it again."
        return StateError(f"Run {run.name} has {_ENDS[run.state]}: there is nothing to go into.", hint=hint)
    if run.state is RunState.QUEUED or attempt is None or attempt.state is AttemptState.ENDED:
        return StateError(f"Run {run.name} is queued, it does not run yet.", hint=f"mainspring why {run.id}")
    return StateError(
        f"Run {run.name} is being set up, its code has not begun.", hint=f"mainspring logs -f {run.id}; try again then."
    )


_ENDS = {RunState.SUCCEEDED: "succeeded", RunState.FAILED: "failed", RunState.CANCELLED: "been cancelled"}
