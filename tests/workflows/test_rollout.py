"""Roll-outs: the new revision answers before the old one stops."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.ids import RunId
from mainspring.core.records import Endpoint, Run, RunState
from mainspring.core.specs import Link, RunKind, RunSpec
from mainspring.workflows.rollout import Rollout, desired_replicas, revision_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def endpoint(**others: Any) -> Endpoint:
    made = Endpoint(id="end_1", project="p", name="e", created_by="alice", created_at=NOW, revision=2, replicas=2)
    return replace(made, **others)


def replica(seq: int, revision: int, state: RunState = RunState.RUNNING) -> Run:
    link = Link(kind="endpoint", id="end_1", key=str(revision))
    spec = RunSpec(kind=RunKind.SERVING, link=link)
    return Run(id=RunId(f"run_{seq}"), project="p", name="e", owner="alice", spec=spec, seq=seq, created_at=NOW, state=state)


def test_missing_replicas_are_started() -> None:
    assert desired_replicas(endpoint(), [], set()) == Rollout(start=2)
    runs = [replica(1, 2), replica(2, 2, RunState.FAILED)]
    assert desired_replicas(endpoint(), runs, {"run_1"}) == Rollout(start=1)


def test_the_old_revision_stays_until_the_new_one_answers() -> None:
    runs = [replica(1, 1), replica(2, 1), replica(3, 2), replica(4, 2)]
    assert desired_replicas(endpoint(), runs, {"run_1", "run_2", "run_3"}) == Rollout()
    done = desired_replicas(endpoint(), runs, {"run_1", "run_2", "run_3", "run_4"})
    assert done == Rollout(stop=(RunId("run_1"), RunId("run_2")))


def test_of_a_surplus_the_silent_and_the_young_go_first() -> None:
    runs = [replica(1, 2), replica(2, 2), replica(3, 2), replica(4, 2)]
    assert set(desired_replicas(endpoint(), runs, {"run_2", "run_3", "run_4"}).stop) == {"run_1", "run_4"}


def test_a_stopped_endpoint_keeps_nothing() -> None:
    runs = [replica(1, 1), replica(2, 2), replica(3, 2, RunState.CANCELLED)]
    assert desired_replicas(endpoint(stopped_at=NOW), runs, {"run_2"}) == Rollout(stop=(RunId("run_1"), RunId("run_2")))


def test_a_run_without_a_link_serves_no_revision() -> None:
    assert revision_of(replace(replica(1, 2), spec=RunSpec())) == 0
    assert revision_of(replica(1, 12)) == 12


@settings(max_examples=100, deadline=None)
@given(
    live=st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=8),
    replicas=st.integers(1, 4),
)
def test_answering_replicas_never_fall_below_what_is_wanted(live: list[tuple[int, bool]], replicas: int) -> None:
    runs = [replica(seq, revision) for seq, (revision, _) in enumerate(live)]
    ready: Collection[RunId] = {run.id for run, (_, answers) in zip(runs, live, strict=True) if answers}
    found = desired_replicas(endpoint(replicas=replicas), runs, ready)
    left = [run for run in runs if run.id not in found.stop]
    wanted = min(replicas, len(ready))
    assert sum(run.id in ready for run in left) >= wanted
    assert found.start + sum(revision_of(run) == 2 for run in left) == replicas
