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
    with asked(question, consequence) as dialog:

        async def confirmed() -> None:
            dialog.close()
            await act()

        buttons(dialog, verb, confirmed, is_destructive=is_destructive)


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


def field(label: str, value: str = "", *, hint: str = "", is_hidden: bool = False) -> ui.input:
    """Draw a field of a dialog; `hint` stands below it, and what is hidden is shown as dots."""
    found = ui.input(label, value=value, password=is_hidden).props("dense outlined autocomplete=off").style("width:100%")
    if hint:
        found.props["hint"] = hint
    return found


def choice(label: str, known: list[str] | dict[int, str], value: str | int) -> ui.select:
    """Draw a field of a dialog that takes one of `known`; a dictionary has the words for each."""
    return ui.select(known, value=value, label=label).props("dense outlined").style("width:100%")


def buttons(
    dialog: ui.dialog, verb: str, act: Callable[[], Awaitable[None]], *, is_destructive: bool = False, leave: str = "Leave it"
) -> ui.button:
    """Draw the last row of a dialog: the button that acts, which is returned, and the one that leaves everything as it is."""
    client = ui.context.client

    async def chosen() -> None:
        with client.content:  # what it tells and draws belongs to the page: the dialog may be gone before it is done
            await act()

    with ui.row().classes("ms-actions"):
        colour = "color=negative" if is_destructive else "color=primary"
        found = ui.button(verb, on_click=chosen).props(f"no-caps unelevated {colour}")
        plain_button(leave, dialog.close)
    return found


def answer() -> ui.html:
    """Draw the place in a dialog where an answer will be read, aloud too."""
    return ui.html("", sanitize=False).classes("ms-answer").props("role=status")


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


async def tried(act: Callable[[], T], said: ui.html) -> T | None:
    """Do `act` in a thread; None when it was refused: `said` tells why, beside the fields that are wrong."""
    try:
        return await run.io_bound(act)
    except MainspringError as wrong:
        said.set_content(parts.refusal(wrong))
        return None
