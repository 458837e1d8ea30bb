"""What a run asks for and what a node has, in whole numbers: milli-CPUs, bytes, milli-GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mainspring.core.errors import SpecError
from mainspring.core.units import MAX_BYTES, MILLI, show_bytes, show_milli

GPU_MILLI = MILLI  # one whole GPU
CONTAINERS = {"containers": "yes"}  # the label of nodes that run images


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one replica needs.

    `gpu_milli` is below 1000 for a share of one GPU, else a multiple of 1000 (whole GPUs).
    `gpu_memory_bytes` > 0 asks for that much memory *per GPU*; with `gpu_milli == 0` it may be met by a share
    of any GPU that has so much free (the planner turns it into milli-GPU of the device chosen).
    `gpu_models`: any of these models, empty for any. `pool` and `labels` restrict the nodes.
    """

    cpu_milli: int = 1000
    memory_bytes: int = 0
    gpu_milli: int = 0
    gpu_memory_bytes: int = 0
    gpu_models: tuple[str, ...] = ()
    disk_bytes: int = 0
    pool: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def is_gpu(self) -> bool:
        """Say whether any part of a GPU is asked for."""
        return self.gpu_milli > 0 or self.gpu_memory_bytes > 0

    def show(self) -> str:
        """Return the request as people read it: `2 CPUs, 4 GiB, 1 GPU (A100)`."""
        parts = [f"{show_milli(self.cpu_milli)} CPU{'' if self.cpu_milli == MILLI else 's'}"]
        if self.memory_bytes:
            parts.append(show_bytes(self.memory_bytes))
        if self.gpu_milli:
            parts.append(f"{show_milli(self.gpu_milli)} GPU{'s' if self.gpu_milli > MILLI else ''}")
        if self.gpu_memory_bytes:
            parts.append(f"{show_bytes(self.gpu_memory_bytes)} of GPU memory")
        if self.gpu_models:
            parts.append("of model " + " or ".join(self.gpu_models))
        if self.pool:
            parts.append(f"in pool {self.pool}")
        return ", ".join(parts)


def check_resources(asked: Resources) -> Resources:
    """Return `asked` if it is meaningful; raises SpecError with the path of the wrong field otherwise."""
    for name in ("cpu_milli", "memory_bytes", "gpu_milli", "gpu_memory_bytes", "disk_bytes"):
        value = getattr(asked, name)
        limit = MAX_BYTES if name.endswith("bytes") else 1_000_000 * MILLI
        if value < 0 or value > limit:
            raise SpecError(
                f"resources.{name} is {value}, which is not between 0 and {limit}.",
                hint="Leave the field out for its default.",
                details={"path": f"resources.{name}"},
            )
    if asked.cpu_milli == 0:
        raise SpecError(
            "A run needs some CPU: resources.cpu_milli is 0.",
            hint="Ask for cpus=0.1 at least.",
            details={"path": "resources.cpu_milli"},
        )
    if asked.gpu_milli > GPU_MILLI and asked.gpu_milli % GPU_MILLI:
        raise SpecError(
            f"{show_milli(asked.gpu_milli)} GPUs cannot be had: a share stays within one GPU.",
            hint="Ask for a share below 1, or for whole GPUs.",
            details={"path": "resources.gpu_milli"},
        )
    if asked.gpu_models and not asked.is_gpu():
        raise SpecError(
            "A GPU model is named and no GPU is asked for.",
            hint="Add gpus=1.",
            details={"path": "resources.gpu_models"},
        )
    return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU of a node. `index` is what the engine calls it; `declared` devices exist by the operator's word only.

    Of a `whole` one the engine gives no parts: who asks for a share of it gets, and is charged, all of it.
    """

    index: int
    model: str = "gpu"
    memory_bytes: int = 0
    uuid: str = ""
    declared: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """So many thousandths of one device."""

    index: int
    milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What work that is not ours holds on a node: no part of the node's capacity until that work ends."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    devices: tuple[Device, ...] = ()

    def show(self) -> str:
        """Return it as people read it: `1 GPU, 3 CPUs and 2 GiB`; disk only where it is all there is."""
        gpus = len(self.devices)
        told = [f"{gpus} GPU{'' if gpus == 1 else 's'}"] if gpus else []
        told += [f"{show_milli(self.cpu_milli)} CPU{'' if self.cpu_milli == MILLI else 's'}"] if self.cpu_milli else []
        told += [show_bytes(self.memory_bytes)] if self.memory_bytes else []
        *first, last = told or [f"{show_bytes(self.disk_bytes)} of disk"]
        return f"{', '.join(first)} and {last}" if first else last


ALONE = Foreign()  # nobody else works there


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What one replica was given on one node: exactly what its allocation holds."""

    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = 0
    devices: tuple[DeviceShare, ...] = ()


def show_devices(devices: Iterable[Device]) -> str:
    """Return how many there are of each model, as people read it: `2 A100, 1 T4 (declared)`."""
    count = Counter(
        f"{one.model}{' (declared)' if one.declared else ''}{' (given whole)' if one.whole else ''}" for one in devices
    )
    return ", ".join(f"{many} {model}" for model, many in sorted(count.items()))
