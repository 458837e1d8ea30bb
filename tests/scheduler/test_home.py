"""When a run comes home from a rented machine, and when it stays where it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.policy import BurstPolicy, Policy
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Rented, Site, Snapshot

MINUTE = timedelta(minutes=1)
ON_IT = Granted(cpu_milli=10, memory_bytes=0, devices=(DeviceShare(index=0, milli=1000),))


@pytest.fixture
def away(scene: Any, make_node: Any) -> Any:
    """Give a maker of a scene: a run on a rented machine for half an hour, with two hours to go, and an idle GPU at home."""

    def made(waiting: tuple[Any, ...] = (), home: Any = None, policy: Policy | None = None, **run: Any) -> Snapshot:
        now = scene([], []).now
        used = {"used_devices": ON_IT.devices, "used_cpu_milli": 10}
        far = make_node("far", gpus=1, pool="cloud", cluster="cloud", **used)
        away = PlacedRun(
            **{
                "id": "run-away",
                "owner": "ada",
                "project": "default",
                "priority": 0,
                "seq": 1,
                "since": now - 30 * MINUTE,
                "is_preemptible": True,
                "places": (Place(replica=0, node="far", granted=ON_IT),),
                "resources": Resources(cpu_milli=10, gpu_milli=1000),
                "estimate_s": 9000.0,
                "checkpointed_at": now - MINUTE,
            }
            | run
        )
        site = Site(name="cloud", machine=make_node("machine", gpus=1, pool="cloud", cluster="cloud"), max_machines=1, running=1)
        nodes = [home if home is not None else make_node("own", gpus=1), far]
        found = scene(nodes, list(waiting), sites=(site,), placed=(away,))
        return replace(
            found, rented=(Rented(node="far", site="cloud", born_at=now - 40 * MINUTE),), policy=policy or found.policy
        )

    return made


def _homing(snapshot: Snapshot) -> list[Decision]:
    return [one for one in scheduler.plan(snapshot).decisions if one.kind is DecisionKind.EVICT]


def test_it_comes_home_to_a_place_of_its_own_and_goes_on_there(away: Any) -> None:
    snapshot = away()
    plan = scheduler.plan(snapshot)
    (one,) = plan.decisions
    assert (one.run, one.kind, one.rule, one.beneficiary) == ("run-away", DecisionKind.EVICT, "home", "run-away")
    assert [place.node for place in one.places] == ["own"]
    after = scheduler.apply_plan(snapshot, plan)
    (start,) = scheduler.plan(after).decisions
    assert (start.kind, start.rule, start.places) == (DecisionKind.START, "nominated", one.places)
    again = scheduler.plan(scheduler.apply_plan(after, scheduler.plan(after)))
    assert again.decisions == ()


@pytest.mark.parametrize(
    "run",
    [
        {"checkpointed_at": None},  # all its work would be lost
        {"is_preemptible": False},
        {"is_stopping": True},
        {"estimate_s": 0.0},  # nobody knows whether it is worth it
        {"estimate_s": 2000.0},  # it ends soon
        {"resources": Resources(cpu_milli=10, gpu_milli=1000, gpu_models=("H100",))},
    ],
)
def test_who_loses_more_than_it_gains_stays(run: dict[str, Any], away: Any) -> None:
    assert _homing(away(**run)) == []


def test_an_old_checkpoint_or_a_young_run_stays(away: Any) -> None:
    now = away().now
    assert _homing(away(since=now - MINUTE, checkpointed_at=now - MINUTE / 2)) == []
    assert _homing(away(since=now - 60 * MINUTE, checkpointed_at=now - 50 * MINUTE)) == []
    assert len(_homing(away(since=now - 60 * MINUTE, checkpointed_at=now - 40 * MINUTE))) == 1


def test_who_waits_at_home_comes_first(away: Any, make_waiting: Any, make_node: Any) -> None:
    waits = make_waiting(9, gpu_milli=1000, cpu_milli=10)
    assert _homing(away(waiting=(waits,))) == []
    assert len(_homing(away(waiting=(waits,), home=make_node("own", gpus=2)))) == 1


def test_the_policy_may_leave_runs_where_they_are(away: Any) -> None:
    assert _homing(away(policy=Policy(burst=BurstPolicy(come_home=False)))) == []


def test_another_rented_machine_is_no_home(away: Any, make_node: Any) -> None:
    snapshot = away(home=make_node("own", gpus=0))
    other = make_node("other", gpus=1, pool="cloud", cluster="cloud")
    snapshot = replace(
        snapshot, nodes=(*snapshot.nodes, other), rented=(*snapshot.rented, replace(snapshot.rented[0], node="other"))
    )
    assert _homing(snapshot) == []


def test_who_outlives_what_was_reserved_leaves_and_is_rented_for_no_more(away: Any, make_node: Any) -> None:
    snapshot = away(home=make_node("own", gpus=0), estimate_s=800.0)  # half an hour is more than twice that
    plan = scheduler.plan(snapshot)
    (one,) = plan.decisions
    assert (one.run, one.kind, one.rule, one.beneficiary, one.places) == (
        "run-away",
        DecisionKind.EVICT,
        "overdue",
        "run-away",
        (),
    )
    after = scheduler.apply_plan(snapshot, plan)
    assert after.waiting[0].sites == ()
    (waits,) = scheduler.plan(after).decisions
    assert waits.kind is DecisionKind.WAIT, "the machine that it left is idle, and not for it"


@pytest.mark.parametrize(
    "run",
    [{"checkpointed_at": None}, {"is_preemptible": False}, {"is_stopping": True}, {"estimate_s": 0.0}, {"estimate_s": 1000.0}],
)
def test_who_would_lose_all_or_is_in_time_stays_though_it_is_long(run: dict[str, Any], away: Any, make_node: Any) -> None:
    assert _homing(away(home=make_node("own", gpus=0), **{"estimate_s": 800.0} | run)) == []
