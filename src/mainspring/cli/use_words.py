"""What a run used of its machines, in words: the mean of what is busy or idle, the most of what fills up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mainspring.core.units import show_bytes


def use_words(samples: Sequence[Mapping[str, object]]) -> str:
    """Return a line about samples of use, of all replicas and devices; nothing without any."""
    devices = [one for sample in samples for one in _devices(sample)]
    cpus, busy = list(_numbers(samples, "cpu")), list(_numbers(devices, "utilization"))
    memory, gpu_memory = list(_numbers(samples, "memory_bytes")), list(_numbers(devices, "memory_bytes"))
    return ", ".join(
        word
        for word, values in (
            (f"{_mean(cpus):.2g} CPUs", cpus),
            (f"{show_bytes(int(max(memory, default=0)))} at most", memory),
            (f"GPU {_mean(busy):.0%} busy", busy),
            (f"GPU memory {show_bytes(int(max(gpu_memory, default=0)))} at most", gpu_memory),
        )
        if values
    )


def _devices(sample: Mapping[str, object]) -> list[Mapping[str, object]]:
    told = sample.get("gpu")
    return [one for one in told if isinstance(one, Mapping)] if isinstance(told, list) else []


def _numbers(told: Iterable[Mapping[str, object]], name: str) -> Iterable[float]:
    return (float(value) for one in told if isinstance(value := one.get(name), int | float))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
