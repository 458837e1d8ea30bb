"""Roll-outs: which replicas of an endpoint are to start and which to stop. The old ones go when the new ones answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mainspring.core.ids import RunId
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Endpoint, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What is to be done now: so many replicas of the live revision to start, these runs to stop."""

    start: int = 0
    stop: tuple[RunId, ...] = ()


def desired_replicas(endpoint: Endpoint, runs: Sequence[Run], ready: Collection[RunId]) -> Rollout:
    """Return what brings the endpoint's `runs` to `endpoint.replicas` of its live revision; `ready` are those that answer.

    Runs of older revisions stay until enough of the live revision are ready. Of a surplus, those go first that do not
    answer, then the youngest. A stopped endpoint keeps nothing.
    """
    living = [run for run in runs if run.state not in TERMINAL_RUN]
    if endpoint.stopped_at is not None:
        return Rollout(stop=tuple(run.id for run in living))
    mine = sorted(
        (run for run in living if revision_of(run) == endpoint.revision), key=lambda run: (run.id not in ready, run.seq)
    )
    others = [run.id for run in living if revision_of(run) != endpoint.revision]
    kept, surplus = mine[: endpoint.replicas], mine[endpoint.replicas :]
    is_complete = sum(run.id in ready for run in kept) >= endpoint.replicas
    stop = (*(run.id for run in surplus), *(others if is_complete else ()))
    return Rollout(start=endpoint.replicas - len(kept), stop=stop)


def revision_of(run: Run) -> int:
    """Return the number of the revision that a run serves, 0 if it serves none."""
    link = run.spec.link
    return int(link.key) if link is not None and link.kind == "endpoint" and link.key.isdecimal() else 0
