"""The state of one plan while it is made: what was decided, and what each decision took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np

from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Snapshot, WaitingRun
from mainspring.scheduler.backfill import Backfill, put
from mainspring.scheduler.burst import Offer, Unpaid, burst
from mainspring.scheduler.evict import SOON_S, Evictions, Victim
from mainspring.scheduler.explain import choose, gate, hold
from mainspring.scheduler.holdings import taken_by
from mainspring.scheduler.order import Entry, Kind, Queue
from mainspring.scheduler.reading import State
from mainspring.scheduler.requests import without_models
from mainspring.scheduler.shares import GPU, Tree, needed


@dataclass(slots=True)
class Cycle:
    """Nodes (`room`), shares (`tree`), who is to be tried (`entries`), who is not (`aside`), and the decisions so far."""

    snapshot: Snapshot
    room: Backfill
    tree: Tree
    entries: list[Entry]
    aside: list[Entry]
    starts: list[Decision] = field(default_factory=list)
    nominations: list[Decision] = field(default_factory=list)
    evictions: list[Decision] = field(default_factory=list)
    bursts: list[Decision] = field(default_factory=list)
    unpaid: dict[str, Unpaid] = field(default_factory=dict)  # what only a budget was short of, by run
    placed: list[tuple[str, tuple[Place, ...]]] = field(default_factory=list)  # owner and places of the starts
    _started_before: int = 0

    @classmethod
    def begin(cls, snapshot: Snapshot, state: State) -> Cycle:
        """Return the state before the first decision."""
        room = Backfill(placement=state.placement, policy=snapshot.policy, now=snapshot.now, holdings=state.holdings)
        tree = Tree(snapshot, state.measure, state.holdings)
        entries: list[Entry] = []
        aside: list[Entry] = []
        for run, need, kind, shape in state.waiting.values():
            entry = Entry(run, tree.account(run.share or run.owner), need, kind, shape)
            (entries if hold(run, snapshot.now) is None else aside).append(entry)
        aside.sort(key=lambda one: (-one.run.priority, one.run.seq, one.run.id))
        for (account, need), runs in Counter((one.account, one.need) for one in entries).items():
            if not account.is_held:  # nothing of it starts: what it asks for is nobody's to keep free
                tree.ask(account, need, runs)
        tree.settle()
        return cls(snapshot=snapshot, room=room, tree=tree, entries=entries, aside=aside)

    def start_nominated(self) -> None:
        """Start the runs whose places were cleared, keep the places of those whose places still are, forget what is gone."""
        chosen = sorted((entry for entry in self.entries if entry.run.nominated), key=lambda entry: (entry.run.seq, entry.run.id))
        stopping = [run for run in self.snapshot.placed if run.is_stopping] if chosen else []
        settled: set[str] = set()
        for entry in chosen:
            run, places = entry.run, entry.run.nominated
            if not self._may_take(entry, places):
                continue
            if self.room.nominate(run, places, ()):
                self.room.release([self.room.holds[-1]])
                for row, need, milli in taken_by(self.room.placement.cluster, places):
                    put(self.room.placement.cluster, row, need, milli, sign=-1)
                self._started(entry, places, rule="nominated")
                self._asks_no_more(entry, places)
            elif self.room.nominate(run, places, stopping):
                self._nominate(entry, places, rule="nominated")
                self._asks_no_more(entry, places)
            else:
                continue
            settled.add(run.id)
        self.entries = [entry for entry in self.entries if entry.run.id not in settled]

    def place_all(self, entries: Sequence[Entry]) -> Queue:
        """Start whoever fits, in fair order; return who was blocked and who was not tried."""
        policy = self.snapshot.policy
        self._started_before = len(self.starts)
        queue = Queue(entries=entries, tree=self.tree, policy=policy.order, depth=policy.backfill.depth, now=self.snapshot.now)
        while (entry := queue.next()) is not None:
            if len(self.starts) >= policy.max_starts:
                queue.rest()
            elif self.start(entry):
                queue.started()
            else:
                self.reserve(entry)
                queue.failed(is_for_length=len(self.room.kept) >= policy.backfill.reserved and not self.room.has_windows())
        return queue

    def is_unsettled(self) -> bool:
        """Say whether reservations may have gone to others than now come first, or left more free; if so, give them back."""
        if not (self.room.kept or self.room.is_relaid) or len(self.starts) == self._started_before:
            return False
        self.room.start_over()
        return True

    def start(self, entry: Entry) -> bool:
        """Start the run where it fits, by the first of its choices that does; say whether it was."""
        if not any(self._start(choice) for choice in self._choices(entry)):
            return False
        self._asks_no_more(entry, self.starts[-1].places)
        return True

    def _choices(self, entry: Entry) -> Iterator[Entry]:
        """Give the run with each of its requests, of an elastic gang with as many replicas, as its shares may hold."""
        for asked, replicas in _asks(entry.run):
            for count in replicas:
                choice = choose(entry, asked, count, self.tree, self.room.placement)
                if gate(choice, self.tree) is not None:
                    continue
                yield choice
                if not self.tree.closed_models(choice.account, choice.need):
                    break  # else fewer may be let onto one more model of GPU

    def _least(self, entry: Entry) -> Iterator[Entry]:
        """Give the run with each of its requests, of an elastic gang with the fewest replicas, that some eviction could start.

        Without the models that its shares may hold no more of: on those it would be stopped for in vain.
        """
        for asked, replicas in _asks(entry.run):
            choice = choose(entry, asked, replicas[-1], self.tree, self.room.placement)
            closed = self.tree.closed_models(entry.account, choice.need)
            left = without_models(self.room.placement.cluster, asked, closed) if closed else asked
            if left is not None and not self._is_shut(choice):
                yield choice if left is asked else replace(choice, run=replace(choice.run, resources=left))

    def _start(self, entry: Entry) -> bool:
        run = entry.run
        closed = self.tree.closed_models(entry.account, entry.need)
        if closed:
            asked = without_models(self.room.placement.cluster, run.resources, closed)
            if asked is None:
                return False
            run = replace(run, resources=asked)
        is_late = bool(self.room.holds)
        places = self.room.place(run, entry.account)
        if places is None:
            return False
        self._started(entry, places, rule="backfill" if is_late else "order")
        return True

    def reserve(self, entry: Entry) -> None:
        """Keep the earliest places for a run that could not start, if nothing but room stands against it."""
        if len(self.room.kept) >= self.snapshot.policy.backfill.reserved:
            return
        asks = [one.run.resources for one in self._choices(entry) if not self.tree.closed_models(one.account, one.need)]
        if asks:
            self.room.reserve(entry.run, asks)

    def make_room(self, blocked: Sequence[Entry]) -> list[Entry]:
        """Stop runs for those blocked, the first first; return who still waits.

        Once room was made for somebody, those before it are looked at again: fewer victims may do for them by now.
        """
        evictions = Evictions(room=self.room, tree=self.tree)
        left = self._make_room(blocked, evictions)
        while left and len(left) < len(blocked):
            blocked, left = left, self._make_room(left, evictions)
        return left

    def _make_room(self, blocked: Sequence[Entry], evictions: Evictions) -> list[Entry]:
        failed: set[tuple[Kind, int]] = set()  # shape and priority: how long a run takes makes no room
        left: list[Entry] = []
        for number, entry in enumerate(blocked):
            self.tree.settle_again()
            if evictions.tried >= self.snapshot.policy.preemption.max_tried:
                return [*left, *blocked[number:]]
            alike = (entry.shape, entry.run.priority)
            kept = self.room.kept.get(entry.run.id)
            is_soon = kept is not None and kept.at_s < SOON_S
            choices = () if alike in failed or is_soon or entry.run.is_bursting else tuple(self._least(entry))
            if not choices:
                left.append(entry)
                continue
            evictions.tried += 1
            cleared = next((found for one in choices if (found := evictions.clear(one)) is not None), None)
            if cleared is None:
                failed.add(alike)
                left.append(entry)
                continue
            for victim in cleared.victims:
                if cleared.rule != "move":
                    self._asks_again(victim)
                self.evictions.append(
                    Decision(
                        run=victim.run.id,
                        kind=DecisionKind.EVICT,
                        version=victim.run.version,
                        beneficiary=entry.run.id,
                        rule=cleared.rule,
                    )
                )
            self._nominate(entry, cleared.places, rule=cleared.rule)
            self._asks_no_more(entry, cleared.places)
        return left

    def rent(self, blocked: Sequence[Entry]) -> list[Entry]:
        """Ask for machines at paid sites; return who still waits."""
        if not self.snapshot.sites:
            return list(blocked)
        able = [entry for entry in blocked if gate(entry, self.tree) is None]
        offers, self.unpaid = burst(self.snapshot, self.room, able)
        for entry in able:
            offer = offers.get(entry.run.id)
            if offer is not None:
                self.bursts.append(self._burst(entry, offer))
        return [entry for entry in blocked if entry.run.id not in offers]

    def used_nodes(self) -> set[str]:
        """Return the nodes on which this plan starts somebody or keeps places."""
        kept = (kept.places for kept in self.room.kept.values())
        decided = (one.places for one in (*self.starts, *self.nominations))
        return {place.node for places in (*kept, *decided) for place in places}

    def wait(self, entry: Entry, reason: Reason) -> Decision:
        """Return the decision that lets a run wait, with its reservation if it has one."""
        run = entry.run
        kept = self.room.kept.get(run.id)
        if kept is None:
            return Decision(run=run.id, kind=DecisionKind.WAIT, version=run.version, reason=reason)
        at = self.snapshot.now + timedelta(seconds=kept.at_s) if np.isfinite(kept.at_s) else None
        return Decision(
            run=run.id, kind=DecisionKind.WAIT, version=run.version, reason=reason, places=kept.places, expected_at=at
        )

    def _started(self, entry: Entry, places: tuple[Place, ...], *, rule: str) -> None:
        run = entry.run
        amounts = self._amounts(places)
        self.tree.charge(entry.account, amounts, is_pinned=not run.is_preemptible)
        self.tree.serve(entry.account, self.snapshot.now.timestamp() + len(self.starts) * 1e-6)  # the next of equals is another
        self.starts.append(Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=places, rule=rule))
        self.placed.append((run.owner, places))
        self.room.started(as_placed(run, places, self.snapshot))
        self.room.relay(entry.account)

    def _may_take(self, entry: Entry, places: Sequence[Place]) -> bool:
        """Say whether its shares let a run start at these places: within their limits of all that it would hold there.

        What it may hold without being preemptible is judged as for any start, of a model only if it may be no other.
        """
        amounts = self._amounts(places)
        if self.tree.over_limit(entry.account, needed(amounts)) is not None:
            return False
        asked = [amount if place <= GPU or entry.need.amounts[place] else 0 for place, amount in enumerate(amounts)]
        return gate(replace(entry, need=needed(asked)), self.tree) is None

    def _asks_no_more(self, entry: Entry, places: Sequence[Place]) -> None:
        """Count a run that has its places, and was charged with them, to what is held: it may have asked for other amounts.

        An alternative or an elastic gang takes something else than was asked for, and so its share's demand changes.
        """
        run, held = entry.run, self._amounts(places)
        unused = self.tree.unused(self.room.placement.request(run.resources, run.sites), len(places), held)
        self.tree.turn(entry.account, entry.need, asked=-1, held=held, unused=unused)

    def _asks_again(self, victim: Victim) -> None:
        """Count a run that is stopped, and was charged no more with what it held, to what is asked for: not in a held share."""
        run = victim.run
        need = self.tree.need(self.room.placement.request(run.resources, run.sites), len(run.places))
        unused = self.room.holdings.by_run[run.id].unused
        asked = 0 if victim.account.is_held else 1
        self.tree.turn(victim.account, need, asked=asked, held=[-amount for amount in victim.amounts], unused=-unused)

    def _amounts(self, places: Iterable[Place]) -> list[int]:
        return self.tree.granted((place.node, place.granted) for place in places)

    def _is_shut(self, entry: Entry) -> bool:
        """Say whether no eviction could let the run start."""
        if entry.account.is_held or any(
            entry.need.amounts[place] > one.limit[place] for one in entry.account.path() for place in entry.need.mask
        ):
            return True
        return not entry.run.is_preemptible and self.tree.over_entitlement(entry.account, entry.need) is not None

    def _nominate(self, entry: Entry, places: Sequence[Place], *, rule: str) -> None:
        run = entry.run
        amounts = self._amounts(places)
        self.tree.charge(entry.account, amounts, is_pinned=not run.is_preemptible)
        nodes = sorted({place.node for place in places})
        reason = Reason(
            code=ReasonCode.NOMINATED,
            sentence=f"Waits for runs that are stopping to make room for it on {len(nodes)} node{'s' * (len(nodes) > 1)}.",
            facts={"nodes": nodes},
        )
        self.nominations.append(
            Decision(
                run=run.id,
                kind=DecisionKind.NOMINATE,
                version=run.version,
                places=tuple(places),
                reason=reason,
                rule=rule,
            )
        )

    def _burst(self, entry: Entry, offer: Offer) -> Decision:
        run = entry.run
        sentence = (
            f"Waits for {offer.machines} machine{'s' * (offer.machines > 1)} at {offer.site.name}, there in about "
            f"{max(1, round(offer.ready_s / 60))} min; {offer.cost} USD are reserved for it."
        )
        return Decision(
            run=run.id,
            kind=DecisionKind.BURST,
            version=run.version,
            reason=Reason(
                code=ReasonCode.BURSTING,
                sentence=sentence,
                facts={"site": offer.site.name, "machines": offer.machines, "cost_usd": str(offer.cost)},
            ),
            expected_at=self.snapshot.now + timedelta(seconds=offer.ready_s),
            site=offer.site.name,
            cost_usd=str(offer.cost),
            machines=offer.machines,
            rule="burst",
        )


def as_placed(run: WaitingRun, places: tuple[Place, ...], snapshot: Snapshot) -> PlacedRun:
    """Return a run as it is placed from now on."""
    return PlacedRun(
        id=run.id,
        owner=run.owner,
        project=run.project,
        priority=run.priority,
        seq=run.seq,
        since=snapshot.now,
        is_preemptible=run.is_preemptible,
        places=places,
        version=run.version,
        resources=run.resources,
        same=run.same,
        sites=run.sites,
        submitted_at=run.submitted_at,
        share=run.share,
        estimate_s=run.estimate_s,
    )


def _asks(run: WaitingRun) -> Iterator[tuple[Resources, range]]:
    """Give what a run asks for, the first choice first, with the numbers of replicas that would do, the most first."""
    return ((asked, range(run.replicas, run.least - 1, -1)) for asked in (run.resources, *run.alternatives))
