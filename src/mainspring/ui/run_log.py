"""The log of a run: its end, live; searched by lines, colours of terminals, everything else as the text that it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from nicegui import run as threads
from nicegui import ui

from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.services import logs, runs
from mainspring.services.logs import LogPart
from mainspring.ui import acts, parts
from mainspring.ui.live import Live
from mainspring.ui.view import View

TAIL = 64_000
MAX_LINE = 4_000
_ESCAPE = re.compile(r"\x1b\[([0-9;]*)m|\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_KNOWN = frozenset({"1", "2", *(str(n) for n in (*range(30, 37), *range(90, 97)))})


@dataclass(slots=True)
class Tail:
    """A window on a log: its end while `is_at_end`, else what stands before `offset`."""

    view: View
    run: str
    attempt: str = ""
    begin: int = 0
    offset: int = 0
    data: bytes = b""
    wanted: str = ""
    is_at_end: bool = True
    _following: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def load(self) -> None:
        """Read the window again where it is at the end: what has come since, from the newest attempt."""
        if not self.is_at_end:
            return
        newest = logs.choose(self.view.ctx, self.view.actor, self.run, None)
        if newest is None:
            return
        if newest.id != self.attempt:
            self.take(self._read(offset=-TAIL))
            self._follow()
            return
        part = self._read(offset=self.offset)
        whole = self.data + part.data
        self.data, self.offset = whole[-TAIL:], part.next_offset
        self.begin = self.offset - len(self.data)

    def earlier(self) -> None:
        """Move the window back by its own length."""
        self.is_at_end = False
        self.take(self._read(offset=max(0, self.begin - TAIL), limit=min(TAIL, self.begin) or TAIL))

    def latest(self) -> None:
        """Move the window to the end."""
        self.is_at_end, self.attempt = True, ""
        self.load()

    def take(self, part: LogPart) -> None:
        """Show `part`."""
        self.attempt, self.begin, self.offset, self.data = part.attempt, part.offset, part.next_offset, part.data

    def close(self) -> None:
        """Follow no longer."""
        self._following.close()

    def _read(self, *, offset: int, limit: int = TAIL) -> LogPart:
        return logs.read(self.view.ctx, self.view.actor, self.run, offset=offset, limit=limit)

    def _follow(self) -> None:
        """Let the runner beat often while somebody looks and the run goes on."""
        self._following.close()
        if runs.get(self.view.ctx, self.view.actor, self.run).state not in TERMINAL_RUN:
            self._following.enter_context(self.view.ctx.signals.follow(self.attempt))

    def markup(self) -> str:
        """Return the window as markup; with a search only the lines that match, with their numbers in the window."""
        text = self.data.decode("utf-8", "replace")
        if self.begin and "\n" in text:
            text = text.partition("\n")[2]
        if not text:
            return '<span class="ms-soft">Nothing printed.</span>'
        if not self.wanted:
            return coloured(text)
        sought = self.wanted.lower()
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if sought in plain(line).lower()]
        if not lines:
            return f'<span class="ms-soft">No line among these holds {parts.text(repr(self.wanted))}.</span>'
        return "".join(f'<span class="ms-no">{n:6d}  </span>{marked(plain(line), self.wanted)}\n' for n, line in lines)


async def log_block(live: Live, view: View, run: str) -> None:
    """Draw the log with its search; it follows while its checkbox is set."""
    tail = Tail(view=view, run=run)
    with ui.row().classes("ms-filter"):
        search = (
            ui.element("input").classes("ms-field").props('type=search placeholder="Search the log" aria-label="Search the log"')
        )
        follow = ui.checkbox("Follow", value=True).props("dense")
        acts.plain_button("Earlier", lambda: turn(tail.earlier))
        acts.plain_button("Latest", lambda: turn(tail.latest))
    block = ui.element("pre").classes("ms-log").props('tabindex=0 aria-label="Log"')
    with block:
        shown = ui.html("", sanitize=False)

    async def draw() -> None:
        fresh = await threads.io_bound(tail.markup) or ""
        if fresh == shown.content:
            return
        shown.set_content(fresh)
        if follow.value and tail.is_at_end and ui.context.client.has_socket_connection:
            block.run_method("scrollTo", 0, 10_000_000)

    async def more() -> None:
        await threads.io_bound(tail.load)
        await draw()

    async def turn(move: Callable[[], None]) -> None:
        await threads.io_bound(move)
        await draw()

    async def searched(event: object) -> None:
        words = getattr(event, "args", "")
        tail.wanted = str(words)[:200] if isinstance(words, str) else ""
        await draw()

    search.on("input", searched, js_handler="(event) => emit(event.target.value)", throttle=0.2)
    ui.context.client.on_delete(tail.close)
    ui.context.client.on_connect(lambda: block.run_method("scrollTo", 0, 10_000_000))
    await live.add(more, "attempts", also=lambda: (f"logs:{tail.attempt}",))


def plain(line: str) -> str:
    """Return the line without what would steer a terminal."""
    return _CONTROL.sub("", _ESCAPE.sub("", line))


def marked(line: str, wanted: str) -> str:
    """Return the line as markup with what was sought marked."""
    found = re.compile(re.escape(wanted), re.IGNORECASE)
    out, at = [], 0
    for hit in found.finditer(line):
        out.append(f"{escape(line[at : hit.start()])}<mark>{escape(hit[0])}</mark>")
        at = hit.end()
    return "".join(out) + escape(line[at:])


def coloured(text: str) -> str:
    """Return text as markup: colours and bold of ANSI sequences as spans, other control sequences gone, all else escaped.

    A line that was drawn over with carriage returns (a progress bar) shows its last state.
    """
    lines = [line.rstrip("\r").rpartition("\r")[2][:MAX_LINE] for line in text.split("\n")]
    out: list[str] = []
    open_now: tuple[str, ...] = ()
    joined, at = "\n".join(lines), 0
    for found in _ESCAPE.finditer(joined):
        out.append(_span(joined[at : found.start()], open_now))
        at = found.end()
        if found[1] is not None:
            open_now = _styles(open_now, found[1])
    out.append(_span(joined[at:], open_now))
    return "".join(out)


def _styles(before: tuple[str, ...], codes: str) -> tuple[str, ...]:
    now = before
    for code in codes.split(";") if codes else ["0"]:
        if code in ("0", "39", "22", ""):
            now = ()
        elif code in _KNOWN:
            now = (*(one for one in now if (len(one) == 1) != (len(code) == 1)), code)
    return now


def _span(text: str, styles: tuple[str, ...]) -> str:
    clean = escape(_CONTROL.sub("", text), quote=False)
    if not clean or not styles:
        return clean
    return f'<span class="{" ".join(f"an-{one}" for one in styles)}">{clean}</span>'
