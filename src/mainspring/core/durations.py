"""How long a run is believed to take: by what the same task took for the same person, for anybody, or runs of its size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from statistics import fmean, median

from mainspring.core.specs import RunSpec

KEPT = 25  # the newest durations of each kind
LEARNED = 500  # the newest durations of each class of estimates
FEWEST = 20  # of them before a class is judged
WORTHLESS = 10.0  # estimates that are too low by that factor say nothing
STEPS = 4  # what is believed instead moves in so many steps of each power of two, not with each run


def task_of(spec: RunSpec) -> str:
    """Return what is run, without its arguments: `train.py`, `trainer:fit`."""
    if spec.entry is not None:
        return f"{spec.entry.module}:{spec.entry.function}"
    names = [PurePath(word).name for word in spec.command]
    return next((name for name in names if name.endswith((".py", ".sh", ".R", ".jl"))), names[0] if names else "")


def size_of(spec: RunSpec) -> str:
    """Return the class of size: GPUs of all replicas, else CPUs, up to the next power of two."""
    asked = spec.resources
    milli, unit = (asked.gpu_milli, "gpu") if asked.is_gpu() else (asked.cpu_milli, "cpu")
    whole = max(1, -(-milli * spec.replicas // 1000))
    return f"{1 << (whole - 1).bit_length()}{unit}"


def keys_of(project: str, owner: str, spec: RunSpec) -> tuple[str, str, str]:
    """Return the names of the kinds that a run belongs to, the narrowest first."""
    task = task_of(spec)
    return f"task {project} {task} {owner}", f"task {project} {task}", f"size {size_of(spec)}"


def with_sample(samples: Sequence[float], seconds: float, most: int = KEPT) -> tuple[float, ...]:
    """Return the samples with one more, the oldest forgotten."""
    return (*samples, round(seconds, 3))[-most:]


def typical(samples: Sequence[float]) -> float:
    """Return the median of what is kept."""
    return float(median(samples)) if samples else 0.0


def estimate(keys: Sequence[str], medians: Mapping[str, float], timeout_s: float) -> float:
    """Return how long a run is believed to take: by the narrowest kind that is known, at most its time limit; 0: nobody knows."""
    found = next((medians[key] for key in keys if key in medians), 0.0)
    return min(found or timeout_s, timeout_s) if timeout_s else found


def class_of(estimate_s: float) -> int:
    """Return the class of an estimate: the power of two below it, in seconds."""
    return int(math.log2(max(1.0, estimate_s)))


def instead(label: int, taken: Sequence[float]) -> float:
    """Return what to believe of runs of that class of estimates, given what such runs took; 0: their estimates.

    A class is judged by the middle one (one slow run condemns nobody), but what is believed is the mean: what makes the
    sum of all waits the least where lengths are not known (shortest expected length first).
    """
    if len(taken) < FEWEST or median(taken) < WORTHLESS * 2 ** (label + 1):
        return 0.0
    return float(2 ** (round(math.log2(fmean(taken)) * STEPS) / STEPS))


def believed(estimate_s: float, insteads: Mapping[int, float], timeout_s: float = 0.0) -> float:
    """Return how long to believe that a run takes, where some classes of estimates have shown to say nothing."""
    found = insteads.get(class_of(estimate_s), 0.0) if estimate_s > 0 and insteads else 0.0
    return min(found or estimate_s, timeout_s or math.inf)
