"""A paid site of the simulated house: machines that come after a while and end by themselves, with bad days; and its books.

`PaidSite` describes it, `Cloud` is the backend. `Books` checks at every step that what was spent and is reserved exceeds no
budget and that whatever the site rents out has a row and an end, and, when all is over, that the bill is right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import chain

from mainspring.core.backend import Backend, Capabilities, ExitRecord, Handle, Inventory, LaunchRequest, Observation, Probe
from mainspring.core.budgets import MICROS
from mainspring.core.clock import Clock
from mainspring.core.errors import CapacityError, LaunchError, UnreachableError
from mainspring.core.machines import ListedMachine, Machine, MachineOffer, MachineState, empty_machine
from mainspring.core.policy import BurstMode, BurstPolicy, Policy
from mainspring.core.records import Attempt, Cluster, NodeState
from mainspring.core.resources import GPU_MILLI, Device
from mainspring.core.shares import Share, path_of
from mainspring.services.context import Context
from mainspring.testing.engine import Engine, Runner

SLACK_S = 1.0  # sites count in whole seconds
ALL_MACHINES = 1_000_000
COMING = (MachineState.ASKED, MachineState.RENTED)


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFaults:
    """Probabilities: an order is refused, carried out though the answer is lost, or for a machine that never comes; a look at
    the machines is not answered; a machine vanishes in a step, with all that runs there."""

    refused: float = 0.0
    deaf: float = 0.0
    stuck: float = 0.0
    cut: float = 0.0
    vanish: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidSite:
    """What a house rents: one type of machine of one GPU each. `budgets` are those of shares, that of all is the policy's."""

    burst: BurstPolicy
    budgets: Mapping[str, str] = field(default_factory=dict)
    price_usd_per_hour: str = "3.6"
    limit: int = 4
    ready_s: float = 30.0
    faults: SiteFaults = field(default_factory=SiteFaults)

    def open(self, ctx: Context) -> Cluster:
        """Write cluster, policy and budgets into the rows; return the cluster."""
        cluster = Cluster(id="cloud", name="cloud", backend="house", created_at=ctx.clock.now())
        ctx.store.clusters.add(cluster)
        ctx.store.policies.set(Policy(burst=self.burst), "", actor="house")
        for name, budget in self.budgets.items():
            ctx.store.shares.put(Share(name=name, budget_usd=budget, version=0))
        return cluster

    def offer(self) -> MachineOffer:
        """Return what there is."""
        return MachineOffer(
            cpu_milli=8000,
            memory_bytes=1 << 34,
            devices=(Device(index=0),),
            price_usd_per_hour=self.price_usd_per_hour,
            limit=self.limit,
            ready_s=self.ready_s,
        )


@dataclass(slots=True)
class Life:
    """A machine as the site knows it. Its clock for money is the virtual time, which never jumps; its end is a wall time."""

    tag: str
    born_s: float
    up_s: float
    ends_at: datetime
    gone_s: float | None = None


@dataclass(slots=True)
class Cloud:
    """The site: a backend that rents. It forgets nothing when the server dies, and remembers every machine for its bill."""

    cluster: Cluster
    site: PaidSite
    clock: Clock
    dice: random.Random
    engine: Engine
    lives: list[Life] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    _machine_of: dict[tuple[str, int], str] = field(default_factory=dict)  # by attempt and replica
    capabilities: Capabilities = field(default_factory=Capabilities)

    def pass_time(self) -> None:
        """End what is past its end, at that moment; let machines vanish."""
        for life in self._living():
            late_s = (self.clock.now() - life.ends_at).total_seconds()
            if late_s >= 0:
                self._end(life, late_s=late_s)
            elif self._happens("vanish", self.site.faults.vanish):
                self._end(life)

    def living(self) -> dict[str, Life]:
        """Return what the site rents out now, by tag."""
        return {life.tag: life for life in self._living()}

    # --- as a site ------------------------------------------------------------------------------------------------------

    def offers(self) -> Sequence[MachineOffer]:
        """Return the one type."""
        return (self.site.offer(),)

    def rent(self, tag: str, offer: str, ends_at: datetime) -> None:  # noqa: ARG002 the contract has it
        """Begin a machine, or move the end of one that is there."""
        life = self.living().get(tag)
        if life is None:
            if self._happens("refused", self.site.faults.refused):
                raise CapacityError("The site has none left.")
            now_s = self.engine.now_s
            late_s = 1e9 if self._happens("stuck", self.site.faults.stuck) else self.site.ready_s
            life = Life(tag, now_s, now_s + late_s, ends_at)
            self.lives.append(life)
        life.ends_at = ends_at
        if self._happens("deaf", self.site.faults.deaf):
            raise UnreachableError("The site's answer was lost.")

    def machines(self) -> Sequence[ListedMachine]:
        """List the living."""
        if self._happens("cut", self.site.faults.cut):
            raise UnreachableError("The site does not answer.")
        return [ListedMachine(tag=one.tag, ends_at=one.ends_at, is_up=one.up_s <= self.engine.now_s) for one in self._living()]

    def give_back(self, tag: str) -> None:
        """End a machine."""
        life = self.living().get(tag)
        if life is not None:
            self._end(life)
        if self._happens("deaf", self.site.faults.deaf):
            raise UnreachableError("The site's answer was lost.")

    def inventory(self) -> Inventory:
        """Return the machines that are up."""
        up = [one.tag for one in self._living() if one.up_s <= self.engine.now_s]
        return Inventory(nodes=tuple(empty_machine(tag, self.cluster, self.site.offer()) for tag in up))

    # --- as an engine ---------------------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        """Say that it is ready."""
        return self.engine.probe()

    def launch(self, request: LaunchRequest) -> Handle:
        """Start a runner on a machine that is up."""
        life = self.living().get(request.node.id)
        if life is None or life.up_s > self.engine.now_s:
            raise LaunchError(f"Machine {request.node.id} is gone.")
        self._machine_of[str(request.attempt), request.replica] = life.tag
        return self.engine.launch(request)

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Say which runners live."""
        return self.engine.observe(handles)

    def stop(self, handle: Handle, grace_s: float) -> None:
        """End a runner."""
        self.engine.stop(handle, grace_s)

    def owned(self) -> Sequence[Handle]:
        """List the living."""
        return self.engine.owned()

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return what the engine calls it."""
        return self.engine.native(handle)

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return how it ended, as long as its machine is there."""
        is_there = self._machine_of.get((handle.attempt, handle.replica)) in self.living()
        return self.engine.read_exit(handle) if is_there else None

    def forget(self, handle: Handle) -> None:
        """Keep everything: whoever checks the history looks at it."""

    def _living(self) -> list[Life]:
        return [one for one in self.lives if one.gone_s is None]

    def _end(self, life: Life, *, late_s: float = 0.0) -> None:
        life.gone_s = max(life.born_s, self.engine.now_s - late_s)
        for key, tag in self._machine_of.items():
            if tag == life.tag:
                self.engine.runners[key].is_alive = False

    def _happens(self, what: str, chance: float) -> bool:
        is_so = self.dice.random() < chance
        self.events[what] += is_so
        return is_so


@dataclass(slots=True)
class Engines:
    """All engines of a house: the one of its own nodes, and that of its site if it has one."""

    own: Engine
    cloud: Cloud | None = None

    def all(self) -> list[Engine]:
        """Return the engines in which runners live."""
        return [self.own] if self.cloud is None else [self.own, self.cloud.engine]

    def runners(self) -> Iterator[Runner]:
        """Give every runner that ever lived."""
        return chain.from_iterable(engine.runners.values() for engine in self.all())

    def backends(self) -> Iterator[tuple[str, Backend]]:
        """Give each cluster with its backend."""
        yield "local", self.own
        if self.cloud is not None:
            yield self.cloud.cluster.id, self.cloud


@dataclass(slots=True)
class Books:
    """What is checked of a site. `is_exact`: the wall clock never jumps, so that the site's own bill can be compared."""

    ctx: Context
    cloud: Cloud
    is_exact: bool
    _asked: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Compare rows, budgets and the site. Raises `Broken`."""
        rows = {one.id: one for one in self.ctx.store.machines.page(ALL_MACHINES)}
        self._check_owners(rows)
        self._check_orders(rows.values())
        self._check_budgets(rows.values())

    def check_gate(self, *, is_whole: bool) -> None:
        """After a plan (unless it was cut off): whoever asked for a machine found every part of every own GPU taken.

        What is cleared for a run is taken, though nobody is there yet (docs/internals/scheduling.md), and so is where one that
        is stopped for it goes on: as much as that holds may be idle.
        """
        asked = {one.id for one in self.ctx.store.machines.open()} - self._asked
        self._asked |= asked
        if not asked or not is_whole or self.cloud.site.burst.mode is not BurstMode.ALL_ALLOCATED:
            return
        snapshot = self.ctx.store.snapshot(self.ctx.clock.now())
        taken: Counter[tuple[str, int]] = Counter()
        for place in chain.from_iterable(run.nominated for run in snapshot.waiting):
            taken.update({(place.node, share.index): share.milli for share in place.granted.devices})
        own = [node for node in snapshot.nodes if node.cluster == "local" and node.state is NodeState.READY]
        for node in own:
            taken.update({(node.id, share.index): share.milli for share in node.used_devices})
        free = {node.id: sum(max(0, GPU_MILLI - taken[node.id, one.index]) for one in node.devices) for node in own}
        if sum(free.values()) > sum(_milli(one) for one in self.ctx.store.attempts.open() if one.stop_for):
            raise Broken(f"{sorted(asked)} were asked for while there were idle GPUs: {free}")

    def is_over(self) -> bool:
        """Say whether nothing is rented any more, by rows, site and nodes."""
        store = self.ctx.store
        return not (store.machines.open() or self.cloud.living() or store.nodes.all(self.cloud.cluster.id))

    def check_end(self) -> None:
        """All is over: the bill says once what each machine cost, and no less than the site wants."""
        rows = self.ctx.store.machines.page(ALL_MACHINES)
        mine = sum((_cost(one, self.ctx.clock.now()) for one in rows), Decimal(0))
        booked = sum(self._bill().values(), Decimal(0))
        if abs(mine - booked) > 2 * len(rows):
            raise Broken(f"machines cost {mine:.0f} millionths of a dollar, the bill says {booked}")
        for one in rows if self.is_exact else ():
            if one.rented_at is not None and self._owed(one.id) > _cost(one, self.ctx.clock.now()) + self._price_of(SLACK_S):
                raise Broken(f"the site wants {self._owed(one.id):.0f} for {one.id}, its row says less")

    def _check_owners(self, rows: Mapping[str, Machine]) -> None:
        for tag, life in self.cloud.living().items():
            row = rows.get(tag)
            if row is None or row.state is MachineState.ENDED:
                raise Broken(f"{tag} is rented, and no row knows it")
            if (life.ends_at - row.ends_at).total_seconds() > SLACK_S:
                raise Broken(f"{tag} ends at {life.ends_at}, its money at {row.ends_at}")

    def _check_orders(self, rows: Iterable[Machine]) -> None:
        """A run has one order under way at most; the site and the policy bound all of them."""
        found = [one for one in rows if one.state is not MachineState.ENDED]
        orders = Counter(run for run, _ in {(one.run, one.asked_at) for one in found if one.state in COMING})
        if any(count > 1 for count in orders.values()):
            raise Broken(f"a run asked more than once: {orders}")
        for one in found:
            run = self.ctx.store.runs.get(one.run)
            coming = sum(other.run == one.run and other.state in COMING for other in found)
            if run is None or coming > run.spec.replicas:
                raise Broken(f"{coming} machines of one GPU are coming for {one.run}")
        if len(found) > self.cloud.site.limit or sum(one.gpus for one in found) > self.cloud.site.burst.max_gpus:
            raise Broken(f"{len(found)} machines are rented")

    def _check_budgets(self, rows: Iterable[Machine]) -> None:
        """What was spent in this month and what may still be spent stay within every budget on the way up."""
        now = self.ctx.clock.now()
        gone: Counter[str] = Counter()
        for share, micros in self._bill((f"{now:%Y-%m}",)).items():
            for name in path_of(share):
                gone[name] += int(micros)
        true = gone.copy()
        for one in rows:
            left = max(0, int(one.reserved_micros - _cost(one, now))) if one.ended_at is None else 0
            for name in path_of(one.share):
                gone[name] += left
        budgets = {**self.cloud.site.budgets, "": self.cloud.site.burst.budget_usd}
        for name, budget in budgets.items():
            if budget and gone[name] > Decimal(budget) * MICROS:
                raise Broken(f"share {name or 'all'}: {gone[name]} spent and reserved ({true[name]} spent) of {budget} USD")
        if self.is_exact and budgets[""]:
            owed = sum((self._owed(tag) for tag in {life.tag for life in self.cloud.lives}), Decimal(0))
            if owed > Decimal(budgets[""]) * MICROS:
                raise Broken(f"the site wants {owed} of {budgets['']} USD")

    def _bill(self, months: Iterable[str] | None = None) -> dict[str, Decimal]:
        """Return what the product says that each leaf spent, in millionths of a dollar."""
        found: dict[str, Decimal] = {}
        for month in months if months is not None else ("2026-01", "2026-02", "2026-03", "2026-04"):
            for (_, share, *_), used in self.ctx.store.usage.of_month(month, self.ctx.clock.now()).items():
                found[share] = found.get(share, Decimal(0)) + used.cost_micros
        return found

    def _owed(self, tag: str) -> Decimal:
        """Return what the site wants for all that it gave under a tag."""
        now_s, mine = self.cloud.engine.now_s, [one for one in self.cloud.lives if one.tag == tag]
        return self._price_of(sum((now_s if one.gone_s is None else one.gone_s) - one.born_s for one in mine))

    def _price_of(self, seconds: float) -> Decimal:
        return Decimal(self.cloud.site.price_usd_per_hour) * MICROS * Decimal(seconds) / 3600


def _milli(attempt: Attempt) -> int:
    return sum(share.milli for replica in attempt.replicas for share in replica.granted.devices)


def _cost(machine: Machine, now: datetime) -> Decimal:
    """Return what a machine cost so far: it is paid from the order on, until it is gone, and never beyond its own end."""
    if machine.ended_at is not None and machine.rented_at is None:
        return Decimal(0)
    until = min(machine.ended_at or now, machine.ends_at)
    seconds = Decimal(max(0.0, (until - machine.asked_at).total_seconds()))
    return Decimal(machine.price_usd_per_hour) * MICROS * seconds / 3600
