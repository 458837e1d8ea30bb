"""Attempts: leased, launched, kept alive by beats, ended once. The writes W3 to W5 and W7 of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, null, select, update

from mainspring.core.errors import StaleWriteError
from mainspring.core.ids import AttemptId, Ids
from mainspring.core.lifecycle import ATTEMPT, AttemptEvent, Ending, advance_attempt
from mainspring.core.reasons import Reason
from mainspring.core.records import Allocation, Attempt, AttemptState, Cause, Outcome, Replica, Run, RunState
from mainspring.core.specs import Value
from mainspring.store.columns import changes_of, record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.ends import End, end_all
from mainspring.store.health import has_failures, note_begin
from mainspring.store.logs import append_chunks, stream_ends
from mainspring.store.members import IS_MEMBER, SAME, WHERE_SAME, WHOLE, load_attempt, member_of, need_attempt, whole
from mainspring.store.runs import need_run
from mainspring.store.statements import Listed, Statement
from mainspring.store.tables import allocations, attempts, replicas, runs

_CAS_TRIES = 20
_OPEN = (AttemptState.ALLOCATED, AttemptState.LAUNCHING, AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STOPPING)
_RANK = {state: rank for rank, state in enumerate((*_OPEN, AttemptState.ENDED))}
_BEATS = {
    "starting": (AttemptState.STARTING, AttemptEvent.BEAT),
    "running": (AttemptState.RUNNING, AttemptEvent.USER_STARTED),
    "stopping": (AttemptState.STOPPING, AttemptEvent.BEAT),
    "ended": (AttemptState.STOPPING, AttemptEvent.BEAT),  # the end itself is `finish`
}


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on an attempt for a while. `fence` grows with each holder; writes of an older one touch no row."""

    attempt_id: str
    owner: str
    fence: int


class Attempts:
    """Reads and writes of attempts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, id: str) -> Attempt | None:
        """Return the attempt with this id."""
        return whole(self._db.ask(WHOLE, {"of": id}))

    def of_run(self, run_id: str) -> list[Attempt]:
        """Return the attempts of a run, first to last."""
        return self._db.read(lambda conn: _attempts_of(conn, _OF_RUN.rows(conn, {"of": run_id})))

    def open(self) -> list[Attempt]:
        """Return the attempts whose end is not confirmed, oldest first."""
        asked = select(attempts).where(attempts.c.state != AttemptState.ENDED).order_by(attempts.c.created_at, attempts.c.id)
        return self._db.read(lambda conn: _attempts_of(conn, conn.execute(asked).mappings().all()))

    def pending(self) -> list[Attempt]:
        """Return the open attempts that a controller has something to do for: to be launched, or to be stopped."""
        return self._db.read(lambda conn: _attempts_of(conn, _PENDING.rows(conn)))

    def given_up(self) -> list[Attempt]:
        """Return the ended attempts of which something may still be there: nobody has seen the end of a replica."""
        silent = select(replicas.c.attempt).where(replicas.c.unknown_since.is_not(None), replicas.c.ended_at.is_not(None))
        asked = select(attempts).where(attempts.c.id.in_(silent)).order_by(attempts.c.created_at, attempts.c.id)
        return self._db.read(lambda conn: _attempts_of(conn, conn.execute(asked).mappings().all()))

    def by_token_hash(self, hash: str) -> Attempt | None:
        """Return the attempt whose runner has the token with this hash."""
        if not hash:
            return None
        asked = select(attempts).where(attempts.c.token_hash == hash)
        found = self._db.read(lambda conn: _attempts_of(conn, conn.execute(asked).mappings().all()))
        return found[0] if found else None

    # --- leases ---------------------------------------------------------------------------------------------------------

    def lease(self, id: str, *, owner: str, ttl_s: float) -> Lease | None:
        """Take the right to act on an attempt that has not ended; None while somebody has it."""

        def work(tx: Transaction) -> Lease | None:
            free_now = (attempts.c.id == id) & (attempts.c.lease_until_s <= tx.lease_now) & attempts.c.ended_at.is_(None)
            taken = update(attempts).where(free_now)
            taken = taken.values(lease_owner=owner, lease_until_s=tx.lease_now + ttl_s, fence=attempts.c.fence + 1)
            fence = tx.conn.execute(taken.returning(attempts.c.fence)).scalar_one_or_none()
            return None if fence is None else Lease(id, owner, int(fence))

        return self._db.write(work)

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Hold the lease for `ttl_s` from now; False when another has it by now, or it ran out."""

        def work(tx: Transaction) -> bool:
            kept = update(attempts).where(_IS_HELD, attempts.c.lease_until_s > tx.lease_now)
            return tx.conn.execute(kept.values(lease_until_s=tx.lease_now + ttl_s), _of(lease)).rowcount == 1

        return self._db.write(work)

    def release(self, lease: Lease) -> None:
        """Give the lease up. Does nothing when another has it by now."""
        self._db.write(lambda tx: _GIVE_UP.run(tx.conn, _of(lease)))

    # --- W3, W4, W5 -----------------------------------------------------------------------------------------------------

    def launching(self, lease: Lease, *, token_hash: str, now: datetime, event: NewEvent | None = None) -> Attempt | None:
        """Record the intent to launch and the token's hash (W3); None when the lease is stale or it is past launching."""

        def work(tx: Transaction) -> Attempt | None:
            old = load_attempt(tx.conn, lease.attempt_id)
            if old is None or (old.state, AttemptEvent.LEASED) not in ATTEMPT:
                return None
            new, _ = advance_attempt(old, AttemptEvent.LEASED, now)
            new = replace(new, token_hash=token_hash, replicas=_moved_replicas(new.replicas, AttemptState.LAUNCHING))
            if not _save(tx, old, new, lease):
                return None
            _LAUNCHING.run(tx.conn, {"of": new.id})
            tx.tell(event, "attempts")
            return new

        return self._db.write(work)

    def record_handle(self, lease: Lease, replica: int, handle: Mapping[str, object], *, now: datetime) -> bool:  # noqa: ARG002
        """Record what the backend calls a replica (W4); False, and nothing written, when the lease is stale."""

        def work(tx: Transaction) -> bool:
            return _HANDLE.run(tx.conn, _of(lease) | {"at": replica, "handle": dict(handle)}) == 1

        return self._db.write(work)

    def beat(self, id: str, replica: int, *, state: str, address: str = "", now: datetime) -> Attempt:
        """Record a sign of life (W5) and bring the attempt forward; a quiet one writes one row. Raises NotFoundError."""
        return self._db.write(lambda tx: _beat(tx, id, replica, state, address.replace("\x00", ""), now))

    def set_unknown(self, id: str, replica: int, since: datetime | None, reason: Reason | None = None) -> None:
        """Record since when nothing is known of a replica (None: something is), and tell it on the run while that runs."""

        def work(tx: Transaction) -> None:
            mine = update(replicas).where(replicas.c.attempt == id, replicas.c.index == replica)
            tx.conn.execute(mine.values(unknown_since=since))
            of = select(attempts.c.run).where(attempts.c.id == id, attempts.c.state != AttemptState.ENDED).scalar_subquery()
            tx.conn.execute(update(runs).where(runs.c.id == of, runs.c.state == RunState.RUNNING).values(reason=reason))
            tx.topics.update({"attempts", "runs", "nodes"})

        self._db.write(work)

    def set_waiting(self, id: str, reason: Reason | None) -> None:
        """Tell on the run why its engine has not begun it (None: it has). Nothing happens once all of it was heard."""

        def work(tx: Transaction) -> None:
            unheard = select(replicas.c.attempt).where(replicas.c.last_beat_at.is_(None), replicas.c.ended_at.is_(None))
            mine = (attempts.c.id == id) & attempts.c.id.in_(unheard) & (attempts.c.state != AttemptState.ENDED)
            of = select(attempts.c.run).where(mine).scalar_subquery()
            tx.conn.execute(update(runs).where(runs.c.id == of, runs.c.state == RunState.RUNNING).values(reason=reason))
            tx.topics.update({"attempts", "runs"})

        self._db.write(work)

    def append(self, id: str, replica: int, chunks: Sequence[tuple[str, int, bytes]], *, now: datetime) -> dict[str, int]:
        """Store pieces of streams (W6): what is there already is ignored, a gap is refused. Idempotent.

        Each chunk is (stream, offset, bytes). Return the end of every stream of the replica. Raises NotFoundError.
        """
        if not chunks:
            return stream_ends(self._db, id, replica)
        return self._db.write(lambda tx: append_chunks(tx, id, replica, chunks, now=now))

    # --- the end --------------------------------------------------------------------------------------------------------

    def ask_stop(self, id: str, cause: Cause, *, stop_by: datetime, event: NewEvent | None = None) -> Attempt:
        """Record that and why an attempt is to stop. The first cause stands; a later call may only bring `stop_by` forward."""

        return self._db.write(lambda tx: stop_attempt(tx, id, cause, stop_by=stop_by, event=event))

    def ask_checkpoint(self, id: str, *, event: NewEvent | None = None) -> Attempt:
        """Count one more checkpoint that is asked for; nothing changes once the attempt is stopping or has ended."""

        def change(attempt: Attempt, _at: datetime) -> Attempt:
            if attempt.stop_cause is not None or attempt.state is AttemptState.ENDED:
                return attempt
            return replace(attempt, checkpoint_no=attempt.checkpoint_no + 1, version=attempt.version + 1)

        return self._db.write(lambda tx: _change(tx, id, change, event))

    def finish(
        self,
        id: str,
        replica: int,
        outcome: Outcome,
        *,
        outputs: Mapping[str, Value] | None = None,
        now: datetime,
        backoff_s: float = 0.0,
        late_s: float = 0.0,
        event_actor: str = "runner",
    ) -> tuple[Attempt, Run]:
        """Record the confirmed end of a replica (W7); that of the last one ends the attempt and advances the run.

        What it held is free from `now`; it ended `late_s` before that, which tells how long it took.

        Idempotent: a second call returns what is there. Raises NotFoundError.
        """
        ending = Ending(outcome=outcome, at=now, backoff_s=backoff_s, late_s=late_s)
        return self._db.join(end_all, End(AttemptId(id), replica, ending, dict(outputs or {}), event_actor))

    def give_up(self, seen: Attempt, replica: int, outcome: Outcome, *, now: datetime) -> tuple[Attempt, Run]:
        """End a replica whose end nobody has seen (P4); nothing is written if it was heard since it was read as `seen`.

        It keeps its `unknown_since`: its node takes nothing until the end is seen. Raises NotFoundError.
        """

        def work(tx: Transaction) -> tuple[Attempt, Run]:
            mine = (replicas.c.attempt == seen.id) & (replicas.c.index == replica)
            since = member_of(seen, replica).unknown_since or now
            tx.conn.execute(update(replicas).where(mine).values(unknown_since=since))  # a beat comes before this, or after all
            current = need_attempt(tx.conn, seen.id)
            if member_of(current, replica).last_beat_at != member_of(seen, replica).last_beat_at:
                tx.conn.execute(update(replicas).where(mine).values(unknown_since=None))
                return current, need_run(tx.conn, current.run)
            end = End(seen.id, replica, Ending(outcome=outcome, at=now), {}, "scheduler", is_seen=False)
            return end_all(tx, [end])[0]

        return self._db.write(work)


# --- within a transaction -----------------------------------------------------------------------------------------------

# Made once: to build such a statement and to find what was compiled for it costs more than to run it.
_OF_RUN = Statement(select(attempts).where(attempts.c.run == bindparam("of")).order_by(attempts.c.number))
_NEW = Statement(attempts.insert())
_NEW_MEMBERS = Statement(replicas.insert())
_HAS_NO_HANDLE = select(replicas.c.attempt).where(replicas.c.handle == {}, replicas.c.ended_at.is_(None))
_IS_DUE = (
    (attempts.c.state == AttemptState.ALLOCATED)
    | (attempts.c.state == AttemptState.LAUNCHING)
    | attempts.c.stop_cause.is_not(None)
)
_PENDING = Statement(
    select(attempts)
    .where(attempts.c.state != AttemptState.ENDED, _IS_DUE | attempts.c.id.in_(_HAS_NO_HANDLE))
    .order_by(attempts.c.created_at, attempts.c.id)
)
_IS_HELD = (
    (attempts.c.id == bindparam("of")) & (attempts.c.fence == bindparam("held")) & (attempts.c.lease_owner == bindparam("mine"))
)
_WHERE_HELD = Statement(SAME.where(_IS_HELD))
_GIVE_UP = Statement(update(attempts).where(_IS_HELD).values(lease_owner="", lease_until_s=0.0))
_LAUNCHING = Statement(
    update(replicas)
    .where(replicas.c.attempt == bindparam("of"), replicas.c.state == AttemptState.ALLOCATED)
    .values(state=AttemptState.LAUNCHING)
)
_HANDLE = Statement(
    update(replicas).where(
        replicas.c.attempt.in_(select(attempts.c.id).where(_IS_HELD).scalar_subquery()), replicas.c.index == bindparam("at")
    )
)
_BEGAN = Statement(
    update(runs)
    .where(runs.c.id == bindparam("of"), runs.c.state == RunState.RUNNING, runs.c.reason.is_not(None))
    .values(reason=null())
)
_MEMBERS = Listed(lambda ids: select(replicas).where(replicas.c.attempt.in_(ids)).order_by(replicas.c.index))
_LIVING = Statement(IS_MEMBER.where(replicas.c.ended_at.is_(None)))


def stop_attempt(
    tx: Transaction, id: str, cause: Cause, *, stop_by: datetime, stop_for: str = "", event: NewEvent | None = None
) -> Attempt:
    """Record that and why an attempt is to stop, and for which run. The first cause stands."""

    def change(attempt: Attempt, at: datetime) -> Attempt:
        if attempt.state is AttemptState.ENDED:
            return attempt
        if attempt.stop_cause is not None:
            sooner = attempt.stop_by is None or stop_by < attempt.stop_by
            return replace(attempt, stop_by=stop_by, version=attempt.version + 1) if sooner else attempt
        stopping, _ = advance_attempt(attempt, AttemptEvent.STOP_ASKED, at)
        return replace(stopping, stop_cause=cause, stop_by=stop_by, stop_for=stop_for)

    return _change(tx, id, change, event)


def insert_attempts(tx: Transaction, new: Sequence[Attempt]) -> None:
    """Write new attempts with their replicas."""
    _NEW.many(tx.conn, [values_of(one, attempts) for one in new])
    members = [values_of(member, replicas) | {"attempt": one.id} for one in new for member in one.replicas]
    _NEW_MEMBERS.many(tx.conn, members)
    tx.topics.add("attempts")


def allocations_of(attempt: Attempt, run: Run, *, share: str, now: datetime, ids: Ids) -> list[dict[str, object]]:
    """Return the rows of what an attempt's replicas hold from now on, for the share that it counts to."""
    held = (
        Allocation(
            id=ids.new("alloc"),
            attempt=attempt.id,
            replica=replica.index,
            run=run.id,
            owner=run.owner,
            node=replica.node,
            granted=replica.granted,
            opened_at=now,
            share=share,
        )
        for replica in attempt.replicas
    )
    return [values_of(one, allocations) for one in held]


def _attempts_of(conn: Connection, rows: Sequence[Mapping[Any, Any]]) -> list[Attempt]:
    members: dict[str, list[Replica]] = {row["id"]: [] for row in rows}
    for row in _MEMBERS.rows(conn, list(members)):
        members[row["attempt"]].append(record_of(Replica, replicas, row))
    return [record_of(Attempt, attempts, row, replicas=tuple(members[row["id"]])) for row in rows]


def _of(lease: Lease) -> dict[str, object]:
    return {"of": lease.attempt_id, "held": lease.fence, "mine": lease.owner}


def _save(tx: Transaction, old: Attempt, new: Attempt, lease: Lease | None = None) -> bool:
    row = changes_of(old, new, attempts)
    row |= {"of": old.id, "seen": old.version}
    tx.topics.add("attempts")
    if lease is None:
        return WHERE_SAME.run(tx.conn, row) == 1
    return lease.attempt_id == old.id and _WHERE_HELD.run(tx.conn, row | _of(lease)) == 1


def _change(tx: Transaction, id: str, change: Callable[[Attempt, datetime], Attempt], event: NewEvent | None) -> Attempt:
    for _ in range(_CAS_TRIES):
        old = need_attempt(tx.conn, id)
        new = change(old, tx.clock.now())
        if new is old:
            return old
        if _save(tx, old, new):
            tx.tell(event, "attempts")
            return new
    raise StaleWriteError(f"Attempt {id} changes too fast.", hint="Try again.")


def _moved_replicas(members: tuple[Replica, ...], state: AttemptState) -> tuple[Replica, ...]:
    return tuple(replace(one, state=state) if _RANK[one.state] < _RANK[state] else one for one in members)


def _beat(tx: Transaction, id: str, index: int, said: str, address: str, now: datetime) -> Attempt:
    attempt = need_attempt(tx.conn, id)
    member = member_of(attempt, index)
    if attempt.state is AttemptState.ENDED or member.ended_at is not None:
        return attempt
    state, event = _BEATS.get(said, _BEATS["starting"])
    new = replace(
        member,
        state=state if _RANK[state] > _RANK[member.state] else member.state,
        address=address or member.address,
        last_beat_at=now,
    )
    row = {"last_beat_at": now} | ({"state": new.state, "address": new.address} if new.state != member.state or address else {})
    if _LIVING.run(tx.conn, row | {"of": id, "at": index}) == 0:
        return need_attempt(tx.conn, id)  # it was given up at this moment: the answer says so
    if member.last_beat_at is None and all(one.last_beat_at for one in attempt.replicas if one.index != index):
        _BEGAN.run(tx.conn, {"of": attempt.run})  # its engine kept it waiting until now

    def advance(current: Attempt, at: datetime) -> Attempt:
        is_new = ATTEMPT.get((current.state, event)) is not current.state
        is_first = event is AttemptEvent.USER_STARTED and current.started_at is None
        if current.state is AttemptState.ENDED or not (is_new or is_first):
            return current
        return advance_attempt(current, event, at)[0]

    if new.address != member.address:
        tx.topics.add("endpoints")
    if new.state is AttemptState.RUNNING and member.state is not new.state and has_failures(tx.conn):
        note_begin(tx, attempt.run, member.node, now)
    moved = advance(attempt, now)
    if moved is not attempt and not _save(tx, attempt, moved):
        moved = _change(tx, id, lambda current, _at: advance(current, now), None)
    elif new.address != member.address or new.state is not member.state:
        tx.topics.add("attempts")
    return replace(moved, replicas=tuple(new if one.index == index else one for one in moved.replicas))
