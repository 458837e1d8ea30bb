"""The look of every page: calm and dense, light and dark by the system's choice, nothing from outside the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nicegui import ui

# Okabe-Ito: told apart by colour-blind people too
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
NAV = (
    ("Overview", "/"),
    ("Runs", "/runs"),
    ("Sweeps", "/sweeps"),
    ("Queue", "/queue"),
    ("Fleet", "/clusters"),
    ("Data sets", "/datasets"),
    ("Models", "/models"),
    ("Endpoints", "/endpoints"),
)
CSS = (Path(__file__).parent / "theme.css").read_text(encoding="utf-8")


@contextmanager
def page_frame(title: str, route: str) -> Iterator[None]:
    """Draw the frame around a page's content; `route` marks where we are."""
    ui.add_css(CSS)
    ui.dark_mode(None)
    ui.page_title(f"{title} · Mainspring")
    with ui.element("header").classes("ms-top"):
        ui.link("Mainspring", "/").classes("ms-brand")
        with ui.element("nav").classes("ms-nav").props('aria-label="Pages"'):
            for label, target in NAV:
                link = ui.link(label, target)
                if target == route:
                    link.props("aria-current=page")
    with ui.element("main").classes("ms-main"):
        yield
