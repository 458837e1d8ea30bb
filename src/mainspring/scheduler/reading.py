"""A snapshot read in: nodes as arrays, what is held as sums, what waits as requests. Kept from plan to plan.

Reading is most of a plan's cost where little changed. So rows are told apart by identity: a row that is the same object as
last time is not read again. Nothing here decides; after `read` everything is as if the snapshot were the first one read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Generic, NamedTuple, TypeVar

from mainspring.core.errors import PlannerError
from mainspring.core.ids import RunId
from mainspring.core.records import Node, NodeState
from mainspring.core.snapshot import PlacedRun, Snapshot, WaitingRun
from mainspring.core.snapshot import Typical as TypicalRun
from mainspring.scheduler.cluster import Cluster, build
from mainspring.scheduler.demand import Demand, Typical, make_demand
from mainspring.scheduler.fingerprint import Digests
from mainspring.scheduler.holdings import Holdings
from mainspring.scheduler.order import Kind
from mainspring.scheduler.placement import Placement
from mainspring.scheduler.requests import key_of
from mainspring.scheduler.scorers import find_scorer
from mainspring.scheduler.shares import Measure, Need

Row = TypeVar("Row", Node, WaitingRun, PlacedRun)
MOST_KINDS = 100_000  # kinds of waiting runs that are remembered before all is read anew


class Rows(Generic[Row]):
    """The rows of one table, by identity."""

    def __init__(self) -> None:
        self._listed: Sequence[Row] = ()

    def turn(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Return who is gone and who came since the last time. Raises PlannerError for a row that is listed twice."""
        before, self._listed = self._listed, rows
        if rows is before:
            return [], []
        same = list(map(is_, before, rows))
        first = same.index(False) if False in same else len(same)
        old, new = _by_identity(before[first:]), _by_identity(rows[first:])
        return [old[key] for key in old.keys() - new.keys()], [new[key] for key in new.keys() - old.keys()]


def _by_identity(rows: Sequence[Row]) -> dict[int, Row]:
    found = dict(zip(map(id, rows), rows, strict=True))
    if len(found) < len(rows):
        raise PlannerError(f"The snapshot lists a {type(rows[0]).__name__} twice.")
    return found


class Waiting(NamedTuple):
    """A waiting run with what it takes, its kind, and its shape (both as in `Entry`)."""

    run: WaitingRun
    need: Need
    kind: Kind
    shape: Kind


@dataclass(slots=True)
class State:
    """What depends on which nodes there are; as they change, it is made anew."""

    cluster: Cluster
    placement: Placement
    measure: Measure
    holdings: Holdings
    typical: Typical
    scorer: str
    pool_of_site: Mapping[str, str]
    longest_s: float  # who takes longer goes to no rented machine unless it names one
    waiting: dict[RunId, Waiting] = field(default_factory=dict)
    kinds: dict[tuple[object, ...], Kind] = field(default_factory=dict)
    named: tuple[Sequence[TypicalRun], Demand] | None = None  # what the snapshot called typical, if it did

    @classmethod
    def of(cls, snapshot: Snapshot) -> State:
        """Return the state of the snapshot's nodes, with no run in it."""
        cluster = build(snapshot.nodes)
        typical = Typical(cluster)
        policy, pools = snapshot.policy, pools_of(snapshot)
        placement = Placement(cluster=cluster, scorer=find_scorer(policy.scorer), demand=typical.demand(), pool_of_site=pools)
        cluster.keep()
        return cls(
            cluster, placement, Measure(cluster), Holdings(cluster), typical, policy.scorer, pools, policy.burst.max_estimate_s
        )

    def place(self, run: PlacedRun) -> None:
        """Count a placed run."""
        if run.id in self.holdings.by_run:
            raise PlannerError(f"The snapshot lists placed run {run.id} twice.")
        amounts = self.measure.granted((place.node, place.granted) for place in run.places)
        unused = 0
        if self.measure.may_differ(run.resources):
            unused = self.measure.unused(self.placement.request(run.resources, run.sites), len(run.places), amounts)
        self.holdings.add(run, amounts, unused, self.measure.model(run.resources))
        self.typical.count(run.resources, float(len(run.places)))

    def leave(self, run: PlacedRun) -> None:
        """Forget a placed run."""
        self.holdings.remove(run)
        self.typical.count(run.resources, -float(len(run.places)))

    def wait(self, run: WaitingRun) -> None:
        """Count a waiting run."""
        if run.id in self.waiting:
            raise PlannerError("The snapshot lists a waiting run twice.")
        if self.pool_of_site and run.estimate_s > self.longest_s and not (run.resources.pool or run.resources.labels):
            run = replace(run, sites=())  # it would keep a machine that was rented for a shorter one
        request = self.placement.request(run.resources, run.sites)
        others = tuple(key_of(one) for one in run.alternatives)
        leaf = run.share or run.owner
        shape = self._number((leaf, request.key, run.replicas, run.min_replicas, run.same, others, run.is_preemptible))
        kind = self._number((shape, run.estimate_s))
        self.waiting[run.id] = Waiting(run, self.measure.need(request, run.replicas), kind, shape)
        self.typical.count(run.resources, float(run.replicas))

    def give_up(self, run: WaitingRun) -> None:
        """Forget a waiting run."""
        del self.waiting[run.id]
        self.typical.count(run.resources, -float(run.replicas))

    def _number(self, kind: tuple[object, ...]) -> Kind:
        return self.kinds.setdefault(kind, len(self.kinds))


class Reading:
    """The snapshot that was read last. `rows` is the sum of its rows' digests, where `is_digested`."""

    def __init__(self, *, is_digested: bool = True) -> None:
        self.rows = 0
        self._is_digested = is_digested
        self._digests = Digests()
        self._nodes: Rows[Node] = Rows()
        self._waiting: Rows[WaitingRun] = Rows()
        self._placed: Rows[PlacedRun] = Rows()
        self.state: State | None = None

    def read(self, snapshot: Snapshot) -> State:
        """Bring everything up to date with `snapshot` and return it. Raises PlannerError; then nothing kept is of use."""
        nodes, waiting = self._nodes.turn(snapshot.nodes), self._waiting.turn(snapshot.waiting)
        placed = self._placed.turn(snapshot.placed)
        if self._is_digested:
            self.rows += sum(self._digests.sum(came) - self._digests.sum(gone) for gone, came in (nodes, waiting, placed))
        state = self.state
        if state is None or not _is_same_state(state, snapshot) or not _renew(state.cluster, *nodes):
            state = self.state = State.of(snapshot)
            placed, waiting = ([], list(snapshot.placed)), ([], list(snapshot.waiting))
        for run in placed[0]:
            state.leave(run)
        for one in waiting[0]:
            state.give_up(one)
        for run in placed[1]:
            state.place(run)
        for one in waiting[1]:
            state.wait(one)
        both = state.waiting.keys() & state.holdings.by_run.keys()
        if both:
            raise PlannerError(f"Run {min(both)} waits and is placed at once.")
        state.placement.begin(_demand(state, snapshot))
        return state


def read(snapshot: Snapshot) -> State:
    """Return the state of one snapshot."""
    return Reading(is_digested=False).read(snapshot)


def pools_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the pool of each paid site."""
    return {site.name: site.machine.pool for site in snapshot.sites}


def _demand(state: State, snapshot: Snapshot) -> Demand:
    """Return what the snapshot calls typical, else what waits and runs in it."""
    if not snapshot.typical:
        return state.typical.demand()
    if state.named is None or state.named[0] is not snapshot.typical:
        made = make_demand(state.cluster, ((one.resources, one.count) for one in snapshot.typical))
        state.named = (snapshot.typical, made)
    return state.named[1]


def _is_same_state(state: State, snapshot: Snapshot) -> bool:
    if len(state.kinds) > MOST_KINDS:
        return False
    if state.longest_s != snapshot.policy.burst.max_estimate_s:
        return False
    return state.scorer == snapshot.policy.scorer and state.pool_of_site == pools_of(snapshot)


def _renew(cluster: Cluster, gone: Sequence[Node], came: Sequence[Node]) -> bool:
    """Take over the nodes that came, if they are those that are gone and differ only in what they hold; say whether."""
    cluster.restore()
    former = {node.id: node for node in gone}
    if len(gone) != len(came) or len({node.id for node in came}) < len(came):
        return False
    if any(node.id not in former or not _is_alike(former[node.id], node) for node in came):
        return False
    for node in came:
        if node.state is not NodeState.DEAD:
            cluster.renew(cluster.row_of[node.id], node)
    return True


def _is_alike(one: Node, other: Node) -> bool:
    """Say whether two states of a node are the same machine to the planner."""
    return (
        one.state is other.state
        and one.closures == other.closures
        and one.devices == other.devices
        and one.labels == other.labels
        and (one.cluster, one.name, one.pool) == (other.cluster, other.name, other.pool)
        and (one.cpu_milli, one.memory_bytes, one.disk_bytes) == (other.cpu_milli, other.memory_bytes, other.disk_bytes)
    )
