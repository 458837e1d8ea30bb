"""Scorers that compare free amounts alone: random, first fit, best fit, dot product, and levelling."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from mainspring.core.resources import GPU_MILLI
from mainspring.scheduler.cluster import Cluster, Floats, Rows
from mainspring.scheduler.demand import Demand
from mainspring.scheduler.requests import Request


def random(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Draw a number from the node, the request and what is free: the same for equal snapshots, new after each placement."""
    seed = np.uint64(crc32(repr(request.key).encode()) << 31)
    drawn = np.arange(len(cluster.nodes), dtype=np.uint64)[rows] ^ seed
    for column in (cluster.free[rows][:, 0], cluster.free[rows][:, 1], cluster.gpu_free[rows].sum(axis=1)):
        drawn = (drawn ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        drawn ^= drawn >> np.uint64(31)
    return np.asarray(drawn / 2.0**64, dtype=np.float64)


def first_fit(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Take the first node and the first device that fit, in the order of ties."""
    return np.zeros(cluster.gpu_free[rows].shape if request.devices == 1 else len(cluster.member[rows]))


def best_fit(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Leave the least behind: what would stay free of CPU and GPUs, each as a part of the largest node's."""
    cpu = (cluster.free[rows][:, 0] - request.need[0]) / max(1, int(cluster.capacity[:, 0].max(initial=1)))
    gpus = cluster.gpu_free[rows].sum(axis=1) / (max(1, cluster.gpu_free.shape[1]) * GPU_MILLI)
    return np.asarray(-(cpu + gpus), dtype=np.float64)


def dot_product(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Take the node whose free CPU and GPUs are least like what is asked for, in whole hundredths as it was published."""
    largest = max(1, int(cluster.capacity[:, 0].max(initial=1)))
    gpus = max(1, cluster.gpu_free.shape[1]) * GPU_MILLI
    asked = (request.asked.gpu_milli or (GPU_MILLI if request.devices else 0)) / gpus
    product = cluster.free[rows][:, 0] / largest * (request.need[0] / largest) + cluster.gpu_free[rows].sum(axis=1) / gpus * asked
    return np.asarray(np.floor(-50 * product), dtype=np.float64)


def spread(cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:  # noqa: ARG001
    """Level the load: the node with the largest free part, the emptiest device."""
    free = np.maximum(cluster.free[rows], 0) / np.maximum(cluster.capacity[rows], 1)
    points = free[:, 0] + free[:, 1]
    if not request.devices:
        return np.asarray(points, dtype=np.float64)
    gpu_free = cluster.gpu_free[rows]
    devices = np.maximum((cluster.kind_of[rows] > 0).sum(axis=1), 1)
    points = points + 2 * gpu_free.sum(axis=1) / (devices * GPU_MILLI)
    if request.devices > 1:
        return np.asarray(points, dtype=np.float64)
    return np.asarray(points[:, None] + 1e-9 * gpu_free, dtype=np.float64)
