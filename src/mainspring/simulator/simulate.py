"""The loop: the earliest event, then the planner, then what it decided. The same seed gives the same history."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeAlias

from mainspring.core.errors import PlannerError
from mainspring.core.ids import RunId
from mainspring.core.machines import last_call_s
from mainspring.core.policy import Policy
from mainspring.core.records import Node, NodeState
from mainspring.core.shares import path_of
from mainspring.core.snapshot import OVERDUE, Decision, DecisionKind, Plan, Rented, ShareState, Site, Snapshot, Typical
from mainspring.scheduler import Planner as KeptPlanner
from mainspring.scheduler.burst import budgets
from mainspring.simulator.jobs import Done, Job
from mainspring.simulator.past import Past
from mainspring.simulator.world import Progress, World

Planner: TypeAlias = Callable[[Snapshot], Plan]
Watch: TypeAlias = Callable[[Snapshot, Plan], None]
HOUR_S = 3600.0
PATIENCE_S = 30 * 86_400.0  # nothing runs and nothing starts for so long: it never will


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong. Rates are per hour for the whole fleet, `refused` is a probability for each decision."""

    node_losses: float = 0.0
    repair_s: float = 1800.0
    refused: float = 0.0
    clock_jumps: float = 0.0
    jump_s: float = 7200.0  # forward or back, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a simulation is set in. `machines` bring the rented node of a site, by its name, with a number."""

    nodes: Sequence[Node]
    policy: Policy = field(default_factory=Policy)
    shares: tuple[ShareState, ...] = ()
    sites: tuple[Site, ...] = ()
    typical: tuple[Typical, ...] = ()
    budget_usd: str = ""
    grace_s: float = 30.0  # an evicted run takes so long to stop
    checkpoint_s: float = 1800.0  # 0: nothing is ever kept
    tick_s: float = 600.0  # plan again after so long while somebody waits, though nothing happened
    faults: Faults = field(default_factory=Faults)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened. `rented_s` is GPU-seconds of rented machines, used or idle; `gate_breaks` is for the caller's watch."""

    done: tuple[Done, ...]
    plans: int
    rented_gpu_s: float = 0.0
    rented_usd: float = 0.0
    most_rented: int = 0
    lost_nodes: int = 0
    refused: int = 0


def simulate(
    jobs: Sequence[Job],
    setting: Setting,
    planner: Planner | None = None,
    watch: Callable[[Snapshot, Plan], None] | None = None,
) -> History:
    """Return what becomes of `jobs` under `planner` (None: the product's). Raises PlannerError where a decision fails.

    `watch` sees every snapshot with its plan; without it the product's planner explains nothing, which nobody would read.
    """
    if planner is None:
        planner = KeptPlanner(explains=watch is not None).plan
    return _Loop(jobs, setting, planner, watch).run()


@dataclass(frozen=True, slots=True)
class _Birth:
    """When a rented machine was asked for, where, for which run of which share, what is reserved for it and for how long."""

    asked_s: float
    site: str
    run: RunId
    share: str
    reserved_usd: Decimal
    life_s: float


class _Loop:
    def __init__(self, jobs: Sequence[Job], setting: Setting, planner: Planner, watch: Watch | None) -> None:
        self.setting, self.planner, self.watch = setting, planner, watch
        self.world = World(
            policy=setting.policy,
            nodes={node.id: node for node in setting.nodes},
            past=Past(half_life_s=setting.policy.order.half_life_s, configured=setting.shares),
            sites={site.name: site for site in setting.sites},
            typical=setting.typical,
            budget_usd=setting.budget_usd,
        )
        self.dice = random.Random(setting.seed)
        self.now_s = self.moved_s = 0.0
        self.is_dirty = False
        self.progress: dict[RunId, Progress] = {}
        self.done: list[Done] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.made = 0
        self.plans = self.machines = self.lost_nodes = self.refused = self.most_rented = 0
        self.next_tick_s = 0.0
        self.rented_gpu_s = self.rented_usd = 0.0
        self.births: dict[str, _Birth] = {}
        self.jobs = sorted(jobs, key=lambda job: (job.submit_s, job.id))
        for seq, job in enumerate(self.jobs):
            progress = self.progress[RunId(job.id)] = Progress(job, seq)
            self.at(job.submit_s, lambda progress=progress: self.arrive(progress))  # type: ignore[misc]
        if len(self.progress) < len(self.jobs):
            raise PlannerError("Two jobs have one id.")
        for rate, what in ((setting.faults.node_losses, self.lose_node), (setting.faults.clock_jumps, self.jump)):
            if rate:
                self.at(self.dice.expovariate(rate / HOUR_S), what)

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        self.made += 1
        heapq.heappush(self.events, (when_s, self.made, what))

    def run(self) -> History:
        while self.events and len(self.done) < len(self.jobs):
            self.now_s = self.events[0][0]
            while self.events and self.events[0][0] <= self.now_s:
                heapq.heappop(self.events)[2]()
            if self.is_dirty and (self.world.waiting or self.world.rented):
                self.is_dirty = False
                self.plan()
            self.check_progress()
        for node in list(self.births):
            self.go_home(node)
        if len(self.done) < len(self.jobs):
            raise PlannerError(f"{len(self.jobs) - len(self.done)} jobs never ended.")
        return History(
            done=tuple(self.done),
            plans=self.plans,
            rented_gpu_s=self.rented_gpu_s,
            rented_usd=self.rented_usd,
            most_rented=self.most_rented,
            lost_nodes=self.lost_nodes,
            refused=self.refused,
        )

    def plan(self) -> None:
        snapshot = self.world.snapshot(self.now_s)
        plan = self.planner(snapshot)
        self.plans += 1
        if self.watch is not None:
            self.watch(snapshot, plan)
        for decision in plan.decisions:
            self.carry_out(decision)
        for node in plan.release:
            self.go_home(node)
        if (self.world.waiting or self.world.rented) and self.setting.tick_s and self.next_tick_s <= self.now_s:
            self.next_tick_s = self.now_s + self.setting.tick_s
            self.at(self.next_tick_s, self.changed)

    def check_progress(self) -> None:
        if self.world.placed or not self.world.waiting:
            self.moved_s = self.now_s
        elif self.now_s > self.moved_s + PATIENCE_S:
            raise PlannerError(f"{len(self.world.waiting)} runs wait on an empty fleet, {next(iter(self.world.waiting))} first.")

    def changed(self) -> None:
        self.is_dirty = True

    def carry_out(self, decision: Decision) -> None:
        world, run = self.world, decision.run
        if decision.kind is DecisionKind.WAIT:
            return
        refused = self.setting.faults.refused
        if refused and self.dice.random() < refused:
            self.refused += 1
            self.at(self.now_s + 1.0, self.changed)
        elif decision.kind is DecisionKind.START:
            self.start(decision)
        elif decision.kind is DecisionKind.EVICT:
            self.progress[run].stays_home |= decision.rule == OVERDUE
            self.evict(run)
        elif decision.kind is DecisionKind.NOMINATE:
            world.waiting[run] = replace(world.waiting[run], nominated=decision.places)
        elif decision.kind is DecisionKind.BURST:
            asked, share = world.waiting[run].replicas, world.waiting[run].share or world.waiting[run].owner
            site, cost = world.sites[decision.site], Decimal(decision.cost_usd or "0")
            world.sites[site.name] = replace(site, running=site.running + asked)
            world.waiting[run] = replace(world.waiting[run], is_bursting=True)
            world.past.owe(share, reserved=cost)
            born = _Birth(self.now_s, site.name, run, share, cost / asked, self.world.paid_s(site, cost / asked))
            self.at(self.now_s + site.ready_s, lambda: self.machines_come(born, asked))

    def evict(self, run: RunId) -> None:
        self.world.stop(run)
        number = self.progress[run].number
        self.at(self.now_s + self.setting.grace_s, lambda: self.stopped(run, number))

    def arrive(self, progress: Progress) -> None:
        self.world.enqueue(progress)
        self.is_dirty = True

    def start(self, decision: Decision) -> None:
        run, progress = decision.run, self.progress[decision.run]
        self.world.start(run, decision.places, self.now_s)
        progress.number += 1
        progress.begun_s = self.now_s
        if progress.first_s < 0:
            progress.first_s = self.now_s
        number = progress.number
        self.at(self.now_s + progress.left_s, lambda: self.ended(run, number))
        if self.setting.checkpoint_s and progress.left_s > self.setting.checkpoint_s:
            self.at(self.now_s + self.setting.checkpoint_s, lambda: self.checkpoint(run, number))

    def is_current(self, run: RunId, number: int) -> bool:
        return run in self.world.placed and self.progress[run].number == number

    def checkpoint(self, run: RunId, number: int) -> None:
        if self.is_current(run, number):
            self.world.checkpoint(run, self.now_s)
            self.at(self.now_s + self.setting.checkpoint_s, lambda: self.checkpoint(run, number))

    def ended(self, run: RunId, number: int) -> None:
        if not self.is_current(run, number):
            return
        progress = self.progress[run]
        self.held(progress)
        self.world.learn(progress.job)
        self.done.append(
            Done(
                job=progress.job,
                started_s=progress.first_s,
                ended_s=self.now_s,
                spans=tuple(progress.spans),
                evictions=progress.evictions,
                lost_s=progress.lost_s,
                cloud_s=progress.cloud_s,
            )
        )
        self.is_dirty = True

    def held(self, progress: Progress) -> None:
        """Take back what a run holds and write down that it held it."""
        gone = self.world.end(RunId(progress.job.id), self.now_s)
        progress.spans.append((progress.begun_s, self.now_s))
        if any(place.node in self.world.rented for place in gone.places):
            progress.cloud_s += self.now_s - progress.begun_s

    def stopped(self, run: RunId, number: int) -> None:
        if not self.is_current(run, number):
            return
        progress = self.progress[run]
        self.held(progress)
        ran, every = self.now_s - progress.begun_s, self.setting.checkpoint_s
        kept = ran // every * every if every else 0.0
        progress.done_s += kept
        progress.lost_s += ran - kept
        progress.evictions += 1
        self.world.enqueue(progress)
        self.is_dirty = True

    def machines_come(self, born: _Birth, count: int) -> None:
        site, run = self.world.sites[born.site], born.run
        for _ in range(count):
            self.machines += 1
            name = f"{site.name}-{self.machines:05}"
            self.world.nodes[name] = replace(site.machine, id=name, name=name)
            born_at = self.world.wall(self.now_s)
            self.world.rented[name] = Rented(node=name, site=site.name, born_at=born_at, idle_since=born_at)
            self.births[name] = born
            self.await_last_call(name)
        self.most_rented = max(self.most_rented, len(self.births))
        if run in self.world.waiting:
            self.world.waiting[run] = replace(self.world.waiting[run], is_bursting=False)
        self.is_dirty = True

    def go_home(self, name: str) -> None:
        if any(place.node == name for run in self.world.placed.values() for place in run.places):
            raise PlannerError(f"{name} was sent home while runs are on it.")
        node, born = self.world.nodes.pop(name), self.births.pop(name)
        del self.world.rented[name]
        site = self.world.sites[born.site]
        self.world.sites[born.site] = replace(site, running=site.running - 1)
        lived = self.now_s - born.asked_s - site.ready_s
        paid = lived / HOUR_S * float(node.price_usd_per_hour)
        self.world.past.owe(born.share, reserved=-born.reserved_usd, spent=Decimal(str(round(paid, 6))))
        self.rented_gpu_s += lived * len(node.devices)
        self.rented_usd += paid

    def await_last_call(self, name: str) -> None:
        born = self.births[name]
        self.at(born.asked_s + born.life_s - last_call_s(born.life_s), lambda: self.last_call(name, born))

    def last_call(self, name: str, born: _Birth) -> None:
        """Its money is nearly used up. As the server does: more for the run that it was rented for, else all stop in time."""
        if self.births.get(name) != born:
            return
        runs = [run for run, placed in self.world.placed.items() if any(place.node == name for place in placed.places)]
        if not runs:
            self.go_home(name)
            return
        more = born.reserved_usd / 2
        left = budgets(self.world.snapshot(self.now_s))
        if born.run in runs and all(more <= left.get(above, more) for above in path_of(born.share)):
            self.world.past.owe(born.share, reserved=more)
            self.births[name] = replace(born, reserved_usd=born.reserved_usd + more, life_s=born.life_s * 1.5)
            self.await_last_call(name)
            return
        self.world.nodes[name] = replace(self.world.nodes[name], state=NodeState.DRAINING)
        for run in runs:
            if not self.world.placed[run].is_stopping:
                self.evict(run)
        self.at(self.now_s + self.setting.grace_s, lambda: self.go_home(name) if name in self.births else None)

    def lose_node(self) -> None:
        """Let a node vanish with all that is on it, and come back empty after a while."""
        self.at(self.now_s + self.dice.expovariate(self.setting.faults.node_losses / HOUR_S), self.lose_node)
        owned = sorted(name for name in self.world.nodes if name not in self.world.rented)
        if len(owned) < 2:
            return
        name = self.dice.choice(owned)
        for run, placed in list(self.world.placed.items()):
            if any(place.node == name for place in placed.places):
                self.stopped(run, self.progress[run].number)
        back = replace(self.world.nodes.pop(name), used_cpu_milli=0, used_memory_bytes=0, used_disk_bytes=0, used_devices=())
        self.lost_nodes += 1
        self.is_dirty = True
        self.at(self.now_s + self.setting.faults.repair_s, lambda: self.node_returns(back))

    def node_returns(self, node: Node) -> None:
        self.world.nodes[node.id] = node
        self.is_dirty = True

    def jump(self) -> None:
        """Set the wall clock forward or back."""
        self.at(self.now_s + self.dice.expovariate(self.setting.faults.clock_jumps / HOUR_S), self.jump)
        self.world.drift_s += self.dice.uniform(-self.setting.faults.jump_s, self.setting.faults.jump_s)
        self.is_dirty = True
