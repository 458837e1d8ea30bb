"""One component for each thing that is shown: a state, a duration, a moment, a sentence, a table. The same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape

from nicegui import run, ui

from mainspring.core.records import Node, Run
from mainspring.core.units import show_seconds
from mainspring.services.clusters import Holder
from mainspring.services.context import Context
from mainspring.ui.theme import SERIES

_SHAPES = {
    "queued": '<circle cx="6" cy="6" r="4.5" fill="none" stroke="currentColor" stroke-width="1.5"/>',
    "running": '<path d="M3 2l7 4-7 4z" fill="currentColor"/>',
    "succeeded": '<path d="M2 6.5l3 3 5-7" fill="none" stroke="currentColor" stroke-width="1.8"/>',
    "failed": '<path d="M2 2l8 8M10 2l-8 8" stroke="currentColor" stroke-width="1.8"/>',
    "cancelled": '<path d="M2 6h8" stroke="currentColor" stroke-width="1.8"/>',
}
_LIKE = {
    "ready": "succeeded",
    "starting": "running",
    "launching": "running",
    "allocated": "queued",
    "failing": "failed",
    "refused": "failed",
    "passed": "succeeded",
    "stopped": "cancelled",
    "waiting": "queued",
    "active": "running",
    "done": "succeeded",
}


def state(word: str) -> str:
    """Return the markup of a state: icon, colour and word, never colour alone."""
    shape = _SHAPES.get(word) or _SHAPES.get(_LIKE.get(word, ""), _SHAPES["queued"])
    return (
        f'<span class="ms-state st-{escape(word)}"><svg viewBox="0 0 12 12" aria-hidden="true">{shape}</svg>{escape(word)}</span>'
    )


def text(value: object) -> str:
    """Return user text as text, never as markup."""
    return escape(str(value))


def link(label: object, target: str) -> str:
    """Return the markup of a link inside this site."""
    return f'<a href="{escape(target, quote=True)}">{escape(str(label))}</a>'


def moment(at: datetime | None, now: datetime | None = None) -> str:
    """Return a relative time with the exact one on hover."""
    if at is None:
        return ""
    ago = ((now or datetime.now(UTC)) - at).total_seconds()
    words = f"{show_seconds(abs(ago))} {'ago' if ago >= 0 else 'from now'}"
    return f'<time datetime="{at.isoformat()}" title="{at:%Y-%m-%d %H:%M:%S} UTC">{words}</time>'


def duration(one: Run, now: datetime | None = None) -> str:
    """Return how long the run has been going, or went."""
    if one.started_at is None:
        return ""
    return show_seconds(((one.ended_at or now or datetime.now(UTC)) - one.started_at).total_seconds())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, label: str = "") -> str:
    """Return a table of ready markup (use `text`, `link`, `state` for cells); `empty` is said when there are no rows."""
    if not rows:
        return f'<p class="ms-soft">{escape(empty)}</p>'
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f' aria-label="{escape(label, quote=True)}"' if label else ""
    inner = f'<table class="ms-table"{caption}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="ms-scroll">{inner}</div>'


def pairs(items: Sequence[tuple[str, str]]) -> str:
    """Return a list of names and ready markup."""
    return '<dl class="ms-kv">' + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in items) + "</dl>"


def heading(words: str) -> None:
    """Draw the small heading above a block."""
    ui.html(f'<h2 class="ms-h">{escape(words)}</h2>', sanitize=False)


def sentence(words: str) -> ui.html:
    """Draw the sentence that opens a page; it may be set again."""
    return ui.html(f'<p class="ms-sentence">{escape(words)}</p>', sanitize=False)


def colour_of(name: str, names: Sequence[str]) -> str:
    """Return the colour of `name` among `names`; the same within one page."""
    return SERIES[sorted(names).index(name) % len(SERIES)] if name in names else SERIES[-1]


def gpu_map(nodes: Sequence[Node], holders: dict[str, tuple[Holder, ...]]) -> str:
    """Return one square for each GPU, filled from below by what its holders have, coloured by person."""
    people = sorted({holder.owner for held in holders.values() for holder in held})
    out = []
    for node in nodes:
        squares = []
        for device in node.devices:
            held = [
                (holder, share.milli)
                for holder in holders.get(node.id, ())
                for share in holder.granted.devices
                if share.index == device.index
            ]
            fills = "".join(
                f'<i style="height:{milli / 10}%;background:{colour_of(holder.owner, people)};opacity:.75"></i>'
                for holder, milli in held
            )
            who = ", ".join(f"{holder.owner}: {holder.name or 'a run'} ({milli / 1000:g})" for holder, milli in held) or "free"
            squares.append(
                f'<div class="ms-gpu" role="img" title="GPU {device.index} {escape(device.model)}: {escape(who)}" '
                f'aria-label="GPU {device.index}: {escape(who, quote=True)}">{fills}<b>{device.index}</b></div>'
            )
        cpu = f"{node.used_cpu_milli / 1000:g} of {node.cpu_milli / 1000:g} CPUs"
        out.append(
            f'<div><span class="ms-soft">{escape(node.name)} · {state(node.state.value)} · {cpu}</span>'
            f'<div class="ms-gpus">{"".join(squares) or "<span>no GPU</span>"}</div></div>'
        )
    legend = " ".join(
        f'<span style="border-left:10px solid {colour_of(one, people)};padding-left:4px">{escape(one)}</span>' for one in people
    )
    return f'{"".join(out)}<div class="ms-soft" style="margin-top:4px;display:flex;gap:12px">{legend}</div>'


async def live(ctx: Context, draw: Callable[[], str], topics: tuple[str, ...], *, every_s: float = 1.0) -> ui.html:
    """Draw markup, and draw it again after the topics have moved: one timer, no query while nothing moves.

    `draw` blocks (it asks the services) and runs in a thread.
    """
    seen = {"version": ctx.signals.version(*topics)}
    shown = ui.html(await run.io_bound(draw) or "", sanitize=False)

    async def again() -> None:
        version = ctx.signals.version(*topics)
        if version == seen["version"]:
            return
        seen["version"] = version
        fresh = await run.io_bound(draw) or ""
        if fresh != shown.content:
            shown.set_content(fresh)

    ui.timer(every_s, again)
    return shown
