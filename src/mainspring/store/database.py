"""Transactions: one writer thread a process, whose callers share commits.

`Database.write(work)` runs `work(tx)` in a transaction and returns after the commit. What `work` leaves in `tx.events` is
numbered and written last, what it leaves in `tx.topics` is told to the listeners after the commit. `work` may run more than
once (after another's error, after a connection that was lost), so it must not act on anything but `tx`. `Database.join(work,
item)` is for what comes in crowds: `work(tx, items)` writes the items of all who wait for the same commit, in few statements.
Processes that share a PostgreSQL take turns: a transaction that writes has the database's writers to itself, as on SQLite, so
none meets a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Float, Text, bindparam, cast, exc, func, literal, select, update
from sqlalchemy.engine import URL
from sqlalchemy.sql import ColumnElement

from mainspring.core.clock import Clock
from mainspring.core.codec import encode
from mainspring.core.errors import MainspringError, StoreError
from mainspring.core.ids import Ids
from mainspring.store import tables
from mainspring.store.driver import find_alive, forget, settle, tell_driver, tell_later
from mainspring.store.engines import open_engines
from mainspring.store.failures import is_lost, is_undone, translate
from mainspring.store.statements import Row, Statement
from mainspring.store.wakeups import Wakeups

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
T = TypeVar("T")
Listener = Callable[[set[str]], None]

_NOTHING: Mapping[str, Any] = {}
_MAX_BATCH = 256
_READERS = 16  # connections that wait for the next read, at most
_COUNTED = Statement(select(tables.counters.c.value).where(tables.counters.c.name == bindparam("of")))
_COUNT = Statement(
    update(tables.counters)
    .where(tables.counters.c.name == bindparam("of"))
    .values(value=tables.counters.c.value + bindparam("by"))
)
_EVENTS = Statement(tables.events.insert().values(data=bindparam("json", type_=Text)))  # encoded when it was told
_FENCE = Statement(select(tables.meta.c.value).where(tables.meta.c.name == "fence"))


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is yet to be numbered: who did what to which record. `data` holds JSON values."""

    actor: str
    kind: str
    subject: str
    project: str = ""
    data: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Transaction:
    """One piece of work within a transaction: its connection, the events to append and the topics it touched."""

    conn: Connection
    clock: Clock
    ids: Ids
    lease_clock: Callable[[], ColumnElement[float]]
    topics: set[str] = field(default_factory=set)
    events: list[NewEvent] = field(default_factory=list)

    @property
    def lease_now(self) -> ColumnElement[float]:
        """The time that leases run on, as an expression."""
        return self.lease_clock()

    def tell(self, happened: NewEvent | None, *topics: str) -> None:
        """Append `happened` (None: nothing) when this work commits, and wake the listeners of `topics`."""
        if happened is not None:
            self.events.append(happened)
            self.topics.add("events")
        self.topics.update(topics)

    def count(self, counter: str, by: int = 1) -> int:
        """Return the counter's value after adding `by`; who writes has the database to itself, so values commit in order."""
        value = int(_COUNTED.rows(self.conn, {"of": counter})[0]["value"])
        _COUNT.many(self.conn, [{"of": counter, "by": by}] if by else [])
        return value + by

    def flush_events(self) -> int:
        """Write the events; return the last number, 0 without any. Comes last, so that locks are always taken in one order."""
        rows = self.take_events()
        return self.write_events(rows) if rows else 0

    def take_events(self) -> list[dict[str, Any]]:
        """Return the rows of the events, which are not to be written by `flush_events` then."""
        at = self.clock.now()
        rows = [
            {
                "at": at,
                "actor": e.actor,
                "kind": e.kind,
                "subject": e.subject,
                "project": e.project,
                "json": encode(e.data).decode(),
            }
            for e in self.events
        ]
        self.events.clear()
        return rows

    def write_events(self, rows: Sequence[dict[str, Any]]) -> int:
        """Number the events and write them; return the last number."""
        last = self.count("events", len(rows))
        _EVENTS.many(self.conn, [row | {"seq": seq} for seq, row in enumerate(rows, last - len(rows) + 1)])
        return last


Work = Callable[[Transaction], T]
Joined = Callable[[Transaction, Sequence[Item]], Sequence[T]]  # results in the order of the items


def _closed_door() -> threading.Lock:
    door = threading.Lock()
    door.acquire()
    return door


@dataclass(slots=True)
class _Job:
    """A piece of work that its caller waits for, at a lock: a future takes several times as long to be waited for."""

    work: Joined[Any, Any]
    item: Any
    door: threading.Lock = field(default_factory=_closed_door)  # its caller goes through once it is over
    is_over: bool = False
    error: Exception | None = None
    topics: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None

    def end(self, error: Exception | None = None) -> None:
        """Let the caller have the result, or the error."""
        self.error, self.is_over = error, True
        self.door.release()

    def outcome(self) -> Any:
        """Wait for the end; return the result or the error."""
        self.door.acquire()
        return self.result if self.error is None else self.error


class _JobFailedError(Exception):
    """One job of a batch failed, so the batch was undone."""


class Database:
    """Reads and writes of one database. Thread safe; refuses threads that run an event loop."""

    def __init__(self, url: URL, *, clock: Clock, ids: Ids) -> None:
        self.url, self.clock, self.ids = url, clock, ids
        self.is_postgres = url.get_backend_name() == "postgresql"
        self._listeners: list[Listener] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._writing: Connection | None = None  # the writer's own
        self._resting: list[Connection] = []  # for reads: a pool's locks and signs of life take longer than most of them
        self._door = threading.Lock()  # nothing is queued behind the farewell
        self._fence = 0
        self._core: int | None = None
        self._is_closed = False
        self.engine, self.write_engine = open_engines(url)
        self._wakeups = Wakeups(self.write_engine, self._wake) if self.is_postgres else None

    def start(self, fence: int) -> None:
        """Begin to accept writes; on SQLite as the owner with number `fence`."""
        self._fence, self._core = fence, None if self.is_postgres else _a_core()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Finish what is queued, then refuse. Idempotent."""
        with self._door:
            was_closed, self._is_closed = self._is_closed, True
            if not was_closed:
                self._jobs.put(None)
        if self._writer is not None and not was_closed:
            self._writer.join()
        if self._wakeups is not None and not was_closed:
            self._wakeups.close()
        while self._resting:
            self._resting.pop().close()
        self.engine.dispose()
        self.write_engine.dispose()

    def stay_near_writer(self) -> None:
        """Keep the calling thread on the one processor that SQLite's writer keeps to; nothing where there is no choice.

        Each step of a statement gives the interpreter's lock away and takes it again. Between threads of one processor that is
        a third of what it is across two, where each has to wake up: the writer gets half as much done otherwise. For threads
        that start no program and no thread: those would inherit it.
        """
        if self._core is not None:
            with suppress(OSError):  # taken from this process meanwhile
                os.sched_setaffinity(0, {self._core})

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call `callback(topics)` after each commit; return what ends it. The callback must not block, nor call the store."""
        self._listeners.append(callback)
        if self._wakeups is not None:
            self._wakeups.listen()
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def lease_now(self) -> ColumnElement[float]:
        """Return the expression for the time that leases run on: the database's clock, or this process's monotonic one."""
        if self.is_postgres:
            return cast(func.extract("epoch", func.clock_timestamp()), Float)
        return literal(self.clock.monotonic())

    def read(self, ask: Callable[[Connection], T]) -> T:
        """Return `ask(conn)`, run in one read transaction: all that it sees is of one instant.

        It may run more than once: a connection that rested may have died meanwhile.
        """
        _refuse_event_loop()
        self._check_open()
        with _translated():
            while True:
                resting = self._rested()
                conn = resting or self.engine.connect()
                try:
                    found = ask(conn)
                    conn.commit()  # psycopg forgets what it prepared at a ROLLBACK; nothing where no transaction was begun
                except exc.DBAPIError as wrong:
                    conn.close()
                    if resting is None or not is_lost(wrong):
                        raise
                except BaseException:
                    conn.close()
                    raise
                else:
                    self._rest(conn)
                    return found

    def ask(self, statement: Statement, given: Mapping[str, Any] = _NOTHING) -> list[Row]:
        """Return the rows of one statement, which needs no transaction: it is of one instant by itself."""
        return self.read(lambda conn: statement.alone(conn, given))

    def write(self, work: Work[T]) -> T:
        """Return `work(tx)` after its commit. Raises what `work` raised, then nothing of it was written."""
        found = self.write_all([work])[0]
        if isinstance(found, BaseException):
            raise found
        return found

    def join(self, work: Joined[Item, T], item: Item) -> T:
        """Return what `work(tx, items)` has for `item`, after its commit; the other items are of those who wait for that too.

        `work` is a function of a module. Where it raises, each item is tried by itself, and its caller gets its error.
        """
        found = self._wait_for([_Job(work, item)])[0]
        if isinstance(found, BaseException):
            raise found
        result: T = found
        return result

    def write_all(self, works: Sequence[Work[T]]) -> list[T | BaseException]:
        """Run each of `works` all or nothing and return results or errors in order; they share commits."""
        return self._wait_for([_Job(_alone, work) for work in works])

    def _wait_for(self, jobs: Sequence[_Job]) -> list[Any]:
        _refuse_event_loop()
        self._check_open()
        if threading.current_thread() is self._writer:
            raise RuntimeError("The store was called from within a transaction or a commit listener.")
        with self._door:
            self._check_open()
            for job in jobs:
                self._jobs.put(job)
        return [job.outcome() for job in jobs]

    def _rested(self) -> Connection | None:
        try:
            return self._resting.pop()  # the one used last: one reader at a time needs one
        except IndexError:
            return None

    def _rest(self, conn: Connection) -> None:
        if self._is_closed or len(self._resting) >= _READERS:
            conn.close()
        else:
            self._resting.append(conn)

    # --- the writer -----------------------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        self.stay_near_writer()
        is_last = False
        while not is_last:
            batch, is_last = self._next_batch()
            try:
                if batch:
                    self._write_batch(batch)
            except Exception as wrong:  # top of a loop: the writer must outlive whatever one batch meets
                logger.exception("a batch of writes failed", extra={"jobs": len(batch)})
                self._hang_up()
                _refuse_all(batch, translate(wrong))
        self._hang_up()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) >= _MAX_BATCH:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write_batch(self, batch: list[_Job]) -> None:
        try:
            done = self._commit_again(batch)
        except (exc.DBAPIError, MainspringError) as wrong:
            self._hang_up()
            return _refuse_all(batch, translate(wrong))
        for job in done:
            job.end()
        self._wake(_topics_of(done))
        return None

    def _commit_again(self, batch: list[_Job]) -> list[_Job]:
        """Commit a batch; once more where the connection had died before, or where one caller's error undid it."""
        try:
            return self._commit(batch, self._run_bare)
        except _JobFailedError:  # the error is its own: each in a savepoint
            return self._commit(batch, self._run_guarded)
        except exc.DBAPIError as wrong:
            if not is_lost(wrong):
                raise
            self._hang_up()
            return self._commit(batch, self._run_guarded)

    def _commit(self, batch: list[_Job], run: Callable[[Connection, list[_Job]], list[_Job]]) -> list[_Job]:
        """Run a batch in one transaction; return the jobs that were written. Raises StoreError where the commit failed."""
        conn = self._writing = self._writing or self.write_engine.connect()
        with conn.begin() as transaction:
            self._check_fence(conn)
            _COUNTED.ahead(conn, {"of": "events"})
            done = run(conn, [job for job in batch if not job.is_over])
            events = [event for job in done for event in job.events]
            if events:  # of all jobs at once, in their order
                self._transaction(conn).write_events(events)
            if self._wakeups is not None and (topics := _topics_of(done)):
                self._wakeups.tell(conn, topics)
            try:
                transaction.commit()
            except exc.DBAPIError as wrong:
                if run != self._run_guarded and not is_undone(conn, wrong):
                    raise _JobFailedError from wrong  # a statement that was put off: nothing is written
                raise translate(wrong) from wrong
        return done

    def _run_bare(self, conn: Connection, batch: list[_Job]) -> list[_Job]:
        """Run jobs that nobody expects to fail, those of one kind together. Raises _JobFailedError."""
        done: list[_Job] = []
        try:
            for jobs in _kinds(batch):
                self._run(conn, jobs)
                done += jobs
            find_alive(conn)
        except Exception as wrong:  # whosever it is: each by itself tells
            if is_undone(conn, wrong):
                raise
            raise _JobFailedError from wrong
        return done

    def _run_guarded(self, conn: Connection, batch: list[_Job]) -> list[_Job]:
        """Run each job in a savepoint; return those that wait for the commit (the others have got their errors)."""
        done: list[_Job] = []
        for job in batch:
            tell_driver(conn, "SAVEPOINT job")
            try:
                self._run(conn, [job])
                settle(conn)
            except Exception as wrong:  # its savepoint is undone, the batch goes on
                if is_undone(conn, wrong):
                    raise
                forget(conn)
                tell_driver(conn, "ROLLBACK TO job")
                tell_later(conn, "RELEASE job")
                job.end(translate(wrong))
            else:
                tell_later(conn, "RELEASE job")
                done.append(job)
        return done

    def _run(self, conn: Connection, jobs: Sequence[_Job]) -> None:
        """Run one job, or several of a kind; the first has their events and topics."""
        tx, first = self._transaction(conn), jobs[0]
        for job, result in zip(jobs, first.work(tx, [one.item for one in jobs]), strict=True):
            job.result, job.events, job.topics = result, [], set()
        first.events, first.topics = tx.take_events(), tx.topics

    def _transaction(self, conn: Connection) -> Transaction:
        return Transaction(conn=conn, clock=self.clock, ids=self.ids, lease_clock=self.lease_now)

    def _hang_up(self) -> None:
        """Leave nothing open on the writer's connection, whatever state a failure left it in."""
        conn, self._writing = self._writing, None
        if conn is not None:
            try:
                conn.close()
            except exc.SQLAlchemyError:
                logger.warning("a connection was not closed", exc_info=True)

    def _check_fence(self, conn: Connection) -> None:
        if self.is_postgres:
            return
        found = _FENCE.rows(conn, {})[0]["value"]
        if int(found) != self._fence:
            raise StoreError(
                "Another process took the database over while this one held it.",
                hint="Its lock file was removed by hand; stop this server.",
                details={"fence": self._fence, "found": int(found)},
            )

    def _wake(self, topics: set[str]) -> None:
        if not topics:
            return
        for listener in tuple(self._listeners):
            try:
                listener(set(topics))
            except Exception:  # a listener is a hint: its failure must not look like a failed write
                logger.exception("a commit listener failed")

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError("The store is closed.", hint="The server is shutting down.")


def _a_core() -> int | None:
    """Return one of the processors that this process may use: not the same one for all; None where there is one, or no saying."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    return cores[os.getpid() % len(cores)] if len(cores) > 1 else None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.SQLAlchemyError, OverflowError) as wrong:
        raise translate(wrong) from wrong


def _alone(tx: Transaction, works: Sequence[Work[T]]) -> list[T]:
    """Run works that are joined with no others."""
    return [work(tx) for work in works]


def _kinds(batch: Sequence[_Job]) -> list[list[_Job]]:
    """Return the jobs, those of a kind that is joined beside each other: their callers wait at the same time, in any order."""
    found: list[list[_Job]] = []
    joined: dict[Joined[Any, Any], list[_Job]] = {}
    for job in batch:
        if job.work is _alone:
            found.append([job])
        elif job.work in joined:
            joined[job.work].append(job)
        else:
            found.append(joined.setdefault(job.work, [job]))
    return found


def _topics_of(jobs: Sequence[_Job]) -> set[str]:
    return {topic for job in jobs for topic in job.topics}


def _refuse_all(batch: list[_Job], wrong: Exception) -> None:
    for job in batch:
        if not job.is_over:
            job.end(wrong)


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("The store blocks: call it from a worker thread, not from an event loop (asyncio.to_thread).")
