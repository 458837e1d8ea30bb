"""What drivers print about ill GPUs, as symptoms. Pure."""

from __future__ import annotations

import re

from mainspring.core.records import Symptom, SymptomKind

QUERY = "index,pci.bus_id,ecc.errors.uncorrected.volatile.total"  # what nvidia-smi is asked for
_XID = re.compile(
    r"\[\s*(?P<s>\d+)(?:\.(?P<us>\d+))?\].*NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F:]+)(?:\.\d)?\): (?P<code>\d+)(?P<rest>[^\n]*)"
)
_BUS = re.compile(r"(?:([0-9a-f]+):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-9a-f])?\Z")
MAX_CHARS = 200


def of_gpus(table: str, kernel: str) -> tuple[Symptom, ...]:
    """Return the errors in nvidia-smi's lines for QUERY (CSV without units), and in lines of the kernel's log.

    ECC errors are counted since the GPU was reset; of XIDs the newest of each kind on each device is told, its `mark` the
    microseconds since the machine booted. A line that says something else says nothing.
    """
    found: list[Symptom] = []
    index_of: dict[tuple[int, str, str], int] = {}
    for line in table.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3 or not parts[0].isdecimal():
            continue
        bus = _bus(parts[1])
        if bus is not None:
            index_of[bus] = int(parts[0])
        if parts[2].isdecimal() and int(parts[2]):
            found.append(Symptom(kind=SymptomKind.ECC, device=int(parts[0]), mark=int(parts[2])))
    newest: dict[tuple[int, int], Symptom] = {}
    for line in kernel.splitlines():
        match = _XID.search(line)
        bus = _bus(match["bus"]) if match is not None else None
        if match is None or bus is None or bus not in index_of:
            continue
        mark = int(match["s"]) * 1_000_000 + int((match["us"] or "0")[:6].ljust(6, "0"))
        device, code = index_of[bus], int(match["code"])
        detail = f"The kernel's log: Xid {code}{match['rest']}"[:MAX_CHARS]
        if (device, code) not in newest or newest[device, code].mark < mark:
            newest[device, code] = Symptom(kind=SymptomKind.XID, device=device, mark=mark, code=code, detail=detail)
    return (*found, *(newest[key] for key in sorted(newest)))


def _bus(word: str) -> tuple[int, str, str] | None:
    """Return domain, bus and device of `00000000:3B:00.0` or `0000:3b:00`."""
    match = _BUS.match(word.strip().lower())
    return None if match is None else (int(match[1] or "0", 16), match[2], match[3])
