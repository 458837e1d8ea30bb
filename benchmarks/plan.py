"""How fast is the planner? CPU time on one core: whole cold plans (many runs, a full cluster, gangs), and plans after an event.

python -m benchmarks.plan [--nodes 5000] [--runs 10000] [--distinct 91] [--scorers fill,pack]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time

from benchmarks.report import percentile, report
from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.records import Node
from mainspring.core.resources import Device, DeviceShare, Resources
from mainspring.core.snapshot import DecisionKind, PlacedRun, Plan, Snapshot, WaitingRun

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30
PEER = ("kube-scheduler 1.34, same shape, with its API server", 366.0)
GANGS_PEER = ("Ray's release test of placement groups, published", 18.9)
REPLANS = 100


def main() -> None:
    """Report each shape for each scorer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=91)
    parser.add_argument("--scorers", default="fill,pack")
    given = parser.parse_args()
    for scorer in given.scorers.split(","):
        measure(scorer, given.nodes, given.runs, given.distinct)


def measure(scorer: str, nodes: int, count: int, distinct: int) -> None:
    """Time whole plans with one scorer."""
    draw = random.Random(20_260_101)
    kinds = [_resources(draw) for _ in range(distinct)]
    runs = tuple(_run(number, draw.choice(kinds)) for number in range(count))
    policy = Policy(scorer=scorer)
    empty = Snapshot(now=NOW, nodes=tuple(_node(number) for number in range(nodes)), waiting=runs, policy=policy)
    plan = _timed(f"{scorer}: {count} runs wait", empty, distinct, PEER)
    full = scheduler.apply_plan(empty, plan)
    more = tuple(_run(count + number, draw.choice(kinds)) for number in range(count * 5))
    _timed(f"{scorer}: {5 * count} runs wait, nodes in use", replace(full, waiting=(*full.waiting, *more)), distinct)
    gangs(scorer, nodes, count // 10)
    _replan(f"{scorer}: one more run", full, [_run(10**6 + one, draw.choice(kinds)) for one in range(REPLANS)])
    at_rest = _at_rest(full, count, [_run(10**7 + one, draw.choice(kinds)) for one in range(6 * count)])
    _replan(f"{scorer}: one more run, {count} wait", at_rest, [_run(10**6 + one, draw.choice(kinds)) for one in range(REPLANS)])


def gangs(scorer: str, nodes: int, count: int) -> None:
    """Time a whole plan of gangs of 9 that wait for empty nodes."""
    asked = Resources(cpu_milli=1000, gpu_milli=1000)
    waiting = tuple(_run(number, asked, replicas=9) for number in range(count))
    machines = tuple(_node(number) for number in range(nodes))
    empty = Snapshot(now=NOW, nodes=machines, waiting=waiting, policy=Policy(scorer=scorer))
    _timed(f"{scorer}: {count} gangs of 9 wait", empty, 1, GANGS_PEER)


def _at_rest(world: Snapshot, count: int, more: Sequence[WaitingRun]) -> Snapshot:
    """Return the world when nothing that is submitted starts any more, with `count` runs that wait."""
    world = replace(world, waiting=(*world.waiting, *more))
    while True:
        plan = scheduler.plan(world)
        if not any(one.kind is DecisionKind.START for one in plan.decisions):
            return replace(world, waiting=world.waiting[:count])
        world = scheduler.apply_plan(world, plan)


def _replan(metric: str, start: Snapshot, arrivals: Sequence[WaitingRun]) -> None:
    """Time the plans after each of these events: a run arrives; whatever fits starts, and a run ends."""
    planner, world = scheduler.Planner(), start
    planner.plan(world)
    seconds: dict[str, list[float]] = {"": [], " and one less": []}
    for number, run in enumerate(arrivals):
        world = replace(world, now=world.now + timedelta(seconds=1), waiting=(*world.waiting, run))
        for event, times in seconds.items():
            if event:
                world = _ended(world, world.placed[number * 97 % len(world.placed)])
            began = process_time()
            plan = planner.plan(world)
            times.append(process_time() - began)
            world = scheduler.apply_plan(world, plan)
    told: dict[str, object] = {"nodes": len(start.nodes), "placed": len(start.placed), "waiting": len(start.waiting)}
    for event, times in seconds.items():
        report("plan", f"{metric}{event}, p99", percentile(times, 0.99) * 1000, "ms", conditions=told | {"plans": len(times)})


def _ended(world: Snapshot, gone: PlacedRun) -> Snapshot:
    """Return the world after the end of a placed run; all other rows stay the objects that they are."""
    nodes = list(world.nodes)
    row_of = {node.id: row for row, node in enumerate(nodes)}
    for place in gone.places:
        node, granted = nodes[row_of[place.node]], place.granted
        left = {one.index: one.milli for one in node.used_devices}
        for one in granted.devices:
            left[one.index] -= one.milli
        nodes[row_of[place.node]] = replace(
            node,
            used_cpu_milli=node.used_cpu_milli - granted.cpu_milli,
            used_memory_bytes=node.used_memory_bytes - granted.memory_bytes,
            used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in left.items() if milli),
            version=node.version + 1,
        )
    return replace(world, nodes=tuple(nodes), placed=tuple(run for run in world.placed if run is not gone))


def _timed(metric: str, snapshot: Snapshot, distinct: int, peer: tuple[str, float | None] = ("", None)) -> Plan:
    plan, seconds = _seconds(snapshot)
    starts = sum(one.kind is DecisionKind.START for one in plan.decisions)
    told: dict[str, object] = {"nodes": len(snapshot.nodes), "devices": 8 * len(snapshot.nodes), "distinct": distinct}
    told |= {"placed": len(snapshot.placed), "starts": starts}
    per_second = len(plan.decisions) / seconds
    report("plan", f"{metric}, decisions", per_second, "1/s", peer=peer[0], peer_value=peer[1], conditions=told)
    report("plan", f"{metric}, whole plan", seconds, "s", conditions=told)
    return plan


def _seconds(snapshot: Snapshot) -> tuple[Plan, float]:
    began = process_time()
    plan = scheduler.plan(snapshot)
    return plan, process_time() - began


def _node(number: int) -> Node:
    device = ("A100", 80 * GIB) if number % 3 else ("T4", 16 * GIB)
    return Node(
        id=f"node-{number:05}",
        cluster="bench",
        name=f"node-{number:05}",
        cpu_milli=128_000,
        memory_bytes=1024 * GIB,
        devices=tuple(Device(index=index, model=device[0], memory_bytes=device[1]) for index in range(8)),
        pool="a100" if number % 3 else "t4",
    )


def _resources(draw: random.Random) -> Resources:
    gpu = draw.choice([0, 0, 250, 500, 500, 1000, 1000, 1000, 2000, 4000, 8000])
    models = ("A100",) if gpu and draw.random() < 0.2 else ()
    return Resources(
        cpu_milli=draw.choice([1000, 2000, 4000, 8000, 16_000, 32_000]) + draw.randrange(100),
        memory_bytes=draw.choice([2, 4, 8, 16, 32, 64]) * GIB,
        gpu_milli=gpu,
        gpu_models=models,
    )


def _run(number: int, resources: Resources, replicas: int = 1) -> WaitingRun:
    return WaitingRun(
        id=RunId(f"run_{number:07}"),
        owner=f"user-{number % 50}",
        project="bench",
        seq=number,
        priority=number % 3,
        submitted_at=NOW + timedelta(seconds=number),
        resources=resources,
        replicas=replicas,
    )


if __name__ == "__main__":
    main()
