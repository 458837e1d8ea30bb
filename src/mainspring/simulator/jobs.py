"""What the simulator is fed and what it hands back, one value for each job."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mainspring.core.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to be simulated. `duration_s` is the truth, `estimate_s` what the planner is told (0: nothing)."""

    id: str
    share: str
    submit_s: float
    duration_s: float
    estimate_s: float = 0.0
    resources: Resources = field(default_factory=lambda: Resources(gpu_milli=1000))
    replicas: int = 1
    priority: int = 0
    owner: str = ""  # empty: the share
    is_preemptible: bool = True
    sites: tuple[str, ...] | None = None
    alternatives: tuple[Resources, ...] = ()
    same: str = ""
    data_bytes: int = 0

    @property
    def gpus(self) -> float:
        """Return the GPUs of all replicas, by the first choice."""
        return self.resources.gpu_milli * self.replicas / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a job. `started_s` is its first start; `spans` is what it held from when to when.

    `lost_s` is work that was done twice, because the job was stopped after its last checkpoint.
    """

    job: Job
    started_s: float
    ended_s: float
    spans: tuple[tuple[float, float], ...]
    evictions: int = 0
    lost_s: float = 0.0
    cloud_s: float = 0.0  # of `spans`, on rented machines

    @property
    def wait_s(self) -> float:
        """Return all the time that was not its own work: queues, and what was lost by being stopped."""
        return max(0.0, self.ended_s - self.job.submit_s - self.job.duration_s)


def with_noise(jobs: Iterable[Job], seed: int) -> list[Job]:
    """Return `jobs` with estimates as good as Helios' were on its own cluster (the error bands of Hu et al., SC'21).

    Of ten: one within 10 %, four within 50 %, two within 100 %, two within 10x, one within 100x; a half of them too low,
    and what would be below a second is a second.
    """
    dice = random.Random(seed)
    bands = ((0.1, 0.0, 0.1), (0.5, 0.1, 0.5), (0.7, 0.5, 1.0), (0.9, 1.0, 10.0), (1.0, 10.0, 100.0))
    found = []
    for job in jobs:
        level = dice.random()
        low, high = next((low, high) for most, low, high in bands if level <= most)
        error = dice.uniform(low, high) * dice.choice((-1, 1))
        found.append(replace(job, estimate_s=max(1.0, job.duration_s * (1 + error))))
    return found
