"""Planning again and again: a `Planner` keeps what it read of the former snapshot, and reads only what changed.

`Planner().plan(snapshot)` equals `plan(snapshot)` whatever was planned before. What is kept is the reading alone (arrays,
sums, scores: `reading.py`); each plan decides anew by the same rules.
"""

from __future__ import annotations

from mainspring.core.snapshot import Plan, Snapshot
from mainspring.scheduler.fingerprint import fingerprint
from mainspring.scheduler.plan import decide
from mainspring.scheduler.reading import Reading


class Planner:
    """Plans one snapshot after the other.

    A node, waiting or placed run that is the same *object* as in the snapshot before is not read again: whoever makes
    snapshots keeps a row's object until the row changes. Not for two threads at once; an error forgets what was kept.
    With `explains=False` plans have no decisions about runs that just wait and no fingerprint: for simulations.
    """

    def __init__(self, *, explains: bool = True) -> None:
        self._explains = explains
        self._reading = Reading(is_digested=explains)

    def plan(self, snapshot: Snapshot) -> Plan:
        """Decide as `plan` does. Raises PlannerError."""
        reading, self._reading = self._reading, Reading(is_digested=self._explains)
        decisions, release = decide(snapshot, reading.read(snapshot), explains=self._explains)
        self._reading = reading  # unless something was raised: then nothing is kept
        named = fingerprint(snapshot, reading.rows) if self._explains else ""
        return Plan(fingerprint=named, decisions=decisions, release=release)
