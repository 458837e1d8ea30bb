"""Pages of runs: filters, orders and keyset cursors, so that page 100 costs what page 1 costs."""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import BigInteger

from mainspring.core.codec import decode_any, encode
from mainspring.core.errors import SpecError, UsageError
from mainspring.core.queries import MAX_PAGE, Page, RunFilter
from mainspring.store.tables import metrics, runs

_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class _Order:
    """Rows by `key`, then by order of submission, newest first (or oldest first); `is_rising` is the key's direction."""

    key: ColumnElement[Any]
    is_rising: bool
    is_seq_rising: bool = False
    metric: str = ""


def page_of_runs(conn: Connection, wanted: RunFilter, *, cursor: str, limit: int) -> Page[Mapping[Any, Any]]:
    """Return one page of rows of `runs`."""
    limit = max(1, min(limit, MAX_PAGE))
    order = _order_of(wanted.order)
    conditions = _conditions(wanted)
    total = int(conn.execute(select(func.count()).select_from(runs).where(*conditions)).scalar_one())
    # first only what the order needs: sorting whole rows, specifications and all, takes ten times as long
    asked: Select[Any] = select(runs.c.seq, order.key.label("order_key")).where(*conditions)
    if order.metric:
        asked = asked.outerjoin(metrics, and_(metrics.c.run == runs.c.id, metrics.c.name == order.metric))
    if cursor:
        asked = asked.where(_after(order, *_read_cursor(cursor, wanted.order)))
    key = order.key.asc() if order.is_rising else order.key.desc()
    seq = runs.c.seq.asc() if order.is_seq_rising else runs.c.seq.desc()
    found = conn.execute(asked.order_by(key, seq).limit(limit + 1)).all()
    following = _write_cursor(wanted.order, found[limit - 1].order_key, found[limit - 1].seq) if len(found) > limit else ""
    shown = [row.seq for row in found[:limit]]
    whole = select(runs).where(runs.c.seq.in_(shown))
    rows = {row["seq"]: row for row in conn.execute(whole).mappings()}
    return Page(items=tuple(rows[number] for number in shown), cursor=following, total=total)


def _order_of(order: str) -> _Order:
    match order.partition(":"):
        case ("newest", "", ""):
            return _Order(runs.c.seq, is_rising=False)
        case ("oldest", "", ""):
            return _Order(runs.c.seq, is_rising=True, is_seq_rising=True)
        case ("name", "", ""):
            return _Order(runs.c.name, is_rising=True)
        case ("state", "", ""):
            return _Order(runs.c.state, is_rising=True)
        case ("duration", "", ""):
            spent = runs.c.ended_at.op("-", return_type=BigInteger())(runs.c.started_at)
            return _Order(func.coalesce(spent, -1, type_=BigInteger()), is_rising=False)
        case ("metric", ":", name) if name.lstrip("-"):
            is_rising = name.startswith("-")
            missing = _LARGEST if is_rising else -_LARGEST  # runs without it come last
            return _Order(func.coalesce(metrics.c.last, missing), is_rising=is_rising, metric=name[1:] if is_rising else name)
        case _:
            raise UsageError(
                f"Runs cannot be ordered by {order[:60]!r}.",
                hint="Use newest, oldest, name, state, duration, metric:NAME or metric:-NAME.",
            )


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [runs.c.archived_at.is_not(None) if wanted.is_archived else runs.c.archived_at.is_(None)]
    if wanted.project:
        found.append(runs.c.project == wanted.project)
    if wanted.states:
        found.append(runs.c.state.in_(wanted.states))
    if wanted.owner:
        found.append(runs.c.owner == wanted.owner)
    if wanted.tag:
        found.append(runs.c.tags.contains(encode(wanted.tag).decode(), autoescape=True))
    if wanted.link_id:
        found.append(runs.c.link_id == wanted.link_id)
    found.extend(runs.c.search.contains(word, autoescape=True) for word in wanted.text.lower().replace("\x00", "").split()[:8])
    return found


def _after(order: _Order, key: Any, seq: int) -> ColumnElement[bool]:
    beyond = order.key > key if order.is_rising else order.key < key
    later = runs.c.seq > seq if order.is_seq_rising else runs.c.seq < seq
    return or_(beyond, and_(order.key == key, later))


def _write_cursor(order: str, key: object, seq: int) -> str:
    return base64.urlsafe_b64encode(encode([order, key, seq])).decode().rstrip("=")


def _read_cursor(cursor: str, order: str) -> tuple[Any, int]:
    try:
        made = decode_any(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        made_for, key, seq = made
    except (binascii.Error, SpecError, ValueError, TypeError) as wrong:
        raise UsageError("The cursor is malformed.", hint="Begin again without one.") from wrong
    is_text = order in ("name", "state")
    if made_for != order or not isinstance(seq, int) or not isinstance(key, str if is_text else int | float):
        raise UsageError("The cursor belongs to another order of the list.", hint="Begin again without one.")
    return key, seq
