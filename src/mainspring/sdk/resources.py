"""What a person asks for, as words and numbers, made into `Resources`: the same for tasks and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mainspring.core.errors import UsageError
from mainspring.core.resources import GPU_MILLI, Resources, check_resources
from mainspring.core.units import parse_bytes, parse_seconds, to_milli


def make_resources(
    *,
    cpus: float | None = None,
    memory: str | None = None,
    gpus: float | None = None,
    gpu_memory: str | None = None,
    gpu_model: str | Sequence[str] | None = None,
    disk: str | None = None,
    pool: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Resources:
    """Return the request. One GPU with a `gpu_memory` may be met by a share of a larger GPU. Raises UsageError, SpecError."""
    gpu_milli = to_milli(gpus, "gpus") if gpus is not None else 0
    gpu_memory_bytes = parse_bytes(gpu_memory, "gpu_memory") if gpu_memory is not None else 0
    if gpu_memory_bytes and gpu_milli == GPU_MILLI:
        gpu_milli = 0
    models = (gpu_model,) if isinstance(gpu_model, str) and gpu_model else tuple(gpu_model or ())
    if models and not gpu_milli and not gpu_memory_bytes:
        gpu_milli = GPU_MILLI
    return check_resources(
        Resources(
            cpu_milli=to_milli(cpus, "cpus") if cpus is not None else 1000,
            memory_bytes=parse_bytes(memory, "memory") if memory is not None else 0,
            gpu_milli=gpu_milli,
            gpu_memory_bytes=gpu_memory_bytes,
            gpu_models=models,
            disk_bytes=parse_bytes(disk, "disk") if disk is not None else 0,
            pool=pool or "",
            labels=dict(labels or {}),
        )
    )


def to_seconds(value: str | float | None, field: str) -> float:
    """Return seconds of `90s`, `2h`, or of a number of seconds; None is 0. Raises UsageError."""
    if value is None:
        return 0.0
    if isinstance(value, str):
        return parse_seconds(value, field)
    if isinstance(value, bool) or value < 0:
        raise UsageError(f"{field} {value!r} is not a duration.", hint=f"Write {field}='90s' or '2h'.")
    return float(value)
