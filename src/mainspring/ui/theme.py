"""The look of every page: calm and dense, light and dark by the system's choice, nothing from outside the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from nicegui import ui

from mainspring.ui.view import View

# Okabe-Ito: told apart by colour-blind people too
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
NAV = (
    ("Overview", "/"),
    ("Runs", "/runs"),
    ("Sweeps", "/sweeps"),
    ("Pipelines", "/pipelines"),
    ("Queue", "/queue"),
    ("Fleet", "/clusters"),
    ("Data sets", "/datasets"),
    ("Models", "/models"),
    ("Endpoints", "/endpoints"),
    ("Settings", "/settings"),
)
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.5" fill="none" stroke="#0b62a4" '
    'stroke-width="2"/><circle cx="8" cy="8" r="2.5" fill="#0b62a4"/></svg>'
)
CSS = (Path(__file__).parent / "theme.css").read_text(encoding="utf-8")
SCRIPT = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("page.js", "keys.js"))


@contextmanager
def page_frame(title: str, view: View, route: str = "") -> Iterator[None]:
    """Draw the frame around a page's content; `route` marks where we are (the page's own path by default)."""
    ui.add_css(CSS)
    ui.add_body_html(f"<script>{SCRIPT}</script>")
    ui.dark_mode(None)
    ui.colors(primary="#0b62a4", negative="#b3261e")
    ui.page_title(f"{title} · Mainspring")
    here = route or view.path
    with ui.element("header").classes("ms-top"):
        links = "".join(
            f'<a href="{escape(view.url(target), quote=True)}"{" aria-current=page" if target == here else ""}>{label}</a>'
            for label, target in NAV
        )
        ui.html(
            f'<a class="ms-brand" href="{escape(view.url("/"), quote=True)}">Mainspring</a>'
            f'<nav class="ms-nav" aria-label="Pages">{links}</nav>{_project_choice(view)}'
            f'<span class="ms-who">{escape(view.actor.name)} '
            '<button class="ms-btn ms-btn-small" data-keys title="Keys: ?" aria-label="Keys">?</button></span>',
            sanitize=False,
        ).classes("ms-bar")
    with ui.element("div").classes("ms-main"):  # NiceGUI's own element around everything is the main landmark
        ui.html(f'<h1 class="ms-hidden">{escape(title)}</h1>', sanitize=False)
        yield


def _project_choice(view: View) -> str:
    if len(view.projects) < 2:
        return ""
    options = "".join(
        f"<option{' selected' if one == view.project else ''}>{escape(one)}</option>" for one in sorted(view.projects)
    )
    return (
        f'<form class="ms-project" method="get" action="{escape(view.path, quote=True)}"><select name="project" '
        f'aria-label="Project" onchange="this.form.submit()">{options}</select></form>'
    )
