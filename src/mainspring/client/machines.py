"""Rented machines over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.machines import Bill, Machine
from mainspring.core.snapshot import Site


@dataclass(frozen=True, slots=True)
class Machines:
    """What is or was rented, and where."""

    transport: Transport

    def all(self) -> list[Bill]:
        """Return rented machines, the newest first, with what they cost."""
        return [to_record(one, Bill) for one in self.transport.get("/machines").plain()["items"]]

    def sites(self) -> list[Site]:
        """Return where machines can be rented."""
        return [to_record(one, Site) for one in self.transport.get("/sites").plain()["items"]]

    def give_back(self, ref: str) -> Machine:
        """Let a machine end before its time (administrators)."""
        return to_record(self.transport.post(f"/machines/{quote(ref, safe='')}/give_back").plain(), Machine)
