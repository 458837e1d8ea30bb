"""The planner: `plan(snapshot) -> Plan`. Pure and deterministic: no clock, no randomness, nothing read or written.

The cycle is the one screen below; each step is a file: who comes next (`order.py`) by what each share holds (`shares.py`),
where a run goes (`placement.py`), what is kept for whom (`backfill.py`, `timeline.py`), who is stopped for whom (`evict.py`),
who gets a rented machine (`burst.py`), why the others wait (`explain.py`). `cycle.py` holds what was decided so far.
"""

from __future__ import annotations

from mainspring.core.errors import PlannerError
from mainspring.core.snapshot import Plan, Snapshot
from mainspring.scheduler.burst import going_home
from mainspring.scheduler.cluster import build
from mainspring.scheduler.cycle import Cycle
from mainspring.scheduler.explain import Explainer, unpaid
from mainspring.scheduler.fingerprint import fingerprint


def plan(snapshot: Snapshot) -> Plan:
    """Decide of each waiting run whether it starts, and where, or why it waits. Raises PlannerError.

    Decisions are in the order in which they were taken: starts first, then who waits, in the order in which they were tried.
    O(runs · (depth of the tree · log shares + log nodes touched) + kinds of request · nodes).
    """
    _check(snapshot)
    # 1. the state to plan on: nodes, shares with what is fair, and what is kept for somebody
    cycle = Cycle.begin(snapshot, build(snapshot.nodes))
    cycle.start_nominated()
    cycle.room.open_windows(snapshot, cycle.tree)

    # 2. place whoever fits, in fair order; the first who are blocked get a reservation, later ones fill what it leaves
    queue = cycle.place_all(cycle.entries)
    while cycle.is_unsettled():  # what was started changed who is owed most: reserve for those, see who fits then
        queue = cycle.place_all([*queue.blocked, *queue.untried])

    # 3. make room for those who are owed more than they hold; what is cleared is kept for them
    blocked = cycle.make_room(queue.blocked)

    # 4. rent machines for those who are worth it; send idle ones home
    blocked = cycle.rent(blocked)

    # 5. say why, judged by the state that is left
    waiting = [*blocked, *queue.untried, *cycle.aside]
    explain = Explainer(
        snapshot=snapshot,
        tree=cycle.tree,
        room=cycle.room,
        holders=cycle.holders(),
        untried={entry.run.id for entry in queue.untried},
        started=len(cycle.starts),
    )
    short = {run: unpaid(one) for run, one in cycle.unpaid.items()}
    waits = [cycle.wait(entry, short.get(entry.run.id) or explain.why(entry)) for entry in waiting]
    decided = (*cycle.starts, *cycle.evictions, *cycle.nominations, *cycle.bursts, *waits)
    return Plan(fingerprint=fingerprint(snapshot), decisions=decided, release=going_home(snapshot, cycle.used_nodes()))


def _check(snapshot: Snapshot) -> None:
    if len({run.id for run in snapshot.waiting}) < len(snapshot.waiting):
        raise PlannerError("The snapshot lists a waiting run twice.")
    placed = {run.id for run in snapshot.placed}
    both = [run.id for run in snapshot.waiting if run.id in placed]
    if both:
        raise PlannerError(f"Run {both[0]} waits and is placed at once.")
