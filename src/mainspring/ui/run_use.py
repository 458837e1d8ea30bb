"""What a run uses of the machines that it is on: processors, memory and its GPUs, a line for each replica and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nicegui import run as threads
from nicegui import ui

from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.services import metrics, runs
from mainspring.ui import charts, parts, zoom
from mainspring.ui.live import Live
from mainspring.ui.theme import SERIES
from mainspring.ui.view import View

POINTS = 300
MAX_LINES = len(SERIES)  # of one chart; more than that nobody tells apart
MIB = 2.0**20
Series = dict[str, list[list[float]]]


async def use(live: Live, view: View, ref: str) -> None:
    """Draw what the run used, as long as it runs."""
    holder = ui.element("div").classes("ms-charts")
    empty = ui.html("", sanitize=False)
    drawn: dict[str, ui.echart] = {}

    async def refresh() -> None:
        samples = await threads.io_bound(metrics.usage, view.ctx, view.actor, ref, points=POINTS) or ()
        for title, series in used(samples).items():
            lines = [
                charts.Line(name=name, points=points, colour=SERIES[(number + 2) % len(SERIES)])
                for number, (name, points) in enumerate(series.items())
                if number < MAX_LINES
            ]
            zoom.show(drawn, title, charts.curves(title, lines, x_name="s", is_from_zero=True), holder, is_zoomed=False)
        if not drawn:
            one = await threads.io_bound(runs.get, view.ctx, view.actor, ref)
            is_over = one is not None and one.state in TERMINAL_RUN
            empty.set_content(parts.note("Nothing was measured." if is_over else "Measured every few seconds while it runs."))
        empty.set_visibility(not drawn)

    await live.add(refresh, "attempts", "runs")


def used(samples: object) -> dict[str, Series]:
    """Return `{title: {line: [[second, value], …]}}` of samples of use, over the seconds since the first of them."""
    told = [one for one in samples if _is_sample(one)] if isinstance(samples, list | tuple) else []
    first = min((float(one["at"]) for one in told), default=0.0)
    is_gang = len({one.get("replica") for one in told}) > 1
    found: dict[str, Series] = {}
    for one in told:
        at = float(round(float(one["at"]) - first))
        for title, device, value in _values(one):
            whose = f"replica {one.get('replica', 0)}" if is_gang else ""
            name = ", ".join(word for word in (whose, device) if word) or title
            found.setdefault(title, {}).setdefault(name, []).append([at, round(value, 3)])
    return found


def _is_sample(one: object) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("at"), int | float)


def _values(one: Mapping[str, object]) -> Iterator[tuple[str, str, float]]:
    """Yield (title, device, value) of what a sample tells; what is odd is left out, runners of other versions send it too."""
    yield from _of(one, "", {"cpu": ("CPUs", 1.0), "memory_bytes": ("Memory, MiB", MIB)})
    devices = one.get("gpu")
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, Mapping) and isinstance(device.get("index"), int | float):
            wanted = {"utilization": ("GPU, %", 0.01), "memory_bytes": ("GPU memory, MiB", MIB)}
            yield from _of(device, f"GPU {device['index']:g}", wanted)


def _of(told: Mapping[str, object], device: str, wanted: Mapping[str, tuple[str, float]]) -> Iterator[tuple[str, str, float]]:
    for key, (title, scale) in wanted.items():
        value = told.get(key)
        if isinstance(value, int | float):
            yield title, device, float(value) / scale
