"""Whether a waiting run is worth a rented machine, and which machines go home. All conditions must hold; the first is strict:
no machine is rented while the gate of the policy is shut (`all_allocated`: any idle part of a GPU that the run may use on
owned nodes shuts it).

Then, in this order: the run has waited long enough, it may go to the site (residency), the site has room and has not failed
lately, the run would wait longer here than the machine takes to come (`line.py`), it is short enough, and every budget on its
path covers the worst case. Money is Decimal and is reserved within the plan, so that a hundred decisions at once stay within
every budget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_UP, Decimal

import numpy as np

from mainspring.core.budgets import left_of
from mainspring.core.ids import RunId
from mainspring.core.policy import BurstMode
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Rented, Site, Snapshot, WaitingRun
from mainspring.scheduler.backfill import Backfill
from mainspring.scheduler.cluster import Bools, build
from mainspring.scheduler.line import starts
from mainspring.scheduler.order import Entry
from mainspring.scheduler.requests import NEVER, Key, Request, make_request

CENT = Decimal("0.01")
HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one site asks for one run: so many machines, there after `ready_s`, for at most `cost`."""

    site: Site
    machines: int
    gpus: int
    ready_s: float
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Unpaid:
    """What a run would be worth, did the budget of `share` (empty: of all) not have only `left_usd` left."""

    offer: Offer
    share: str
    left_usd: Decimal


@dataclass(slots=True)
class Burst:
    """The burst decisions of one plan; what was asked for counts at once."""

    snapshot: Snapshot
    room: Backfill
    waiting: Sequence[Entry]  # in the order of the queue
    unpaid: dict[str, Unpaid] = field(default_factory=dict)  # by run
    asked: dict[str, int] = field(default_factory=dict)  # machines by site
    gpus: int = 0  # rented, over all sites
    _left: dict[str, Decimal] = field(default_factory=dict)  # of each budget, by share
    _starts: dict[RunId, float] | None = None  # in how many seconds on own nodes; None: nobody asked yet
    _gates: dict[Key, bool] = field(default_factory=dict)
    _each: dict[tuple[str, Key], int] = field(default_factory=dict)  # replicas on one machine of a site
    _owned: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.gpus = sum(len(site.machine.devices) * site.running for site in self.snapshot.sites)
        self._left = budgets(self.snapshot)
        paid = {site.machine.pool for site in self.snapshot.sites}
        self._owned = np.array([node.pool not in paid for node in self.room.placement.cluster.nodes], dtype=np.bool_)

    def decide(self, entry: Entry) -> Offer | None:
        """Return the cheapest offer that is worth it, reserved; None if the run waits here."""
        run = entry.run
        policy = self.snapshot.policy.burst
        waited_s = (self.snapshot.now - run.submitted_at).total_seconds()
        if not run.owner or run.is_bursting or waited_s < policy.min_wait_s or not self.is_gate_open(run):
            return None
        offers = sorted(self._offers(run), key=lambda one: (one.cost, one.ready_s, one.site.name))
        if not offers:
            return None
        expected_s = self._expected_wait_s(run)
        wait_s = waited_s if expected_s is None else expected_s  # nobody knows: it is expected to wait as long again
        for offer in offers:
            if wait_s - offer.ready_s < policy.min_gain_s:
                continue
            if self.gpus + offer.gpus > policy.max_gpus:
                continue
            short = self._reserve(run, offer)
            if short is not None:
                self.unpaid.setdefault(run.id, short)  # the cheapest: what costs more is further off
                continue
            self.unpaid.pop(run.id, None)
            self.asked[offer.site.name] = self.asked.get(offer.site.name, 0) + offer.machines
            self.gpus += offer.gpus
            return offer
        return None

    def is_gate_open(self, run: WaitingRun) -> bool:
        """Say whether the owned nodes are full for this run, by the policy's mode, after all that this plan decided.

        `no_fit`: the run was tried and found no place; idle parts that can host nobody count as allocated.
        """
        mode = self.snapshot.policy.burst.mode
        if mode is BurstMode.NEVER or not run.resources.is_gpu():
            return False
        if mode is BurstMode.NO_FIT:
            return True
        asked = (self.room.placement.request(one, run.sites) for one in (run.resources, *run.alternatives))
        return all(self._is_full(request) for request in asked)

    def _is_full(self, request: Request) -> bool:
        if request.key not in self._gates:
            cluster = self.room.placement.cluster
            usable = (cluster.is_ready & request.allowed(cluster) & self._owned)[:, None] & (request.milli(cluster) < NEVER)
            self._gates[request.key] = not bool((cluster.gpu_free[usable] > 0).any())
        return self._gates[request.key]

    def _expected_wait_s(self, run: WaitingRun) -> float | None:
        """Return in how many seconds the run is expected to start here; None if nobody knows."""
        if self._starts is None:
            self._starts = starts(self.room, self._owned, self.waiting, self.snapshot.policy.burst.max_estimate_s)
        in_line_s, kept = self._starts.get(run.id), self.room.kept.get(run.id)
        if kept is None or in_line_s is None:
            return in_line_s
        return max(in_line_s, kept.at_s) if np.isfinite(kept.at_s) else None

    def _offers(self, run: WaitingRun) -> Iterator[Offer]:
        policy, now = self.snapshot.policy.burst, self.snapshot.now
        length_s = run.estimate_s or policy.max_estimate_s  # the worst case where nobody knows
        if length_s > policy.max_estimate_s:
            return
        for site in self.snapshot.sites:
            is_cooling = site.cooldown_until is not None and site.cooldown_until > now
            if is_cooling or (run.sites is not None and site.name not in run.sites):
                continue
            machines = self._machines(site, run)
            if not machines or site.running + self.asked.get(site.name, 0) + machines > site.max_machines:
                continue
            is_there = site.name in run.data_on or site.machine.pool in run.data_on
            ready_s = site.ready_s + (0.0 if is_there else run.data_bytes / max(1.0, site.bytes_per_s))
            yield Offer(
                site=site,
                machines=machines,
                gpus=machines * len(site.machine.devices),
                ready_s=ready_s,
                cost=worst_case(site, machines, seconds=length_s * policy.safety + ready_s + policy.idle_s),
            )

    def _machines(self, site: Site, run: WaitingRun) -> int:
        """Return on how many machines of a site the run could start; 0 if on none, also as its replicas would not be together."""
        each, same = self._replicas_on(site, run), run.together
        machines = -(-run.replicas // each) if each else 0
        is_together = machines == 1 if same == "node" else not same or same in site.machine.labels
        return machines if is_together else 0

    def _replicas_on(self, site: Site, run: WaitingRun) -> int:
        """Return how many replicas one machine of a site holds."""
        alike = site.name, self.room.placement.request(run.resources, run.sites).key
        if alike not in self._each:
            machine = build([site.machine])
            request = make_request(machine, run.resources)
            self._each[alike] = int(request.counts(machine, machine.free, machine.gpu_free).sum())
        return self._each[alike]

    def _reserve(self, run: WaitingRun, offer: Offer) -> Unpaid | None:
        """Take the cost from every budget on the run's path; or return the one that has the least left, and take nothing."""
        steps = [name for name in path_of(run.share or run.owner) if name in self._left]
        short = [name for name in steps if offer.cost > self._left[name]]
        if short:
            least = min(short, key=lambda name: (self._left[name], name))
            return Unpaid(offer, least, self._left[least])
        for name in steps:
            self._left[name] -= offer.cost
        return None


def budgets(snapshot: Snapshot) -> dict[str, Decimal]:
    """Return what is left of each budget, by share; the root's is that of all."""
    gone = {one.share.name: Decimal(one.spent_usd) + Decimal(one.reserved_usd) for one in snapshot.shares}
    return left_of({one.share.name: one.share.budget_usd for one in snapshot.shares}, gone, snapshot.budget_usd)


def worst_case(site: Site, machines: int, *, seconds: float) -> Decimal:
    """Return what machines cost at most for so long, rounded up to a cent."""
    price = Decimal(site.machine.price_usd_per_hour)
    return (price * machines * Decimal(str(round(seconds, 3))) / HOUR).quantize(CENT, rounding=ROUND_UP)


def burst(snapshot: Snapshot, room: Backfill, waiting: Sequence[Entry]) -> tuple[dict[str, Offer], dict[str, Unpaid]]:
    """Return the offers taken, by run, in the order of the queue, and those that only a budget was short of.

    What is kept for a run ahead counts as idle.
    """
    if not snapshot.sites or snapshot.policy.burst.mode is BurstMode.NEVER:
        return {}, {}
    kept = [hold for hold in room.holds if hold.run in room.kept or hold.reservation is not None]
    room.give(kept)
    chooser = Burst(snapshot, room, waiting)
    taken: dict[str, Offer] = {}
    for entry in waiting:
        if chooser.gpus >= snapshot.policy.burst.max_gpus:
            break
        offer = chooser.decide(entry)
        if offer is not None:
            taken[entry.run.id] = offer
    room.take(kept)
    return taken, chooser.unpaid


def going_home(snapshot: Snapshot, used: Collection[str]) -> tuple[str, ...]:
    """Return the rented nodes that go home: idle for long, old enough, not `used` by this plan; or past their own end."""
    policy, now = snapshot.policy.burst, snapshot.now
    held = {place.node for run in snapshot.placed for place in run.places} if snapshot.rented else set()

    def is_done(one: Rented) -> bool:
        if one.node in used or one.node in held or one.idle_since is None:
            return False
        if one.ends_at is not None and one.ends_at <= now:
            return True
        is_old = now - one.born_at >= timedelta(seconds=policy.min_life_s)
        return is_old and now - one.idle_since >= timedelta(seconds=policy.idle_s)

    return tuple(sorted(one.node for one in snapshot.rented if is_done(one)))
