"""When a node, or one of its devices, takes no further runs, and when it takes some again. Pure: counts in, closures out.

The rule for launches. A launch that fails may be the run's own fault (a wrong image, a missing program), so one run, or many
alike, condemn no node by themselves. Counted are the launches that failed on the node since the last one that began there:

- a run whose kind (environment, image, overrides) began on another node afterwards is *proven*: there the node is what differs;
- a kind that failed on other nodes too and began on none is the run's own fault and never counts;
- a kind that was tried nowhere else counts once, however many runs of it failed: it may be either.

`launch_failures` proven runs close the node; so do `lone_launch_failures` proven runs and kinds together, where nothing can be
compared because there is no other node. One launch that begins clears all.

Errors of a GPU close that device alone. XIDs that user code causes (13, 31, 43, ...) do not count, only those in `fatal_xids`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mainspring.core.codec import encode
from mainspring.core.records import (
    WHOLE,
    Closure,
    ClosureCause,
    ClosureState,
    LaunchFailure,
    Node,
    NodeState,
    Symptom,
    SymptomKind,
)
from mainspring.core.specs import RunSpec

# NVIDIA, "Xid errors": double-bit ECC, row remapper, NVLink, fallen off the bus, uncontained ECC, SoC, GSP: all want a reset.
FATAL_XIDS = (48, 62, 64, 74, 79, 95, 109, 119, 120, 140)
REMEMBERED = timedelta(hours=1)  # how long a lifted closure is kept at least
NONE = -1  # the mark of a symptom that is not told any more: whatever comes is new
_CAUSES = {SymptomKind.XID: ClosureCause.XID, SymptomKind.ECC: ClosureCause.ECC, SymptomKind.DISK: ClosureCause.DISK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is borne, and how long a closure lasts: `retry_s` at first, twice as long each time, `retry_max_s` at most."""

    launch_failures: int = 3
    lone_launch_failures: int = 10
    ecc_errors: int = 1
    fatal_xids: tuple[int, ...] = FATAL_XIDS
    retry_s: float = 600.0
    retry_max_s: float = 86400.0

    def pause(self, tries: int) -> timedelta:
        """Return how long a closure lasts that is the one after `tries` others."""
        return timedelta(seconds=min(self.retry_max_s, self.retry_s * 2.0 ** min(tries, 40)))


def judged(node: Node, failures: Iterable[LaunchFailure], rules: Rules, now: datetime) -> Node:
    """Return the node with the closures that it should have by what is known; the same object where nothing changes.

    `failures` are those of all nodes. An operator's closures stay as they are; what a probe decides is `after_probe`.
    """
    closures = [fresh for one in node.closures if (fresh := _reviewed(one, node, rules, now)) is not None]
    for symptom in _offending(node, rules):
        _close(closures, node, _CAUSES[symptom.kind], _of_symptom(symptom), rules, now, symptom)
    sentence = condemned(node.id, failures, rules)
    if sentence:
        _close(closures, node, ClosureCause.LAUNCHES, sentence, rules, now)
    return with_closures(node, closures)


def condemned(node: str, failures: Iterable[LaunchFailure], rules: Rules) -> str:
    """Return why a node is closed for the launches that failed there, or an empty string."""
    every = list(failures)
    here = [one for one in every if one.node == node]
    proven = {one.run for one in here if one.begun_at is not None}
    elsewhere = {one.kind for one in every if one.node != node}
    alone = {one.kind for one in here if one.run not in proven and one.kind not in elsewhere}
    count = len(proven) + len(alone)
    if len(proven) < rules.launch_failures and count < rules.lone_launch_failures:
        return ""
    last = max(here, key=lambda one: (one.at, one.attempt)).message
    some = f"{len(proven)} runs began elsewhere" if proven else f"they are of {count} different kinds"
    return f"{len({one.run for one in here})} runs in a row could not be launched here, and {some}. The last one: {last}"


def kind_of(spec: RunSpec) -> str:
    """Return what launches of the same sort have in common: if one works on a node and another does not, it is the node."""
    return hashlib.sha256(encode((spec.project, spec.environment, spec.overrides, spec.secrets))).hexdigest()[:16]


def with_closures(node: Node, closures: Iterable[Closure]) -> Node:
    """Return the node with these closures and the state that follows; the same object where nothing changes."""
    found = tuple(sorted(closures, key=lambda one: (one.device, one.cause, one.since)))
    shut = [one for one in found if one.device == WHOLE and one.state is not ClosureState.LIFTED]
    state = node.state
    if state is not NodeState.DEAD:
        if any(one.cause is ClosureCause.OPERATOR for one in shut):
            state = NodeState.DRAINING
        elif shut:
            state = NodeState.QUARANTINED
        elif state is NodeState.QUARANTINED:
            state = NodeState.READY
    if found == node.closures and state is node.state:
        return node
    return replace(node, closures=found, state=state)


def drained(
    node: Node, *, by: str, now: datetime, device: int = WHOLE, reason: str = "", ends_at: datetime | None = None
) -> Node:
    """Return the node as an operator drains it, or one of its devices; a second call replaces reason and time."""
    others = [one for one in node.closures if (one.cause, one.device) != (ClosureCause.OPERATOR, device)]
    closure = Closure(cause=ClosureCause.OPERATOR, sentence=reason, since=now, by=by, device=device, ends_at=ends_at)
    return with_closures(node, [*others, closure])


def is_closed_by_hand(node: Node) -> bool:
    """Say whether an operator drained the whole node here, not in its engine."""
    return any(one.cause is ClosureCause.OPERATOR and one.device == WHOLE for one in node.closures)


def resumed(node: Node, *, now: datetime, device: int = WHOLE) -> Node:
    """Return the node as an operator lets it (or the device) take runs again: what was told of it so far is forgiven."""
    kept = []
    for one in node.closures:
        if one.device != device:
            kept.append(one)
        elif one.cause is not ClosureCause.OPERATOR:
            told = _told(node, one)
            kept.append(_lifted(one, now, one.mark if told is None else max(one.mark, told.mark)))
    fresh = with_closures(node, kept)
    return replace(fresh, state=NodeState.READY) if device == WHOLE and fresh.state is not NodeState.READY else fresh


def due_probe(node: Node, now: datetime) -> Closure | None:
    """Return the closure that a tiny run should try now: nothing else tells whether launches work again."""
    if node.state is not NodeState.QUARANTINED:
        return None
    for one in node.closures:
        is_due = one.state is ClosureState.CLOSED and one.retry_at is not None and one.retry_at <= now
        if one.cause is ClosureCause.LAUNCHES and is_due:
            return one
    return None


def probed(node: Node, run: str) -> Node:
    """Return the node with `run` as what tries it."""
    return _with(node, lambda one: replace(one, state=ClosureState.PROBED, probe=run))


def after_probe(node: Node, *, has_begun: bool, rules: Rules, now: datetime) -> Node:
    """Return the node after its probe: open again, or closed for twice as long."""
    if has_begun:
        return _with(node, lambda one: _lifted(one, now, one.mark))

    def again(one: Closure) -> Closure:
        tries = one.tries + 1
        return replace(one, state=ClosureState.CLOSED, probe="", tries=tries, retry_at=now + rules.pause(tries))

    return _with(node, again)


def next_look(nodes: Iterable[Node], now: datetime, lead_s: float) -> float | None:
    """Return after how many seconds time alone changes something, None for never."""
    moments: list[datetime] = []
    for node in nodes:
        for one in node.closures:
            if one.state is ClosureState.LIFTED:
                continue
            if one.retry_at is not None:
                moments.append(one.retry_at)
            if one.ends_at is not None:
                moments += [one.ends_at, one.ends_at - timedelta(seconds=lead_s)]
    later = [(moment - now).total_seconds() for moment in moments if moment > now]
    return min(later, default=None)


def changes(old: Node, new: Node) -> list[tuple[str, dict[str, object]]]:
    """Return (kind, facts) of the events that tell how a node's closures changed."""
    before = {_name(one): one for one in old.closures if one.state is not ClosureState.LIFTED}
    after = {_name(one): one for one in new.closures if one.state is not ClosureState.LIFTED}
    found: list[tuple[str, dict[str, object]]] = []
    for name, one in after.items():
        seen = before.get(name)
        if seen is None or (seen.since, seen.sentence, seen.ends_at) != (one.since, one.sentence, one.ends_at):
            word = "draining" if one.cause is ClosureCause.OPERATOR else "quarantined"
            found.append((f"node.{word}", _facts(one)))
        elif seen.tries != one.tries:
            found.append(("node.probe_failed", _facts(one)))
    found += [("node.ready", _facts(one)) for name, one in before.items() if name not in after]
    if new.state is NodeState.READY and old.state is not NodeState.READY and not found:
        found.append(("node.ready", {}))
    return found


def why_closed(node: Node) -> list[str]:
    """Return why the node, or a device, takes nothing, in sentences; and what the engine says of it."""
    found = []
    for one in node.closures:
        if one.state is ClosureState.LIFTED:
            continue
        what = "" if one.device == WHOLE else f"device {one.device}: "
        if one.cause is ClosureCause.OPERATOR:
            said = f"drained by {one.by}" + (f": {one.sentence}" if one.sentence else "")
            if one.ends_at is not None:
                said += f"; what still runs is stopped at {one.ends_at:%d %b %H:%M} UTC"
        else:
            said = f"quarantined: {one.sentence}"
            if one.state is ClosureState.PROBED:
                said += " A run tries it now."
            elif one.cause is ClosureCause.LAUNCHES and one.retry_at is not None:
                said += f" It is tried again at {one.retry_at:%d %b %H:%M} UTC."
        found.append(f"{what}{said} (since {one.since:%d %b %H:%M} UTC)")
    found += [one.detail for one in node.symptoms if one.kind is SymptomKind.ENGINE]
    return found


# --- helpers ------------------------------------------------------------------------------------------------------------


def _reviewed(one: Closure, node: Node, rules: Rules, now: datetime) -> Closure | None:
    """Return a closure as time and the last look leave it, None when it may be forgotten."""
    if one.cause is ClosureCause.OPERATOR:
        return one
    told = _told(node, one)
    if one.state is ClosureState.LIFTED:
        is_old = one.lifted_at is None or now - one.lifted_at > max(REMEMBERED, 2 * rules.pause(one.tries))
        if told is None and one.cause is not ClosureCause.LAUNCHES:
            one = one if one.mark == NONE else replace(one, mark=NONE)  # its counter began anew
        return None if is_old and told is None else one
    if one.cause is ClosureCause.LAUNCHES or told is not None or (one.retry_at is not None and now < one.retry_at):
        return one
    if one.cause is ClosureCause.XID and node.boot == one.boot:
        return one  # a line that was pushed out of the kernel's log mends no GPU
    return _lifted(one, now, NONE)


def _close(
    closures: list[Closure],
    node: Node,
    cause: ClosureCause,
    sentence: str,
    rules: Rules,
    now: datetime,
    symptom: Symptom | None = None,
) -> None:
    device, mark = (WHOLE, 0) if symptom is None else (symptom.device, symptom.mark)
    tries = 0
    for place, one in enumerate(closures):
        if (one.cause, one.device) != (cause, device):
            continue
        if one.state is not ClosureState.LIFTED:
            return
        if symptom is not None and mark <= one.mark:
            closures[place] = one if mark == one.mark else replace(one, mark=mark)
            return
        del closures[place]
        tries = one.tries + 1
        break
    wait = rules.pause(tries) if symptom is None else rules.pause(tries - 1) if tries else timedelta(0)
    closures.append(
        Closure(
            cause=cause, sentence=sentence, since=now, device=device, retry_at=now + wait, tries=tries, mark=mark, boot=node.boot
        )
    )


def _offending(node: Node, rules: Rules) -> list[Symptom]:
    """Return what closes something, at most one of each kind on a device: that with the largest mark."""
    found: dict[tuple[SymptomKind, int], Symptom] = {}
    known = {device.index for device in node.devices}
    for one in node.symptoms:
        is_bad = {
            SymptomKind.XID: one.code in rules.fatal_xids and one.device in known,
            SymptomKind.ECC: one.mark >= rules.ecc_errors and one.device in known,
            SymptomKind.DISK: True,
            SymptomKind.ENGINE: False,
        }[one.kind]
        best = found.get((one.kind, one.device))
        if is_bad and (best is None or one.mark > best.mark):
            found[one.kind, one.device] = one
    return [found[key] for key in sorted(found)]


def _of_symptom(one: Symptom) -> str:
    match one.kind:
        case SymptomKind.XID:
            return f"the driver told of XID {one.code}, which wants a reset of the GPU. {one.detail}".strip()
        case SymptomKind.ECC:
            return f"{one.mark} uncorrected ECC error{'s' if one.mark != 1 else ''} of its memory."
        case _:
            return one.detail


def _told(node: Node, closure: Closure) -> Symptom | None:
    """Return what the last look told of a closure's cause."""
    told = [one for one in node.symptoms if _CAUSES.get(one.kind) is closure.cause and one.device == closure.device]
    return max(told, key=lambda one: one.mark, default=None)


def _lifted(one: Closure, now: datetime, mark: int) -> Closure:
    return replace(one, state=ClosureState.LIFTED, lifted_at=now, probe="", mark=mark)


def _with(node: Node, change: Callable[[Closure], Closure]) -> Node:
    """Return the node with its open closure by launches changed."""
    return with_closures(
        node,
        [
            change(one) if one.cause is ClosureCause.LAUNCHES and one.state is not ClosureState.LIFTED else one
            for one in node.closures
        ],
    )


def _name(one: Closure) -> tuple[ClosureCause, int]:
    return one.cause, one.device


def _facts(one: Closure) -> dict[str, object]:
    facts: dict[str, object] = {"cause": str(one.cause), "reason": one.sentence}
    if one.device != WHOLE:
        facts["device"] = one.device
    if one.ends_at is not None:
        facts["ends_at"] = one.ends_at.isoformat()
    return facts
