"""What no policy can go below: the most milli-GPU of the arrived tasks that fit, relaxed to a linear program.

Which of the arrived tasks to run is free, parts of tasks may run, and of nodes only the totals of each model count. The
shares on one device are a path from 0 to 1000 milli (arc-flow form of the cutting-stock problem: Valério de Carvalho, 1999).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from mainspring.core.records import Node
from mainspring.core.resources import GPU_MILLI, Resources


def bound(nodes: Sequence[Node], arrived: Sequence[Resources]) -> float:
    """Return the least percentage of GPUs that stays unallocated when these tasks have arrived."""
    models = sorted({node.devices[0].model for node in nodes})
    gpus = {model: sum(len(one.devices) for one in nodes if one.devices[0].model == model) for model in models}
    cpus = {model: sum(one.cpu_milli for one in nodes if one.devices[0].model == model) for model in models}
    counts = Counter(_kind(task) for task in arrived if task.gpu_milli)
    unit = int(np.gcd.reduce([milli for milli, _, _ in counts if milli < GPU_MILLI] or [GPU_MILLI]))
    levels = GPU_MILLI // unit
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    gains: list[float] = []
    tops: list[float] = []
    names: dict[tuple[Any, ...], int] = {}  # of constraints
    equal: set[int] = set()

    def row(name: tuple[Any, ...]) -> int:
        return names.setdefault(name, len(names))

    def variable(gain: float, top: float, entries: Sequence[tuple[tuple[Any, ...], float]]) -> None:
        for name, value in entries:
            rows.append(row(name))
            columns.append(len(gains))
            values.append(value)
        gains.append(gain)
        tops.append(top)

    for model in models:
        for kind, count in counts.items():
            milli, cpu, allowed = kind
            if allowed and model not in allowed:
                continue
            used: list[tuple[tuple[Any, ...], float]] = [(("task", kind), 1.0), (("cpu", model), cpu / 1000)]
            used.append((("gpu", model), milli / GPU_MILLI) if milli >= GPU_MILLI else (("size", model, milli), 1.0))
            variable(milli / GPU_MILLI, float(count), used)
        for size in sorted({milli for milli, _, _ in counts if milli < GPU_MILLI}):
            for level in range(levels - size // unit + 1):  # a share of `size` on top of `level`
                end = level + size // unit
                arc: list[tuple[tuple[Any, ...], float]] = [(("size", model, size), -1.0), (("level", model, end), -1.0)]
                arc.append((("level", model, level), 1.0) if level else (("gpu", model), 1.0))
                variable(0.0, np.inf, arc)
    limits = np.zeros(len(names))
    of_model: dict[str, dict[str, float]] = {"gpu": {**gpus}, "cpu": {model: milli / 1000 for model, milli in cpus.items()}}
    for name, number in names.items():
        if name[0] == "task":
            limits[number] = counts[name[1]]
        elif name[0] == "size":
            equal.add(number)
        elif name[0] in of_model:
            limits[number] = of_model[name[0]][name[1]]
    matrix = coo_matrix((values, (rows, columns)), shape=(len(names), len(gains))).tocsr()
    same, less = sorted(equal), sorted(set(range(len(names))) - equal)
    found = linprog(
        -np.array(gains),
        A_ub=matrix[less],
        b_ub=limits[less],
        A_eq=matrix[same] if same else None,
        b_eq=limits[same] if same else None,
        bounds=list(zip([0.0] * len(gains), tops, strict=True)),
        method="highs",
    )
    return float(100 * (1 + found.fun / sum(gpus.values())))


def _kind(task: Resources) -> tuple[int, int, tuple[str, ...]]:
    return task.gpu_milli, task.cpu_milli, task.gpu_models
