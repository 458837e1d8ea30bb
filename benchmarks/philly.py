"""The Philly trace as jobs, and the table of virtual clusters resized so that each is loaded to 80 %.

python -m benchmarks.philly prints the table. Machines have 8 GPUs. A job of more than 8 GPUs is a gang of equal parts that
fit a machine. Three virtual clusters with 7 jobs in all are left out; none gets less than its largest job needs.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from mainspring.core.records import Node
from mainspring.core.resources import GPU_MILLI, Device, Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import ShareState
from mainspring.simulator import Job

TRACE = Path(__file__).resolve().parent / "traces" / "philly-2017" / "philly_jobs_2017-10_2017-11.csv.gz"
BEGIN, END = datetime.fromisoformat("2017-10-01"), datetime.fromisoformat("2017-12-01")
GPUS = 8
LOAD = 0.8
FEWEST_JOBS = 10
GIB = 2**30


def read_jobs(months: Sequence[int] = (10, 11)) -> list[Job]:
    """Return the jobs submitted in these months of 2017, of the virtual clusters that count."""
    counts = machines_by_share()
    jobs = []
    for number, (submitted, duration, gpus, share) in enumerate(_rows()):
        if share in counts and submitted.month in months:
            replicas, each = gang(gpus)
            jobs.append(
                Job(
                    id=f"job-{number:06}",
                    share=share,
                    submit_s=(submitted - BEGIN).total_seconds(),
                    duration_s=max(1.0, duration),
                    estimate_s=max(1.0, duration),
                    resources=Resources(cpu_milli=1000 * each, memory_bytes=GIB * each, gpu_milli=GPU_MILLI * each),
                    replicas=replicas,
                )
            )
    return jobs


def gang(gpus: int) -> tuple[int, int]:
    """Return (replicas, GPUs of each): one machine if it fits, else the fewest equal parts."""
    return next((gpus // each, each) for each in range(min(GPUS, gpus), 0, -1) if gpus % each == 0)


@cache
def machines_by_share() -> dict[str, int]:
    """Return how many machines each virtual cluster needs for its jobs of both months to load it to 80 %."""
    span_s = (END - BEGIN).total_seconds()
    work: dict[str, float] = {}
    largest: dict[str, int] = {}
    jobs: dict[str, int] = {}
    for _, duration, gpus, share in _rows():
        work[share] = work.get(share, 0.0) + duration * gpus
        largest[share] = max(largest.get(share, 0), gpus)
        jobs[share] = jobs.get(share, 0) + 1
    return {
        share: max(math.ceil(work[share] / span_s / GPUS / LOAD), math.ceil(largest[share] / GPUS))
        for share in sorted(work)
        if jobs[share] >= FEWEST_JOBS
    }


def machines(count: int) -> list[Node]:
    """Return so many machines."""
    return [machine(f"node-{number:03}") for number in range(count)]


def machine(name: str, pool: str = "default", price: str = "0") -> Node:
    """Return one machine of 8 GPUs whose CPUs and memory never run short."""
    return Node(
        id=name,
        cluster="philly",
        name=name,
        pool=pool,
        cpu_milli=8000,
        memory_bytes=8 * GIB,
        devices=tuple(Device(index=index) for index in range(GPUS)),
        price_usd_per_hour=price,
    )


def guarantees() -> tuple[ShareState, ...]:
    """Return a share for each virtual cluster, with its machines as its guarantee."""
    return tuple(
        ShareState(share=Share(name=share, weight=float(count), guarantee={"gpu": count * GPUS * GPU_MILLI}))
        for share, count in machines_by_share().items()
    )


@cache
def _rows() -> tuple[tuple[datetime, float, int, str], ...]:
    with gzip.open(TRACE, "rt") as text:
        return tuple(
            (datetime.fromisoformat(row["timestamp"]), float(row["duration"]), int(row["num_gpus"]), row["cluster"])
            for row in csv.DictReader(text)
        )


if __name__ == "__main__":
    for name, count in machines_by_share().items():
        print(f"{name} {count}")
