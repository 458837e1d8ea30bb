"""What commands print: tables and sentences with colour for people, JSON for programs, errors without tracebacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mainspring.core.codec import to_plain
from mainspring.core.records import Run
from mainspring.core.units import show_seconds

WIDE = 200
_STATES = {
    "queued": ("○", "yellow"), "running": ("●", "blue"), "succeeded": ("✔", "green"), "failed": ("✘", "red"),
    "cancelled": ("⊘", "bright_black"), "ready": ("●", "green"), "starting": ("○", "yellow"), "failing": ("✘", "red"),
    "stopped": ("⊘", "bright_black"), "active": ("●", "blue"), "done": ("✔", "green"), "draining": ("◐", "yellow"),
    "unreachable": ("?", "red"), "dead": ("✘", "red"), "paused": ("‖", "yellow"), "waiting": ("○", "yellow"),
    "skipped": ("⊘", "bright_black"), "quarantined": ("◐", "red"),
}  # fmt: skip


def out() -> Console:
    """Return the console of results; wide when it is no terminal, so that nothing is cut for a pipe."""
    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else WIDE)


def note(text: str) -> None:
    """Say something beside the result, on stderr; `text` is printed as it is."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(text))


def done(value: object, text: str, *, as_json: bool) -> None:
    """Tell that something was done: a sentence for people, a value for programs."""
    if as_json:
        emit_json(value)
    else:
        say(text)


def emit_json(value: object) -> None:
    """Print `value` (records, JSON values) as JSON."""
    sys.stdout.write(json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n")


def one_line(value: object) -> str:
    """Return `value` as JSON on one line, for what programs read line by line."""
    return json.dumps(to_plain(value), ensure_ascii=False) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[Text | str]], *, empty: str = "") -> None:
    """Print a table, or `empty` when there are no rows."""
    listed = list(rows)
    if not listed:
        note(empty or "Nothing yet.")
        return
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column not in ("reason", "message", "description", "value"))
    for row in listed:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    out().print(made)


def facts(rows: Iterable[tuple[str, Text | str]]) -> None:
    """Print names and values, leaving out empty values."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value if isinstance(value, Text) else Text(value))
    out().print(made)


def say(text: str) -> None:
    """Print a sentence."""
    out().print(escape(text), soft_wrap=True)


def state(word: str) -> Text:
    """Return a state as icon and word in its colour: never by colour alone."""
    icon, colour = _STATES.get(word, ("·", "default"))
    return Text(f"{icon} {word}", style=colour)


def run_state(run: Run) -> Text:
    """Return the state of a run, with what is wanted of it when that differs."""
    if run.state == "queued" and run.desired == "paused":
        return state("paused")
    shown = state(run.state)
    if run.state == "running" and run.desired != "run":
        shown.append(" (stopping)", style="yellow")
    return shown


def short(id: str) -> str:
    """Return the end of an id: the chance part, which finds it again."""
    return id[-7:]


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago `moment` was."""
    if moment is None:
        return ""
    return show_seconds(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))


def took(run: Run) -> str:
    """Return how long the run has been running, or ran."""
    if run.started_at is None:
        return ""
    return show_seconds(max(0.0, ((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds()))
