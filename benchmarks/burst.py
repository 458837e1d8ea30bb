"""How much wait does how much cloud buy? Philly on 83 machines, with rented machines of 1 to 8 GPUs that come after 300 s.

python -m benchmarks.burst [--months 10,11] [--rules never,default,...] [--seed 1]

Reported: the mean wait, and GPU-hours rented (used or idle) as a part of all that the jobs needed (B10).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from time import perf_counter

from benchmarks import philly
from benchmarks.report import report
from mainspring.core.policy import BurstMode, BurstPolicy, Policy
from mainspring.core.resources import Device
from mainspring.core.snapshot import Plan, Site, Snapshot
from mainspring.scheduler import Planner
from mainspring.simulator import Setting, figures, simulate, with_noise

USD_PER_GPU_HOUR = 2.0
READY_S, SAY_S = 300.0, 30.0
RULES = {
    "never": BurstPolicy(mode=BurstMode.NEVER),
    "default": BurstPolicy(),
    "wide": BurstPolicy(max_gpus=512, min_wait_s=900.0, min_gain_s=0.0),
    "wider": BurstPolicy(max_gpus=1024, min_wait_s=300.0, min_gain_s=0.0, max_estimate_s=86_400.0),
    "no_fit": BurstPolicy(mode=BurstMode.NO_FIT),
    "no_fit_1h": BurstPolicy(mode=BurstMode.NO_FIT, max_estimate_s=3600.0),
    "no_fit_24h_128": BurstPolicy(mode=BurstMode.NO_FIT, max_estimate_s=86_400.0, max_gpus=128),
    "saturation": BurstPolicy(min_wait_s=0.0, min_gain_s=0.0, max_estimate_s=1e9, max_gpus=4096),
}
BEST_KNOWN = {"default": 731.0, "never": 1210.0, "saturation": 58.0}  # of the design's prototype, seconds


def main() -> None:
    """Report each rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", default="10,11")
    parser.add_argument("--rules", default="never,default,no_fit")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    jobs = with_noise(philly.read_jobs([int(month) for month in given.months.split(",")]), given.seed)
    count = sum(philly.machines_by_share().values())
    for name in given.rules.split(","):
        began = perf_counter()
        setting = Setting(
            nodes=philly.machines(count), policy=Policy(burst=RULES[name]), shares=philly.guarantees(), sites=sites()
        )
        history = simulate(jobs, setting, following(name, jobs[-1].submit_s))
        found = figures(history, gpus=count * philly.GPUS)
        told: dict[str, object] = {"months": given.months, "seed": given.seed, "seconds": round(perf_counter() - began)}
        told |= {"cloud_percent": round(100 * found.cloud, 3), "usd": round(found.cost_usd), "most": history.most_rented}
        told |= {"p99": round(found.waits.p99_s), "evictions": found.evictions, "lost_percent": round(100 * found.lost, 4)}
        peer = BEST_KNOWN.get(name)
        report("burst", f"{name}, mean wait", found.waits.mean_s, "s", peer="prototype", peer_value=peer, conditions=told)
        report("burst", f"{name}, rented of all GPU-hours", 100 * found.cloud, "%", conditions=told)


def following(name: str, last_s: float) -> Callable[[Snapshot], Plan]:
    """Return the product's planner, which tells how far it is each half minute."""
    planner, begins, said = Planner(explains=False), list[datetime](), [perf_counter()]

    def plan(snapshot: Snapshot) -> Plan:
        if not begins:
            begins.append(snapshot.now)
        if perf_counter() - said[0] >= SAY_S:
            said[0] = perf_counter()
            part = (snapshot.now - begins[0]).total_seconds() / last_s
            print(f"{name}: {part:.0%} of the time that jobs come in", file=sys.stderr, flush=True)
        return planner.plan(snapshot)

    return plan


def sites() -> tuple[Site, ...]:
    """Return the paid places: machines of 1, 2, 4 and 8 GPUs at one price a GPU."""
    found = []
    for gpus in (1, 2, 4, 8):
        whole = philly.machine("", pool=f"cloud-{gpus}", price=f"{USD_PER_GPU_HOUR * gpus:g}")
        devices = tuple(Device(index=index) for index in range(gpus))
        machine = replace(whole, devices=devices, cpu_milli=1000 * gpus, memory_bytes=philly.GIB * gpus)
        found.append(Site(name=f"cloud-{gpus}", machine=machine, max_machines=4096, ready_s=READY_S))
    return tuple(found)


if __name__ == "__main__":
    main()
