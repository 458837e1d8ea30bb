"""How runs and attempts change: the arrows as data, and one function for each record that follows them.

`advance_run` and `advance_attempt` are pure; the latter also returns the effects that the caller carries out in the same
transaction. Every arrow that is not in the table raises StateError. `place_run`, `cancel_queued` and `finish_run` decide
which event it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from mainspring.core.errors import StateError
from mainspring.core.records import Attempt, AttemptState, Cause, Desired, Outcome, Run, RunState

MAX_LOSSES = 10
USER_CAUSES = frozenset({Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.TIMEOUT})
LOSS_CAUSES = frozenset({Cause.PREEMPTED, Cause.NODE_LOST, Cause.LAUNCH_FAILED, Cause.SUPERSEDED})


class RunEvent(StrEnum):
    """What can happen to a run."""

    PLACED = "placed"
    CACHED = "cached"  # it takes the outputs of an earlier run: there is nothing to compute
    RETRIED = "retried"  # its attempt ended, another try follows
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptEvent(StrEnum):
    """What can happen to an attempt."""

    LEASED = "leased"  # W3: a controller is about to launch it
    BEAT = "beat"  # the runner lives and sets up
    USER_STARTED = "user_started"
    STOP_ASKED = "stop_asked"
    ENDED = "ended"  # confirmed, with a cause; silence alone ends nothing


class Effect(StrEnum):
    """What the caller does in the same transaction."""

    FREE_ALLOCATIONS = "free_allocations"


RUN: Mapping[tuple[RunState, RunEvent], RunState] = {
    (RunState.QUEUED, RunEvent.PLACED): RunState.RUNNING,
    (RunState.QUEUED, RunEvent.CACHED): RunState.SUCCEEDED,
    (RunState.QUEUED, RunEvent.CANCELLED): RunState.CANCELLED,
    (RunState.RUNNING, RunEvent.RETRIED): RunState.QUEUED,
    (RunState.RUNNING, RunEvent.SUCCEEDED): RunState.SUCCEEDED,
    (RunState.RUNNING, RunEvent.FAILED): RunState.FAILED,
    (RunState.RUNNING, RunEvent.CANCELLED): RunState.CANCELLED,
}

ATTEMPT: Mapping[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (AttemptState.ALLOCATED, AttemptEvent.LEASED): AttemptState.LAUNCHING,
    (AttemptState.ALLOCATED, AttemptEvent.STOP_ASKED): AttemptState.STOPPING,
    (AttemptState.ALLOCATED, AttemptEvent.ENDED): AttemptState.ENDED,
    (AttemptState.LAUNCHING, AttemptEvent.LEASED): AttemptState.LAUNCHING,
    (AttemptState.LAUNCHING, AttemptEvent.BEAT): AttemptState.STARTING,
    (AttemptState.LAUNCHING, AttemptEvent.USER_STARTED): AttemptState.RUNNING,
    (AttemptState.LAUNCHING, AttemptEvent.STOP_ASKED): AttemptState.STOPPING,
    (AttemptState.LAUNCHING, AttemptEvent.ENDED): AttemptState.ENDED,
    (AttemptState.STARTING, AttemptEvent.BEAT): AttemptState.STARTING,
    (AttemptState.STARTING, AttemptEvent.USER_STARTED): AttemptState.RUNNING,
    (AttemptState.STARTING, AttemptEvent.STOP_ASKED): AttemptState.STOPPING,
    (AttemptState.STARTING, AttemptEvent.ENDED): AttemptState.ENDED,
    (AttemptState.RUNNING, AttemptEvent.BEAT): AttemptState.RUNNING,
    (AttemptState.RUNNING, AttemptEvent.USER_STARTED): AttemptState.RUNNING,
    (AttemptState.RUNNING, AttemptEvent.STOP_ASKED): AttemptState.STOPPING,
    (AttemptState.RUNNING, AttemptEvent.ENDED): AttemptState.ENDED,
    (AttemptState.STOPPING, AttemptEvent.BEAT): AttemptState.STOPPING,
    (AttemptState.STOPPING, AttemptEvent.USER_STARTED): AttemptState.STOPPING,
    (AttemptState.STOPPING, AttemptEvent.STOP_ASKED): AttemptState.STOPPING,
    (AttemptState.STOPPING, AttemptEvent.ENDED): AttemptState.ENDED,
}

TERMINAL_RUN = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A confirmed end of an attempt, as the finishing transaction sees it: it is heard `at`, and was `late_s` before."""

    outcome: Outcome
    at: datetime
    backoff_s: float = 0.0
    late_s: float = 0.0


def advance_run(run: Run, event: RunEvent) -> Run:
    """Return `run` after `event`; every change of a run's state passes here. Raises StateError for an arrow not in the table."""
    target = RUN.get((run.state, event))
    if target is None:
        raise StateError(f"Run {run.id} is {run.state}: {event} cannot happen to it.")
    return replace(run, state=target, version=run.version + 1)


def place_run(run: Run, at: datetime) -> Run:
    """Return `run` with its next attempt begun. Raises StateError unless it is queued and wanted."""
    if run.desired is not Desired.RUN:
        raise StateError(f"Run {run.id} is {run.desired}, it is not to be started.")
    return replace(
        advance_run(run, RunEvent.PLACED), attempt=run.attempt + 1, reason=None, not_before=None, started_at=run.started_at or at
    )


def take_cached(run: Run, source: Run) -> Run:
    """Return `run` succeeded at once with the outputs of `source`. Raises StateError unless it is queued."""
    outcome = Outcome(cause=Cause.SUCCEEDED, exit_code=0, message=f"Taken from run {source.id}.")
    taken = replace(run, outcome=outcome, outputs=source.outputs, cached_from=source.id, ended_at=run.created_at)
    return advance_run(taken, RunEvent.CACHED)


def cancel_queued(run: Run, at: datetime) -> Run:
    """Return `run` cancelled before any attempt is open. Raises StateError unless it is queued."""
    if run.state is not RunState.QUEUED:
        raise StateError(f"Run {run.id} is {run.state}, it is not waiting.")
    outcome = Outcome(cause=Cause.CANCELLED, message="Cancelled before it was started.")
    return replace(advance_run(run, RunEvent.CANCELLED), outcome=outcome, ended_at=at, reason=None)


def advance_attempt(
    attempt: Attempt, event: AttemptEvent, at: datetime, outcome: Outcome | None = None
) -> tuple[Attempt, tuple[Effect, ...]]:
    """Return `attempt` after `event` and the effects. An ENDED event needs an `outcome`. Raises StateError."""
    target = ATTEMPT.get((attempt.state, event))
    if target is None:
        raise StateError(f"Attempt {attempt.id} is {attempt.state}: {event} cannot happen to it.")
    moved = replace(attempt, state=target, version=attempt.version + 1)
    match event:
        case AttemptEvent.LEASED:
            return replace(moved, launched_at=attempt.launched_at or at), ()
        case AttemptEvent.BEAT | AttemptEvent.STOP_ASKED:
            return moved, ()
        case AttemptEvent.USER_STARTED:
            return replace(moved, started_at=attempt.started_at or at), ()
        case AttemptEvent.ENDED:
            if outcome is None:
                raise StateError(f"Attempt {attempt.id} cannot end without an outcome.")
            return replace(moved, outcome=outcome, ended_at=at), (Effect.FREE_ALLOCATIONS,)
        case _:
            assert_never(event)


def finish_run(run: Run, attempt: Attempt, ending: Ending) -> Run:
    """Return `run` after its attempt's confirmed end: done, or queued for another try.

    A superseded attempt (`attempt.number != run.attempt`) changes nothing (protocol P2), nor does a run that is done.
    A result that races a cancel wins if it came first: cause SUCCEEDED ends the run as succeeded whatever is desired.
    """
    if attempt.number != run.attempt or run.state is not RunState.RUNNING:
        return run
    run = replace(run, reason=None)  # of its attempt, if nothing was known of it
    cause = ending.outcome.cause
    done = replace(run, outcome=ending.outcome, ended_at=attempt.ended_at or ending.at)
    if cause is Cause.SUCCEEDED:
        return advance_run(done, RunEvent.SUCCEEDED)
    if run.desired is Desired.CANCELLED or (cause is Cause.CANCELLED and run.desired is Desired.RUN):
        cancelled = replace(ending.outcome, cause=Cause.CANCELLED)
        return advance_run(replace(done, outcome=cancelled), RunEvent.CANCELLED)
    if cause in USER_CAUSES:
        if run.retries_used >= run.spec.retries:
            return advance_run(done, RunEvent.FAILED)
        return advance_run(replace(run, retries_used=run.retries_used + 1), RunEvent.RETRIED)
    if cause in LOSS_CAUSES and run.losses + 1 >= MAX_LOSSES:
        return advance_run(done, RunEvent.FAILED)
    losses = run.losses + (cause in LOSS_CAUSES)
    again = replace(run, losses=losses, not_before=ending.at + timedelta(seconds=ending.backoff_s) if ending.backoff_s else None)
    return advance_run(again, RunEvent.RETRIED)
