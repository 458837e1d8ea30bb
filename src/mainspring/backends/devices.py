"""The NVIDIA devices of the machine that the server is on, for every engine that runs things here."""

from __future__ import annotations

import shutil
import subprocess

from mainspring.core.resources import Device


def nvidia_devices() -> tuple[Device, ...]:
    """Return the NVIDIA devices of this machine; none where nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_devices(told)


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
