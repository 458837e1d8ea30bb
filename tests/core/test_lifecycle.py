"""No illegal arrow is reachable, terminal states are final, every end frees exactly once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core import lifecycle
from mainspring.core.errors import StateError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.lifecycle import ATTEMPT, RUN, AttemptEvent, Effect, Ending, RunEvent
from mainspring.core.records import Attempt, AttemptState, Cause, Desired, Outcome, Replica, Run, RunState
from mainspring.core.resources import Granted
from mainspring.core.specs import RunSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_run(**changes: object) -> Run:
    run = Run(
        id=RunId("run-0"),
        project="default",
        name="r",
        owner="a",
        spec=RunSpec(command=("true",), retries=2),
        seq=1,
        created_at=NOW,
    )
    return replace(run, **changes)


def make_attempt(run: Run, **changes: object) -> Attempt:
    replica = Replica(index=0, node="n", granted=Granted(cpu_milli=1, memory_bytes=0))
    made = Attempt(id=AttemptId("attempt-0"), run=run.id, number=run.attempt, cluster="c", created_at=NOW, replicas=(replica,))
    return replace(made, **changes)


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(list(AttemptEvent)), max_size=30), st.sampled_from(list(Cause)))
def test_an_attempt_follows_the_table_and_frees_once(events: list[AttemptEvent], cause: Cause) -> None:
    attempt, frees = make_attempt(make_run(attempt=1)), 0
    for event in events:
        before = attempt
        try:
            attempt, effects = lifecycle.advance_attempt(attempt, event, NOW, Outcome(cause=cause))
        except StateError:
            assert (before.state, event) not in ATTEMPT
            continue
        assert ATTEMPT[before.state, event] is attempt.state
        assert before.state is not AttemptState.ENDED, "an ended attempt moved"
        assert attempt.version == before.version + 1
        frees += effects.count(Effect.FREE_ALLOCATIONS)
    assert frees == (attempt.state is AttemptState.ENDED)


@pytest.mark.property
@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Cause)), st.sampled_from(list(Desired))), max_size=40),
    st.integers(min_value=0, max_value=3),
)
def test_a_run_ends_within_its_limits_and_stays_ended(history: list[tuple[Cause, Desired]], retries: int) -> None:
    run = make_run(spec=RunSpec(command=("true",), retries=retries))
    for cause, desired in history:
        if run.state is RunState.QUEUED:
            run = lifecycle.place_run(replace(run, desired=Desired.RUN), NOW)
        before = run
        run = replace(run, desired=desired)
        run = lifecycle.finish_run(run, make_attempt(run), Ending(outcome=Outcome(cause=cause), at=NOW))
        if before.state in lifecycle.TERMINAL_RUN:
            assert run.state is before.state
            continue
        assert run.retries_used <= retries
        assert run.losses < lifecycle.MAX_LOSSES
        if cause is Cause.SUCCEEDED:
            assert run.state is RunState.SUCCEEDED, "a result that came first wins over a cancel"
        elif desired is Desired.CANCELLED:
            assert run.state is RunState.CANCELLED
    assert run.attempt <= retries + lifecycle.MAX_LOSSES + len(history)


@pytest.mark.parametrize("state", list(RunState))
@pytest.mark.parametrize("event", list(RunEvent))
def test_a_run_follows_the_table(state: RunState, event: RunEvent) -> None:
    run = make_run(state=state)
    if (state, event) in RUN:
        moved = lifecycle.advance_run(run, event)
        assert (moved.state, moved.version) == (RUN[state, event], run.version + 1)
        assert state not in lifecycle.TERMINAL_RUN
    else:
        with pytest.raises(StateError):
            lifecycle.advance_run(run, event)


def test_a_superseded_attempt_changes_nothing() -> None:
    run = make_run(state=RunState.RUNNING, attempt=2)
    stale = make_attempt(run, number=1)
    assert lifecycle.finish_run(run, stale, Ending(outcome=Outcome(cause=Cause.SUCCEEDED), at=NOW)) == run


def test_user_errors_use_up_retries_and_losses_do_not() -> None:
    run = make_run(state=RunState.RUNNING, attempt=1)
    lost = lifecycle.finish_run(run, make_attempt(run), Ending(outcome=Outcome(cause=Cause.NODE_LOST), at=NOW))
    assert (lost.state, lost.retries_used, lost.losses) == (RunState.QUEUED, 0, 1)
    failed = lifecycle.finish_run(run, make_attempt(run), Ending(outcome=Outcome(cause=Cause.USER_ERROR), at=NOW))
    assert (failed.state, failed.retries_used, failed.losses) == (RunState.QUEUED, 1, 0)
    spent = replace(run, retries_used=2)
    assert lifecycle.finish_run(spent, make_attempt(spent), Ending(outcome=Outcome(cause=Cause.USER_ERROR), at=NOW)).state is (
        RunState.FAILED
    )


def test_a_failed_launch_backs_off() -> None:
    run = make_run(state=RunState.RUNNING, attempt=1)
    ending = Ending(outcome=Outcome(cause=Cause.LAUNCH_FAILED), at=NOW, backoff_s=4.0)
    assert lifecycle.finish_run(run, make_attempt(run), ending).not_before == NOW + timedelta(seconds=4)


def test_a_paused_run_is_not_placed() -> None:
    with pytest.raises(StateError):
        lifecycle.place_run(make_run(desired=Desired.PAUSED), NOW)


def test_every_state_and_event_is_in_the_tables() -> None:
    assert {state for state, _ in RUN} | lifecycle.TERMINAL_RUN == set(RunState)
    assert {event for _, event in RUN} == set(RunEvent)
    assert {state for state, _ in ATTEMPT} | {AttemptState.ENDED} == set(AttemptState)
    assert {event for _, event in ATTEMPT} == set(AttemptEvent)
