"""Scorers that keep what is left usable: fragmentation gradient descent (FGD) and what is built on it."""

from __future__ import annotations

import numpy as np

from mainspring.core.resources import GPU_MILLI
from mainspring.scheduler.cluster import Cluster, Floats, Rows
from mainspring.scheduler.demand import Demand
from mainspring.scheduler.requests import Request
from mainspring.scheduler.scorers.gpus import CPU_PER_GPU
from mainspring.scheduler.scorers.scorer import idle_devices

PACK = 0.006  # milli-GPU of fragments that one idle milli-GPU on the node is worth
SCARCE = 1000.0  # milli-GPU of fragments that a GPU of a model under full pressure is worth
SHUT_IN = 0.05  # milli-GPU of fragments that an idle milli-GPU is worth to a run without GPU


def gradient(cluster: Cluster, demand: Demand, request: Request, rows: Rows, worth: Floats) -> Floats:
    """Return how much less of the node is unusable after the placement, in milli-GPU: by row, or by row and device."""
    free = cluster.gpu_free[rows]
    cpu = cluster.free[rows][:, 0]
    left_cpu = cpu - request.need[0]
    idle = idle_devices(cluster, rows)
    before = demand.usable(worth, rows, cpu, free, idle)
    if not request.devices:
        return demand.usable(worth, rows, left_cpu, free, idle) - before
    if request.devices > 1 or not request.is_share:
        # idle devices are alike: the first ones that are idle go
        taken = (free == GPU_MILLI) & (np.cumsum(free == GPU_MILLI, axis=1) <= request.devices)
        after = demand.usable(worth, rows, left_cpu, np.where(taken, 0, free), np.maximum(idle - request.devices, 0))
        return after - before + request.devices * GPU_MILLI
    kind = demand.class_of[rows]
    rank = np.searchsorted(demand.cpu_steps, left_cpu, side="right")
    milli = request.milli(cluster, rows)
    left = np.maximum(free - milli, 0)
    now = worth[kind[:, None], rank[:, None], np.maximum(free, 0)]
    change = worth[kind[:, None], rank[:, None], left] - now + now.sum(axis=1)[:, None]
    idle_after = np.maximum(idle[:, None] - (free == GPU_MILLI), 0)
    change += demand.idle_worth[kind[:, None], rank[:, None], idle_after] - before[:, None]
    return np.asarray(change + milli, dtype=np.float64)


def fgd_float(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:
    """Take the placement that lessens the fragments most."""
    return gradient(cluster, demand, request, rows, demand.share_worth)


def fgd(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:
    """Do the same in whole hundredths of a sigmoid, as it was published: most of its effect is in the ties."""
    return np.floor(100 / (1 + np.exp(-gradient(cluster, demand, request, rows, demand.share_worth) / 1000)))


def fill(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:
    """Keep what is left fillable by what is often asked for, fill nodes that are begun, keep scarce models for their users."""
    idle_gpu = cluster.gpu_free[rows].sum(axis=1)
    idle = idle_gpu + (cluster.free[rows][:, 0] - request.need[0]) * CPU_PER_GPU
    points = -PACK * idle
    if request.devices:
        gpus = min(request.asked.gpu_milli or GPU_MILLI, GPU_MILLI) * request.devices / GPU_MILLI
        points = points - SCARCE * demand.pressure[rows] * gpus
    else:
        points = points - SHUT_IN * idle_gpu
    change = gradient(cluster, demand, request, rows, demand.fill_worth)
    return np.asarray(change + (points if change.ndim == 1 else points[:, None]), dtype=np.float64)
