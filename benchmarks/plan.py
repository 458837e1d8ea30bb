"""How fast is the planner? Whole plans, cold, by their CPU time on one core: many runs, a full cluster, gangs, one more run.

python -m benchmarks.plan [--nodes 5000] [--runs 10000] [--distinct 91] [--scorers fill,pack]
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time

from benchmarks.report import percentile, report
from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.records import Node
from mainspring.core.resources import Device, Resources
from mainspring.core.snapshot import DecisionKind, Plan, Snapshot, WaitingRun

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30
PEER = "kube-scheduler 1.34, same shape, with its API server"
PEER_PER_SECOND = 366.0
REPLANS = 20


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
    plan = _timed(f"{scorer}: {count} runs wait", empty, distinct, PEER_PER_SECOND)
    full = scheduler.apply_plan(empty, plan)
    more = tuple(_run(count + number, draw.choice(kinds)) for number in range(count * 5))
    _timed(f"{scorer}: {5 * count} runs wait, nodes in use", replace(full, waiting=(*full.waiting, *more)), distinct)
    asked = Resources(cpu_milli=1000, gpu_milli=1000)
    gangs = tuple(_run(number, asked, replicas=9) for number in range(count // 10))
    _timed(f"{scorer}: {len(gangs)} gangs of 9 wait", replace(empty, waiting=gangs), 1)
    events = [replace(full, waiting=(*full.waiting, _run(10**6 + one, draw.choice(kinds)))) for one in range(REPLANS)]
    seconds = [_seconds(one)[1] for one in events]
    told: dict[str, object] = {"nodes": nodes, "placed": len(full.placed), "plans": REPLANS}
    report("plan", f"{scorer}: one more run, p99", percentile(seconds, 0.99) * 1000, "ms", conditions=told)


def _timed(metric: str, snapshot: Snapshot, distinct: int, peer: float | None = None) -> Plan:
    plan, seconds = _seconds(snapshot)
    starts = sum(one.kind is DecisionKind.START for one in plan.decisions)
    told: dict[str, object] = {"nodes": len(snapshot.nodes), "devices": 8 * len(snapshot.nodes), "distinct": distinct}
    told |= {"placed": len(snapshot.placed), "starts": starts}
    per_second = len(plan.decisions) / seconds
    report("plan", f"{metric}, decisions", per_second, "1/s", peer=PEER, peer_value=peer, conditions=told)
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
