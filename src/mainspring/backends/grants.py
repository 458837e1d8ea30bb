"""What a granted share means for the user's process: visible devices and thread counts. Pure."""

from __future__ import annotations

from mainspring.core.resources import Granted

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


def granted_env(granted: Granted) -> dict[str, str]:
    """Return the variables that keep a process within what it was granted; no GPU granted means none is visible.

    The indices are those of nvidia-smi. CUDA's own order puts the fastest first: where models differ, another device's index.
    """
    devices = ",".join(str(share.index) for share in granted.devices)
    seen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": devices, "NVIDIA_VISIBLE_DEVICES": devices or "void"}
    return {**seen, **thread_env(granted)}


def thread_env(granted: Granted) -> dict[str, str]:
    """Return the variables of the thread counts, for engines that choose the devices themselves.

    The granted CPUs rounded down, 1 at least: libraries that see all cores of a shared machine start too many threads and
    run several times slower.
    """
    return {name: str(max(1, granted.cpu_milli // 1000)) for name in THREADS}
