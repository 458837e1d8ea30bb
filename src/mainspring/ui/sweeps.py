"""`/sweeps` and `/sweeps/{id}`: which trial was best and why: best so far, parallel coordinates, the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nicegui import run as threads
from nicegui import ui

from mainspring.core.records import Dimension, RunState, Sweep, SweepState, Trial
from mainspring.services import sweeps
from mainspring.ui import acts, charts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_ROWS = 500
MAX_SWEEPS = 100
MAX_LINES = 2000
ORDERS = ("best", "number")


async def page(view: View) -> None:
    """Draw the list of sweeps."""
    live = Live(view.ctx)
    with page_frame("Sweeps", view):
        await live.block(lambda: listed(view), "sweeps", "runs")
    live.start()


def listed(view: View) -> str:
    """Return the sweeps, newest first."""
    rows = []
    for one in sweeps.all(view.ctx, view.actor, project=view.project)[:MAX_SWEEPS]:
        found = view.ctx.store.sweeps.trials(one.id)
        told = sum(trial.told_at is not None for trial in found)
        rows.append(
            (
                parts.link(one.name, view.url(f"/sweeps/{one.id}")),
                parts.state(one.state.value),
                parts.meter(told, one.spec.trials, f"{told} of {one.spec.trials}"),
                f"{'largest' if one.spec.is_maximized else 'smallest'} {parts.text(one.spec.metric)}",
                parts.figure(one.best_value) if one.best_value is not None else "",
                parts.text(", ".join(dimension.name for dimension in one.spec.space)),
                parts.text(one.owner),
                parts.moment(one.created_at),
            )
        )
    return parts.table(
        ("Sweep", "State", "Trials", "Looks for", "Best", "Over", "Owner", "Started"),
        rows,
        empty="No sweep yet. Type: mainspring sweep train.py:train -n 20 --maximize roc_auc rate=log:1e-3:0.3",
        label="Sweeps",
        numeric=("Best",),
    )


async def one_page(view: View) -> None:
    """Draw one sweep."""
    sweep: Sweep | None = await threads.io_bound(sweeps.get, view.ctx, view.actor, view.ref)
    if sweep is None:
        return
    live = Live(view.ctx)
    with page_frame(sweep.name, view, "/sweeps"):
        with ui.element("section"):
            await live.block(lambda: top(view, sweep.id), "sweeps", "runs")
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading(f"Best {sweep.spec.metric} so far")
                best = ui.element("div")
            with ui.element("section"):
                parts.heading("Parallel coordinates: one line for each trial, orange is best")
                lines = ui.element("div")
        await _charts(live, view, sweep, best, lines)
        with ui.element("section"):
            parts.heading("Trials")
            await live.block(lambda: trials(view, sweep.id), "sweeps", "runs")
    acts.listen({"stop": lambda _: _ask_stop(view, sweep.id)})
    live.start()


def top(view: View, ref: str) -> str:
    """Return the sentence: what was found, and how far it is."""
    sweep = sweeps.get(view.ctx, view.actor, ref)
    found = sweeps.trials(view.ctx, view.actor, ref)
    counts = {state: sum(one.state is state for one in found) for state in RunState}
    told = sum(one.told_at is not None for one in found)
    words = f"{told} of {sweep.spec.trials} trials are in"
    if counts[RunState.RUNNING]:
        words += f", {counts[RunState.RUNNING]} running"
    if counts[RunState.QUEUED]:
        words += f", {counts[RunState.QUEUED]} waiting"
    if counts[RunState.FAILED]:
        words += f", {counts[RunState.FAILED]} failed"
    best = next((one for one in found if one.number == sweep.best_trial), None)
    best_words = "no result yet"
    if best is not None and sweep.best_value is not None:
        chosen = ", ".join(f"{name} {_shown(value)}" for name, value in best.params.items())
        best_words = f"the best {sweep.spec.metric} is {sweep.best_value:.6g}, trial {best.number} with {chosen}"
    stop = parts.button("Stop sweep", "stop", is_bad=True) if sweep.state is SweepState.ACTIVE and view.may_edit else ""
    linked = best_words if best is None else parts.link(best_words, view.url(f"/runs/{best.run}"))
    took = f" · took {parts.span(sweep.created_at, sweep.ended_at)}" if sweep.ended_at else ""
    return (
        f'<h2 class="ms-title">{parts.text(sweep.name)} {parts.state(sweep.state.value)}</h2>'
        f'<p class="ms-sentence">{parts.text(words)}; {linked}.</p>'
        f'<div class="ms-soft">{parts.text(sweep.owner)} · {parts.text(sweep.spec.sampler)} · started '
        f"{parts.moment(sweep.created_at)}{took} · {parts.short_id(sweep.id, 40)} · "
        f'{parts.link("its runs", view.url("/runs", link=sweep.id))}</div><div class="ms-actions">{stop}</div>'
    )


def trials(view: View, ref: str) -> str:
    """Return the trials as a table, best first unless the address says otherwise."""
    sweep = sweeps.get(view.ctx, view.actor, ref)
    names = [dimension.name for dimension in sweep.spec.space]
    order = view.query.get("order", "best")
    found = ordered(sweep, sweeps.trials(view.ctx, view.actor, ref), order)
    rows = [
        (
            parts.link(one.number, view.url(f"/runs/{one.run}")),
            parts.state(one.state.value) + (" " + parts.tags(("best",)) if one.number == sweep.best_trial else ""),
            parts.figure(one.value) if one.value is not None else "",
            *(parts.figure(one.params.get(name, "")) for name in names),
            parts.moment(one.told_at),
        )
        for one in found[:MAX_ROWS]
    ]
    heads = (_head(view, order, "number", "Trial"), "State", _head(view, order, "best", sweep.spec.metric), *names, "Told")
    more = parts.note(f"The first {MAX_ROWS} of {len(found):,}.") if len(found) > MAX_ROWS else ""
    return parts.table(heads, rows, empty="No trial yet.", label="Trials", numeric=(heads[2], *names)) + more


def ordered(sweep: Sweep, found: Sequence[Trial], order: str) -> list[Trial]:
    """Return the trials by number, or the best first; those without a value last."""
    if order == "number":
        return sorted(found, key=lambda one: one.number)
    sign = -1 if sweep.spec.is_maximized else 1
    return sorted(found, key=lambda one: (one.value is None, sign * (one.value or 0.0), one.number))


def axes_of(sweep: Sweep, found: Sequence[Trial]) -> tuple[list[charts.Axis], list[list[float | str]]]:
    """Return the axes and the lines of the parallel coordinates: each searched parameter, then the metric."""
    axes = [_axis(one) for one in sweep.spec.space]
    axes.append(charts.Axis(name=sweep.spec.metric))
    lines: list[list[float | str]] = []
    for trial in found[:MAX_LINES]:
        if trial.value is None or not math.isfinite(trial.value):
            continue
        line: list[float | str] = []
        for dimension in sweep.spec.space:
            value = trial.params.get(dimension.name, "")
            is_number = dimension.kind != "choice" and isinstance(value, int | float)
            line.append(float(value) if is_number and isinstance(value, int | float) else str(value))
        lines.append([*line, trial.value])
    return axes, lines


def _axis(one: Dimension) -> charts.Axis:
    if one.kind == "choice":
        return charts.Axis(name=one.name, kind="category", categories=tuple(str(option) for option in one.choices))
    return charts.Axis(name=one.name, kind="log" if one.kind == "log" else "value", low=one.low, high=one.high)


async def _charts(live: Live, view: View, sweep: Sweep, best: ui.element, lines: ui.element) -> None:
    drawn: dict[str, ui.echart] = {}

    def ask() -> tuple[dict[str, object], dict[str, object]] | None:
        found = sweeps.trials(view.ctx, view.actor, sweep.id)
        values = [(one.number, one.value) for one in found if one.value is not None and math.isfinite(one.value)]
        if not values:
            return None
        axes, data = axes_of(sweep, found)
        span = (min(value for _, value in values), max(value for _, value in values))
        first = charts.best_so_far(sweep.spec.metric, values, is_maximized=sweep.spec.is_maximized)
        return first, charts.parallel(axes, data, span, is_maximized=sweep.spec.is_maximized)

    async def refresh() -> None:
        fresh = await threads.io_bound(ask)
        if fresh is None:
            return
        for key, holder, options in (("best", best, fresh[0]), ("lines", lines, fresh[1])):
            if key in drawn:
                drawn[key].options.update(options)
                drawn[key].update()
            else:
                with holder:
                    drawn[key] = ui.echart(options).classes("ms-chart").style("height:300px")

    await live.add(refresh, "sweeps")


async def _ask_stop(view: View, ref: str) -> None:
    found: list[Trial] = await threads.io_bound(sweeps.trials, view.ctx, view.actor, ref) or []
    going = sum(one.state in (RunState.QUEUED, RunState.RUNNING) for one in found)
    told = sum(one.value is not None for one in found)

    async def stop() -> None:
        await acts.carry_out(lambda: sweeps.stop(view.ctx, view.actor, ref), "The sweep is stopped.")

    acts.ask("Stop this sweep?", f"Ends {going} waiting or running trials; {told} results stay.", "Stop sweep", stop)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(view: View, order: str, key: str, label: str) -> str:
    return f'<a href="{parts.text(view.again(order=key))}">{parts.text(label)}{" ▾" if order == key else ""}</a>'
