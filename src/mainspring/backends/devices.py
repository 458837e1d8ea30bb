"""The NVIDIA devices of the machine that the server is on and their errors, for every engine that runs things here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from mainspring.core.records import Symptom
from mainspring.core.resources import Device
from mainspring.core.symptoms import QUERY, of_gpus

# Who may not read the kernel's log may often read the journal.
_LOGS = (("dmesg",), ("journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-q"))


def nvidia_devices() -> tuple[Device, ...]:
    """Return the NVIDIA devices of this machine; none where nvidia-smi is missing or fails."""
    return parse_devices(_smi("index,uuid,name,memory.total"))


def nvidia_driver() -> str:
    """Return the version of the NVIDIA driver of this machine; empty where there is none."""
    return next((line.strip() for line in _smi("driver_version").splitlines() if line.strip()), "")


def nvidia_symptoms() -> tuple[Symptom, ...]:
    """Return what the driver and the kernel's log tell of errors of these devices."""
    table = _smi(QUERY)
    return of_gpus(table, next((told for words in _LOGS if (told := _ask(words))), "")) if table else ()


def _smi(query: str) -> str:
    return _ask(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"])


def _ask(words: Sequence[str]) -> str:
    """Return what a program prints; nothing where it is missing, fails or hangs."""
    program = shutil.which(words[0])
    if program is None:
        return ""
    try:
        return subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, errors="replace", timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_devices(told: str) -> tuple[Device, ...]:
    """Return the devices of nvidia-smi's lines `index, uuid, name, MiB`; a line that says something else is no device.

    A device without memory of its own (it shares the machine's) is listed with 0 bytes.
    """
    found = []
    for line in told.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdecimal():
            memory = int(parts[3]) << 20 if parts[3].isdecimal() else 0
            found.append(Device(index=int(parts[0]), uuid=parts[1], model=parts[2], memory_bytes=memory))
    return tuple(found)
