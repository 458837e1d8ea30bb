"""What a person asks for, as words and numbers, made into `Resources`: the same for tasks and the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.core.errors import UsageError
from mainspring.core.resources import GPU_MILLI, Resources, check_resources
from mainspring.core.units import parse_bytes, parse_seconds, to_milli

_NUMBER = re.compile(r"^\s*-?[0-9]+(?:\.[0-9]+)?\s*\Z")

PRIORITY = {"high": 100, "normal": 0, "low": -100}


def make_choices(gpus: str | float | None, **others: Any) -> tuple[Resources, ...]:
    """Return the request and its alternatives, first choice first; `others` are those of `make_resources`.

    `gpus` may name models and alternatives: `"A100:1 | L4:2"` is one A100, or else two L4. Raises UsageError, SpecError.
    """
    if not isinstance(gpus, str):
        return (make_resources(gpus=gpus, **others),)
    choices = [_choice(part) for part in gpus.split("|")]
    if any(model for _, model in choices) and others.get("gpu_model"):
        raise UsageError("A GPU model is named twice.", hint="Write gpus='A100:1', or gpus=1 and gpu_model='A100'.")
    return tuple(
        make_resources(**{**others, "gpus": count, **({"gpu_model": model} if model else {})}) for count, model in choices
    )


def _choice(text: str) -> tuple[float, str]:
    """Return (how many, model or nothing) of `2` or `A100:2`."""
    model, _, count = text.strip().rpartition(":")
    if not _NUMBER.match(count):
        raise UsageError(
            f"gpus {text.strip()[:60]!r} is not an amount of GPUs.", hint="Write gpus=2, 'A100:1', or 'A100:1 | L4:2'."
        )
    return float(count), model.strip()


def to_replicas(value: str | int) -> tuple[int, int]:
    """Return (most, least) of `4` or `"2..8"`; least is 0 for a gang that is not elastic. Raises UsageError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, 0
    least, dots, most = str(value).strip().rpartition("..")
    if not most.isdecimal() or (dots and not least.isdecimal()) or (dots and int(least) > int(most)) or (dots and least == "0"):
        raise UsageError(f"replicas {value!r} is not a number of replicas.", hint="Write replicas=4, or replicas='2..8'.")
    return int(most), int(least) if dots else 0


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


def to_priority(value: str | int) -> int:
    """Return the priority of `high`, `normal`, `low` or a number. Raises UsageError."""
    text = str(value).strip()
    if text in PRIORITY:
        return PRIORITY[text]
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no priority.", hint="Say high, normal, low or a number from -1000 to 1000.") from None


def to_seconds(value: str | float | None, field: str) -> float:
    """Return seconds of `90s`, `2h`, or of a number of seconds; None is 0. Raises UsageError."""
    if value is None:
        return 0.0
    if isinstance(value, str):
        return parse_seconds(value, field)
    if isinstance(value, bool) or value < 0:
        raise UsageError(f"{field} {value!r} is not a duration.", hint=f"Write {field}='90s' or '2h'.")
    return float(value)
