"""The plug-in point of placement: a function that gives each row a number. The highest wins, ties go to the first row."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mainspring.scheduler.cluster import Cluster, Floats, Ints, Rows
from mainspring.scheduler.demand import Demand
from mainspring.scheduler.requests import NEVER, Request


class Scorer(Protocol):
    """A pure function. Scores are kept by request and computed again for rows that changed: look at the own row alone."""

    def __call__(self, cluster: Cluster, demand: Demand, request: Request, rows: Rows) -> Floats:
        """Return one number for each row, or one for each row and device where `request` takes one device.

        Numbers of rows and devices that do not fit are not read. Without numbers for devices the fullest that fits is taken.
        """
        ...


def left_on_device(cluster: Cluster, request: Request, rows: Rows) -> Ints:
    """Return the milli-GPU left on the tightest device that fits, for each row."""
    left = cluster.gpu_free[rows] - request.milli(cluster, rows)
    tightest: Ints = np.where(left >= 0, left, NEVER).min(axis=1, initial=NEVER)
    return tightest


def idle_devices(cluster: Cluster, rows: Rows) -> Ints:
    """Return how many devices of each row are wholly idle."""
    found: Ints = (cluster.gpu_free[rows] == 1000).sum(axis=1)
    return found
