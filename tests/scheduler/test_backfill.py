"""Reservations: who keeps a place, who may pass, and what a window of a share holds back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import BackfillPolicy, Policy, PreemptionPolicy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Reservation, Snapshot
from mainspring.scheduler.timeline import left_s

HOUR = 3600.0


@pytest.fixture
def put(make_waiting: Any) -> Any:
    """Give a maker of a placed run of whole GPUs: `put(node, devices, since, estimate_s=…)`; returns (node, run)."""

    def made(node: Any, devices: list[int], now: datetime, *, age_s: float = 0.0, **others: Any) -> tuple[Any, PlacedRun]:
        granted = Granted(cpu_milli=100, memory_bytes=0, devices=tuple(DeviceShare(index=one, milli=1000) for one in devices))
        number = node.used_cpu_milli // 100
        run = PlacedRun(
            id=RunId(f"run_{node.id}_{number}"),
            owner="zoe",
            project="p",
            priority=0,
            seq=-number - 1,
            since=now - timedelta(seconds=age_s),
            is_preemptible=True,
            places=(Place(replica=0, node=node.id, granted=granted),),
            resources=Resources(cpu_milli=100, gpu_milli=1000 * len(devices)),
        )
        used = replace(node, used_cpu_milli=node.used_cpu_milli + 100, used_devices=(*node.used_devices, *granted.devices))
        return used, replace(run, **others)

    return made


def _decided(snapshot: Snapshot) -> dict[str, Decision]:
    return {str(one.run): one for one in scheduler.plan(snapshot).decisions}


def test_the_first_blocked_run_keeps_its_time_and_short_ones_pass(
    scene: Any, make_node: Any, make_waiting: Any, put: Any
) -> None:
    now = scene([], []).now
    node, running = put(make_node("n", gpus=4), [0, 1], now, estimate_s=HOUR)
    runs = [
        make_waiting(1, gpu_milli=4000, priority=9, estimate_s=HOUR),
        make_waiting(2, gpu_milli=1000, estimate_s=2 * HOUR),
        make_waiting(3, gpu_milli=1000),
        make_waiting(4, gpu_milli=1000, estimate_s=HOUR),
    ]
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    decided = _decided(scene([node], runs, placed=(running,), policy=policy))
    assert decided["run_001"].expected_at == now + timedelta(hours=1)
    assert len(decided["run_001"].places[0].granted.devices) == 4
    assert {name: one.kind for name, one in decided.items()} == {
        "run_001": DecisionKind.WAIT,
        "run_002": DecisionKind.WAIT,
        "run_003": DecisionKind.WAIT,
        "run_004": DecisionKind.START,
    }
    assert decided["run_004"].rule == "backfill"
    reason = decided["run_002"].reason
    assert reason is not None
    assert (reason.code, reason.facts) == (ReasonCode.RESERVED, {"runs": ["run_001"]})
    open_policy = replace(policy, backfill=BackfillPolicy(reserved=0))
    assert _decided(scene([node], runs, placed=(running,), policy=open_policy))["run_003"].kind is DecisionKind.START


@pytest.mark.parametrize("length_s", [365 * 24 * HOUR, 10 * 366 * 24 * HOUR])
def test_lengths_of_nothing_and_of_years_are_lengths(
    length_s: float, scene: Any, make_node: Any, make_waiting: Any, put: Any
) -> None:
    """Zero is not known, and passes nobody by hope; years keep a place for years, and whoever ends before that passes."""
    now = scene([], []).now
    node, running = put(make_node("n", gpus=4), [0, 1], now, estimate_s=length_s)
    runs = [
        make_waiting(1, gpu_milli=4000, priority=9, estimate_s=length_s),
        make_waiting(2, gpu_milli=1000, estimate_s=0.0),
        make_waiting(3, gpu_milli=1000, estimate_s=length_s + 1),
        make_waiting(4, gpu_milli=1000, estimate_s=length_s / 2),
    ]
    decided = _decided(scene([node], runs, placed=(running,), policy=Policy(preemption=PreemptionPolicy(mode="never"))))
    assert decided["run_001"].expected_at == now + timedelta(seconds=length_s)
    assert [name for name, one in decided.items() if one.kind is DecisionKind.START] == ["run_004"]


def test_a_reservation_holds_back_only_its_own_place(scene: Any, make_node: Any, make_waiting: Any, put: Any) -> None:
    now = scene([], []).now
    first, one = put(make_node("a", gpus=2), [0], now, estimate_s=HOUR)
    second, other = put(make_node("b", gpus=2), [0], now, estimate_s=3 * HOUR)
    runs = [make_waiting(1, gpu_milli=2000, priority=9), *(make_waiting(seq, gpu_milli=1000) for seq in (2, 3))]
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    decided = _decided(scene([first, second], runs, placed=(one, other), policy=policy))
    assert [place.node for place in decided["run_001"].places] == ["a"]
    assert [place.node for place in decided["run_002"].places] == ["b"]
    assert decided["run_003"].kind is DecisionKind.WAIT


def test_nobody_knows_when_so_nothing_is_kept_until_the_run_has_waited_long(
    scene: Any, make_node: Any, make_waiting: Any, put: Any
) -> None:
    now = scene([], []).now
    node, running = put(make_node("n", gpus=2), [0], now)
    young = [make_waiting(1, gpu_milli=2000, priority=9), make_waiting(2, gpu_milli=1000)]
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    assert _decided(scene([node], young, placed=(running,), policy=policy))["run_002"].kind is DecisionKind.START
    old = [replace(young[0], submitted_at=now - timedelta(days=1)), young[1]]
    decided = _decided(scene([node], old, placed=(running,), policy=policy))
    assert decided["run_001"].expected_at is None
    assert decided["run_002"].reason is not None
    assert decided["run_002"].reason.code is ReasonCode.RESERVED


def test_a_gang_is_reserved_as_a_whole(scene: Any, make_node: Any, make_waiting: Any, put: Any) -> None:
    now = scene([], []).now
    first, one = put(make_node("a", gpus=1), [0], now, estimate_s=HOUR)
    second, other = put(make_node("b", gpus=1), [0], now, estimate_s=2 * HOUR)
    gang = make_waiting(1, gpu_milli=1000, replicas=2)
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    decided = _decided(scene([first, second, make_node("c")], [gang], placed=(one, other), policy=policy))
    assert decided["run_001"].expected_at == now + timedelta(hours=2)
    assert sorted(place.node for place in decided["run_001"].places) == ["a", "b"]


def test_a_window_is_kept_for_its_share(scene: Any, make_node: Any, make_waiting: Any) -> None:
    snapshot = scene([make_node("n", gpus=2)], [])
    now = snapshot.now

    def window(begins_h: float) -> tuple[Reservation, ...]:
        begins = now + timedelta(hours=begins_h)
        asked = Resources(cpu_milli=1000, gpu_milli=1000)
        return (
            Reservation(id="w", share="team", begins_at=begins, ends_at=begins + timedelta(hours=2), resources=asked, replicas=2),
        )

    def decided(begins_h: float, **others: Any) -> tuple[DecisionKind, Any]:
        run = make_waiting(1, gpu_milli=1000, **others)
        one = _decided(replace(snapshot, waiting=(run,), reservations=window(begins_h)))["run_001"]
        return one.kind, one.reason and one.reason.code

    kept = (DecisionKind.WAIT, ReasonCode.ADVANCE_RESERVATION)
    assert decided(-1) == kept  # open
    assert decided(-1, share="team/eve") == (DecisionKind.START, None)
    assert decided(-3) == (DecisionKind.START, None)  # over
    assert decided(1, estimate_s=2 * HOUR) == kept
    assert decided(1, estimate_s=HOUR) == (DecisionKind.START, None)
    assert decided(1) == (DecisionKind.START, None)  # can be sent away when the window opens
    assert decided(1, is_preemptible=False) == kept


def test_who_overruns_is_believed_to_end_soon(scene: Any, make_node: Any, put: Any) -> None:
    now = scene([], []).now

    def left(**given: Any) -> float:
        return left_s(put(make_node("n", gpus=1), [0], now, **given)[1], now, 1.0)

    assert left(estimate_s=HOUR, age_s=600) == 3000
    assert left(estimate_s=600.0, age_s=HOUR) == 360
    assert left(estimate_s=60.0, age_s=60) == 60
    assert left() == float("inf")
    assert left(is_stopping=True) == 30


def test_nominated_places_are_kept_until_they_are_free(scene: Any, make_node: Any, make_waiting: Any, put: Any) -> None:
    now = scene([], []).now
    node, leaving = put(make_node("n", gpus=2), [0], now, is_stopping=True)
    granted = Granted(cpu_milli=100, memory_bytes=0, devices=(DeviceShare(index=0, milli=1000), DeviceShare(index=1, milli=1000)))
    places = (Place(replica=0, node="n", granted=granted),)
    chosen = make_waiting(9, gpu_milli=2000, cpu_milli=100, nominated=places)
    eager = make_waiting(1, gpu_milli=1000, cpu_milli=100)
    snapshot = scene([node], [chosen, eager], placed=(leaving,))
    decided = _decided(snapshot)
    assert (decided["run_009"].kind, decided["run_009"].places) == (DecisionKind.NOMINATE, places)
    assert decided["run_001"].reason is not None
    assert decided["run_001"].reason.code is ReasonCode.RESERVED
    gone = replace(snapshot, nodes=(make_node("n", gpus=2),), placed=())
    assert (_decided(gone)["run_009"].kind, _decided(gone)["run_009"].rule) == (DecisionKind.START, "nominated")
    stale = replace(snapshot, placed=(replace(leaving, is_stopping=False),))
    assert _decided(stale)["run_001"].kind is DecisionKind.START


def test_places_are_kept_for_the_choice_that_is_met_first(scene: Any, make_node: Any, make_waiting: Any, put: Any) -> None:
    """Four GPUs come free in two hours, two in one: who would do with two is kept those."""
    now = scene([], []).now
    node, long = put(make_node("n", gpus=4), [0, 1], now, estimate_s=2 * HOUR)
    node, short = put(node, [2, 3], now, estimate_s=HOUR)
    run = make_waiting(1, gpu_milli=4000, alternatives=(Resources(gpu_milli=2000),))
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    decided = _decided(scene([node], [run], placed=(long, short), policy=policy))["run_001"]
    assert decided.expected_at == now + timedelta(hours=1)
    assert [share.index for share in decided.places[0].granted.devices] == [2, 3]
