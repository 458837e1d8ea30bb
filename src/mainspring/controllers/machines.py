"""The machines loop: rented machines are driven from rows, in lanes; intent first, then the act, then the record.

```
 BURST (W2) ──> ASKED ── rent ──> RENTED ── up, a node ──> READY ── idle, or its time is over ──> ENDING ── gone ──> ENDED
                  └───────── the site refuses, nobody waits any more, it never comes ───────────────^
```

A crash between act and record does no harm: both acts are idempotent by the machine's id, which is its tag at the site.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from mainspring import scheduler
from mainspring.controllers.fleet import Fleet, as_given
from mainspring.controllers.loop import Loops
from mainspring.core.errors import BackendError, CapacityError, LaunchError, MainspringError
from mainspring.core.machines import ListedMachine, Machine, MachineState, Renter, last_call_s
from mainspring.core.records import Cluster, Desired, Node, NodeState, RunState
from mainspring.core.snapshot import DecisionKind, Place
from mainspring.plugins import reach
from mainspring.services.context import Context

log = logging.getLogger(__name__)
LOOK_S = 1.0  # while any machine is open
OFFERS_S = 60.0  # how often sites are asked what they offer
SETTLE_S = 30.0  # how long a site may take until it lists what it rented out
LATE_S = 300.0  # beyond three times what it promised: it does not come any more
SLACK = timedelta(seconds=1)  # sites count in whole seconds
GIVE_UP_S = 600.0  # a site that does not answer for so long is not waited for


@dataclass(slots=True)
class Machines:
    """Drives rented machines. What is kept in memory only saves work."""

    ctx: Context
    fleet: Fleet
    loops: Loops
    _busy: set[str] = field(default_factory=set)
    _offered_at: dict[str, float] = field(default_factory=dict)
    _strange_since: dict[str, float] = field(default_factory=dict)

    def tick(self) -> float | None:
        """Look at every cluster that rents, each in its lane; return the pause."""
        found = self.ctx.store.machines.open()
        for cluster in self.ctx.store.clusters.all():
            is_open = self._strange_since or any(one.cluster == cluster.id for one in found)
            if cluster.id not in self._busy and (is_open or self._is_due(cluster)):
                renter = self._renter(cluster)
                if renter is not None:
                    self._busy.add(cluster.id)
                    self.loops.submit(partial(self._look, cluster, renter), lane=cluster.id)
        return LOOK_S if found or self._strange_since else OFFERS_S

    def _is_due(self, cluster: Cluster) -> bool:
        return self.ctx.clock.monotonic() - self._offered_at.get(cluster.id, -OFFERS_S) >= OFFERS_S

    def _renter(self, cluster: Cluster) -> Renter | None:
        try:
            backend = self.fleet.backend(cluster.id)
        except MainspringError as wrong:
            self.fleet.note(cluster.id, wrong.message)
            return None
        return backend if isinstance(backend, Renter) else None

    def _look(self, cluster: Cluster, renter: Renter) -> None:
        try:
            if self._is_due(cluster):
                self._offered_at[cluster.id] = self.ctx.clock.monotonic()
                backend = self.fleet.backend(cluster.id)
                offers = [replace(one, devices=as_given(one.devices, backend)) for one in renter.offers()]
                self.ctx.store.machines.offer(cluster, offers)
            self._act(renter, self.ctx.store.machines.open(cluster.id))
            listed = {one.tag: one for one in renter.machines()}
            self._record(cluster, renter, self.ctx.store.machines.open(cluster.id), listed)
            self._reap(renter, cluster, listed.keys())
        except BackendError as wrong:
            self.fleet.note(cluster.id, wrong.message)
        except Exception:  # the pool's top: the rows are unchanged, the next look tries again
            log.exception("machines failed", extra={"cluster": cluster.id})
        finally:
            self._busy.discard(cluster.id)

    # --- acts: what rows want and the site has not done -----------------------------------------------------------------

    def _act(self, renter: Renter, found: Sequence[Machine]) -> None:
        for one in found:
            if one.state is MachineState.ASKED:
                self._rent(renter, one)
            elif one.state is MachineState.ENDING:
                self._give_back(renter, one)

    def _rent(self, renter: Renter, machine: Machine) -> None:
        store, now = self.ctx.store.machines, self.ctx.clock.now()
        run = self.ctx.store.runs.get(machine.run)
        if run is None or run.state is not RunState.QUEUED or run.desired is not Desired.RUN:
            store.give_back(machine, "Its run does not wait any more.")
            return
        reach("before-rent")
        try:
            renter.rent(machine.id, machine.offer, machine.ends_at)
        except (CapacityError, LaunchError) as wrong:
            store.give_back(machine, wrong.message, is_failed=True)
            return
        except BackendError as wrong:
            self.fleet.note(machine.cluster, wrong.message)
            if (now - machine.asked_at).total_seconds() > GIVE_UP_S:
                store.give_back(machine, wrong.message, is_failed=True)
            return
        reach("after-rent")
        store.rented(machine, now=now)

    def _give_back(self, renter: Renter, machine: Machine) -> None:
        if machine.rented_at is None and any(one.tag == machine.id for one in renter.machines()):
            self.ctx.store.machines.found(machine, now=self.ctx.clock.now())  # a crash came between act and record: it costs
        reach("before-give-back")
        renter.give_back(machine.id)
        reach("after-give-back")

    # --- records: what the site did, and rows do not know ---------------------------------------------------------------

    def _record(self, cluster: Cluster, renter: Renter, found: Sequence[Machine], listed: Mapping[str, ListedMachine]) -> None:
        now = self.ctx.clock.now()
        up = [one.id for one in found if one.state is MachineState.RENTED and one.id in listed and listed[one.id].is_up]
        if up:
            self.fleet.take_inventory(cluster)
        coming: dict[str, list[Machine]] = defaultdict(list)
        for one in found:
            if one.state is MachineState.ENDING and one.id not in listed:
                self.ctx.store.machines.ended(one, now=now)
            elif one.state is MachineState.RENTED:
                coming[one.run].append(one)
            elif one.state is MachineState.READY:
                self._watch(renter, one, now, listed.get(one.id))
        for machines in coming.values():
            self._welcome(machines, now, listed)

    def _welcome(self, machines: Sequence[Machine], now: datetime, listed: Mapping[str, ListedMachine]) -> None:
        """Open a run's machines to the queue once all of them are up; give up those that do not come."""
        store = self.ctx.store.machines
        nodes = [self.ctx.store.nodes.get(one.id) for one in machines]
        if all(node is not None and node.state is NodeState.READY for node in nodes):
            store.ready(machines, self._places(machines), now=now)
            return
        promised = {site.name: site.ready_s for site in store.sites()}
        for one in machines:
            waited_s = (now - (one.rented_at or one.asked_at)).total_seconds()
            if one.id not in listed and waited_s > SETTLE_S:
                store.give_back(one, "The site has lost it before it came.", is_failed=True)
            elif waited_s > 3 * promised.get(one.site, LATE_S) + LATE_S:
                store.give_back(one, "It did not come in time.", is_failed=True)

    def _places(self, machines: Sequence[Machine]) -> tuple[Place, ...]:
        """Return where the run goes on its machines: what the planner would say were there nothing else. Empty if nowhere."""
        snapshot = self.ctx.store.snapshot(self.ctx.clock.now())
        mine = tuple(
            replace(run, is_bursting=False, nominated=(), avoid=()) for run in snapshot.waiting if run.id == machines[0].run
        )
        nodes = tuple(node for node in (self.ctx.store.nodes.get(one.id) for one in machines) if node is not None)
        alone = replace(snapshot, nodes=nodes, waiting=mine, placed=(), shares=(), reservations=(), rented=())
        made = scheduler.plan(alone)
        return next((one.places for one in made.decisions if one.kind is DecisionKind.START), ())

    def _watch(self, renter: Renter, machine: Machine, now: datetime, seen: ListedMachine | None) -> None:
        store = self.ctx.store.machines
        if seen is None:
            log.warning("a machine has ended by itself", extra={"machine": machine.id})
            store.ended(machine, now=now, message="The site has ended it.")
            return
        node = self.ctx.store.nodes.get(machine.id)
        is_idle = node is not None and node.used_cpu_milli == 0
        if seen.ends_at < machine.ends_at - SLACK:
            renter.rent(machine.id, machine.offer, machine.ends_at)  # the row was prolonged, the site does not know yet
        if (machine.ends_at - now).total_seconds() < last_call_s((machine.ends_at - machine.asked_at).total_seconds()):
            self._last_call(machine, now, node)
        elif is_idle != (machine.idle_since is not None):
            store.mark_idle(machine, now if is_idle else None)

    def _last_call(self, machine: Machine, now: datetime, node: Node | None) -> None:
        """Its money is nearly used up: more for the run that it was rented for, if budgets have it; else all stop in time."""
        store = self.ctx.store.machines
        runs = {one.run for one in self.ctx.store.nodes.open_allocations() if one.node == machine.id}
        if not runs:
            store.give_back(machine, "What was reserved for it is used up.")
        elif node is not None and node.state is NodeState.READY and not (machine.run in runs and store.prolong(machine, now=now)):
            store.clear(machine, now=now)
            log.info("a machine ends: what runs there is stopped", extra={"machine": machine.id})

    def _reap(self, renter: Renter, cluster: Cluster, listed: Set[str]) -> None:
        """End what carries our tag and is no open row's: a database that was put back to an older state forgot it."""
        ticks = self.ctx.clock.monotonic()
        known = {one.id for one in self.ctx.store.machines.open(cluster.id)}
        strange = listed - known
        for tag in strange:
            if tag not in self._strange_since:
                self._strange_since[tag] = ticks
                self.ctx.signals.hint("machines")  # the loop thinks that it may sleep long
            elif ticks - self._strange_since[tag] >= self.ctx.settings.sweep_grace_s:
                log.warning("a machine that no row knows is ended", extra={"machine": tag})
                renter.give_back(tag)
                del self._strange_since[tag]
