"""The long answer for one run: position, who is ahead by which rule, and what would change it, tried for truth."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from mainspring import scheduler
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Device, DeviceShare, Foreign
from mainspring.core.snapshot import DecisionKind


def _busy(scene: Any, make_node: Any, make_waiting: Any) -> Any:
    """Four GPUs, one held by a run that is believed to end in an hour."""
    first = scene([make_node("n", gpus=4)], [make_waiting(1, gpu_milli=1000, cpu_milli=10, estimate_s=3600.0)])
    return scheduler.apply_plan(first, scheduler.plan(first))


def test_less_now_or_all_of_it_later(scene: Any, make_node: Any, make_waiting: Any) -> None:
    snapshot = replace(_busy(scene, make_node, make_waiting), waiting=(make_waiting(2, gpu_milli=4000, cpu_milli=10),))
    said = scheduler.why(snapshot, "run_002")
    assert said is not None
    assert (said.position, said.waiting, said.reason.code) == (1, 1, ReasonCode.NO_FREE_GPU)
    assert said.expected_at == snapshot.now + timedelta(hours=1)
    assert [one.sentence for one in said.changes] == ["starts now with 1 GPU less", "when run_001 ends, about 13:00 UTC"]
    assert said.changes[0].facts == {"gpu_milli": 3000}
    less = replace(snapshot.waiting[0], resources=replace(snapshot.waiting[0].resources, gpu_milli=3000))
    assert scheduler.plan(replace(snapshot, waiting=(less,))).decisions[0].kind is DecisionKind.START


def test_the_places_kept_for_others_are_not_promised(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """The first run keeps all four devices in an hour; the second may not be told that two are free now."""
    runs = (
        make_waiting(2, gpu_milli=4000, cpu_milli=10, priority=9, estimate_s=600.0),
        make_waiting(3, gpu_milli=3000, cpu_milli=10, estimate_s=9000.0),
    )
    said = scheduler.why(replace(_busy(scene, make_node, make_waiting), waiting=runs), "run_003")
    assert said is not None
    assert said.reason.code is ReasonCode.RESERVED
    assert not any(one.at is None for one in said.changes)


def test_who_is_ahead_and_by_which_rule(scene: Any, make_node: Any, make_waiting: Any) -> None:
    full = [make_node("n", gpus=1, used_devices=(DeviceShare(index=0, milli=1000),))]
    runs = [
        make_waiting(1, gpu_milli=1000, owner="bob"),
        make_waiting(2, gpu_milli=1000, priority=5),
        make_waiting(3, gpu_milli=1000, cpu_milli=2000),
        make_waiting(4, gpu_milli=1000, cpu_milli=3000),
    ]
    said = scheduler.why(scene(full, runs), "run_004")
    assert said is not None
    assert said.position == 4
    assert {one.run: one.rule for one in said.ahead} == {"run_001": "share", "run_002": "priority", "run_003": "earlier"}
    assert scheduler.why(scene(full, runs), "run_nobody") is None


def test_work_that_came_past_the_queue_is_waited_for(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """It is no reason to refuse a run: the node is as large as before once that work has ended."""
    theirs = Foreign(cpu_milli=3000, devices=(Device(index=1),))
    shared = make_node("n", gpus=1, cpu_milli=1000, foreign=theirs)
    runs = [make_waiting(1, cpu_milli=2000), make_waiting(2, gpu_milli=2000, cpu_milli=10), make_waiting(3, cpu_milli=5000)]
    plan = scheduler.plan(scene([shared], runs))
    said = {one.run: one.reason for one in plan.decisions}
    assert [said[one.id].code for one in runs] == [ReasonCode.FOREIGN_WORK, ReasonCode.FOREIGN_WORK, ReasonCode.CANNOT_FIT]
    assert said["run_001"].sentence == "Waits for 2 CPUs: work that came past this queue holds 1 GPU and 3 CPUs of n."
    assert said["run_001"].facts == {"nodes": {"n": {"cpu_milli": 3000, "gpus": 1}}}
    assert "has 2 GPUs, 4 CPUs" in said["run_003"].sentence
    assert [scheduler.would_fit([shared], one.resources) is None for one in runs] == [True, True, False]
    alone = scheduler.plan(scene([shared.emptied()], runs[:2]))
    assert [one.kind for one in alone.decisions] == [DecisionKind.START, DecisionKind.START]


def test_a_run_that_starts_needs_no_answer(scene: Any, make_node: Any, make_waiting: Any) -> None:
    assert scheduler.why(scene([make_node("n")], [make_waiting(1)]), "run_001") is None
