"""How much of a cluster can be filled? The protocol of "Beware of Fragmentation" (ATC'23), through our own placement.

python -m benchmarks.placement [--lists default,gpuspec33] [--seeds 42,43] [--scorers fill,fgd]

Tasks of a list are drawn with replacement until they ask for 130 % of the GPUs; each goes where the scorer wants it, or
nowhere. Reported is what of the GPUs is not allocated when tasks for 100 % of them have arrived, mean over the seeds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, pstdev
from time import perf_counter

from benchmarks.bound import bound
from benchmarks.report import report
from mainspring.core.ids import RunId
from mainspring.core.records import Node
from mainspring.core.resources import GPU_MILLI, Device, Resources
from mainspring.core.snapshot import WaitingRun
from mainspring.scheduler.cluster import build
from mainspring.scheduler.demand import make_demand
from mainspring.scheduler.placement import Placement
from mainspring.scheduler.scorers import find_scorer

TRACES = Path(__file__).resolve().parent / "traces" / "openb-2023"
LISTS: tuple[str, ...] = ("default", "cpu050", "cpu100", "cpu200", "gpushare40", "gpushare60", "gpushare100")
LISTS += ("gpuspec10", "gpuspec20", "gpuspec33", "multigpu20", "multigpu30", "multigpu50")
PUBLISHED = {"random": "Random", "dot_product": "DotProd", "clustering": "GpuClustering", "packing": "GpuPacking"}
PUBLISHED |= {"best_fit": "BestFit", "fgd": "FGD"}
INFLATED = 1.30
BOUND = "bound by linear program"
MIB = 2**20


def main() -> None:
    """Report each scorer on each list, then the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", default=",".join(LISTS))
    parser.add_argument("--seeds", default="100,101,102,103,104")
    parser.add_argument("--scorers", default="fgd,fill")
    given = parser.parse_args()
    lists, scorers = given.lists.split(","), given.scorers.split(",")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    nodes = read_nodes()
    published = read_published()
    means: dict[str, list[float]] = {}
    for name in lists:
        tasks = read_tasks(name)
        least = mean(bound(nodes, arrived(inflate(tasks, nodes, seed), nodes)) for seed in seeds[:2])
        means.setdefault(BOUND, []).append(least)
        report(f"placement {name}", BOUND, least, "%", conditions={"seeds": ",".join(str(seed) for seed in seeds[:2])})
        for scorer in scorers:
            figures, seconds, arrivals = [], 0.0, 0
            for seed in seeds:
                began = perf_counter()
                drawn = inflate(tasks, nodes, seed)
                figures.append(unallocated(nodes, tasks, drawn, scorer))
                seconds += perf_counter() - began
                arrivals += len(arrived(drawn, nodes))
            means.setdefault(scorer, []).append(mean(figures))
            report(
                f"placement {name}",
                f"{scorer}, unallocated",
                mean(figures),
                "%",
                peer=f"published {PUBLISHED.get(scorer, 'FGD')}",
                peer_value=published.get((name, PUBLISHED.get(scorer, "FGD"))),
                conditions={
                    "sd": round(pstdev(figures), 3),
                    "seeds": given.seeds,
                    "per_second": round(arrivals / seconds),
                },
            )
    for scorer, figures in means.items():
        if scorer == BOUND:
            report("placement", f"{BOUND}, mean of {len(lists)} lists", mean(figures), "%")
            continue
        peer = PUBLISHED.get(scorer, "FGD")
        known = [published[name, peer] for name in lists if (name, peer) in published]
        value = mean(known) if len(known) == len(lists) else None
        report(
            "placement",
            f"{scorer}, unallocated, mean of {len(lists)} lists",
            mean(figures),
            "%",
            peer=f"published {peer}",
            peer_value=value,
        )


def read_nodes() -> tuple[Node, ...]:
    """Return the GPU nodes of the trace."""
    with (TRACES / "openb_node_list_gpu_node.csv").open(encoding="utf-8") as file:
        return tuple(
            Node(
                id=row["sn"],
                cluster="openb",
                name=row["sn"],
                cpu_milli=int(row["cpu_milli"]),
                memory_bytes=int(row["memory_mib"]) * MIB,
                devices=tuple(Device(index=index, model=row["model"]) for index in range(int(row["gpu"]))),
            )
            for row in csv.DictReader(file)
        )


def read_tasks(name: str) -> list[Resources]:
    """Return the tasks of a list, by name; equal ones are one object."""
    with gzip.open(TRACES / f"openb_pod_list_{name}.csv.gz", "rt", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    made: dict[tuple[str, ...], Resources] = {}
    tasks = []
    for row in rows:
        key = tuple(row.get(column, "") for column in ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"))
        if key not in made:
            milli = int(row["gpu_milli"]) * int(row["num_gpu"])
            models = tuple(key[4].split("|")) if key[4] and milli else ()
            made[key] = Resources(
                cpu_milli=int(row["cpu_milli"]), memory_bytes=int(row["memory_mib"]) * MIB, gpu_milli=milli, gpu_models=models
            )
        tasks.append(made[key])
    return tasks


def inflate(tasks: Sequence[Resources], nodes: Sequence[Node], seed: int) -> list[Resources]:
    """Return the tasks shuffled, and more of them drawn with replacement until they ask for 130 % of the GPUs."""
    draw = random.Random(seed)
    arrivals = list(tasks)
    draw.shuffle(arrivals)
    wanted = INFLATED * capacity_milli(nodes)
    asked = sum(task.gpu_milli for task in arrivals)
    while asked < wanted:
        arrivals.append(draw.choice(tasks))
        asked += arrivals[-1].gpu_milli
    return arrivals


def arrived(arrivals: Sequence[Resources], nodes: Sequence[Node]) -> list[Resources]:
    """Return the tasks that have come when they ask for all GPUs."""
    asked, taken, capacity = 0, [], capacity_milli(nodes)
    for task in arrivals:
        asked += task.gpu_milli
        if asked > capacity:
            break
        taken.append(task)
    return taken


def unallocated(nodes: Sequence[Node], tasks: Sequence[Resources], arrivals: Sequence[Resources], scorer: str) -> float:
    """Return the percentage of GPUs not allocated, mean over the arrivals at which 100 % (rounded) have arrived."""
    cluster = build(nodes)
    demand = make_demand(cluster, [(task, 1.0) for task in tasks])
    placement = Placement(cluster=cluster, scorer=find_scorer(scorer), demand=demand)
    capacity = capacity_milli(nodes)
    runs = {id(task): _run(number, task) for number, task in enumerate(tasks)}
    come = allocated = 0
    seen = []
    for task in arrivals:
        come += task.gpu_milli
        if placement.place(runs[id(task)]) is not None:
            allocated += task.gpu_milli
        percent = round(100 * come / capacity)
        if percent == 100:
            seen.append(100 - 100 * allocated / capacity)
        elif percent > 100:
            break
    return mean(seen)


def capacity_milli(nodes: Sequence[Node]) -> int:
    """Return the milli-GPU of all nodes."""
    return GPU_MILLI * sum(len(node.devices) for node in nodes)


def read_published() -> dict[tuple[str, str], float]:
    """Return the published figures at 100 % by list and policy."""
    with (TRACES / "published_unallocated_gpu.csv").open(encoding="utf-8") as file:
        return {
            (row["workload"], row["policy"]): float(row["unallocated_gpu_pct_mean"])
            for row in csv.DictReader(file)
            if row["arrived_pct_of_gpu_capacity"] == "100"
        }


def _run(number: int, resources: Resources) -> WaitingRun:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return WaitingRun(
        id=RunId(f"run_{number}"), owner="o", project="p", seq=number, priority=0, submitted_at=moment, resources=resources
    )


if __name__ == "__main__":
    main()
