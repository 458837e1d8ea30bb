"""Which of the nodes that fit is best. A scorer gives each row a number (the highest wins, ties go to the first row).

`score` is asked for rows that fit; `prefer` orders the devices of one row. Both are pure; scores are cached by request
and computed again only for rows that changed, so a score may look at its own row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mainspring.core.errors import PlannerError
from mainspring.core.resources import GPU_MILLI
from mainspring.scheduler.cluster import Cluster, Floats, Rows
from mainspring.scheduler.requests import NEVER, Request

CPU_PER_GPU = 8000 / 128_000  # milli-GPU that one milli-CPU is worth when idle amounts are added up


class Scorer(Protocol):
    """The plug-in point of placement: 10 to 30 lines each."""

    def score(self, cluster: Cluster, request: Request, rows: Rows) -> Floats:
        """Return one number for each row, the best highest."""
        ...

    def prefer(self, free_milli: int) -> int:
        """Return a sort key for a device with so much free: the lowest is taken first."""
        ...


class Pack:
    """Fill what is begun: devices first, then nodes; keep runs without GPU off idle GPUs."""

    def score(self, cluster: Cluster, request: Request, rows: Rows) -> Floats:
        """Weigh what is left of the device, what stays idle on the node, and idle GPUs a CPU run would shut in."""
        idle_gpu = cluster.gpu_free[rows].sum(axis=1)
        idle = idle_gpu + (cluster.free[rows][:, 0] - request.need[0]) * CPU_PER_GPU
        points = -0.005 * idle
        if request.devices:
            return np.asarray(points - _left_over(cluster, request, rows), dtype=np.float64)
        return np.asarray(points - 0.03 * idle_gpu, dtype=np.float64)

    def prefer(self, free_milli: int) -> int:
        """Take the fullest device."""
        return free_milli


class Spread:
    """Level the load: the node with the largest free part, the emptiest device."""

    def score(self, cluster: Cluster, request: Request, rows: Rows) -> Floats:
        """Add up the free parts of CPU, memory and GPUs."""
        free = np.maximum(cluster.free[rows], 0) / np.maximum(cluster.capacity[rows], 1)
        points = free[:, 0] + free[:, 1]
        if request.devices:
            devices = np.maximum((cluster.kind_of[rows] > 0).sum(axis=1), 1)
            points = points + 2 * cluster.gpu_free[rows].sum(axis=1) / (devices * GPU_MILLI)
        return np.asarray(points, dtype=np.float64)

    def prefer(self, free_milli: int) -> int:
        """Take the emptiest device."""
        return -free_milli


class FirstFit:
    """Take the first node that fits, in the order of ties."""

    def score(self, cluster: Cluster, request: Request, rows: Rows) -> Floats:  # noqa: ARG002 the contract has it
        """Give every row the same."""
        return np.zeros(len(cluster.member[rows]), dtype=np.float64)

    def prefer(self, free_milli: int) -> int:  # noqa: ARG002 the contract has it
        """Take the first device."""
        return 0


class BestFit:
    """Leave the least behind: the node whose free part is smallest after the replica is put there."""

    def score(self, cluster: Cluster, request: Request, rows: Rows) -> Floats:
        """Add up what would stay free, each resource as a part of the largest node's."""
        left = (cluster.free[rows] - request.need) / np.maximum(cluster.capacity.max(axis=0, initial=1), 1)
        gpus = cluster.gpu_free[rows].sum(axis=1) / (max(1, cluster.gpu_free.shape[1]) * GPU_MILLI)
        return np.asarray(-(left.sum(axis=1) + gpus), dtype=np.float64)

    def prefer(self, free_milli: int) -> int:
        """Take the fullest device."""
        return free_milli


SCORERS: Mapping[str, Scorer] = {"best_fit": BestFit(), "first_fit": FirstFit(), "pack": Pack(), "spread": Spread()}


def find_scorer(name: str) -> Scorer:
    """Return the scorer of that name. Raises PlannerError."""
    if name not in SCORERS:
        raise PlannerError(f"There is no scorer {name!r}.", hint="Known: " + ", ".join(sorted(SCORERS)) + ".")
    return SCORERS[name]


def _left_over(cluster: Cluster, request: Request, rows: Rows) -> Floats:
    """Return the milli-GPU left on the tightest device that fits, for each row."""
    left = cluster.gpu_free[rows] - request.milli(cluster, rows)
    tightest = np.where(left >= 0, left, NEVER).min(axis=1, initial=NEVER)
    return np.asarray(tightest, dtype=np.float64)
