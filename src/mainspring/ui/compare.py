"""`/compare?runs=`: two to six runs side by side: curves over one another, what differs first, what is the same folded away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from nicegui import run as threads
from nicegui import ui

from mainspring.core.environments import Package
from mainspring.core.errors import MainspringError
from mainspring.core.records import Run
from mainspring.core.specs import Value, ValueKind
from mainspring.core.units import counted, show_bytes, show_seconds
from mainspring.services import environments, metrics, runs
from mainspring.ui import acts, charts, parts, zoom
from mainspring.ui.live import Live
from mainspring.ui.run import MAX_CHARTS, series_of
from mainspring.ui.runs import FEWEST, MOST, state_cell
from mainspring.ui.theme import SERIES, page_frame
from mainspring.ui.view import View
from mainspring.ui.zoom import Zoom

DASHES = ("solid", "dashed", "dotted", "solid", "dashed", "dotted")
COLOURS = (SERIES[0], SERIES[1], SERIES[2], SERIES[3], SERIES[4], SERIES[5])
MAX_SHOWN = 80
MOST_OPEN = 20  # rows that are the same in all are folded beyond that
NOTHING = '<span class="ms-soft">none</span>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the comparison: a cell for each run, and whether they differ."""

    name: str
    cells: tuple[str, ...]
    is_same: bool = field(default=False)


async def page(view: View) -> None:
    """Draw the comparison of the runs that the address names."""
    asked = refs_of(view)
    found: list[Run] | None = await threads.io_bound(chosen, view, asked)
    if found is None:
        return
    live = Live(view.ctx)
    seen = zoom.zoom_of(view)
    with page_frame("Compare", view, "/runs"):
        if len(found) < FEWEST:
            parts.sentence("Choose two to six runs to compare.")
            ui.html(parts.note("Tick them in the table of runs, then press Compare."), sanitize=False)
            ui.html(f"<p>{parts.link('To the runs', view.url('/runs'))}</p>", sanitize=False)
            return
        ids = [one.id for one in found]
        with ui.element("section"):
            await live.block(lambda: top(view, ids, len(asked)), "runs")
        with ui.element("section"):
            parts.heading("Metrics, one over the other")
            refresh = await _charts(live, view, found, seen)
        kinds = (
            ("Figures", figures),
            ("Parameters", parameters),
            ("Results", results),
            ("Run", facts),
            ("Environment", ran_with),
        )
        for title, draw in kinds:
            with ui.element("section"):
                parts.heading(title)
                await live.block(lambda draw=draw, title=title: table(view, ids, draw, title), "runs", "attempts")  # type: ignore[misc]
    acts.listen({})
    zoom.listen(seen, refresh)
    live.start()


def refs_of(view: View) -> list[str]:
    """Return the runs that the address names, each once."""
    return list(dict.fromkeys(ref for ref in view.query.get("runs", "").split(",") if ref))


def chosen(view: View, refs: Sequence[str]) -> list[Run]:
    """Return the first six of the runs named. Raises NotFoundError."""
    return [runs.get(view.ctx, view.actor, ref) for ref in refs[:MOST]]


def top(view: View, ids: Sequence[str], asked: int) -> str:
    """Return the sentence: in what they differ, and how they stand."""
    found = chosen(view, ids)
    differing = [row.name for row in parameters(view, found) if not row.is_same]
    words = f"{counted(len(found), 'run')}. "
    if differing:
        named = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        words += f"They differ in {named}."
    else:
        words += "Their parameters are the same."
    more = parts.note(f"The first {MOST} of {asked}: more lines would not be told apart.") if asked > MOST else ""
    return f'<p class="ms-sentence">{parts.text(words)}</p>{legend(view, found)}{more}'


def legend(view: View, found: Sequence[Run]) -> str:
    """Return each run with its line, its state, and the way to leave it out."""
    out = []
    for number, one in enumerate(found):
        rest = ",".join(other.id for other in found if other is not one)
        leave = f'<a class="ms-soft" href="{parts.text(view.again(runs=rest))}">leave out</a>' if len(found) > FEWEST else ""
        named = parts.link(one.name, view.url(f"/runs/{one.id}"))
        out.append(f"<span>{swatch(number)} {named} {parts.state(one.state.value)} {leave}</span>")
    return f'<div class="ms-legend ms-legend-runs">{"".join(out)}</div>'


def swatch(number: int) -> str:
    """Return the line by which a run is known on this page."""
    dash = {"dashed": "6 3", "dotted": "2 3"}.get(DASHES[number], "")
    return (
        f'<svg class="ms-swatch" width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" '
        f'stroke="{COLOURS[number]}" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )


def table(view: View, ids: Sequence[str], draw: Callable[[View, Sequence[Run]], list[Row]], title: str) -> str:
    """Return the rows that differ, marked, then those that are the same, folded away."""
    found = chosen(view, ids)
    rows = draw(view, found)
    if not rows:
        return parts.note("None.")
    heads = ("", *(f"<span>{swatch(number)} {parts.text(one.name)}</span>" for number, one in enumerate(found)))
    differing = [row for row in rows if not row.is_same]
    same = [row for row in rows if row.is_same]
    shown = ""
    if differing:
        cells = [(f'<span class="ms-differs" title="differs">≠</span> {parts.text(row.name)}', *row.cells) for row in differing]
        columns = parts.table(heads, cells, empty="", label=f"{title} that differ")
        shown = f'<div class="ms-compare" style="--runs:{len(found)}">{columns}</div>'
    if not same:
        return shown
    folded = parts.table(
        ("Name", "The same in all"), [(parts.text(row.name), row.cells[0]) for row in same], empty="", label=f"{title} alike"
    )
    words = f"{len(same)} {'is' if len(same) == 1 else 'are'} the same in all"
    is_open = not differing and len(same) <= MOST_OPEN
    return f"{shown}<details{' open' if is_open else ''}><summary>{words}</summary>{folded}</details>"


def parameters(view: View, found: Sequence[Run]) -> list[Row]:
    """Return each parameter that any of the runs has."""
    every = [metrics.params(view.ctx, view.actor, one.id) for one in found]
    return [_row(name, [_shown(one[name]) if name in one else None for one in every]) for name in sorted(set().union(*every))]


def figures(view: View, found: Sequence[Run]) -> list[Row]:
    """Return the last value of each metric with its smallest and largest: the charts' twin."""
    every = [metrics.summary(view.ctx, view.actor, one.id) for one in found]
    rows = []
    for name in sorted(set().union(*every)):
        cells: list[str | None] = []
        for one in every:
            said = one.get(name)
            if said is None:
                cells.append(None)
                continue
            span = f"{parts.figure(said['min'])} to {parts.figure(said['max'])}" if said["min"] is not None else ""
            cells.append(f'{parts.figure(said["last"])} <span class="ms-soft">{span}</span>')
        rows.append(_row(name, cells))
    return rows


def results(_: View, found: Sequence[Run]) -> list[Row]:
    """Return what each run gave back."""
    names = sorted({name for one in found for name in one.outputs})
    return [_row(name, [_result(one.outputs[name]) if name in one.outputs else None for one in found]) for name in names]


def facts(_: View, found: Sequence[Run]) -> list[Row]:
    """Return how they went: state, times, code, data, what they asked for."""
    data = [
        {name: value.digest for name, value in one.spec.args.items() if value.kind is ValueKind.DATASET and value.digest}
        for one in found
    ]
    codes = [one.spec.code for one in found]
    rows = [
        _row("State", [state_cell(one) for one in found]),
        _row("Took", [_took(one) for one in found]),
        _row(
            "Waited",
            [show_seconds((one.started_at - one.created_at).total_seconds()) if one.started_at else None for one in found],
        ),
        _row("Tries", [str(one.attempt) for one in found]),
        _row("Owner", [parts.text(one.owner) for one in found]),
        _row("Submitted", [parts.moment(one.created_at) for one in found]),
        _row("Asks for", [parts.text(one.spec.resources.show()) for one in found]),
        _row("Command", [f"<code>{parts.text(_command(one)[:MAX_SHOWN])}</code>" for one in found]),
        _row("Commit", [parts.text(code.git_commit[:12]) + (" with changes" if code.is_dirty else "") for code in codes]),
        _row("Code", [parts.short_id(code.manifest, 12) for code in codes]),
        _row("Interpreter", [parts.text(one.spec.environment.interpreter) for one in found]),
        _row("Tags", [parts.tags(one.tags) for one in found]),
    ]
    rows += [
        _row(f"Data: {name}", [parts.short_id(one.get(name, ""), 12) for one in data]) for name in sorted(set().union(*data))
    ]
    return [row for row in rows if any(cell != NOTHING for cell in row.cells)]


def ran_with(view: View, found: Sequence[Run]) -> list[Row]:
    """Return what they ran with: Python, lock, and each package with its version, or where it came from if from no index."""
    every = [environments.of_run(view.ctx, view.actor, one.id) for one in found]
    seen = [one.captured for one in every]
    rows = [
        _row("Python", [parts.text(f"{one.implementation} {one.python}") if one else None for one in seen]),
        _row("Platform", [parts.text(one.platform) if one else None for one in seen]),
        _row("Lock", [parts.short_id(one.digest, 12) if one.has_lock else None for one in every]),
    ]
    packages = [{each.name: _version(each) for each in one.packages} if one else {} for one in seen]
    rows += [_row(name, [one.get(name) for one in packages]) for name in sorted(set().union(*packages), key=str.casefold)]
    return [row for row in rows if any(cell != NOTHING for cell in row.cells)]


def _version(package: Package) -> str:
    origin = " editable" if package.is_editable else f" {package.origin}" if package.origin else ""
    return parts.text(f"{package.version}{origin}"[:MAX_SHOWN])


def _row(name: str, cells: Sequence[str | None]) -> Row:
    return Row(name=name, cells=tuple(cell or NOTHING for cell in cells), is_same=len(set(cells)) == 1)


def _shown(value: object) -> str:
    return parts.figure(value if isinstance(value, int | float) else str(value)[:MAX_SHOWN])


def _result(value: Value) -> str:
    if value.kind is ValueKind.JSON and not value.digest:
        return f"<code>{parts.text(str(value.json)[:MAX_SHOWN])}</code>"
    size = f", {show_bytes(value.size_bytes)}" if value.size_bytes else ""
    return f"{parts.text(value.kind.value)}{size} {parts.short_id(value.digest, 8)}"


def _took(one: Run) -> str | None:
    return parts.duration(one) or None


def _command(one: Run) -> str:
    entry = one.spec.entry
    return f"{entry.module}:{entry.function}" if entry is not None else " ".join(one.spec.command)


async def _charts(live: Live, view: View, found: Sequence[Run], seen: Zoom) -> Callable[[], Awaitable[None]]:
    """Draw a chart for each metric with a line for each run; return what draws them again."""
    steps = ui.html("", sanitize=False)
    holder = ui.element("div").classes("ms-charts ms-charts-wide")
    empty = ui.html("", sanitize=False)
    drawn: dict[str, ui.echart] = {}

    def ask() -> dict[str, list[charts.Line]]:
        lines: dict[str, list[charts.Line]] = {}
        for number, one in enumerate(found):
            try:
                series = series_of(view, one.id, seen)
            except MainspringError:
                continue  # it was removed meanwhile; the tables say so
            for name, points in series.items():
                line = charts.Line(name=_told_apart(one, found), points=points, colour=COLOURS[number], dash=DASHES[number])
                lines.setdefault(name, []).append(line)
        return lines

    async def refresh() -> None:
        lines = await threads.io_bound(ask) or {}
        several = {name: one for name, one in lines.items() if name in drawn or any(len(line.points) > 1 for line in one)}
        for name in sorted(several)[:MAX_CHARTS]:
            zoom.show(drawn, name, charts.curves(name, several[name], span=(seen.start, seen.end)), holder)
        empty.set_content("" if drawn else parts.note("No metric has more than one point: the figures are below."))
        steps.set_content(zoom.controls(view, seen) if drawn else "")

    await live.add(refresh, "runs", "attempts")
    return refresh


def _told_apart(one: Run, found: Sequence[Run]) -> str:
    """Return the run's name, with the end of its id where another has the same."""
    return one.name if sum(other.name == one.name for other in found) == 1 else f"{one.name} …{one.id[-4:]}"
