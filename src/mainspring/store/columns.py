"""Column types and the way between rows and records: a table's columns bear the names of the record's fields.

Moments are whole microseconds since 1970 (exact, sortable, the same on every engine); nested values are canonical JSON text.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import BigInteger, Dialect, Table, Text
from sqlalchemy.types import TypeDecorator

from mainspring.core.codec import decoder, encode
from mainspring.core.errors import StoreError

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Return whole microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the UTC moment of `micros`; the inverse of `to_micros`."""
    return _EPOCH + timedelta(microseconds=micros)


class Moment(TypeDecorator[datetime]):
    """A timezone-aware moment as BIGINT microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return what is stored."""
        return None if value is None else to_micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return what was stored."""
        return None if value is None else from_micros(value)


class Plain(TypeDecorator[str]):
    """Text of any origin: PostgreSQL holds no NUL and no lone surrogate, so they are replaced, in questions too."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return what is stored."""
        return None if value is None else str(value).replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


class Choice(TypeDecorator[StrEnum]):
    """One member of a StrEnum as text."""

    impl = Text
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return what is stored."""
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002
        """Return what was stored."""
        return None if value is None else self.members(value)


class Json(TypeDecorator[Any]):
    """A nested value as canonical JSON text, decoded into `shape` (a type that msgspec knows)."""

    impl = Text
    cache_ok = True

    def __init__(self, shape: Any = Any) -> None:
        super().__init__()
        self.shape = shape

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return what is stored."""
        return None if value is None else encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return what was stored. Fields that a newer program wrote are ignored."""
        return None if value is None else unpack(value, self.shape)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Compare with text as text: LIKE on JSON must not encode its pattern."""
        return Text() if isinstance(value, str) else super().coerce_compared_value(op, value)


def unpack(text: str | bytes, shape: Any) -> Any:
    """Return the `shape` that JSON `text` of our own making holds. Raises StoreError when the row is damaged."""
    try:
        return decoder(shape).decode(text)
    except msgspec.MsgspecError as wrong:
        raise StoreError(f"A row of the database cannot be read: {wrong}.", hint="Restore a backup.") from wrong


@cache
def _shared(cls: Hashable, table: Table) -> tuple[str, ...]:
    return tuple(one.name for one in fields(cast(Any, cls)) if one.name in table.c)


def values_of(record: Any, table: Table) -> dict[str, Any]:
    """Return the values of `record` for those of its fields that are columns of `table`."""
    return {name: getattr(record, name) for name in _shared(cast(Hashable, type(record)), table)}


def changes_of(old: T, new: T, table: Table) -> dict[str, Any]:
    """Return the values of `new` for those of its fields that are columns of `table` and differ from `old`."""
    names = _shared(cast(Hashable, type(new)), table)
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in names)
    return {name: value for name, was, value in pairs if value is not was and value != was}


def record_of(cls: type[T], table: Table, row: Mapping[Any, Any], **more: Any) -> T:
    """Return the `cls` that `row` (of `table`) holds; `more` gives the fields that are no columns."""
    found = {name: row[name] for name in _shared(cast(Hashable, cls), table)}
    found.update(more)
    return cls(**found)
