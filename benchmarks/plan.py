"""How fast is the planner? Prints JSON lines {bench, metric, value, unit, conditions}; nothing gates on them.

python benchmarks/plan.py [--nodes 5000] [--runs 10000] [--distinct 91]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from datetime import UTC, datetime, timedelta
from time import perf_counter

from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.records import Node
from mainspring.core.resources import Device, Resources
from mainspring.core.snapshot import DecisionKind, Plan, Snapshot, WaitingRun

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30


def main() -> None:
    """Time whole plans, cold: many runs on many nodes, gangs, a full cluster, and one more run after that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=91)
    given = parser.parse_args()
    draw = random.Random(20_260_101)
    nodes = tuple(_node(number) for number in range(given.nodes))
    kinds = [_resources(draw) for _ in range(given.distinct)]
    runs = tuple(_run(number, draw.choice(kinds)) for number in range(given.runs))
    snapshot = Snapshot(now=NOW, nodes=nodes, waiting=runs)
    where = {"nodes": given.nodes, "devices": 8 * given.nodes, "runs": given.runs, "distinct": given.distinct}
    plan = _timed("plan", snapshot, where)
    full = scheduler.apply_plan(snapshot, plan)
    more = tuple(_run(given.runs + number, draw.choice(kinds)) for number in range(given.runs * 5))
    crowded = Snapshot(now=NOW, nodes=full.nodes, waiting=(*full.waiting, *more), placed=full.placed)
    _timed("plan_crowded", crowded, where | {"runs": len(crowded.waiting), "placed": len(crowded.placed)})
    last = Snapshot(now=NOW, nodes=full.nodes, waiting=(_run(10**6, kinds[0]),), placed=full.placed)
    _timed("plan_one_more", last, where | {"runs": 1, "placed": len(last.placed)})
    gang = Resources(cpu_milli=1000, gpu_milli=1000)
    gangs = tuple(_run(number, gang, replicas=9) for number in range(given.runs // 10))
    _timed("plan_gangs", Snapshot(now=NOW, nodes=nodes, waiting=gangs), where | {"runs": len(gangs), "replicas": 9})


def _timed(bench: str, snapshot: Snapshot, conditions: dict[str, int]) -> Plan:
    began = perf_counter()
    plan = scheduler.plan(snapshot)
    seconds = perf_counter() - began
    starts = sum(one.kind is DecisionKind.START for one in plan.decisions)
    told = {**conditions, "starts": starts, "python": platform.python_version(), "machine": platform.machine()}
    for metric, value, unit in (
        ("seconds", round(seconds, 4), "s"),
        ("decisions_per_second", round(len(plan.decisions) / seconds, 1), "1/s"),
    ):
        print(json.dumps({"bench": bench, "metric": metric, "value": value, "unit": unit, "conditions": told}))
    return plan


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
