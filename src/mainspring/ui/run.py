"""`/runs/{id}`: state with its reason, live log and charts, then parameters, files, attempts, lineage; what one may do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from nicegui import run as threads
from nicegui import ui

from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Desired, Role, Run, RunState
from mainspring.core.specs import RunKind, ValueKind
from mainspring.core.units import show_seconds
from mainspring.services import metrics, runs
from mainspring.ui import acts, charts, parts, queue, run_facts, zoom
from mainspring.ui.live import Live
from mainspring.ui.run_log import log_block
from mainspring.ui.run_use import use
from mainspring.ui.theme import SERIES, page_frame
from mainspring.ui.view import View
from mainspring.ui.zoom import Zoom

MAX_CHARTS = 12
POINTS = 1000
NO_METRIC = parts.note('No metric. In your code: ms.log_metric("loss", value, step=n)')


async def page(view: View) -> None:
    """Draw the page of one run."""
    one: Run | None = await threads.io_bound(runs.get, view.ctx, view.actor, view.ref)
    if one is None:
        return
    live = Live(view.ctx, every_s=0.5)
    seen = zoom.zoom_of(view)
    with page_frame(one.name, view, "/runs"):
        with ui.element("section"):
            await live.block(lambda: run_facts.top(view, one.id), "runs", "attempts")
            await live.block(lambda: queue.start_of(view, one.id), "runs", "nodes", every_s=queue.FORECAST_S)
            await live.block(lambda: buttons(view, one.id), "runs")
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading("Log")
                await log_block(live, view, one.id)
            with ui.element("section"):
                parts.heading("Metrics")
                refresh = await _charts(live, view, one.id, one.name, seen)
        with ui.element("div").classes("ms-cols"):
            for title, draw in (
                ("Parameters", run_facts.parameters),
                ("Last values", run_facts.latest),
                ("Results and files", run_facts.outputs),
                ("Attempts", run_facts.attempts),
                ("Command and code", run_facts.code),
                ("Environment", run_facts.environment),
                ("Inside", run_facts.inside),
            ):
                with ui.element("section"):
                    parts.heading(title)
                    await live.block(lambda draw=draw: draw(view, one.id), "runs", "attempts")  # type: ignore[misc]
            with ui.element("section"):
                parts.heading("Use of the machine")
                await use(live, view, one.id)
        with ui.element("section"):
            parts.heading("Made from")
            await live.block(lambda: run_facts.made_from(view, one.id))
    acts.listen(
        {
            "cancel": lambda _: _ask_cancel(view, one.id),
            "pause": lambda _: _pause(view, one.id),
            "resume": lambda _: _resume(view, one.id),
            "rerun": lambda _: _ask_rerun(view, one.id),
        }
    )
    zoom.listen(seen, refresh)
    live.start()


def buttons(view: View, ref: str) -> str:
    """Return what one may do with the run as it is now."""
    one = runs.get(view.ctx, view.actor, ref)
    if not view.actor.may(one.project, Role.EDITOR):
        return ""
    found = []
    if one.state not in TERMINAL_RUN and one.desired is not Desired.CANCELLED:
        found.append(parts.button("Cancel run", "cancel", is_bad=True))
        if one.desired is Desired.PAUSED:
            found.append(parts.button("Resume", "resume"))
        else:
            found.append(parts.button("Pause", "pause"))
    found.append(parts.button("Run again", "rerun"))
    return f'<div class="ms-actions">{"".join(found)}</div>'


async def _ask_cancel(view: View, ref: str) -> None:
    one: Run | None = await threads.io_bound(runs.get, view.ctx, view.actor, ref)
    if one is None:
        return
    grace = show_seconds(one.spec.grace_s)
    if one.state is RunState.QUEUED:
        happens = "It has not begun: it leaves the queue at once."
    else:
        happens = f"Its process gets SIGTERM, {grace} of grace, then it is killed. Log and metrics stay."

    async def cancel() -> None:
        await acts.carry_out(lambda: runs.cancel(view.ctx, view.actor, ref), "It is being cancelled.")

    acts.ask(f"Cancel {one.name}?", happens, "Cancel run", cancel)


async def _pause(view: View, ref: str) -> None:
    async def pause() -> None:
        await acts.carry_out(lambda: runs.pause(view.ctx, view.actor, ref), "It is held.")

    acts.ask(
        "Pause this run?",
        "If it runs, its process is stopped and its place is given away; it starts again from its last checkpoint when resumed.",
        "Pause run",
        pause,
        is_destructive=False,
    )


async def _resume(view: View, ref: str) -> None:
    await acts.carry_out(lambda: runs.resume(view.ctx, view.actor, ref), "It waits for its place again.")


async def _ask_rerun(view: View, ref: str) -> None:
    one: Run | None = await threads.io_bound(runs.get, view.ctx, view.actor, ref)
    if one is None:
        return
    known = changeable(one)
    with acts.asked(f"Run {one.name} again?") as dialog:
        ui.label(f"A new run of the same code is submitted in your name. It asks for {one.spec.resources.show()}.")
        fields: dict[str, ui.input] = {}
        for name, value in known.items():
            fields[name] = acts.field(name, value)
        if not known:
            ui.label("It has no parameters that could be changed.").classes("ms-soft")

        async def submit() -> None:
            dialog.close()
            changed = {name: _read(field.value) for name, field in fields.items() if field.value != known[name]}
            again = await acts.carry_out(lambda: runs.rerun(view.ctx, view.actor, ref, set_params=changed), "Submitted again.")
            if again is not None:
                ui.navigate.to(view.url(f"/runs/{again.id}"))

        acts.buttons(dialog, "Run again", submit)


def changeable(one: Run) -> dict[str, str]:
    """Return the parameters that `rerun` can change, as text: a task's plain arguments, a script's `--name value`."""
    if one.spec.kind is RunKind.TASK:
        plain = {name: value.json for name, value in one.spec.args.items() if value.kind is ValueKind.JSON and not value.digest}
        return {
            name: _written(value)
            for name, value in {**plain, **one.spec.params}.items()
            if name in plain or name in one.spec.params
        }
    found: dict[str, str] = {}
    words = one.spec.command
    for position, word in enumerate(words):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, equals, value = word[2:].partition("=")
        if equals:
            found[name] = value
        elif position + 1 < len(words) and not words[position + 1].startswith("--"):
            found[name] = words[position + 1]
    return found


async def _charts(live: Live, view: View, ref: str, name: str, seen: Zoom) -> Callable[[], Awaitable[None]]:
    """Draw one small chart for each metric and keep them current; return what draws them again."""
    steps = ui.html("", sanitize=False)
    holder = ui.element("div").classes("ms-charts")
    single = ui.html("", sanitize=False)
    drawn: dict[str, ui.echart] = {}

    async def refresh() -> None:
        series = await threads.io_bound(series_of, view, ref, seen) or {}
        several = {metric: points for metric, points in series.items() if len(points) > 1 or metric in drawn}
        for number, (metric, points) in enumerate(several.items()):
            line = charts.Line(name=name, points=points, colour=SERIES[number % len(SERIES)])
            zoom.show(drawn, metric, charts.curves(metric, [line], span=(seen.start, seen.end)), holder)
        told = [(metric, parts.figure(points[0][1])) for metric, points in series.items() if len(points) == 1]
        words = parts.pairs(told) if told else "" if drawn else NO_METRIC
        if words != single.content:
            single.set_content(words)
        steps.set_content(zoom.controls(view, seen) if drawn else "")

    await live.add(refresh, "runs", "attempts")
    return refresh


def series_of(view: View, ref: str, seen: Zoom) -> dict[str, list[list[float]]]:
    """Return the finite points of the run's first metrics, of the steps that are looked at."""
    names = sorted(metrics.summary(view.ctx, view.actor, ref))[:MAX_CHARTS]
    asked = metrics.curves(view.ctx, view.actor, ref, names, points=POINTS, start=seen.start, end=seen.end)
    return {
        name: [
            [float(n if step is None else step), float(value)]
            for n, (step, value, _) in enumerate(points)
            if isinstance(value, float | int)
        ]
        for name, points in asked.items()
    }


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
