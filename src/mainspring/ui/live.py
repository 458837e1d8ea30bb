"""Live blocks: one timer a page, that asks nothing of the store while nothing moves, and nothing at all while nobody looks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nicegui import background_tasks, run, ui
from nicegui.events import GenericEventArguments

from mainspring.core.errors import MainspringError
from mainspring.services.context import Context
from mainspring.ui import parts


@dataclass(slots=True)
class _Block:
    refresh: Callable[[], Awaitable[None]]
    topics: Callable[[], tuple[str, ...]]
    seen: tuple[tuple[str, ...], int]


@dataclass(slots=True)
class Live:
    """The blocks of one page. Call `start` once, when all are drawn."""

    ctx: Context
    every_s: float = 1.0
    is_visible: bool = True
    _blocks: list[_Block] = field(default_factory=list)
    _is_busy: bool = False

    async def block(self, draw: Callable[[], str], *topics: str, every_s: float = 0.0) -> ui.html:
        """Draw markup now and again after `topics` have moved. `draw` blocks (it asks the services) and runs in a thread.

        With `every_s` it is drawn that often too: for figures that are counted without moving a topic.
        """
        shown = ui.html("", sanitize=False)

        async def refresh() -> None:
            fresh = await run.io_bound(_drawn, draw) or ""
            if fresh != shown.content:
                shown.set_content(fresh)

        def clock() -> tuple[str, ...]:
            return (f"clock:{int(self.ctx.clock.monotonic() / every_s)}",) if every_s else ()

        await self.add(refresh, *topics, also=clock)
        return shown

    async def add(
        self, refresh: Callable[[], Awaitable[None]], *topics: str, also: Callable[[], tuple[str, ...]] | None = None
    ) -> None:
        """Call `refresh` now and again after `topics`, or those that `also` names by then, have moved."""

        def named() -> tuple[str, ...]:
            return (*topics, *also()) if also is not None else topics

        block = _Block(refresh, named, self._version(named()))
        self._blocks.append(block)
        await refresh()

    def start(self) -> None:
        """Begin to look for moves."""
        ui.on("ms-visible", self._looked_at)
        ui.timer(self.every_s, self._tick)

    def _looked_at(self, event: GenericEventArguments) -> None:
        self.is_visible = bool(event.args)
        if self.is_visible:
            background_tasks.create(self._tick(), name="look again")

    async def _tick(self) -> None:
        if not self.is_visible or self._is_busy:
            return
        self._is_busy = True
        try:
            for block in self._blocks:
                version = self._version(block.topics())
                if version != block.seen:
                    block.seen = version
                    await block.refresh()
        finally:
            self._is_busy = False

    def _version(self, topics: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        return topics, self.ctx.signals.version("rights", *topics)


def _drawn(draw: Callable[[], str]) -> str:
    """Return the markup, or the sentence that tells why there is none (the record was removed meanwhile)."""
    try:
        return draw()
    except MainspringError as wrong:
        return f'<p class="ms-soft">{parts.text(wrong)}</p>'
