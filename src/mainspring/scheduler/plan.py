"""The planner: `plan(snapshot) -> Plan`. Pure and deterministic: no clock, no randomness, nothing read or written.

The cycle is the one screen below. The full policy (fair share, reservations, eviction, burst) adds steps between
2 and 3 and widens `order` and `Policy`; who calls it sees no difference.
"""

from __future__ import annotations

from mainspring.core.errors import PlannerError
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Snapshot, WaitingRun
from mainspring.scheduler.cluster import build
from mainspring.scheduler.explain import Explainer, hold
from mainspring.scheduler.fingerprint import fingerprint
from mainspring.scheduler.order import queue
from mainspring.scheduler.placement import Placement
from mainspring.scheduler.scorers import find_scorer


def plan(snapshot: Snapshot) -> Plan:
    """Decide of each waiting run whether it starts, and where, or why it waits. Raises PlannerError.

    Decisions are in the order in which they were taken: starts first, then who waits, each in queue order.
    O(runs · log nodes touched + kinds of request · nodes).
    """
    _check(snapshot)
    # 1. the state to plan on, and the order in which runs are tried
    cluster = build(snapshot.nodes)
    placement = Placement(cluster=cluster, scorer=find_scorer(snapshot.policy.scorer))
    ordered = queue(snapshot.waiting)

    # 2. place whoever fits; one who is blocked does not block those behind (work conservation, no reservation)
    starts: list[Decision] = []
    blocked: list[WaitingRun] = []
    for run in ordered:
        if hold(run, snapshot.now) is not None or len(starts) >= snapshot.policy.max_starts:
            blocked.append(run)
            continue
        places = placement.place(run)
        if places is None:
            blocked.append(run)
            continue
        starts.append(Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=places))

    # 3. say why, judged by the state that is left
    explain = Explainer(snapshot=snapshot, placement=placement, starts=starts)
    waits = [Decision(run=run.id, kind=DecisionKind.WAIT, version=run.version, reason=explain.why(run)) for run in blocked]
    return Plan(fingerprint=fingerprint(snapshot), decisions=(*starts, *waits))


def _check(snapshot: Snapshot) -> None:
    placed = {run.id for run in snapshot.placed}
    both = [run.id for run in snapshot.waiting if run.id in placed]
    if both:
        raise PlannerError(f"Run {both[0]} waits and is placed at once.")
