"""A cloud played by this machine: rented machines are folders with a birth, an end and a price; their runs are processes here.

It is there to try budgets and overflow out, and to test them: machines take time to come, cost nothing in truth, and end by
themselves when their time is over, as real ones do, whether or not anybody remembers them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from mainspring.backends.local.backend import LocalBackend
from mainspring.backends.local.backend import create as create_local
from mainspring.backends.local.processes import read_record
from mainspring.core.backend import (
    Capabilities,
    Engine,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Observation,
    Option,
    OptionKind,
    Probe,
)
from mainspring.core.errors import CapacityError, LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.machines import ListedMachine, MachineOffer, empty_machine
from mainspring.core.records import Cluster
from mainspring.core.resources import Device


def create(cluster: Cluster, folder: Path, installation: str) -> SimulatedCloud:
    """Build the backend of a simulated cloud; `folder` is its own."""
    return SimulatedCloud(cluster, folder, create_local(cluster, folder, installation))


@dataclass(slots=True)
class SimulatedCloud:
    """The cloud. What is rented lies under `machines/`, a folder each, so that it outlives the server."""

    cluster: Cluster
    folder: Path
    local: LocalBackend

    @property
    def capabilities(self) -> Capabilities:
        """Return what its machines can do."""
        return self.local.capabilities

    def probe(self) -> Probe:
        """Say that the cloud is there, and that it is played."""
        told = self.local.probe()
        return replace(told, version="simulated", facts={"machines": f"{self._number('limit', 4):g} at most"})

    # --- machines -------------------------------------------------------------------------------------------------------

    def offers(self) -> Sequence[MachineOffer]:
        """Return the one type of machine that the cluster's config describes."""
        config = self.cluster.config
        model, memory = str(config.get("gpu_model") or "gpu"), int(self._number("gpu_memory_bytes", 0))
        return (
            MachineOffer(
                cpu_milli=int(self._number("cpus", 8) * 1000),
                memory_bytes=int(self._number("memory_bytes", 32 << 30)),
                disk_bytes=shutil.disk_usage(self.folder).total,  # what is free changes with each breath
                devices=tuple(
                    Device(index=index, model=model, memory_bytes=memory, declared=True)
                    for index in range(int(self._number("gpus", 1)))
                ),
                price_usd_per_hour=str(Decimal(str(config.get("price") or 0))),
                limit=int(self._number("limit", 4)),
                ready_s=self._number("start_s", 60),
                bytes_per_s=self._number("bytes_per_s", 50e6),
                region=str(config.get("region") or ""),
            ),
        )

    def rent(self, tag: str, offer: str, ends_at: datetime) -> None:
        """Begin a machine, there after `start_s`; see the contract. Raises CapacityError when `stock` is used up."""
        del offer
        place = self._machine(tag)
        known = read_record(place / "machine.json")
        if not known:
            others = len(self.machines())
            stock = int(self._number("stock", self._number("limit", 4)))
            if others >= stock:
                raise CapacityError(f"{self.cluster.name} has no machine left: {others} of {stock} are out.")
            known = {"up_at": time.time() + self._number("start_s", 60)}
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(place / "machine.json", {**known, "ends_at": ends_at.timestamp()})

    def machines(self) -> Sequence[ListedMachine]:
        """Return every machine; those whose time is over end first."""
        now = time.time()
        found = []
        for place in sorted(self._machines().glob("*/machine.json")):
            told = read_record(place)
            if _at(told, "ends_at") <= now:
                self.give_back(place.parent.name)
            else:
                ends_at = datetime.fromtimestamp(_at(told, "ends_at"), UTC)
                found.append(ListedMachine(tag=place.parent.name, ends_at=ends_at, is_up=_at(told, "up_at") <= now))
        return found

    def give_back(self, tag: str) -> None:
        """End a machine, with the processes that run on it."""
        place = self._machine(tag)
        for note in place.glob("runs/*"):
            attempt, _, replica = note.name.rpartition(".")
            self.local.stop(Handle(attempt=AttemptId(attempt), replica=int(replica), data=read_record(note)), 0.0)
        shutil.rmtree(place, ignore_errors=True)

    def inventory(self) -> Inventory:
        """Return the machines that are up."""
        (offer,) = self.offers()
        return Inventory(nodes=tuple(empty_machine(one.tag, self.cluster, offer) for one in self.machines() if one.is_up))

    # --- runs -----------------------------------------------------------------------------------------------------------

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the runner on a machine that is up. Raises LaunchError."""
        if request.node.id not in {one.tag for one in self.machines() if one.is_up}:
            raise LaunchError(f"Machine {request.node.id} is gone.")
        handle = self.local.launch(request)
        notes = self._machine(request.node.id) / "runs"
        notes.mkdir(exist_ok=True, mode=0o700)
        _write(notes / f"{request.attempt}.{request.replica}", dict(handle.data))
        return handle

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Look at each recorded process."""
        self.machines()
        return self.local.observe(handles)

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Stop one replica."""
        self.local.stop(handle, grace_s)

    def owned(self) -> Sequence[Handle]:
        """Return the replicas of which a process lives in this cloud, not those of the machine that plays it."""
        return [one for one in self.local.owned() if Path(str(one.data["folder"])).exists()]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the process."""
        return self.local.native(handle)

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        return self.local.read_exit(handle)

    def forget(self, handle: Handle) -> None:
        """Remove what an ended attempt left."""
        for note in self._machines().glob(f"*/runs/{handle.attempt}.{handle.replica}"):
            with contextlib.suppress(OSError):
                note.unlink()
        self.local.forget(handle)

    def _machines(self) -> Path:
        return self.folder / "machines"

    def _machine(self, tag: str) -> Path:
        return self._machines() / Path(tag).name

    def _number(self, key: str, default: float) -> float:
        value = self.cluster.config.get(key)
        return float(value) if isinstance(value, int | float | str) and value != "" else default


def _at(told: Mapping[str, object], key: str) -> float:
    value = told.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _write(path: Path, told: Mapping[str, object]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(told))
    fresh.replace(path)


_NUMBERS = {
    "gpus": ("GPUs of each machine, by your word.", 1),
    "gpu_memory_bytes": ("Memory of each GPU.", 0),
    "cpus": ("CPUs of each machine.", 8),
    "price": ("What a machine costs in an hour, in US dollars.", 1),
    "start_s": ("How many seconds a machine takes to come.", 60),
    "limit": ("How many machines may be rented at one time.", 4),
    "bytes_per_s": ("How fast data reaches the cloud.", 50_000_000),
}

ENGINE = Engine(
    create=create,
    help="A cloud played by this machine, to try budgets and overflow out; it costs nothing.",
    options=(
        *(Option(name=name, help=told, kind=OptionKind.NUMBER, default=value) for name, (told, value) in _NUMBERS.items()),
        Option(
            name="stock", help="How many machines the cloud really has; default as many as the limit.", kind=OptionKind.NUMBER
        ),
        Option(name="gpu_model", help="Model name of the GPUs."),
        Option(name="region", help="Where it is, for data that may not go everywhere."),
    ),
)
