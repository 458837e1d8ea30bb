"""What people do on a page: buttons in markup, a dialog that says what will happen, and the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from nicegui import run, ui
from nicegui.events import GenericEventArguments

from mainspring.core.errors import MainspringError
from mainspring.ui import parts

T = TypeVar("T")
Handler = Callable[[str], Awaitable[None] | None]


def listen(handlers: Mapping[str, Handler]) -> None:
    """Let buttons made by `parts.button` call `handlers[act](argument)`. Rights are asked where the act is done, in services."""

    async def act(event: GenericEventArguments) -> None:
        said = event.args if isinstance(event.args, dict) else {}
        handler = handlers.get(str(said.get("act", "")))
        if handler is not None:
            waiting = handler(str(said.get("arg", "")))
            if waiting is not None:
                await waiting

    ui.on("ms-act", act)


def ask(question: str, consequence: str, verb: str, act: Callable[[], Awaitable[None]], *, is_destructive: bool = True) -> None:
    """Open a dialog that says what will happen; `act` follows when it is confirmed."""
    with asked(question, consequence) as dialog, ui.row().classes("ms-actions"):

        async def confirmed() -> None:
            dialog.close()
            await act()

        colour = "color=negative" if is_destructive else "color=primary"
        ui.button(verb, on_click=confirmed).props(f"no-caps unelevated {colour}")
        plain_button("Leave it", dialog.close)


@contextmanager
def asked(question: str, note: str = "") -> Iterator[ui.dialog]:
    """Draw a dialog that asks `question` (its name for who cannot see it), with a `note` below; open it when it is filled."""
    with ui.dialog() as dialog, ui.card().classes("ms-dialog"):
        dialog.props["aria-label"] = question
        ui.label(question).classes("ms-question")
        if note:
            ui.label(note)
        yield dialog
    dialog.on("hide", dialog.delete)
    dialog.open()


def plain_button(label: str, act: Callable[[], object]) -> None:
    """Draw a quiet button that looks like those of `parts.button`; `act` may be a coroutine function."""
    with ui.element("button").classes("ms-btn").props("type=button").on("click", act):
        ui.html(parts.text(label), sanitize=False, tag="span")


async def carry_out(act: Callable[[], T], done: str) -> T | None:
    """Do `act` in a thread and tell how it went; None when it was refused."""
    try:
        result = await run.io_bound(act)
    except MainspringError as wrong:
        ui.notify(str(wrong), type="negative", close_button="Close", multi_line=True)
        return None
    ui.notify(done)
    return result
