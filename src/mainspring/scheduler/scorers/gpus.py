"""Scorers for GPUs by simple rules: fill what is begun, keep like with like."""

from __future__ import annotations

import numpy as np

from mainspring.core.resources import GPU_MILLI
from mainspring.scheduler.cluster import Cluster, Floats, Rows
from mainspring.scheduler.demand import Demand
from mainspring.scheduler.requests import Request
from mainspring.scheduler.scorers.scorer import idle_devices, left_on_device

CPU_PER_GPU = 8000 / 128_000  # milli-GPU that one milli-CPU is worth when idle amounts are added up


def pack(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Fill what is begun: devices first, then nodes; keep runs without GPU off idle GPUs."""
    idle_gpu = cluster.gpu_free[rows].sum(axis=1)
    idle = idle_gpu + (cluster.free[rows][:, 0] - request.need[0]) * CPU_PER_GPU
    points = -0.005 * idle
    if request.devices:
        return np.asarray(points - left_on_device(cluster, request, rows), dtype=np.float64)
    return np.asarray(points - 0.03 * idle_gpu, dtype=np.float64)


def packing(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Take devices that are shared already, then idle ones of a node in use (few at best), then those of an idle node."""
    if not request.devices:
        return np.zeros(len(cluster.member[rows]))
    idle = idle_devices(cluster, rows)
    is_idle_node = idle == (cluster.kind_of[rows] > 0).sum(axis=1)
    left = left_on_device(cluster, request, rows)
    milli = request.milli(cluster, rows).min(axis=1, initial=GPU_MILLI)
    opens_idle = left + milli >= GPU_MILLI  # the tightest device that fits is an idle one
    shared = 100 - np.floor((left + milli) / 100)
    return np.asarray(np.where(is_idle_node, 33 - idle, np.where(opens_idle, 50 - request.devices, shared)), dtype=np.float64)


def clustering(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Keep like with like: a node of its own kind, then one that has it among others, then an idle one, then the rest."""
    if not request.devices:
        return np.zeros(len(cluster.member[rows]))
    tenants = cluster.tenants[rows]
    mine = 1 << (0 if request.is_share else request.devices)
    rank = np.where(tenants == mine, 3, np.where(tenants & mine, 2, np.where(tenants == 0, 1, 0)))
    most = max(1, cluster.gpu_free.shape[1]) * GPU_MILLI
    return np.asarray(rank * 25 + np.floor(25 * (most - cluster.gpu_free[rows].sum(axis=1)) / most), dtype=np.float64)
