"""The ends of replicas (W7), all that wait for one commit written together: each is judged by what those before it left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update

from mainspring.core.checkpoints import lost_work
from mainspring.core.errors import NotFoundError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.lifecycle import TERMINAL_RUN, AttemptEvent, Ending, advance_attempt, finish_run
from mainspring.core.records import Attempt, AttemptState, Cause, Outcome, Run, RunState
from mainspring.core.resources import Granted
from mainspring.core.specs import Value
from mainspring.plugins import reach
from mainspring.store.checkpoints import forget_checkpoints
from mainspring.store.columns import changes_of, record_of
from mainspring.store.database import NewEvent, Transaction
from mainspring.store.health import ask_failures_ahead, has_failures, note_begin, note_failure
from mainspring.store.members import MEMBER, OF_MEMBER, WHERE_SAME, attempt_of, lock_attempts, member_of
from mainspring.store.nodes import free_all
from mainspring.store.runs import save_runs
from mainspring.store.statements import Listed, Row, Statement
from mainspring.store.tables import allocations, attempts, runs

_MAX_AVOID = 8
_OF_USER_CODE = (Cause.SUCCEEDED, Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.TIMEOUT)  # it had begun

_HELD = Listed(
    lambda ids: select(
        allocations.c.id, allocations.c.attempt, allocations.c.replica, allocations.c.node, allocations.c.granted
    ).where(allocations.c.attempt.in_(ids), allocations.c.freed_at.is_(None))
)
_RUNS = Listed(
    lambda ids: (
        select(runs)
        .where(runs.c.id.in_(select(attempts.c.run).where(attempts.c.id.in_(ids))))
        .order_by(runs.c.id)
        .with_for_update()
    )
)
_FREED = Statement(update(allocations).where(allocations.c.id == bindparam("of")).values(freed_at=bindparam("at")))


@dataclass(frozen=True, slots=True)
class End:
    """The end of one replica, as it is told; `is_seen`: somebody saw it."""

    attempt: AttemptId
    replica: int
    ending: Ending
    outputs: Mapping[str, Value]
    actor: str
    is_seen: bool = True


@dataclass(slots=True)
class _OneAttempt:
    before: Attempt
    now: Attempt
    first_failure: Outcome | None
    outputs: dict[int, Mapping[str, Value]]  # by replica
    more: dict[str, Any] = field(default_factory=dict)  # columns that no field has


@dataclass(slots=True)
class _OneRun:
    before: Run
    now: Run
    avoid: tuple[str, ...]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    """What the transaction has of the world, and what it will write."""

    tx: Transaction
    attempts: dict[str, _OneAttempt]
    runs: dict[str, _OneRun]
    held: list[Row]  # what is allocated to the attempts
    members: list[dict[str, object]] = field(default_factory=list)
    freed_at: dict[tuple[str, int], datetime] = field(default_factory=dict)
    has_failures: bool | None = None  # of launches; None: nobody has looked


def end_all(tx: Transaction, ends: Sequence[End]) -> list[tuple[Attempt, Run]]:
    """Record ends; return each one's attempt and run after it. One that was recorded before changes nothing.

    The last end of an attempt ends that and advances its run. Raises NotFoundError.
    """
    batch = _read(tx, ends)
    found = [_end(batch, one) for one in ends]
    _write(batch)
    return found


def _read(tx: Transaction, ends: Sequence[End]) -> _Batch:
    """Replicas of a gang that end at the same time come one after the other, also beside a server of an older version."""
    ids = sorted({one.attempt for one in ends})
    for one in (_RUNS, _HELD):
        one.ahead(tx.conn, ids)
    ask_failures_ahead(tx.conn)
    ending = {id: _attempt_of(rows) for id, rows in lock_attempts(tx.conn, ids).items()}
    return _Batch(tx, ending, {row["id"]: _run_of(row) for row in _RUNS.rows(tx.conn, ids)}, _HELD.rows(tx.conn, ids))


def _attempt_of(rows: Sequence[Row]) -> _OneAttempt:
    attempt = attempt_of(rows)
    outputs = {row[OF_MEMBER + "index"]: row[OF_MEMBER + "outputs"] or {} for row in rows}
    return _OneAttempt(attempt, attempt, rows[0]["first_failure"], outputs)


def _run_of(row: Row) -> _OneRun:
    run = record_of(Run, runs, row)
    return _OneRun(run, run, row["avoid"])


def _end(batch: _Batch, end: End) -> tuple[Attempt, Run]:
    if end.attempt not in batch.attempts:
        raise NotFoundError(f"There is no attempt {end.attempt}.", details={"attempt": end.attempt})
    held = batch.attempts[end.attempt]
    attempt, ending = held.now, end.ending
    run = batch.runs[attempt.run].now
    member = member_of(attempt, end.replica)
    if member.ended_at is not None or attempt.state is AttemptState.ENDED:
        return attempt, run
    since = None if end.is_seen else member.unknown_since
    ended_at = max(ending.at - timedelta(seconds=ending.late_s), min(attempt.started_at or ending.at, ending.at))
    ended = replace(member, state=AttemptState.ENDED, outcome=ending.outcome, ended_at=ended_at, unknown_since=since)
    told = {"state": ended.state, "outcome": ended.outcome, "ended_at": ended.ended_at, "unknown_since": since}
    batch.members.append(told | {"outputs": end.outputs, "of": attempt.id, "at": end.replica})
    batch.freed_at[attempt.id, end.replica] = ending.at
    held.outputs[end.replica] = end.outputs
    if ending.outcome.cause is Cause.LAUNCH_FAILED and attempt.stop_cause is None:
        note_failure(batch.tx, attempt, member, run, ending.outcome.message, ending.at)
        batch.has_failures = True
    elif ending.outcome.cause in _OF_USER_CODE and member.state is not AttemptState.RUNNING:
        _note_begin(batch, run.id, member.node, ending.at)
    _note_first_failure(held, ending.outcome)
    batch.tx.topics.update({"attempts", "nodes"})
    held.now = replace(attempt, replicas=tuple(ended if one.index == ended.index else one for one in attempt.replicas))
    if any(one.ended_at is None for one in held.now.replicas):
        return held.now, run
    return _end_attempt(batch, held, replace(ending, outcome=held.first_failure or ending.outcome), end.actor)


def _note_begin(batch: _Batch, run: RunId, node: str, at: datetime) -> None:
    if batch.has_failures is None:
        batch.has_failures = has_failures(batch.tx.conn)
    if batch.has_failures:
        note_begin(batch.tx, run, node, at)


def _note_first_failure(held: _OneAttempt, outcome: Outcome) -> None:
    """Keep the first failure of an attempt: what follows are its echoes."""
    if outcome.cause is Cause.SUCCEEDED or held.first_failure is not None:
        return
    # what ends badly while it is being stopped ends for the reason that it was stopped for
    found = outcome if held.now.stop_cause is None else replace(outcome, cause=held.now.stop_cause)
    held.first_failure = held.more["first_failure"] = found


def _end_attempt(batch: _Batch, held: _OneAttempt, ending: Ending, actor: str) -> tuple[Attempt, Run]:
    last_at = max(one.ended_at for one in held.now.replicas if one.ended_at is not None)
    done, _ = advance_attempt(held.now, AttemptEvent.ENDED, last_at, ending.outcome)
    lost_s, lost_gpu_s = lost_work(done)
    held.now = done = replace(done, lost_s=lost_s, lost_gpu_s=lost_gpu_s)
    one = batch.runs[done.run]
    facts: dict[str, object] = {"run": done.run, "number": done.number, "cause": str(ending.outcome.cause)}
    batch.tx.tell(NewEvent(actor, "attempt.ended", done.id, one.now.project, facts))
    new = finish_run(one.now, done, ending)
    if new is one.now:
        return done, new  # superseded, or done already (P2)
    if new.state in TERMINAL_RUN:
        new = replace(new, outputs=_outputs(held))
    elif ending.outcome.cause in (Cause.LAUNCH_FAILED, Cause.NODE_LOST):
        one.avoid = tuple(dict.fromkeys((*one.avoid, *(member.node for member in done.replicas))))[-_MAX_AVOID:]
        one.more["avoid"] = one.avoid
    one.now = new
    if new.state is RunState.SUCCEEDED and (done.checkpoint_at is not None or done.number > 1):
        forget_checkpoints(batch.tx, new.id)
    facts = {"cause": str(ending.outcome.cause), "attempt": done.id, "number": done.number}
    kind = f"run.{new.state}" if new.state in TERMINAL_RUN else "run.retried"
    batch.tx.tell(NewEvent(actor, kind, new.id, new.project, facts), "runs")
    return done, new


def _outputs(held: _OneAttempt) -> dict[str, Value]:
    """Return the outputs of all replicas; of two with the same name that of the lowest number."""
    merged: dict[str, Value] = {}
    for _, outputs in sorted(held.outputs.items(), reverse=True):
        merged.update(outputs)
    return merged


def _write(batch: _Batch) -> None:
    conn = batch.tx.conn
    MEMBER.many(conn, batch.members)
    _free(batch)
    reach("inside-W7")
    changed = ((one.before, changes_of(one.before, one.now, attempts) | one.more) for one in batch.attempts.values())
    WHERE_SAME.many(conn, [row | {"of": before.id, "seen": before.version} for before, row in changed if row])
    save_runs(batch.tx, [(one.before, one.now, one.more) for one in batch.runs.values() if one.now is not one.before])


def _free(batch: _Batch) -> None:
    """Free what was held, exactly once: an allocation that is free already gives nothing back."""
    rows = [row for row in batch.held if (row["attempt"], row["replica"]) in batch.freed_at]
    _FREED.many(batch.tx.conn, [{"of": row["id"], "at": batch.freed_at[row["attempt"], row["replica"]]} for row in rows])
    given: dict[str, list[Granted]] = defaultdict(list)
    for row in rows:
        given[row["node"]].append(row["granted"])
    free_all(batch.tx, given)
