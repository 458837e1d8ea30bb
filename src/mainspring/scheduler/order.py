"""Who comes first. The kernel: higher priority, then order of submission. Fair share and aging take this place later."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.core.errors import PlannerError
from mainspring.core.snapshot import WaitingRun


def queue(waiting: Sequence[WaitingRun]) -> list[WaitingRun]:
    """Return the runs in the order in which they are tried. Raises PlannerError when a run is listed twice."""
    if len({run.id for run in waiting}) < len(waiting):
        raise PlannerError("The snapshot lists a waiting run twice.")
    return sorted(waiting, key=lambda run: (-run.priority, run.seq, run.id))
