"""One component for each thing that is shown: a state, a duration, a moment, a sentence, a table. The same everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from nicegui import ui

from mainspring.core.errors import MainspringError
from mainspring.core.health import why_closed
from mainspring.core.records import Node, Run
from mainspring.core.units import show_seconds
from mainspring.services.clusters import Holder
from mainspring.ui.theme import SERIES

_COMMAND = re.compile("`([^`]*)`")
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
    "ended": "succeeded",
    "dead": "failed",
    "unreachable": "failed",
    "draining": "cancelled",
    "quarantined": "failed",
    "stopping": "cancelled",
    "paused": "cancelled",
    "skipped": "cancelled",
    "wins": "succeeded",
    "loses": "failed",
    "stays": "cancelled",
}


def state(word: str) -> str:
    """Return the markup of a state: icon, colour and word, never colour alone."""
    shape = _SHAPES.get(word) or _SHAPES.get(_LIKE.get(word, ""), _SHAPES["queued"])
    icon = f'<svg viewBox="0 0 12 12" aria-hidden="true">{shape}</svg>'
    return f'<span class="ms-state st-{escape(word)}">{icon}<span>{escape(word)}</span></span>'


def text(value: object) -> str:
    """Return user text as text, never as markup."""
    return escape(str(value))


def words(sentence: str) -> str:
    """Return one of our sentences; a command in `backquotes` looks like one."""
    return _COMMAND.sub(r"<code>\1</code>", escape(sentence))


def link(label: object, target: str) -> str:
    """Return the markup of a link inside this site."""
    return f'<a href="{escape(target, quote=True)}">{escape(str(label))}</a>'


def moment(at: datetime | None, now: datetime | None = None) -> str:
    """Return a relative time with the exact one on hover; the page's script keeps it true."""
    if at is None:
        return ""
    words = ago(((now or datetime.now(UTC)) - at).total_seconds())
    return f'<time datetime="{at.isoformat()}" title="{at:%Y-%m-%d %H:%M:%S} UTC">{words}</time>'


def ago(seconds: float) -> str:
    """Return how long ago in its largest unit: `now`, `7 s ago`, `3 h ago`."""
    whole = max(0, int(seconds))
    if whole < 1:
        return "now"
    for unit, size in (("s", 60), ("m", 3600), ("h", 86400)):
        if whole < size:
            return f"{whole // {'s': 1, 'm': 60, 'h': 3600}[unit]} {unit} ago"
    return f"{whole // 86400} d ago"


def ahead(seconds: float) -> str:
    """Return how far ahead in two units at most: `now`, `in 40 s`, `in 2 h 10 m`."""
    whole = max(0, round(seconds))
    return "now" if whole < 1 else f"in {_rough(whole)}"


def between(soon: float, late: float) -> str:
    """Return a stretch of time that lies ahead: `now to in 4 m`, `in 5 m to 2 h`."""
    if ahead(soon) == ahead(late):
        return ahead(soon)
    return f"{ahead(soon)} to {_rough(max(1, round(late)))}"


def _rough(seconds: int) -> str:
    """Return seconds as exactly as people plan: to five seconds, minutes, five minutes, hours."""
    step = next((step for most, step in ((60, 5), (3600, 60), (6 * 3600, 300)) if seconds < most), 3600)
    words = show_seconds(float(max(seconds - seconds % step, min(seconds, step))))
    return words.removesuffix(" 0 s").removesuffix(" 0 m").removesuffix(" 0 h")


def duration(one: Run, now: datetime | None = None) -> str:
    """Return how long the run has been going, or went."""
    if one.started_at is None:
        return ""
    return span(one.started_at, one.ended_at, now)


def span(begun: datetime, ended: datetime | None, now: datetime | None = None) -> str:
    """Return the time between two moments; while there is no end the page's script lets it grow."""
    if ended is not None:
        return show_seconds((ended - begun).total_seconds())
    words = show_seconds(max(0, int(((now or datetime.now(UTC)) - begun).total_seconds())) or 0.0) if begun else ""
    words = "0 s" if words == "0 ms" else words
    return f'<time class="ms-since" datetime="{begun.isoformat()}">{words}</time>'


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, label: str = "", numeric: Sequence[str] = ()
) -> str:
    """Return a table of ready markup (use `text`, `link`, `state` for cells); `empty` is said when there are no rows.

    A column may be markup when it begins with `<`. Columns named in `numeric` stand to the right.
    """
    if not rows:
        return f'<p class="ms-soft">{escape(empty)}</p>'
    right = [column in numeric for column in columns]
    head = "".join(
        f'<th scope="col"{" class=ms-num" if is_right else ""}>{column if column.startswith("<") else escape(column)}</th>'
        if column
        else "<td></td>"  # a head without words is none
        for column, is_right in zip(columns, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=ms-num' if is_right else ''}>{cell}</td>" for cell, is_right in zip(row, right, strict=True))
        + "</tr>"
        for row in rows
    )
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


def gpu_map(nodes: Sequence[Node], holders: Mapping[str, Sequence[Holder]], url: Callable[[str], str]) -> str:
    """Return one square for each GPU of each node, filled from below by what its holders have, coloured by person.

    A square leads to the run that holds most of it; `url` makes an address on this site.
    """
    people = sorted({holder.owner for held in holders.values() for holder in held})
    out: list[str] = []
    for node in nodes:
        cpu = f"{node.used_cpu_milli / 1000:g} of {node.cpu_milli / 1000:g} CPUs"
        named = f'{escape(node.name)} {state(node.state.value)} <span class="ms-soft">{cpu}</span>'
        named += "".join(why_line(one) for one in why_closed(node))
        out.append(f'<div class="ms-node"><div>{named}</div>{squares(node, holders.get(node.id, ()), people, url)}</div>')
    return f'<div class="ms-nodes">{"".join(out)}</div>{legend(people)}'


def legend(people: Sequence[str]) -> str:
    """Return whose colour is which, for squares."""
    named = "".join(f'<span><i style="background:{colour_of(one, people)}"></i>{escape(one)}</span>' for one in people)
    return f'<div class="ms-legend" style="margin-top:4px">{named}</div>' if named else ""


def squares(node: Node, held: Sequence[Holder], people: Sequence[str], url: Callable[[str], str]) -> str:
    """Return the GPUs of one node as squares."""
    out = []
    for device in node.devices:
        shares = [(one, share.milli) for one in held for share in one.granted.devices if share.index == device.index]
        fills = "".join(
            f'<i style="height:{milli / 10}%;background:{colour_of(one.owner, people)}"></i>' for one, milli in shares
        )
        who = ", ".join(f"{one.owner}: {one.name or 'a run'} ({milli / 1000:g})" for one, milli in shares) or "free"
        is_out = device.index in node.out()
        kind = "ms-gpu is-out" if is_out else "ms-gpu"
        told = escape(f"GPU {device.index} {device.model}: {who}{', taken out' if is_out else ''}", quote=True)
        inner = f'title="{told}" aria-label="{told}">{fills}<b>{device.index}</b>'
        shown = [(milli, one.run) for one, milli in shares if one.name]  # runs of projects that one is not in have no name here
        if shown:
            out.append(f'<a class="{kind}" href="{escape(url(f"/runs/{max(shown)[1]}"), quote=True)}" {inner}</a>')
        else:
            out.append(f'<div class="{kind}" role="img" {inner}</div>')
    return f'<div class="ms-gpus">{"".join(out)}</div>' if out else '<span class="ms-soft">no GPU</span>'


def why(sentence: str) -> str:
    """Return the sentence that tells why, below a state."""
    return f'<div class="ms-why">{words(sentence)}</div>' if sentence else ""


def why_line(sentence: str) -> str:
    """Return the sentence that tells why, cut to one line; all of it on hover."""
    return f'<div class="ms-line" title="{escape(sentence, quote=True)}">{words(sentence)}</div>' if sentence else ""


def note(words: str) -> str:
    """Return a quiet line."""
    return f'<p class="ms-soft">{escape(words)}</p>'


def refusal(wrong: MainspringError) -> str:
    """Return why something was refused, and what to do next."""
    hint = f'<p class="ms-soft">{words(wrong.hint)}</p>' if wrong.hint else ""
    return f'<p class="ms-refused">{words(wrong.message)}</p>{hint}'


def short_id(whole: str, length: int = 12) -> str:
    """Return a long id or digest, shortened; a click copies all of it."""
    if not whole:
        return ""
    shown = whole if len(whole) <= length + 2 else whole[:length] + "…"
    return (
        f'<span class="ms-id" data-copy="{escape(whole, quote=True)}" title="{escape(whole, quote=True)}">{escape(shown)}</span>'
    )


def command(words: str) -> str:
    """Return a command line to be typed; a click copies it."""
    told = escape(words, quote=True)
    return f'<button type="button" class="ms-id ms-command" data-copy="{told}" title="Copy">{told}</button>'


def tags(words: Sequence[str]) -> str:
    """Return words in small frames."""
    return " ".join(f'<span class="ms-tag">{escape(word)}</span>' for word in words)


def button(label: str, act: str, argument: str = "", *, is_bad: bool = False, is_small: bool = False) -> str:
    """Return a button whose click calls the page's handler of `act` (see `acts.listen`)."""
    kind = f"ms-btn{' ms-btn-bad' if is_bad else ''}{' ms-btn-small' if is_small else ''}"
    chosen = escape(argument, quote=True)
    return f'<button type="button" class="{kind}" data-act="{escape(act)}" data-arg="{chosen}">{escape(label)}</button>'


def meter(used: float, total: float, words: str) -> str:
    """Return a bar of how much is used, and the words for it."""
    part = min(100.0, 100 * used / total) if total > 0 else 0.0
    return f'<span class="ms-bar2" aria-hidden="true"><i style="width:{part:.0f}%"></i></span>{escape(words)}'


def figure(value: object) -> str:
    """Return a number as people read it; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}"


def spark(values: Sequence[float], *, line: float | None = None, width: int = 120, height: int = 28) -> str:
    """Return a small curve; `line` is what the values must reach."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    every = [*finite, line] if line is not None else finite
    low, high = min(every), max(every)
    room = (high - low) or 1.0
    step = (width - 4) / max(len(finite) - 1, 1)

    def place(value: float) -> float:
        return height - 3 - (value - low) / room * (height - 6)

    points = " ".join(f"{2 + n * step:.1f},{place(value):.1f}" for n, value in enumerate(finite))
    goal = ""
    if line is not None:
        goal = (
            f'<line x1="0" x2="{width}" y1="{place(line):.1f}" y2="{place(line):.1f}" stroke="#D55E00" stroke-dasharray="3 3"/>'
        )
    last = points.rpartition(" ")[2].split(",")
    dot = f'<circle cx="{last[0]}" cy="{last[1]}" r="2.5" fill="{SERIES[0]}"/>'
    curve = f'<polyline points="{points}" fill="none" stroke="{SERIES[0]}" stroke-width="1.5"/>' if len(finite) > 1 else ""
    title = f"{len(finite)} values from {min(finite):,.4g} to {max(finite):,.4g}"
    return (
        f'<svg class="ms-spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">{goal}{curve}{dot}</svg>'
    )
