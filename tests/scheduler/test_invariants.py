"""The numbered promises of the planner, each over hundreds of small snapshots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.codec import decode, encode
from mainspring.core.policy import Policy
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import NodeState
from mainspring.core.snapshot import Plan, Snapshot, WaitingRun

pytestmark = pytest.mark.property
often = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
HOLDS = {ReasonCode.PAUSED, ReasonCode.CLEANING_UP, ReasonCode.BACKING_OFF}


@often
@given(data=st.data())
def test_invariant_01_no_node_over_capacity(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    plan = scheduler.plan(snapshot)
    free = naive.free(snapshot.nodes)
    for decision in naive.starts(plan):
        for place in decision.places:
            naive.take(free[place.node], place.granted)
            touched = {"cpu", *(f"gpu{share.index}" for share in place.granted.devices)}
            touched |= {"memory"} if place.granted.memory_bytes else set()
            touched |= {"disk"} if place.granted.disk_bytes else set()
            assert all(free[place.node][name] >= 0 for name in touched)
    after = scheduler.apply_plan(snapshot, plan)
    assert naive.free(after.nodes) == free


@often
@given(data=st.data())
def test_invariant_02_whole_gpus_are_idle_and_shares_stay_on_one(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    asked = {run.id: run.resources for run in snapshot.waiting}
    nodes = {node.id: node for node in snapshot.nodes}
    free = naive.free(snapshot.nodes)
    for decision in naive.starts(scheduler.plan(snapshot)):
        need = asked[decision.run]
        for place in decision.places:
            shares = place.granted.devices
            assert len({share.index for share in shares}) == len(shares)
            devices = {device.index: device for device in nodes[place.node].devices}
            assert all(share.milli == naive.share(need, devices[share.index]) for share in shares)
            if need.gpu_milli >= 1000:
                assert len(shares) == need.gpu_milli // 1000
                assert all(free[place.node][f"gpu{share.index}"] == 1000 for share in shares)
            else:
                assert len(shares) == (1 if need.is_gpu() else 0)
                assert all(free[place.node][f"gpu{one.index}"] == 1000 for one in shares if devices[one.index].whole)
            naive.take(free[place.node], place.granted)


@often
@given(data=st.data())
def test_invariant_03_gangs_all_or_nothing(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    plan = scheduler.plan(snapshot)
    runs = {run.id: run for run in snapshot.waiting}
    cluster = {node.id: node.cluster for node in snapshot.nodes}
    assert sorted(one.run for one in plan.decisions) == sorted(runs)
    for decision in naive.starts(plan):
        assert [place.replica for place in decision.places] == list(range(runs[decision.run].replicas))
        assert len({cluster[place.node] for place in decision.places}) == 1
        assert decision.reason is None
        assert decision.version == runs[decision.run].version
    assert all(not decision.places and decision.reason for decision in naive.waits(plan))


@often
@given(data=st.data())
def test_invariant_04_constraints_hold(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    asked = {run.id: run.resources for run in snapshot.waiting}
    nodes = {node.id: node for node in snapshot.nodes}
    for decision in naive.starts(scheduler.plan(snapshot)):
        need = asked[decision.run]
        for place in decision.places:
            node = nodes[place.node]
            assert node.state is NodeState.READY
            assert need.pool in ("", node.pool)
            assert need.labels.items() <= node.labels.items()
            used = {share.index for share in place.granted.devices}
            assert not used & {one.device for one in node.closures}
            models = {device.model.lower() for device in node.devices if device.index in used}
            assert not need.gpu_models or models <= {model.lower() for model in need.gpu_models}
            granted = place.granted
            assert (granted.cpu_milli, granted.memory_bytes, granted.disk_bytes) == (
                need.cpu_milli,
                need.memory_bytes,
                need.disk_bytes,
            )


@often
@given(data=st.data())
def test_invariant_11_work_is_conserved(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    plan = scheduler.plan(snapshot)
    after = scheduler.apply_plan(snapshot, plan)
    ready = [node for node in after.nodes if node.state is NodeState.READY]
    free = naive.free(after.nodes)
    runs = {run.id: run for run in snapshot.waiting}
    is_full = len(naive.starts(plan)) >= snapshot.policy.max_starts
    for decision in naive.waits(plan):
        run = runs[decision.run]
        if not is_full and not _is_held(run, snapshot):
            assert naive.most(ready, free, run.resources, run.replicas) < run.replicas


@often
@given(data=st.data())
def test_invariant_12_planning_again_changes_nothing(data: DataObject, snapshots: Any, naive: Any) -> None:
    drawn = data.draw(snapshots)
    snapshot = replace(drawn, policy=Policy(scorer=drawn.policy.scorer))
    plan = scheduler.plan(snapshot)
    again = scheduler.plan(scheduler.apply_plan(snapshot, plan))
    assert {one.run: one for one in again.decisions} == {one.run: one for one in naive.waits(plan)}


@often
@given(data=st.data())
def test_invariant_19_input_order_does_not_matter(data: DataObject, snapshots: Any) -> None:
    snapshot = data.draw(snapshots)
    mixed = replace(
        snapshot,
        nodes=tuple(data.draw(st.permutations(snapshot.nodes))),
        waiting=tuple(data.draw(st.permutations(snapshot.waiting))),
        placed=tuple(data.draw(st.permutations(snapshot.placed))),
    )
    assert scheduler.plan(mixed).decisions == scheduler.plan(snapshot).decisions


@often
@given(data=st.data())
def test_invariant_20_same_snapshot_same_bytes(data: DataObject, snapshots: Any) -> None:
    snapshot = data.draw(snapshots)
    plan = scheduler.plan(snapshot)
    travelled = decode(encode(snapshot), Snapshot)
    assert travelled == snapshot
    assert encode(scheduler.plan(travelled)) == encode(plan)
    assert decode(encode(plan), Plan) == plan


@often
@given(data=st.data())
def test_invariant_21_the_snapshot_is_left_alone(data: DataObject, snapshots: Any) -> None:
    snapshot = data.draw(snapshots)
    before = encode(snapshot)
    plan = scheduler.plan(snapshot)
    scheduler.apply_plan(snapshot, plan)
    assert encode(snapshot) == before


@settings(often, max_examples=250)
@given(data=st.data())
def test_invariant_28_every_reason_is_true(data: DataObject, snapshots: Any, naive: Any) -> None:
    snapshot = data.draw(snapshots)
    plan = scheduler.plan(snapshot)
    after = scheduler.apply_plan(snapshot, plan)
    runs = {run.id: run for run in snapshot.waiting}
    for decision in naive.waits(plan):
        assert decision.reason is not None
        assert decision.reason.sentence.endswith(".")
        _recheck(decision.reason, runs[decision.run], after, naive, len(naive.starts(plan)))


def _is_held(run: WaitingRun, snapshot: Snapshot) -> bool:
    return run.is_held or run.is_unconfirmed or (run.not_before is not None and run.not_before > snapshot.now)


def _recheck(reason: Reason, run: WaitingRun, after: Snapshot, naive: Any, started: int) -> None:
    """Judge the reason by its facts and the final state, with none of the planner's own arithmetic."""
    if _is_held(run, after):
        first = ReasonCode.PAUSED if run.is_held else ReasonCode.CLEANING_UP if run.is_unconfirmed else ReasonCode.BACKING_OFF
        assert reason.code is first
        return
    assert reason.code not in HOLDS
    if reason.code is ReasonCode.FAIR_SHARE:  # its own claims are judged in test_reason_invariants.py
        own = {"scarce", "share", "unit", "used", "fair", "owed"}
        facts = {name: fact for name, fact in reason.facts.items() if name not in own}
        reason = replace(reason, code=ReasonCode(str(reason.facts["scarce"])), facts=facts)
    ready = [node for node in after.nodes if node.state is NodeState.READY]
    alive = [node for node in after.nodes if node.state is not NodeState.DEAD]
    empty, free = naive.free(after.nodes, is_empty=True), naive.free(after.nodes)
    whole = naive.free(after.nodes, is_empty=True, is_whole=True)
    asked, need = run.resources, run.replicas

    def most(nodes: list[Any], state: dict[str, dict[str, int]]) -> int:
        return int(naive.most(nodes, state, asked, need))

    assert (reason.code is ReasonCode.NO_CLUSTER) == (not ready)
    if not ready:
        return
    assert (reason.code is ReasonCode.CANNOT_FIT) == (most(alive, whole) < need)
    if reason.code is ReasonCode.CANNOT_FIT:
        assert reason.facts["replicas_at_most"] == most(alive, whole)
        return
    if reason.code is ReasonCode.QUARANTINED:
        is_out, is_shut = "devices" in reason.facts, "quarantined" in reason.facts.get("nodes", {}).values()  # type: ignore[attr-defined]
        assert is_out != is_shut
        assert (most(alive, empty) < need) if is_out else (most(ready, empty) < need <= most(alive, empty))
        if is_out:
            return
    assert (reason.code in (ReasonCode.NODE_UNREACHABLE, ReasonCode.QUARANTINED)) == (most(ready, empty) < need)
    if reason.code in (ReasonCode.NODE_UNREACHABLE, ReasonCode.QUARANTINED) and "nodes" in reason.facts:
        named = {node.name: str(node.state) for node in alive if node not in ready and naive.grant(node, empty[node.id], asked)}
        assert reason.facts["nodes"] == named
        return
    fits = most(ready, free)
    assert (reason.code is ReasonCode.BEHIND) == (fits >= need)
    if reason.code is ReasonCode.BEHIND:
        assert reason.facts["started"] == started == after.policy.max_starts
        return
    assert (reason.code is ReasonCode.GANG_INCOMPLETE) == (fits > 0)
    if reason.code is ReasonCode.GANG_INCOMPLETE:
        assert reason.facts == {"replicas": need, "fit": fits}
        return
    able = [node for node in ready if naive.grant(node, empty[node.id], asked)]
    assert reason.facts["nodes"] == len(able)
    lacking = _lacking(run, able, free, naive)
    assert reason.code is (lacking[0][0] if lacking else ReasonCode.FRAGMENTED)
    if lacking:
        assert (reason.facts["need"], reason.facts["free"]) == lacking[0][1:]
        assert sum(_held(reason).values()) <= int(str(reason.facts["total"])) * 10
        accounted = {one.owner for one in after.placed} | {"others"}
        assert set(_held(reason)) <= accounted


def _lacking(run: WaitingRun, able: list[Any], free: dict[str, dict[str, int]], naive: Any) -> list[tuple[ReasonCode, int, int]]:
    """Return which resources all able nodes together have too little of for one replica: code, need, free."""
    asked = run.resources
    found = []
    if asked.is_gpu():
        serving = [(node, device) for node in able for device in node.devices if device.index not in node.out()]
        shares = {(node.id, device.index): naive.share(asked, device) for node, device in serving}
        left = {(name, index): max(0, free[name][f"gpu{index}"]) for (name, index), milli in shares.items() if milli is not None}
        for key, milli in shares.items():
            if milli == 1000 > asked.gpu_milli and left[key] < 1000:
                left[key] = 0  # a part of it serves nobody
        least = min(milli for milli in shares.values() if milli is not None)
        need, idle = least, sum(left.values())
        if least == 1000:
            need, idle = max(1000, asked.gpu_milli), 1000 * sum(one == 1000 for one in left.values())
        found.append((ReasonCode.NO_FREE_GPU, need, idle))
    for code, name, need in (
        (ReasonCode.NO_FREE_MEMORY, "memory", asked.memory_bytes),
        (ReasonCode.NO_FREE_CPU, "cpu", asked.cpu_milli),
        (ReasonCode.NO_FREE_DISK, "disk", asked.disk_bytes),
    ):
        found.append((code, need, sum(max(0, free[node.id][name]) for node in able)))
    return [one for one in found if one[2] < one[1]]


def _held(reason: Reason) -> dict[str, int]:
    holders = reason.facts["holders"]
    assert isinstance(holders, dict)
    return holders
