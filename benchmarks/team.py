"""The small team: 8 GPUs, 500 trials of ten people who come one after the other, as random schedules (B11).

python -m benchmarks.team [--schedules 100] [--first 0] [--trials 500]

Each schedule is played twice. At home: Jain's index of what each person got over what was due, and the makespan, over the
work bound (GPU-seconds asked / GPUs) and over the least time by when the work came, which is the tighter bound. With a paid site:
every machine asked for while a part of an owned GPU was idle is a break of the gate.
`--first` goes on where another shard ended.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from statistics import fmean, pstdev

from benchmarks.report import report
from mainspring.core.policy import BurstMode, BurstPolicy, Policy
from mainspring.core.records import Node
from mainspring.core.resources import GPU_MILLI, Device, Resources
from mainspring.core.snapshot import DecisionKind, Plan, Site, Snapshot
from mainspring.simulator import Job, Setting, figures, simulate

GPUS, PEOPLE, TRIALS = 8, 10, 500
GIB = 2**30
AT_HOME = Policy(burst=BurstPolicy(mode=BurstMode.NEVER))
EAGER = Policy(burst=BurstPolicy(mode=BurstMode.ALL_ALLOCATED, min_wait_s=0.0, min_gain_s=0.0, max_gpus=4))


def main() -> None:
    """Report over all schedules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=TRIALS)
    given = parser.parse_args()
    jain, makespans, of_work, breaks, rented = [], [], [], 0, 0
    for seed in range(given.first, given.first + given.schedules):
        jobs = schedule(seed, given.trials)
        fair, ratio = at_home(jobs)
        jain.append(fair)
        makespans.append(ratio)
        of_work.append(ratio * bound_s(jobs) / work_s(jobs))
        wrong, asked = with_site(jobs)
        breaks, rented = breaks + wrong, rented + asked
    bench = "team" if given.trials == TRIALS else f"team, {given.trials} trials"
    told: dict[str, object] = {"schedules": given.schedules, "first": given.first, "trials": given.trials}
    report(bench, "Jain's index, mean", fmean(jain), "", conditions=told | {"sd": round(pstdev(jain), 5), "least": min(jain)})
    report(bench, "makespan / work bound", fmean(of_work), "x", conditions=told | {"most of work": max(of_work)})
    report(bench, "makespan / least by arrivals", fmean(makespans), "x", conditions=told | {"most": max(makespans)})
    report(bench, "machines asked for while a GPU was idle", float(breaks), "", conditions=told | {"asked": rented})


def at_home(jobs: Sequence[Job]) -> tuple[float, float]:
    """Return Jain's index, and the makespan over `bound_s`."""
    found = figures(simulate(jobs, Setting(nodes=[machine()], policy=AT_HOME)), gpus=GPUS)
    return found.jain, found.makespan_s / bound_s(jobs)


def with_site(jobs: Sequence[Job]) -> tuple[int, int]:
    """Return how many machines were asked for while the gate was shut, and how many in all."""
    breaks, asked = 0, 0

    def watch(snapshot: Snapshot, plan: Plan) -> None:
        nonlocal breaks, asked
        count = sum(one.kind is DecisionKind.BURST for one in plan.decisions)
        asked += count
        if count and idle_milli(snapshot, plan):
            breaks += count

    site = Site(name="cloud", machine=machine("", pool="cloud", gpus=1, price="2"), max_machines=4, ready_s=60.0)
    simulate(jobs, Setting(nodes=[machine()], policy=EAGER, sites=(site,)), watch=watch)
    return breaks, asked


def idle_milli(snapshot: Snapshot, plan: Plan) -> int:
    """Return what of the owned GPUs nobody holds, nor will after this plan."""
    owned = {node.id: node for node in snapshot.nodes if node.pool == "default"}
    has = sum(GPU_MILLI * len(node.devices) for node in owned.values())
    used = sum(share.milli for node in owned.values() for share in node.used_devices)
    for decision in plan.decisions:
        if decision.kind is DecisionKind.START:
            used += sum(share.milli for place in decision.places if place.node in owned for share in place.granted.devices)
    return has - used


def work_s(jobs: Sequence[Job]) -> float:
    """Return the work bound: all GPU-seconds asked for, over the GPUs, as if all were there from the first moment on."""
    return sum(job.duration_s * job.gpus for job in jobs) / GPUS


def bound_s(jobs: Sequence[Job]) -> float:
    """Return the least time in which the work can be done, given when it comes; never below `work_s`.

    From each arrival on, what still comes takes its GPU-seconds over the GPUs, and no run is over before its own length.
    """
    first = min(job.submit_s for job in jobs)
    latest = sorted({job.submit_s for job in jobs})
    least = max(job.submit_s + job.duration_s for job in jobs) - first
    for moment in latest:
        left = sum(job.duration_s * job.gpus for job in jobs if job.submit_s >= moment)
        least = max(least, moment - first + left / GPUS)
    return least


def schedule(seed: int, trials: int) -> list[Job]:
    """Return one person's sweep and nine others' trials, who come in turns while it runs; some want a half of a GPU."""
    dice = random.Random(seed)
    jobs = []
    came_s = [0.0, *(dice.uniform(0.0, 5.0 * trials) for _ in range(PEOPLE - 1))]
    weights = [dice.uniform(0.5, 2.0) for _ in range(PEOPLE)]
    for number in range(trials):
        person = dice.choices(range(PEOPLE), weights)[0]
        length_s = dice.uniform(30.0, 300.0)
        jobs.append(
            Job(
                id=f"run-{number:05}",
                share=f"person-{person}",
                submit_s=came_s[person] + dice.uniform(0.0, 60.0),
                duration_s=length_s,
                estimate_s=length_s * dice.uniform(0.5, 2.0),
                resources=Resources(gpu_milli=500 if dice.random() < 0.1 else GPU_MILLI, memory_bytes=GIB),
            )
        )
    return jobs


def machine(name: str = "machine", pool: str = "default", gpus: int = GPUS, price: str = "0") -> Node:
    """Return the team's machine, or one like it."""
    devices = tuple(Device(index=index) for index in range(gpus))
    return Node(
        id=name,
        cluster="team",
        name=name,
        pool=pool,
        cpu_milli=128_000,
        memory_bytes=1024 * GIB,
        devices=devices,
        price_usd_per_hour=price,
    )


if __name__ == "__main__":
    main()
