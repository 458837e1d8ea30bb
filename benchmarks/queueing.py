"""How long do jobs queue? Philly, October and November 2017, virtual clusters resized to 80 % load, on the simulator.

python -m benchmarks.queueing [--months 10,11] [--policies fifo,qssf,alone,pooled] [--seeds 1] [--keep FOLDER]

B5 is `alone` (our planner on each virtual cluster by itself, noisy estimates), B4 is `pooled` (one pool, each cluster's
machines as its guarantee), both against partitioned FIFO. Planner and policy are the product's; `--policies` also knows
the published ones: fifo, easy, qssf, qssf_gpus, sjf, qssf_easy, tiresias, pooled_fifo, pooled_qssf. With `--keep` what was
played is written to the folder, cluster by cluster, and not played again: a bench that was interrupted goes on.
`--aging-s` is to choose a setting by some months and seeds and to report others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from time import perf_counter

from benchmarks import baselines, philly
from benchmarks.report import commit, report
from mainspring.core.policy import BurstMode, BurstPolicy, Policy
from mainspring.simulator import (
    Done,
    Job,
    Planner,
    Setting,
    simulate,
    waits,
    waits_by_share,
    with_noise,
    worse_than_alone,
)

DEFAULT = "fifo,easy,qssf,qssf_gpus,sjf,qssf_easy,pooled_fifo,pooled_qssf,alone,pooled"
PUBLISHED = {"qssf": 7.3, "alone": 7.3}  # times less queueing than FIFO: QSSF of Helios on Philly (SC'21)
AT_HOME = BurstPolicy(mode=BurstMode.NEVER)
OURS = Policy(burst=AT_HOME)
ORACLES = frozenset({"fifo", "easy", "sjf", "pooled_fifo"})  # told the truth, or nothing
PARTITIONED: dict[str, Callable[[], Planner]] = {
    "fifo": lambda: baselines.ordered(baselines.fifo),
    "easy": lambda: baselines.easy(baselines.fifo),
    "qssf": lambda: baselines.ordered(baselines.shortest),
    "qssf_gpus": lambda: baselines.ordered(baselines.smallest),
    "sjf": lambda: baselines.ordered(baselines.shortest),
    "qssf_easy": lambda: baselines.easy(baselines.shortest),
    "tiresias": baselines.tiresias,
}
POOLED: dict[str, Callable[[], Planner]] = {
    "pooled_fifo": lambda: baselines.ordered(baselines.fifo),
    "pooled_qssf": lambda: baselines.ordered(baselines.shortest),
}


def main() -> None:
    """Report each policy, mean over the seeds of the noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", default="10,11")
    parser.add_argument("--policies", default=DEFAULT)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--aging-s", type=float, default=OURS.order.aging_s, help="order.aging_s of our own policy")
    given = parser.parse_args()
    policy = replace(OURS, order=replace(OURS.order, aging_s=given.aging_s))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    truth = philly.read_jobs([int(month) for month in given.months.split(",")])
    noisy = [with_noise(truth, seed) for seed in seeds]
    conditions: dict[str, object] = {"months": given.months, "jobs": len(truth), "seeds": given.seeds}
    other = "" if policy == OURS else f"-{given.aging_s:g}"
    conditions |= {"aging_s": given.aging_s} if other else {}
    bench = f"queueing, months {given.months}"
    base: float | None = None
    alone: list[Sequence[Done]] = []
    for name in given.policies.split(","):
        began = perf_counter()
        played = [(0, truth)] if name in ORACLES else list(zip(seeds, noisy, strict=True))
        histories = [
            run(name, jobs, policy, given.keep and given.keep / f"{name}-{given.months}-{seed}{other}".replace(",", "+"))
            for seed, jobs in played
        ]
        found = [waits(done) for done in histories]
        means = [one.mean_s for one in found]
        told = {**conditions, "seconds": round(perf_counter() - began), "sd": round(pstdev(means), 1)}
        told |= {"p50": round(found[0].p50_s), "p90": round(found[0].p90_s), "p99": round(found[0].p99_s)}
        report(bench, f"{name}, mean wait", fmean(means), "s", conditions=told | {"jct": round(found[0].completion_s)})
        if name == "fifo":
            base = means[0]
        elif base is not None:
            gain = base / fmean(means)
            report(
                bench,
                f"fifo / {name}",
                gain,
                "x",
                peer="QSSF of Helios, published",
                peer_value=PUBLISHED.get(name),
                conditions=conditions,
            )
        if name == "alone":
            alone = histories
        if name == "pooled":
            costs(bench, histories, alone, conditions)


def run(name: str, jobs: Sequence[Job], policy: Policy, keep: Path | None = None) -> Sequence[Done]:
    """Return what becomes of the jobs under a policy of that name (`policy` where it is ours).

    `keep` begins the names of the files that keep it.
    """
    counts = philly.machines_by_share()
    pool = philly.machines(sum(counts.values()))
    if name == "pooled":
        return kept(keep, jobs, lambda: simulate(jobs, Setting(nodes=pool, policy=policy, shares=philly.guarantees())).done)
    if name in POOLED:
        return kept(keep, jobs, lambda: simulate(jobs, Setting(nodes=pool, tick_s=0), POOLED[name]()).done)
    found: list[Done] = []
    for share, count in counts.items():
        mine = [job for job in jobs if job.share == share]
        if mine:
            found += kept(keep and keep.with_name(f"{keep.name}-{share}"), mine, partial(_alone, name, mine, count, policy))
    return found


def _alone(name: str, jobs: Sequence[Job], count: int, policy: Policy) -> Sequence[Done]:
    if name == "alone":
        return simulate(jobs, Setting(nodes=philly.machines(count), policy=policy)).done
    return simulate(jobs, Setting(nodes=philly.machines(count), tick_s=0), PARTITIONED[name]()).done


def kept(path: Path | None, jobs: Sequence[Job], play: Callable[[], Sequence[Done]]) -> Sequence[Done]:
    """Return what was kept of a history, all but what was held when; else play it, and keep it."""
    by_id = {job.id: job for job in jobs}
    file = path and path.with_name(f"{path.name}.json")
    if file is not None and file.exists():
        rows = json.loads(file.read_text())["jobs"]
        return [
            Done(job=by_id[job], started_s=began, ended_s=ended, spans=(), evictions=evictions, lost_s=lost)
            for job, began, ended, evictions, lost in rows
        ]
    done = play()
    if file is not None:
        rows = [(one.job.id, one.started_s, one.ended_s, one.evictions, one.lost_s) for one in done]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"commit": commit(), "jobs": rows}))
    return done


def costs(
    bench: str, histories: Sequence[Sequence[Done]], alone: Sequence[Sequence[Done]], conditions: dict[str, object]
) -> None:
    """Report what the pool costs: work lost (mean of the seeds), and whoever would wait less without it (with any seed)."""
    work = [sum(one.job.duration_s * one.job.gpus for one in done) for done in histories]
    lost = [sum(one.lost_s * one.job.gpus for one in done) / all_ for done, all_ in zip(histories, work, strict=True)]
    told = {**conditions, "evictions": sum(one.evictions for one in histories[0]), "sd": round(100 * pstdev(lost), 4)}
    report(bench, "pooled, GPU-hours lost", 100 * fmean(lost), "%", conditions=told)
    if alone:
        waits_of = [(waits_by_share(done), waits_by_share(own)) for done, own in zip(histories, alone, strict=True)]
        found = [(worse_than_alone(pooled, own), pooled, own) for pooled, own in waits_of]
        told = {
            **conditions,
            "by_seed": [len(worse) for worse, _, _ in found],
            "worse": " ".join(
                f"{one} {pooled[one].mean_s:.0f}>{own[one].mean_s:.0f}" for worse, pooled, own in found for one in worse
            ),
        }
        most = float(max(len(worse) for worse, _, _ in found))
        report(bench, "virtual clusters worse than alone", most, "of 11", conditions=told)


if __name__ == "__main__":
    main()
