"""Questions with pages: filters, cursors, pages. Shared by store, API, client and UI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from mainspring.core.ids import RunId
from mainspring.core.reasons import Reason

T = TypeVar("T")
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some rows and where the next ones begin (`cursor` empty: these were the last). `total` counts all that match."""

    items: tuple[T, ...]
    cursor: str = ""
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued run as those see it who ask for the queue: without its specification."""

    run: RunId
    name: str
    owner: str
    project: str
    priority: int
    reason: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs. Empty fields do not restrict. `text` matches name, id, owner, command and tags.

    `states` are RunState values. `order` is `newest`, `oldest`, `name`, `state`, `duration` or `metric:NAME` (largest first;
    `metric:-NAME` smallest first).
    """

    project: str = ""
    states: tuple[str, ...] = ()
    owner: str = ""
    tag: str = ""
    text: str = ""
    link_id: str = ""
    is_archived: bool = False
    order: str = "newest"
