"""What the NVIDIA driver of this machine tells: its devices, and their errors. The server reads the text (`core/symptoms.py`)."""

from __future__ import annotations

import subprocess
from typing import Any

DEVICES = "index,uuid,name,memory.total,driver_version"
USE = "index,uuid,utilization.gpu,memory.used"
ERRORS = "index,pci.bus_id,ecc.errors.uncorrected.volatile.total"
KERNEL_LINES = 50  # the newest of those that tell of a GPU
# Who may not read the kernel's log may often read the journal.
_LOGS = (["dmesg"], ["journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-q"])


def devices() -> tuple[str, list[dict[str, Any]]]:
    """Return the driver and the devices that nvidia-smi lists."""
    driver = ""
    found = []
    for line in _ask(["nvidia-smi", f"--query-gpu={DEVICES}", "--format=csv,noheader,nounits"]).splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5 and parts[0].isdecimal():
            memory = int(parts[3]) << 20 if parts[3].isdecimal() else 0
            found.append({"index": int(parts[0]), "uuid": parts[1], "model": parts[2], "memory_bytes": memory})
            driver = parts[4]
    return driver, found


def use(visible: str | None) -> list[dict[str, Any]]:
    """Return what is in use of the devices that `visible` names by index or UUID, of all for None.

    A device that several runs share tells the use of them all.
    """
    wanted = None if visible is None else {word.strip() for word in visible.split(",")}
    found = []
    for line in _ask(["nvidia-smi", f"--query-gpu={USE}", "--format=csv,noheader,nounits"]).splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 4 or not parts[0].isdecimal() or (wanted is not None and not wanted & set(parts[:2])):
            continue
        told: dict[str, Any] = {"index": int(parts[0])}  # what a device does not count ([N/A]) is left out
        if parts[2].isdecimal():
            told["utilization"] = int(parts[2]) / 100
        if parts[3].isdecimal():
            told["memory_bytes"] = int(parts[3]) << 20
        found.append(told)
    return found


def errors() -> dict[str, str]:
    """Return what nvidia-smi and the kernel's log tell of errors, as they tell it; a driver that hangs is waited for 5 s."""
    table = _ask(["nvidia-smi", f"--query-gpu={ERRORS}", "--format=csv,noheader,nounits"])
    lines: list[str] = []
    for words in _LOGS:
        told = _ask(words)
        if told:
            lines = [line for line in told.splitlines() if "NVRM: Xid" in line]
            break
    return {"table": table, "kernel": "\n".join(lines[-KERNEL_LINES:])}


def _ask(words: list[str]) -> str:
    """Return what a program prints; nothing where it is missing, fails or hangs."""
    try:
        told = subprocess.run(words, capture_output=True, timeout=5.0, check=True, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.decode("utf-8", "replace")
