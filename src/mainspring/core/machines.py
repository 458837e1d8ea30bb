"""Rented machines: what a paid site offers, what was asked for and by whom, and what it costs.

The share whose run asked for a machine pays for all of it, from the moment it is asked for until it is gone. What it may cost at
most is reserved before, and the machine ends itself when that is used up (`ends_at`), whoever forgets it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, runtime_checkable

from mainspring.core.ids import RunId
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device, Granted
from mainspring.core.usage import HOUR_MS, used

FREE_LIFE = timedelta(days=1)  # of a machine that costs nothing: even that one has an end of its own
_NOTHING = Granted(cpu_milli=0, memory_bytes=0)
_LONGEST_COOLDOWN_S = 1800.0


class MachineState(StrEnum):
    """ASKED is intent, RENTED confirmed by the site, READY a node that takes runs, ENDING intent again, ENDED seen to be gone."""

    ASKED = "asked"
    RENTED = "rented"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One rented machine; its id is its tag at the site, and the id of its node. `run` is the one that it was asked for.

    `share` (the leaf), `project` and `owner` are who pays; `reserved_micros` is what it may cost until `ends_at`.
    """

    id: str
    cluster: str
    site: str
    offer: str
    run: RunId
    project: str
    owner: str
    share: str
    asked_at: datetime
    ends_at: datetime
    price_usd_per_hour: str = "0"
    reserved_micros: int = 0
    gpus: int = 0
    state: MachineState = MachineState.ASKED
    rented_at: datetime | None = None
    ready_at: datetime | None = None
    idle_since: datetime | None = None
    ended_at: datetime | None = None
    message: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A rented machine, what it has cost so far, and what was reserved for it."""

    machine: Machine
    cost_usd: str
    reserved_usd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOffer:
    """One type of machine that a site rents out: what is in it, its price, how many at most, how soon they are there.

    `name` may be empty where there is only one type. `bytes_per_s` is how fast data reaches the site from here.
    """

    name: str = ""
    cpu_milli: int = 1000
    memory_bytes: int = 0
    disk_bytes: int = 0
    devices: tuple[Device, ...] = ()
    price_usd_per_hour: str = "0"
    limit: int = 1
    ready_s: float = 300.0
    bytes_per_s: float = 50e6
    region: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedMachine:
    """A machine that exists at a site by our tag, and when it ends itself.

    `is_up`: it can take runs, and the inventory lists it as a node.
    """

    tag: str
    ends_at: datetime
    is_up: bool = False


@runtime_checkable
class Renter(Protocol):
    """What a backend can do beside `Backend` if its cluster rents machines. Calls block and raise as those of `Backend` do."""

    def offers(self) -> Sequence[MachineOffer]:
        """Return the types of machines that there are."""
        ...

    def rent(self, tag: str, offer: str, ends_at: datetime) -> None:
        """Ask for a machine that ends itself at `ends_at`; do not wait for it. Idempotent by tag; a later end prolongs it.

        Raises CapacityError where the site has none left.
        """
        ...

    def machines(self) -> Sequence[ListedMachine]:
        """Return every machine that carries our installation's tag, also those that are not up yet."""
        ...

    def give_back(self, tag: str) -> None:
        """End a machine and all that runs on it. Idempotent, silent if there is none."""
        ...


def site_name(cluster: Cluster, offer: MachineOffer) -> str:
    """Return what people and policies call one type of machine of a cluster."""
    return f"{cluster.name}.{offer.name}" if offer.name else cluster.name


def empty_machine(id: str, cluster: Cluster, offer: MachineOffer) -> Node:
    """Return a machine of an offer as a node. Its price is not the node's: who uses it does not pay for it once more."""
    return Node(
        id=id,
        cluster=cluster.id,
        name=id,
        cpu_milli=offer.cpu_milli,
        memory_bytes=offer.memory_bytes,
        disk_bytes=offer.disk_bytes,
        devices=offer.devices,
        pool=str(cluster.config.get("pool") or cluster.name),
        labels={"region": offer.region} if offer.region else {},
    )


def cost_micros(machine: Machine, now: datetime) -> int:
    """Return what the machine has cost so far, in millionths of a dollar."""
    return sum(amount for _, amount in costs(machine, now))


def costs(machine: Machine, now: datetime) -> Iterator[tuple[str, int]]:
    """Give (month, what the machine cost in it). One that the site never gave costs nothing.

    Nothing is owed for the time after `ends_at`: it ended itself then, however much later somebody looked.
    """
    if machine.ended_at is not None and machine.rented_at is None:
        return
    until = min(machine.ended_at or now, machine.ends_at)
    for month, one in used(_NOTHING, machine.asked_at, until, Decimal(machine.price_usd_per_hour)):
        yield month, one.cost_micros


def left_micros(machine: Machine, now: datetime) -> int:
    """Return what is reserved for the machine beyond what it has cost so far."""
    return 0 if machine.ended_at is not None else max(0, machine.reserved_micros - cost_micros(machine, now))


def paid_until(since: datetime, price_usd_per_hour: str, micros: int) -> datetime:
    """Return the moment at which so much money is used up."""
    price = Decimal(price_usd_per_hour)
    if price <= 0:
        return since + FREE_LIFE
    return since + timedelta(milliseconds=int(Decimal(micros) * HOUR_MS / (price * 1_000_000)))


def last_call_s(life_s: float) -> float:
    """Return how long before its end a machine is prolonged or cleared: a tenth of its life, ten minutes at most."""
    return min(600.0, max(5.0, life_s / 10))


def cooldown_s(failures: int) -> float:
    """Return for how long a site that failed so often in a row is not asked."""
    return min(_LONGEST_COOLDOWN_S, 60.0 * 2.0 ** min(failures, 10))
