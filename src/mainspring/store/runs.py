"""Runs: submitted once for each key, found by id or name, changed by compare-and-set on `version`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, delete, func, literal, or_, select, type_coerce, update
from sqlalchemy.sql import ColumnElement

from mainspring.core.errors import NotFoundError, StaleWriteError, StateError
from mainspring.core.ids import RunId
from mainspring.core.lifecycle import TERMINAL_RUN, cancel_queued, take_cached
from mainspring.core.queries import Page, RunFilter, Waiting
from mainspring.core.records import Desired, Run, RunState
from mainspring.store.columns import changes_of, record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.pages import page_of_runs
from mainspring.store.statements import Listed, Row, Statement
from mainspring.store.tables import allocations, attempts, checkpoints, metrics, runs
from mainspring.store.usage import book_of_runs

_CAS_TRIES = 20
_MIN_PART = 4
_MAX_FOUND = 50
_MAX_SEARCH = 4000
_CODE = re.compile(r'"code":"([a-z_]+)"')  # of a reason as canonical JSON
UNSET = object()


class Runs:
    """Reads and writes of runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def submit(self, run: Run, *, key: str = "", event: NewEvent | None = None) -> tuple[Run, bool]:
        """Write a new run (W1), numbered; the same (project, key) gives the run that is there, and False."""
        return self._db.join(submit_all, Submission(run, key, event))

    def get(self, id: str) -> Run | None:
        """Return the run with this id."""
        return self._db.read(lambda conn: load_run(conn, id))

    def some(self, ids: Sequence[str]) -> dict[str, Run]:
        """Return those of the runs `ids` (500 at most) that are there, by id."""
        asked = select(runs).where(runs.c.id.in_(ids[:500]))
        return {run.id: run for run in self._db.read(lambda conn: runs_of(conn, conn.execute(asked).mappings().all()))}

    def find(self, text: str, *, project: str = "") -> list[Run]:
        """Return the runs that `text` may mean, newest first: its id, else its name, else the beginning or end of its id."""
        return self._db.read(lambda conn: _find(conn, text, project))

    def page(self, wanted: RunFilter, *, cursor: str = "", limit: int = 100) -> Page[Run]:
        """Return one page in the filter's order. Raises UsageError for a cursor of another question."""

        def ask(conn: Connection) -> Page[Run]:
            page = page_of_runs(conn, wanted, cursor=cursor, limit=limit)
            return Page(items=tuple(runs_of(conn, page.items)), cursor=page.cursor, total=page.total)

        return self._db.read(ask)

    def cached(self, project: str, key: str) -> Run | None:
        """Return the run that succeeded with this cache key: the newest that was computed, else one that took its outputs."""
        found = self.keyed(project, key=key, limit=1)
        return found[0] if found else None

    def keyed(self, project: str, *, key: str = "", before: int = 1 << 62, limit: int = _MAX_FOUND) -> list[Run]:
        """Return runs that others may take their outputs from: those that were computed first, then newest first."""
        asked = select(runs).where(runs.c.project == project, runs.c.cache_key != "", runs.c.state == RunState.SUCCEEDED)
        asked = asked.where(runs.c.cache_key == key) if key else asked
        asked = asked.where(runs.c.seq < before).order_by(runs.c.cached_from != "", runs.c.seq.desc()).limit(limit)
        return self._db.read(lambda conn: runs_of(conn, conn.execute(asked).mappings().all()))

    def counts(self, project: str = "") -> dict[str, int]:
        """Return how many runs are in each state that occurs, without archived ones."""
        asked = select(runs.c.state, func.count()).where(runs.c.archived_at.is_(None)).group_by(runs.c.state)
        if project:
            asked = asked.where(runs.c.project == project)
        return self._db.read(lambda conn: {str(state): int(n) for state, n in conn.execute(asked).tuples()})

    def why_waiting(self) -> tuple[dict[str, int], datetime | None]:
        """Return how many runs wait for each reason (empty: none yet), and since when the first of them waits."""

        def ask(conn: Connection) -> tuple[dict[str, int], datetime | None]:
            found: Counter[str] = Counter()
            oldest = None
            asked = select(type_coerce(runs.c.reason, Text), runs.c.created_at).where(runs.c.state == RunState.QUEUED)
            for reason, created_at in conn.execute(asked).tuples():
                code = _CODE.search(reason) if reason else None
                found[code[1] if code is not None else ""] += 1
                oldest = created_at if oldest is None else min(oldest, created_at)
            return dict(found), oldest

        return self._db.read(ask)

    def waiting(self, *, projects: Sequence[str] | None = None, limit: int | None = None) -> list[Waiting]:
        """Return the queue, or the first `limit` of it: the more urgent first, then in order of submission.

        Of some `projects` where they are named.
        """
        wanted = literal(True) if projects is None else runs.c.project.in_(projects)
        return self._db.read(lambda conn: _waiting(conn, wanted, limit))

    def crowd(self) -> dict[tuple[str, str], int]:
        """Return how many runs wait, by project and owner."""
        persons = (runs.c.project, runs.c.owner)
        asked = select(*persons, func.count()).where(runs.c.state == RunState.QUEUED).group_by(*persons)
        return self._db.read(lambda conn: {(project, owner): int(n) for project, owner, n in conn.execute(asked).tuples()})

    def by_link(self, kind: str, id: str) -> list[Run]:
        """Return the runs of a sweep, a pipeline run or an endpoint in order of submission."""
        return self._where(runs.c.link_id == id, runs.c.link_kind == kind)

    def producers(self, digest: str, *, project: str) -> list[Run]:
        """Return the runs that have `digest` among their outputs, newest first."""
        named = cast(runs.c.outputs, Text).contains(f'"{digest}"', autoescape=True)
        asked = select(runs).where(runs.c.project == project, named).order_by(runs.c.seq.desc()).limit(_MAX_FOUND)
        return self._db.read(lambda conn: runs_of(conn, conn.execute(asked).mappings().all()))

    def set_desired(self, id: str, desired: Desired, *, event: NewEvent | None = None) -> Run:
        """Record what is wanted; a queued run that is to be cancelled is so at once. Raises StateError when it is done."""

        def change(run: Run, at: datetime) -> Run:
            if run.state in TERMINAL_RUN:
                raise StateError(
                    f"Run {run.name or run.id} is {run.state}: it cannot be changed any more.",
                    hint="Run it again: mainspring rerun RUN",
                )
            if run.desired is desired:
                return run
            if run.desired is Desired.CANCELLED:
                raise StateError(f"Run {run.name or run.id} is being cancelled.", hint="Use rerun when it has ended.")
            wanted = replace(run, desired=desired)
            if desired is Desired.CANCELLED and run.state is RunState.QUEUED:
                return cancel_queued(wanted, at)
            return replace(wanted, version=run.version + 1)

        return self._db.write(lambda tx: change_run(tx, id, change, event=event))

    def edit(
        self,
        id: str,
        *,
        priority: int | None = None,
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        archived_at: datetime | object | None = UNSET,
        event: NewEvent | None = None,
    ) -> Run:
        """Change what may be changed at any time."""
        added, removed = tuple(add_tags), frozenset(remove_tags)

        def change(run: Run, _at: datetime) -> Run:
            tags = tuple(dict.fromkeys(tag for tag in (*run.tags, *added) if tag not in removed))
            new = replace(run, tags=tags, priority=run.priority if priority is None else priority)
            if archived_at is not UNSET:
                new = replace(new, archived_at=archived_at)  # type: ignore[arg-type]
            return run if new == run else replace(new, version=run.version + 1)

        return self._db.write(lambda tx: change_run(tx, id, change, event=event))

    def delete(self, id: str, *, event: NewEvent | None = None) -> None:
        """Remove a run that is done, with attempts, logs and metrics. Raises NotFoundError, StateError."""

        def work(tx: Transaction) -> None:
            run = need_run(tx.conn, id)
            if run.state not in TERMINAL_RUN:
                raise StateError(
                    f"Run {run.name or id} is {run.state}: only runs that have ended can be removed.", hint="Cancel it first."
                )
            remove_runs(tx, [id])
            tx.tell(event, "runs")

        self._db.write(work)

    def _where(self, *conditions: ColumnElement[bool]) -> list[Run]:
        asked = select(runs).where(*conditions).order_by(runs.c.seq)
        return self._db.read(lambda conn: runs_of(conn, conn.execute(asked).mappings().all()))


# --- within a transaction -----------------------------------------------------------------------------------------------

# Made once: to build such a statement and to find what was compiled for it costs more than to run it.
_BY_ID = Statement(select(runs).where(runs.c.id == bindparam("of")))
_KEYED = Statement(select(runs).where(runs.c.project == bindparam("in"), runs.c.key == bindparam("key")))
# In order of id. On SQLite there is one writer; on PostgreSQL nobody writes them between the look and the commit.
_LOCKED = Listed(lambda ids: select(runs).where(runs.c.id.in_(ids)).order_by(runs.c.id).with_for_update())
_NEW = Statement(runs.insert())
_WHERE_SAME = Statement(update(runs).where(runs.c.id == bindparam("of"), runs.c.version == bindparam("seen")))
_LAST = Listed(
    lambda ids: select(metrics.c.run, metrics.c.name, metrics.c.last).where(
        metrics.c.run.in_(ids), metrics.c.last.is_not(None), metrics.c.odd == ""
    )
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A new run that is to be written, unless its project has one with the same `key`."""

    run: Run
    key: str = ""
    event: NewEvent | None = None


def submit_run(tx: Transaction, run: Run, *, event: NewEvent | None) -> Run:
    """Write one new run; see `submit_all`."""
    return submit_all(tx, [Submission(run, event=event)])[0][0]


def submit_all(tx: Transaction, wanted: Sequence[Submission]) -> list[tuple[Run, bool]]:
    """Write new runs (W1), numbered in their order; return each with True, or the run that has its key already with False.

    One that is `cached_from` another takes its outputs and last metrics here and now, if that one is still what it was.
    """
    found: dict[int, tuple[Run, bool]] = {}
    first: dict[tuple[str, str], int] = {}  # place of the one that is written for a key
    fresh: list[tuple[int, Run, Run | None]] = []
    for place, one in enumerate(wanted):
        known = _with_key(tx.conn, one.run.project, one.key) if one.key else None
        if known is not None:
            found[place] = known, False
        elif not one.key or first.setdefault((one.run.project, one.key), place) == place:
            fresh.append((place, *_from_cache(tx.conn, one.run)))
    last = tx.count("runs", len(fresh)) if fresh else 0
    numbered = [replace(run, seq=seq, version=1) for seq, (_, run, _) in enumerate(fresh, last - len(fresh) + 1)]
    _NEW.many(tx.conn, [_row_of(run, wanted[place].key) for (place, _, _), run in zip(fresh, numbered, strict=True)])
    for (place, _, source), run in zip(fresh, numbered, strict=True):
        tx.tell(wanted[place].event, "runs")
        found[place] = run, True
        if source is not None:
            _copy_metrics(tx.conn, source.id, run.id)
            tx.tell(NewEvent(run.owner, "run.succeeded", run.id, run.project, {"cached_from": source.id}), "runs")
            found[place] = replace(run, metrics=source.metrics), True
    for place, one in enumerate(wanted):
        if place not in found:  # the same key as one before it
            found[place] = found[first[one.run.project, one.key]][0], False
    return [found[place] for place in range(len(wanted))]


def _with_key(conn: Connection, project: str, key: str) -> Run | None:
    row = _KEYED.row(conn, {"in": project, "key": key})
    return None if row is None else runs_of(conn, [row])[0]


def _from_cache(conn: Connection, run: Run) -> tuple[Run, Run | None]:
    """Return the run with the outputs of the one that it is cached from, and that one; else without, and None."""
    source = load_run(conn, run.cached_from) if run.cached_from else None
    if source is not None and source.state is RunState.SUCCEEDED and source.cache_key == run.cache_key:
        return take_cached(run, source), source
    return replace(run, cached_from=""), None


def _row_of(run: Run, key: str) -> Row:
    link = run.spec.link
    return values_of(run, runs) | {
        "key": key or None,
        "link_kind": link.kind if link else "",
        "link_id": link.id if link else "",
        "link_key": link.key if link else "",
        "search": _search_text(run),
        "avoid": (),
    }


def _copy_metrics(conn: Connection, source: str, run: str) -> None:
    """Give a run the summaries of another's metrics: sweeps, gates and lists look at them. The curves stay with the other."""
    rows = conn.execute(select(metrics).where(metrics.c.run == source)).mappings().all()
    if rows:
        conn.execute(metrics.insert(), [{**row, "run": run} for row in rows])


def _waiting(conn: Connection, wanted: ColumnElement[bool], limit: int | None) -> list[Waiting]:
    facts = (runs.c.id, runs.c.name, runs.c.owner, runs.c.project, runs.c.priority, runs.c.reason)
    asked = (
        select(*facts).where(runs.c.state == RunState.QUEUED, wanted).order_by(runs.c.priority.desc(), runs.c.seq).limit(limit)
    )
    return [
        Waiting(run=RunId(id), name=name, owner=owner, project=project, priority=priority, reason=reason)
        for id, name, owner, project, priority, reason in conn.execute(asked).tuples()
    ]


def load_run(conn: Connection, id: str, *, has_metrics: bool = True) -> Run | None:
    """Return the run with this id, with the last values of its metrics if asked for."""
    row = _BY_ID.row(conn, {"of": id})
    if row is not None and not has_metrics:
        return record_of(Run, runs, row)
    return None if row is None else runs_of(conn, [row])[0]


def need_run(conn: Connection, id: str, *, has_metrics: bool = True) -> Run:
    """Return the run with this id. Raises NotFoundError."""
    run = load_run(conn, id, has_metrics=has_metrics)
    if run is None:
        raise NotFoundError(f"There is no run {id}.", hint="mainspring ps shows the runs.")
    return run


def save_run(tx: Transaction, old: Run, new: Run, **more: Any) -> bool:
    """Write `new` where the row is still `old`; say whether it was. `more` are columns that no field has."""
    row = changes_of(old, new, runs) | more
    if new.tags != old.tags:
        row["search"] = _search_text(new)
    tx.topics.add("runs")
    return _WHERE_SAME.run(tx.conn, row | {"of": old.id, "seen": old.version}) == 1


def lock_runs(conn: Connection, ids: Iterable[str]) -> list[Row]:
    """Return the rows of those of the runs `ids` that are there, by id, and let nobody else write them until the commit."""
    return _LOCKED.rows(conn, sorted(ids))


def save_runs(tx: Transaction, changed: Sequence[tuple[Run, Run, dict[str, Any]]]) -> None:
    """Write what became of runs that are locked: (as they were, as they are, columns that no field has)."""
    rows = [changes_of(old, new, runs) | more | {"of": old.id, "seen": old.version} for old, new, more in changed]
    _WHERE_SAME.many(tx.conn, rows)
    if rows:
        tx.topics.add("runs")


def change_run(tx: Transaction, id: str, change: Callable[[Run, datetime], Run], *, event: NewEvent | None) -> Run:
    """Write what `change` makes of the run, again if somebody wrote first. Unchanged: nothing is written, no event."""
    for _ in range(_CAS_TRIES):
        run = need_run(tx.conn, id)
        new = change(run, tx.clock.now())
        if new is run or new == run:
            return run
        if save_run(tx, run, new):
            tx.tell(event, "runs")
            return new
    raise StaleWriteError(f"Run {id} changes too fast.", hint="Try again.")


def runs_of(conn: Connection, rows: Sequence[Mapping[Any, Any]]) -> list[Run]:
    """Return the runs of `rows`, with the last values of their metrics."""
    last: dict[str, dict[str, float]] = {row["id"]: {} for row in rows}
    for found in _LAST.rows(conn, list(last)):
        last[found["run"]][found["name"]] = found["last"]
    return [record_of(Run, runs, row, metrics=last[row["id"]]) for row in rows]


def remove_runs(tx: Transaction, ids: Sequence[str]) -> None:
    """Remove runs with all that hangs on them (replicas, allocations, streams and chunks go with their attempts).

    What they used stays in the books.
    """
    conn = tx.conn
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        book_of_runs(tx, some)
        of_runs = select(attempts.c.id).where(attempts.c.run.in_(some))
        conn.execute(delete(allocations).where(allocations.c.attempt.in_(of_runs)))
        conn.execute(delete(attempts).where(attempts.c.run.in_(some)))
        conn.execute(delete(metrics).where(metrics.c.run.in_(some)))
        conn.execute(delete(checkpoints).where(checkpoints.c.run.in_(some)))
        conn.execute(delete(runs).where(runs.c.id.in_(some)))


def _find(conn: Connection, text: str, project: str) -> list[Run]:
    if not text:
        return []
    scope = [runs.c.project == project] if project else []
    exact = select(runs).where(runs.c.id == text, *scope)
    named = select(runs).where(runs.c.name == text, *scope)
    questions = [exact, named]
    if len(text) >= _MIN_PART:
        part = text.lower()
        starts = runs.c.id.startswith(part, autoescape=True) | runs.c.id.startswith("run-" + part, autoescape=True)
        questions.append(select(runs).where(or_(starts, runs.c.id.endswith(part, autoescape=True)), *scope))
    for asked in questions:
        rows = conn.execute(asked.order_by(runs.c.seq.desc()).limit(_MAX_FOUND)).mappings().all()
        if rows:
            return runs_of(conn, rows)
    return []


def _search_text(run: Run) -> str:
    return (
        " ".join((run.name, run.id, run.owner, " ".join(run.spec.command)[:_MAX_SEARCH], *run.tags)).lower().replace("\x00", "")
    )
