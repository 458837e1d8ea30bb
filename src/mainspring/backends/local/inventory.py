"""What this machine has: CPUs, memory, disk, NVIDIA devices or declared ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device


def this_node(cluster: Cluster, folder: Path) -> Node:
    """Return this machine as a node of `cluster`; its config may declare `gpus`, `gpu_model`, `gpu_memory_bytes`, `cpus`."""
    host = socket.gethostname().split(".")[0] or "localhost"
    declared_cpus = _number(cluster, "cpus")
    return Node(
        id=f"{cluster.id}.{host}",
        cluster=cluster.id,
        name=host,
        cpu_milli=int(declared_cpus * 1000) if declared_cpus else len(os.sched_getaffinity(0)) * 1000,
        memory_bytes=_memory_bytes(),
        disk_bytes=shutil.disk_usage(folder).free,
        devices=_devices(cluster),
    )


def _devices(cluster: Cluster) -> tuple[Device, ...]:
    count = int(_number(cluster, "gpus"))
    if count:
        model, memory = str(cluster.config.get("gpu_model") or "gpu"), int(_number(cluster, "gpu_memory_bytes"))
        return tuple(Device(index=n, model=model, memory_bytes=memory, declared=True) for n in range(count))
    return _nvidia()


def _nvidia() -> tuple[Device, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in told.splitlines():
        index, uuid, model, mebibytes = (part.strip() for part in line.split(","))
        found.append(Device(index=int(index), uuid=uuid, model=model, memory_bytes=int(mebibytes) << 20))
    return tuple(found)


def _memory_bytes() -> int:
    limits = []
    with contextlib.suppress(OSError, IndexError, ValueError):
        limits.append(int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits, default=0)


def _number(cluster: Cluster, key: str) -> float:
    value = cluster.config.get(key) or 0
    return float(value) if isinstance(value, int | float | str) else 0.0
