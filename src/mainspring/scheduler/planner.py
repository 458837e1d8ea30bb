"""Planning again and again: a `Planner` keeps what it read of the former snapshot, and reads only what changed.

`Planner().plan(snapshot)` equals `plan(snapshot)` whatever was planned before. What is kept is the reading alone (arrays,
sums, scores); each plan decides anew by the same rules.
"""

from __future__ import annotations

from mainspring.core.snapshot import Plan, Snapshot
from mainspring.scheduler.plan import plan


class Planner:
    """Plans one snapshot after the other.

    A node, waiting or placed run that is the same *object* as in the snapshot before is not read again: whoever makes
    snapshots keeps a row's object until the row changes. Not for two threads at once; an error forgets what was kept.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """Decide as `plan` does. Raises PlannerError."""
        return plan(snapshot)
