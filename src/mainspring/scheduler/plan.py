"""The planner: `plan(snapshot) -> Plan`. Pure and deterministic: no clock, no randomness, nothing read or written.

The cycle is the one screen below; each step is a file: who comes next (`order.py`) by what each share holds (`shares.py`),
where a run goes (`placement.py`), what is kept for whom (`backfill.py`, `timeline.py`), who is stopped for whom (`evict.py`),
who gets a rented machine (`burst.py`) and who comes home from one (`home.py`), why the others wait (`explain.py`).
`cycle.py` holds what was decided so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mainspring.core.snapshot import Decision, Plan, Snapshot
from mainspring.scheduler.burst import going_home
from mainspring.scheduler.cycle import Cycle
from mainspring.scheduler.explain import Explainer, unpaid
from mainspring.scheduler.fingerprint import fingerprint
from mainspring.scheduler.home import come_home
from mainspring.scheduler.order import Entry
from mainspring.scheduler.reading import Reading, State


def plan(snapshot: Snapshot) -> Plan:
    """Decide of each waiting run whether it starts, and where, or why it waits. Raises PlannerError.

    `scheduler.Planner` does the same for snapshots that follow one another. Decisions are in the order in which they were
    taken: starts first, then who waits, in the order in which they were tried.
    O(runs · (depth of the tree · log shares + log nodes touched) + kinds of request · nodes).
    """
    reading = Reading()
    decisions, release = decide(snapshot, reading.read(snapshot))
    return Plan(fingerprint=fingerprint(snapshot, reading.rows), decisions=decisions, release=release)


def decide(snapshot: Snapshot, state: State, *, explains: bool = True) -> tuple[tuple[Decision, ...], tuple[str, ...]]:
    """Return the decisions, and the rented nodes that go home. Without `explains` those who wait are told no reason."""
    # 1. the state to plan on: nodes, shares with what is fair, and what is kept for somebody
    cycle = Cycle.begin(snapshot, state)
    cycle.start_nominated()
    cycle.room.open_windows(snapshot, cycle.tree)

    # 2. place whoever fits, in fair order; the first who are blocked get a reservation, later ones fill what it leaves
    queue = cycle.place_all(cycle.entries)
    while cycle.is_unsettled():  # what was started changed who is owed most: reserve for those, see who fits then
        queue = cycle.place_all([*queue.blocked, *queue.untried])

    # 3. make room for those who are owed more than they hold; what is cleared is kept for them
    blocked = cycle.make_room(queue.blocked)

    # 4. rent machines for those who are worth it; let runs come home from them; send idle ones home
    blocked = cycle.rent(blocked)
    cycle.evictions += come_home(snapshot, cycle.room)

    # 5. say why, judged by the state that is left
    cycle.tree.settle_again()
    decided = (*cycle.starts, *cycle.evictions, *cycle.nominations, *cycle.bursts)
    if explains:
        decided = (*decided, *_waits(cycle, blocked, queue.untried))
    return decided, going_home(snapshot, cycle.used_nodes())


def _waits(cycle: Cycle, blocked: Sequence[Entry], untried: Sequence[Entry]) -> Iterator[Decision]:
    explain = Explainer(
        snapshot=cycle.snapshot,
        tree=cycle.tree,
        room=cycle.room,
        gone={one.run for one in cycle.evictions},
        placed=cycle.placed,
        untried={entry.run.id for entry in untried},
        started=len(cycle.starts),
    )
    for entry in (*blocked, *untried, *cycle.aside):
        short = cycle.unpaid.get(entry.run.id)
        yield cycle.wait(entry, explain.why(entry) if short is None else unpaid(short))
