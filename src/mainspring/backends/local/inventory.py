"""What this machine has: CPUs, memory, disk, NVIDIA devices or declared ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path

from mainspring.backends.devices import nvidia_devices, nvidia_symptoms
from mainspring.backends.local import cgroups
from mainspring.backends.local.processes import boot_id
from mainspring.core.records import Cluster, Node, Symptom, SymptomKind
from mainspring.core.resources import Device

MIN_FREE_BYTES = 256 << 20  # with less, runs and this server's own files fail for want of room
MIN_FREE_PART = 50  # but a small disk is not full before so little of it (one part of so many) is free


def this_node(cluster: Cluster, folder: Path) -> Node:
    """Return this machine as a node of `cluster`; its config may declare `gpus`, `gpu_model`, `gpu_memory_bytes`, `cpus`."""
    host = socket.gethostname().split(".")[0] or "localhost"
    declared_cpus = _number(cluster, "cpus")
    disk = shutil.disk_usage(folder) if folder.exists() else None
    free = disk.free if disk is not None else 0
    symptoms = [] if _number(cluster, "gpus") else [*nvidia_symptoms()]
    if disk is not None and free < min(MIN_FREE_BYTES, disk.total // MIN_FREE_PART):
        detail = f"only {free >> 20} MiB are free on its disk at {folder}."
        symptoms.append(Symptom(kind=SymptomKind.DISK, detail=detail))
    return Node(
        id=f"{cluster.id}.{host}",
        cluster=cluster.id,
        name=host,
        cpu_milli=int(declared_cpus * 1000) if declared_cpus else _cpu_milli(),
        memory_bytes=_memory_bytes(),
        disk_bytes=free,
        devices=_devices(cluster),
        boot=boot_id(),
        symptoms=tuple(symptoms),
    )


def _devices(cluster: Cluster) -> tuple[Device, ...]:
    count = int(_number(cluster, "gpus"))
    if count:
        model, memory = str(cluster.config.get("gpu_model") or "gpu"), int(_number(cluster, "gpu_memory_bytes"))
        return tuple(Device(index=n, model=model, memory_bytes=memory, declared=True) for n in range(count))
    return nvidia_devices()


def _cpu_milli() -> int:
    """Return the CPUs that this process may use: its affinity, or a control group's quota where that is less."""
    limits = [len(os.sched_getaffinity(0)) * 1000]
    for group in cgroups.own("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            limits.append(int(quota) * 1000 // int(period))
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((group / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:
                limits.append(quota_us * 1000 // int((group / "cpu.cfs_period_us").read_text()))
    return max(1, min(limits))


def _memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or a control group's limit where that is less."""
    limits = []
    with contextlib.suppress(OSError, IndexError, ValueError):
        limits.append(int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024)
    for group in cgroups.own("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / name).read_text()))
    return min(limits, default=0)


def _number(cluster: Cluster, key: str) -> float:
    value = cluster.config.get(key) or 0
    return float(value) if isinstance(value, int | float | str) else 0.0
