"""Scenes: who goes first, where, and what people read while they wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.errors import PlannerError
from mainspring.core.policy import Policy
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import NodeState
from mainspring.core.resources import Device, DeviceShare

GIB = 2**30


@pytest.fixture
def where() -> Any:
    """Give a reader of plans: run id to the nodes of its replicas."""

    def nodes(snapshot: Any) -> dict[str, list[str]]:
        return {str(one.run): [place.node for place in one.places] for one in scheduler.plan(snapshot).decisions if one.places}

    return nodes


@pytest.fixture
def why() -> Any:
    """Give a reader of plans: run id to its reason."""

    def reasons(snapshot: Any) -> dict[str, Any]:
        return {str(one.run): one.reason for one in scheduler.plan(snapshot).decisions if one.reason is not None}

    return reasons


def test_priority_first_then_submission(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    runs = [make_waiting(3, gpu_milli=1000), make_waiting(2, gpu_milli=1000), make_waiting(4, gpu_milli=1000, priority=1)]
    assert list(where(scene([make_node("n", gpus=2)], runs))) == ["run_004", "run_002"]


def test_a_blocked_run_does_not_block_those_behind(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    node = make_node("n", gpus=2, used_devices=(DeviceShare(index=0, milli=1000),))
    runs = [make_waiting(1, gpu_milli=2000, priority=9), make_waiting(2, gpu_milli=1000)]
    assert list(where(scene([node], runs))) == ["run_002"]


def test_pack_fills_what_is_begun(scene: Any, make_node: Any, make_waiting: Any) -> None:
    begun = make_node("z", gpus=2, used_devices=(DeviceShare(index=1, milli=400),), used_cpu_milli=1000)
    halves = [make_waiting(1, gpu_milli=500), make_waiting(2, gpu_milli=500)]
    snapshot = scene([make_node("a", gpus=2), begun], halves, policy=Policy(scorer="pack"))
    places = [one.places[0] for one in scheduler.plan(snapshot).decisions]
    assert (places[0].node, places[0].granted.devices) == ("z", (DeviceShare(index=1, milli=500),))
    assert (places[1].node, places[1].granted.devices) == ("z", (DeviceShare(index=0, milli=500),))


def test_pack_keeps_plain_runs_off_idle_gpus(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    nodes = [make_node("a", cpus=8, gpus=2), make_node("b", cpus=64)]
    assert where(scene(nodes, [make_waiting(1)])) == {"run_001": ["b"]}


@pytest.mark.parametrize(("scorer", "expected"), [("spread", "c"), ("first_fit", "a"), ("best_fit", "b"), ("pack", "b")])
def test_each_scorer_has_its_own_choice(
    scorer: str, expected: str, scene: Any, make_node: Any, make_waiting: Any, where: Any
) -> None:
    nodes = [
        make_node("a", used_cpu_milli=2000, used_memory_bytes=8 * GIB),
        make_node("b", used_cpu_milli=6000, used_memory_bytes=24 * GIB),
        make_node("c"),
    ]
    assert where(scene(nodes, [make_waiting(1)], policy=Policy(scorer=scorer))) == {"run_001": [expected]}


def test_spread_takes_the_emptiest_device(scene: Any, make_node: Any, make_waiting: Any) -> None:
    node = make_node("n", gpus=2, used_devices=(DeviceShare(index=0, milli=200),))
    plan = scheduler.plan(scene([node], [make_waiting(1, gpu_milli=300)], policy=Policy(scorer="spread")))
    assert plan.decisions[0].places[0].granted.devices == (DeviceShare(index=1, milli=300),)


def test_ties_go_to_the_first_pool_then_node(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    nodes = [make_node("a", pool="z"), make_node("c", pool="b"), make_node("b", pool="b")]
    assert where(scene(nodes, [make_waiting(1)])) == {"run_001": ["b"]}


def test_avoided_nodes_are_the_last_resort(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    nodes = [make_node("a", cpus=1), make_node("b", cpus=64)]
    assert where(scene(nodes, [make_waiting(1, avoid=("a",))])) == {"run_001": ["b"]}
    assert where(scene(nodes[:1], [make_waiting(1, avoid=("a",))])) == {"run_001": ["a"]}
    gang = make_waiting(1, replicas=3, cpu_milli=1000, avoid=("b",))
    assert where(scene(nodes, [gang])) == {"run_001": ["a", "b", "b"]}


def test_gpu_memory_becomes_a_share_of_the_device_chosen(scene: Any, make_node: Any, make_waiting: Any) -> None:
    node = make_node("n", devices=(Device(index=0), Device(index=7, memory_bytes=3 * GIB)))
    runs = [make_waiting(1, gpu_memory_bytes=GIB), make_waiting(2, gpu_memory_bytes=GIB, gpu_milli=500)]
    decisions = scheduler.plan(scene([node], runs)).decisions
    assert [one.places[0].granted.devices for one in decisions] == [
        (DeviceShare(index=7, milli=334),),
        (DeviceShare(index=7, milli=500),),
    ]


def test_a_gang_stays_in_one_cluster_and_may_share_a_node(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    nodes = [
        make_node("a", cpus=2, cluster="east"),
        make_node("b", cpus=2, cluster="east"),
        make_node("c", cpus=3, cluster="west"),
    ]
    assert where(scene(nodes, [make_waiting(1, replicas=4)])) == {"run_001": ["a", "a", "b", "b"]}
    assert where(scene(nodes, [make_waiting(1, replicas=5)])) == {}


def test_a_gang_too_large_does_not_stop_a_smaller_one(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    runs = [make_waiting(1, replicas=9), make_waiting(2, replicas=2), make_waiting(3, replicas=7), make_waiting(4, replicas=6)]
    assert list(where(scene([make_node("n")], runs))) == ["run_002", "run_004"]


def test_sentences_name_the_scarce_thing_and_its_holders(scene: Any, make_node: Any, make_waiting: Any, why: Any) -> None:
    runs = [
        make_waiting(1, gpu_milli=1000),
        make_waiting(2, gpu_milli=1000, owner="bob"),
        make_waiting(3, gpu_milli=1000),
        make_waiting(4, gpu_milli=500),
        make_waiting(5, cpu_milli=7000),
        make_waiting(6, memory_bytes=30 * GIB, cpu_milli=100),
        make_waiting(7, memory_bytes=30 * GIB, cpu_milli=100),
    ]
    reasons = why(scene([make_node("n", gpus=2)], runs))
    assert {name: one.sentence for name, one in reasons.items()} == {
        "run_003": "Waits for 1 GPU: all 2 of pool default are taken (alice holds 1, bob 1).",
        "run_004": "Waits for 0.5 GPU: all 2 of pool default are taken (alice holds 1, bob 1).",
        "run_005": "Waits for 7 CPUs: 5.9 CPUs of 8 CPUs of pool default are free (alice holds 1.1 CPUs, bob 1 CPU).",
        "run_007": "Waits for 30 GiB: 2 GiB of 32 GiB of pool default is free (alice holds 30 GiB).",
    }


def test_pieces_that_do_not_add_up_are_fragmented(scene: Any, make_node: Any, make_waiting: Any, why: Any) -> None:
    half = make_node("n", gpus=2, used_devices=(DeviceShare(index=0, milli=600), DeviceShare(index=1, milli=600)))
    found = why(scene([half], [make_waiting(1, gpu_milli=500)]))["run_001"]
    assert found.code is ReasonCode.FRAGMENTED
    apart = [make_node("a", used_cpu_milli=7000), make_node("b", used_memory_bytes=31 * GIB)]
    found = why(scene(apart, [make_waiting(1, cpu_milli=4000, memory_bytes=16 * GIB)]))["run_001"]
    assert found.code is ReasonCode.FRAGMENTED


def test_holds_come_before_everything(scene: Any, make_waiting: Any, why: Any) -> None:
    snapshot = scene([], [])
    later = snapshot.now + timedelta(seconds=30)
    runs = [
        make_waiting(1, is_held=True, is_unconfirmed=True, not_before=later),
        make_waiting(2, is_unconfirmed=True, not_before=later),
        make_waiting(3, not_before=later),
        make_waiting(4, not_before=snapshot.now),
    ]
    codes = {name: one.code for name, one in why(replace(snapshot, waiting=tuple(runs))).items()}
    assert [codes[run.id] for run in runs] == [
        ReasonCode.PAUSED,
        ReasonCode.CLEANING_UP,
        ReasonCode.BACKING_OFF,
        ReasonCode.NO_CLUSTER,
    ]


def test_nodes_that_take_nothing_are_named(scene: Any, make_node: Any, make_waiting: Any, why: Any, where: Any) -> None:
    nodes = [
        make_node("small", cpus=1),
        make_node("big", cpus=64, state=NodeState.DRAINING),
        make_node("x", state=NodeState.DEAD),
    ]
    snapshot = scene(nodes, [make_waiting(1, cpu_milli=8000)])
    assert where(snapshot) == {}
    reason = why(snapshot)["run_001"]
    assert (reason.code, reason.facts) == (ReasonCode.NODE_UNREACHABLE, {"nodes": {"big": "draining"}})


def test_starts_of_one_plan_are_bounded(scene: Any, make_node: Any, make_waiting: Any, why: Any) -> None:
    runs = [make_waiting(seq) for seq in range(3)]
    reasons = why(scene([make_node("n")], runs, policy=Policy(max_starts=2)))
    assert {name: one.code for name, one in reasons.items()} == {"run_002": ReasonCode.BEHIND}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"gpu_milli": 3000}, "The largest node has 2 GPUs, 8 CPUs and 31 GiB; ask for --gpus 2 or less."),
        ({"cpu_milli": 9000}, "The largest node has 2 GPUs, 8 CPUs and 31 GiB; ask for --cpus 8 or less."),
        ({"memory_bytes": 40 * GIB}, "The largest node has 2 GPUs, 8 CPUs and 31 GiB; ask for --memory 31GiB or less."),
        ({"gpu_memory_bytes": 20 * GIB}, "The largest GPU has 16 GiB of memory; ask for --gpu-memory 16GiB or less."),
        ({"gpu_milli": 1000, "gpu_models": ("H100",)}, "No node has a GPU of model H100. Models here: A100."),
        ({"pool": "x"}, "There is no pool 'x'. Pools here: default."),
        ({"labels": {"zone": "q"}}, "No node has the labels zone=q. Ask for labels that one node has."),
    ],
)
def test_what_never_fits_is_refused_with_what_would(
    asked: dict[str, Any], sentence: str, make_node: Any, make_waiting: Any, scene: Any, why: Any
) -> None:
    node = make_node("n", memory_gib=31, gpus=2, used_cpu_milli=8000)
    run = make_waiting(1, **asked)
    found = scheduler.would_fit([node], run.resources)
    assert found is not None
    assert (found.code, found.sentence) == (ReasonCode.CANNOT_FIT, sentence)
    assert why(scene([node], [run]))["run_001"] == found


def test_gangs_that_never_fit_hear_how_many_would(make_node: Any, make_waiting: Any) -> None:
    nodes = [make_node("a", cpus=3, cluster="east"), make_node("b", cpus=2, cluster="west")]
    asked = make_waiting(1, cpu_milli=1000).resources
    assert scheduler.would_fit(nodes, asked, 3) is None
    found = scheduler.would_fit(nodes, asked, 4)
    assert found is not None
    assert "at most 3 do. Ask for --replicas 3 or less." in found.sentence


def test_without_nodes_nothing_is_refused_for_good(make_node: Any, make_waiting: Any) -> None:
    asked = make_waiting(1).resources
    for nodes in ([], [make_node("n", state=NodeState.DEAD)]):
        found = scheduler.would_fit(nodes, asked)
        assert found is not None
        assert found.code is ReasonCode.NO_CLUSTER
    assert scheduler.would_fit([make_node("n", state=NodeState.DRAINING)], asked) is None


def test_a_node_that_shrank_under_its_allocations_gets_nothing(scene: Any, make_node: Any, make_waiting: Any, where: Any) -> None:
    shrunk = make_node("a", used_cpu_milli=9000, gpus=1, used_devices=(DeviceShare(index=0, milli=1500),))
    assert where(scene([shrunk], [make_waiting(1), make_waiting(2, gpu_milli=100)])) == {}


def test_snapshots_that_contradict_themselves_are_refused(scene: Any, make_node: Any, make_waiting: Any) -> None:
    run, node = make_waiting(1), make_node("n")
    for broken in (
        scene([node, node], [run]),
        scene([node], [run, run]),
        scene([make_node("n", devices=(Device(index=0), Device(index=0)))], [run]),
        scene([node], [run], policy=Policy(scorer="dice")),
    ):
        with pytest.raises(PlannerError):
            scheduler.plan(broken)
    snapshot = scene([node], [run])
    after = scheduler.apply_plan(snapshot, scheduler.plan(snapshot))
    with pytest.raises(PlannerError):
        scheduler.plan(replace(after, waiting=(run,)))
    with pytest.raises(PlannerError):
        scheduler.apply_plan(after, scheduler.plan(snapshot))
