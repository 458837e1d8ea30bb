"""Sweeps over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, new_key, to_record
from mainspring.core.records import Sweep, SweepSpec, Trial


@dataclass(frozen=True, slots=True)
class Sweeps:
    """What can be asked about sweeps."""

    transport: Transport

    def start(self, spec: SweepSpec, *, key: str = "") -> Sweep:
        """Start a sweep; the same `key` never makes a second one."""
        return self.transport.post("/sweeps", spec, key=key or new_key()).record(Sweep)

    def all(self, *, project: str = "default") -> list[Sweep]:
        """Return the sweeps, newest first."""
        return [to_record(one, Sweep) for one in self.transport.get("/sweeps", {"project": project}).plain()["items"]]

    def get(self, ref: str) -> Sweep:
        """Return the sweep of that id or name."""
        return self.transport.get(f"/sweeps/{quote(ref, safe='')}").record(Sweep)

    def trials(self, ref: str) -> list[Trial]:
        """Return the trials by number."""
        plain = self.transport.get(f"/sweeps/{quote(ref, safe='')}/trials").plain()
        return [to_record(one, Trial) for one in plain["items"]]

    def stop(self, ref: str) -> Sweep:
        """End the sweep; results stay."""
        return self.transport.post(f"/sweeps/{quote(ref, safe='')}/stop", is_repeatable=True).record(Sweep)
