"""What the planner sees and what it says: `plan(snapshot) -> Plan`. Both have a JSON round trip (`codec.py`).

A snapshot is immutable and complete: time, policy, order of submission and ids come in with it, so that the same
snapshot gives the same bytes of plan on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.reasons import Reason
from mainspring.core.records import Node
from mainspring.core.resources import Granted, Resources
from mainspring.core.shares import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one replica goes, and what it is granted there."""

    replica: int
    node: str
    granted: Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRun:
    """A queued run as the planner sees it. `avoid` are nodes where its launch failed lately (another node first).

    `share` is the leaf that it counts to (empty: its owner, below the root). `estimate_s` is how long it is believed to
    run (0: nobody knows). `alternatives` are other requests that would do, tried in order after `resources`.
    `replicas` is the most and `min_replicas` the least of an elastic gang (0: all of them). `same` names a node label
    that all replicas must share (`rack`; `node` for one machine). `data_on` are nodes or pools that hold its data sets.
    `nominated` are places kept for it until what stands there is gone. `sites` are the only paid sites that its data may
    go to (None: any). `is_bursting`: a machine was asked for it at a site and has not come yet.
    """

    id: RunId
    owner: str
    project: str
    seq: int
    priority: int
    submitted_at: datetime
    resources: Resources
    replicas: int = 1
    version: int = 1
    share: str = ""
    estimate_s: float = 0.0
    alternatives: tuple[Resources, ...] = ()
    min_replicas: int = 0
    same: str = ""
    data_on: tuple[str, ...] = ()
    data_bytes: int = 0
    sites: tuple[str, ...] | None = None
    nominated: tuple[Place, ...] = ()
    is_held: bool = False  # paused by its owner
    is_preemptible: bool = True
    is_bursting: bool = False
    not_before: datetime | None = None
    is_unconfirmed: bool = False  # the former attempt's end is not confirmed yet
    avoid: tuple[str, ...] = ()

    @property
    def least(self) -> int:
        """Return with how many replicas it may start."""
        return max(1, min(self.min_replicas or self.replicas, self.replicas))

    @property
    def together(self) -> str:
        """Return what its replicas share; one by itself shares nothing with anybody."""
        return self.same if self.replicas > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRun:
    """A run that holds allocations: what it holds where, since when.

    `checkpointed_at` is its last complete checkpoint (None: it has none, all its work would be lost). `is_stopping`:
    its end was asked for; what it holds comes free, but not yet. `resources`, `same`, `sites` and `submitted_at` are what
    it asked for: with them it waits again when it was evicted. `begins_at`: its engine has not begun it and expects to then.
    """

    id: RunId
    owner: str
    project: str
    priority: int
    seq: int
    since: datetime
    is_preemptible: bool
    places: tuple[Place, ...]
    version: int = 1
    resources: Resources = field(default_factory=Resources)
    same: str = ""
    sites: tuple[str, ...] | None = None
    submitted_at: datetime | None = None
    share: str = ""
    estimate_s: float = 0.0
    checkpointed_at: datetime | None = None
    is_stopping: bool = False
    begins_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareState:
    """A share and its past: `history` is its decayed dominant use, as a part (0..1) of all decayed use of its siblings.

    `served_at` is when a run of its was last started: of shares that hold equally much, the one served longest ago is next.

    `spent_usd` is what cloud runs of it and of those below it cost in this period, `reserved_usd` what running and requested
    ones may still cost. The state of the root (share name empty) carries the totals; without one they are added up.
    """

    share: Share
    history: float = 0.0
    served_at: datetime | None = None
    spent_usd: str = "0"
    reserved_usd: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`resources` x `replicas` kept for a share between two moments (an advance reservation)."""

    id: str
    share: str
    begins_at: datetime
    ends_at: datetime
    resources: Resources
    replicas: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A paid place where machines can be asked for. `machine` is one of them, empty; its `pool` is the site's pool.

    `ready_s` is how long one takes to come, `bytes_per_s` how fast data reaches it, `running` how many there are or were
    asked for; `cooldown_until`: it failed lately. `owned` machines are those in the snapshot's nodes with its pool.
    """

    name: str
    machine: Node
    max_machines: int
    running: int = 0
    ready_s: float = 300.0
    bytes_per_s: float = 50e6
    cooldown_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """A machine of a site: since when, idle since when (None: busy), and the moment it ends itself (dead-man switch)."""

    node: str
    site: str
    born_at: datetime
    idle_since: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """A kind of request that is often made, and how often (any positive number): what placement keeps room for."""

    resources: Resources
    count: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at one instant. `nodes` carry what their open allocations hold.

    `typical` is empty when nobody knows better: the waiting and placed runs are taken as typical then.
    `budget_usd` bounds the spend of all shares in this period (empty: no bound).
    """

    now: datetime
    nodes: tuple[Node, ...] = ()
    waiting: tuple[WaitingRun, ...] = ()
    placed: tuple[PlacedRun, ...] = ()
    policy: Policy = field(default_factory=Policy)
    shares: tuple[ShareState, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    sites: tuple[Site, ...] = ()
    rented: tuple[Rented, ...] = ()
    typical: tuple[Typical, ...] = ()
    budget_usd: str = ""
    version: int = 2  # of this format


class DecisionKind(StrEnum):
    """What may be decided. START, WAIT, NOMINATE and BURST are about a waiting run, EVICT about a placed one."""

    START = "start"
    WAIT = "wait"
    NOMINATE = "nominate"  # waits for what EVICT decisions of the same plan (or an earlier one) free at `places`
    BURST = "burst"  # waits for a machine that is asked for at `site`
    EVICT = "evict"  # a placed run is stopped so that `beneficiary` can start


OVERDUE = "overdue"  # the rule by which a run leaves a rented machine for good: it outlived what was reserved for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision about one run; each waiting run gets exactly one. All but START and EVICT have a `reason`.

    `version` is that of the run in the snapshot: applying compares it (a stale decision is refused and planned again).
    `expected_at`: when the run is expected to start (WAIT with a reservation: its places then are kept from `places`).
    `rule` names the step that decided: `order`, `backfill`, `nominated`, `move`, `reclaim`, `guarantee`, `preempt`, `burst`,
    `home`, `overdue`. An EVICT by the last two is its own beneficiary: the run leaves a rented machine, to go on at `places`, or
    where own nodes have room later if it is overdue.
    """

    run: RunId
    kind: DecisionKind
    version: int
    places: tuple[Place, ...] = ()
    reason: Reason | None = None
    expected_at: datetime | None = None
    beneficiary: RunId | None = None
    site: str = ""
    cost_usd: str = ""  # reserved with BURST
    machines: int = 0  # asked for with BURST
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All decisions, in the order in which they were taken; `fingerprint` is the sha256 of the snapshot's bytes.

    `release` are rented nodes that go home.
    """

    fingerprint: str
    decisions: tuple[Decision, ...] = ()
    release: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a plan: runs started, decisions refused because somebody wrote first.

    `is_behind`: some reasons have other figures by now than their rows say; the next plan that is a moment later tells them.
    """

    started: tuple[RunId, ...] = ()
    refused: tuple[RunId, ...] = ()
    evicted: tuple[RunId, ...] = ()
    rented: tuple[RunId, ...] = ()
    is_behind: bool = False
