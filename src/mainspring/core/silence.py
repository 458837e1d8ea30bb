"""What is decided while an engine cannot tell how a replica is (protocol P4, P5), and what people are told meanwhile.

Pure. `controllers/observations.py` acts on it, by a clock that is never set; `mainspring why` shows it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from mainspring.core.health import is_closed_by_hand
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Attempt, Node, NodeState, Replica
from mainspring.core.specs import RunSpec
from mainspring.core.units import show_seconds

DRIFT = 1.1  # clocks of two machines may run apart


def patience_s(spec: RunSpec, replica: Replica, lost_after_s: float) -> float | None:
    """Return how long a replica may be of unknown state until its run is tried again; None: until its end is confirmed.

    An exclusive run is tried again when its runner has surely ended it by its own limit. A runner that was never heard may not
    have begun to count.
    """
    if not spec.is_exclusive:
        return lost_after_s
    if spec.disconnect_limit_s and replica.last_beat_at is not None:
        return (spec.disconnect_limit_s + spec.grace_s) * DRIFT
    return None


def sighted(state: NodeState, is_reachable: bool) -> NodeState:
    """Return a node's state after a look at it: that it was closed stands until what closed it says something else."""
    if state in (NodeState.DRAINING, NodeState.DEAD, NodeState.QUARANTINED):
        return state
    return NodeState.READY if is_reachable else NodeState.UNREACHABLE


def listed(old: Node, told: NodeState, *, is_rented: bool) -> NodeState:
    """Return a node's state after its engine listed it: the engine's word, unless it was closed here or its rent ends.

    So one that is cordoned in Kubernetes drains until it is uncordoned there.
    """
    is_closed = old.state in (NodeState.DEAD, NodeState.QUARANTINED)
    is_ours = old.state is NodeState.DRAINING and (is_rented or is_closed_by_hand(old))
    return old.state if is_closed or is_ours else told


def is_removable(node: Node, unlisted_s: float, lost_after_s: float) -> bool:
    """Say whether a node that its engine no longer lists may be forgotten; one that was drained here may be back from repair."""
    return not is_closed_by_hand(node) and unlisted_s > lost_after_s


def silent_replica(attempt: Attempt | None) -> Replica | None:
    """Return the replica that nobody has known about for the longest time, of an attempt that has not ended."""
    silent = [one for one in attempt.replicas if one.unknown_since and one.ended_at is None] if attempt is not None else []
    return min(silent, key=lambda one: (str(one.unknown_since), one.index), default=None)


def unreachable(attempt: Attempt, replica: Replica, patience: float | None, now: datetime | None = None) -> Reason:
    """Return why nothing is known of a run that was placed: with the clock at `now`, else by the moments that it turns on."""
    heard = replica.last_beat_at or attempt.launched_at or attempt.created_at
    since = replica.unknown_since or heard
    due = None if patience is None else since + timedelta(seconds=patience)
    if now is None:
        told = f"No word from node {replica.node} since {heard:%H:%M:%S} UTC"
        when = "" if due is None else f"at {due:%H:%M:%S} UTC"
    else:
        told = f"No word from node {replica.node} for {_ago(now - heard)}"
        when = "" if due is None else f"in {_ago(due - now)}"
    if due is None:
        then = (
            "the run is exclusive, so it waits until the node comes back, "
            f"or until an admin declares that it is off: mainspring node dead {replica.node}"
        )
    else:
        then = f"a new attempt starts {when} unless it comes back"
    facts: dict[str, object] = {
        "node": replica.node,
        "heard_at": heard.isoformat(),
        "unknown_since": since.isoformat(),
        "due_at": due.isoformat() if due is not None else None,
    }
    return Reason(code=ReasonCode.NODE_UNREACHABLE, sentence=f"{told}; {then}.", facts=facts)


def _ago(passed: timedelta) -> str:
    return show_seconds(max(0.0, passed.total_seconds()))
