"""Zoom: which steps the charts of a page show. It lives in the address; dragging over a chart asks for finer points."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nicegui import ui
from nicegui.events import GenericEventArguments

from mainspring.ui import parts
from mainspring.ui.view import View


@dataclass(slots=True)
class Zoom:
    """The steps from `start` to `end`; None: as far as there are any."""

    start: float | None = None
    end: float | None = None

    @property
    def is_set(self) -> bool:
        """Say whether anything is left out."""
        return self.start is not None or self.end is not None


def zoom_of(view: View) -> Zoom:
    """Return what the address asks for; what it does not understand it ignores."""
    return Zoom(_number(view.query.get("from")), _number(view.query.get("to")))


def controls(view: View, zoom: Zoom) -> str:
    """Return the two fields that say the same as dragging, for hands that do not drag."""
    kept = "".join(
        f'<input type="hidden" name="{parts.text(name)}" value="{parts.text(value)}">'
        for name, value in view.query.items()
        if name not in ("from", "to")
    )
    whole = parts.button("Whole", "unzoom", is_small=True) if zoom.is_set else ""
    return (
        f'<form class="ms-filter ms-zoom" method="get" action="{parts.text(view.path)}">{kept}<span class="ms-soft">Steps</span>'
        f'<input name="from" type="number" step="any" aria-label="From step" value="{_written(zoom.start)}" placeholder="first">'
        f'<span class="ms-soft">to</span>'
        f'<input name="to" type="number" step="any" aria-label="To step" value="{_written(zoom.end)}" placeholder="last">'
        f'<button class="ms-btn ms-btn-small" type="submit">Show</button>{whole}'
        '<span class="ms-soft">or drag over a chart</span></form>'
    )


def chart(options: dict[str, object]) -> ui.echart:
    """Draw a chart over which one may drag; `listen` hears of it."""
    made = ui.echart(options).classes("ms-chart")
    made.on("chart:rendered", js_handler=f"() => msBrush(getElement({made.id}).chart)")
    made.on("chart:brushEnd", js_handler=f"(e) => msZoomed(getElement({made.id}).chart, e)")
    return made


def show(drawn: dict[str, ui.echart], name: str, fresh: dict[str, object], holder: ui.element, *, is_zoomed: bool = True) -> None:
    """Draw the chart `name` in `holder`, or bring it up to date."""
    if name not in drawn:
        with holder:
            drawn[name] = chart(fresh) if is_zoomed else ui.echart(fresh).classes("ms-chart")
    elif any(drawn[name].options.get(key) != value for key, value in fresh.items()):
        drawn[name].options.update(fresh)
        drawn[name].update()


def listen(zoom: Zoom, refresh: Callable[[], Awaitable[None]]) -> None:
    """Follow what is dragged on this page's charts; `refresh` draws them again."""

    async def zoomed(event: GenericEventArguments) -> None:
        said = event.args if isinstance(event.args, dict) else {}
        zoom.start, zoom.end = _number(said.get("from")), _number(said.get("to"))
        await refresh()

    ui.on("ms-zoom", zoomed)


def _number(said: object) -> float | None:
    try:
        value = float(said) if isinstance(said, str | int | float) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.12g}"
