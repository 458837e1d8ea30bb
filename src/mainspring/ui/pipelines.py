"""`/pipelines` and `/pipelines/{id}`: which step runs, what gates said, how long each step took."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from nicegui import run as threads
from nicegui import ui

from mainspring.core.errors import MainspringError
from mainspring.core.graphs import PipelineRun, PipelineState, Step, StepKind, StepRun, StepState
from mainspring.core.records import Run
from mainspring.core.units import show_seconds
from mainspring.services import pipelines, runs
from mainspring.ui import acts, graph, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_ROWS = 200
OPEN = (StepState.WAITING, StepState.RUNNING)


async def page(view: View) -> None:
    """Draw the list of pipeline runs."""
    live = Live(view.ctx)
    with page_frame("Pipelines", view):
        await live.block(lambda: listed(view), "pipelines", "runs")
    live.start()


def listed(view: View) -> str:
    """Return the pipeline runs, newest first."""
    found = pipelines.all(view.ctx, view.actor, project=view.project)
    rows = []
    for one in found[:MAX_ROWS]:
        done = sum(step.state not in OPEN for step in one.steps)
        rows.append(
            (
                parts.link(one.name, view.url(f"/pipelines/{one.id}")),
                parts.state(one.state.value) + parts.why(_trouble(one)),
                parts.meter(done, len(one.steps), f"{done} of {len(one.steps)}"),
                parts.text(one.owner),
                parts.moment(one.created_at),
                parts.span(one.created_at, one.ended_at),
                parts.short_id(one.id),
            )
        )
    more = parts.note(f"The newest {MAX_ROWS} of {len(found):,}.") if len(found) > MAX_ROWS else ""
    table = parts.table(
        ("Pipeline", "State", "Steps", "Owner", "Started", "Took", "Id"),
        rows,
        empty="No pipeline has run yet. In code: @ms.pipeline above a function that calls tasks, then submit() it",
        label="Pipeline runs",
        numeric=("Took",),
    )
    return table + more


async def one_page(view: View) -> None:
    """Draw one pipeline run."""
    one: PipelineRun | None = await threads.io_bound(pipelines.get, view.ctx, view.actor, view.ref)
    if one is None:
        return
    live = Live(view.ctx)
    with page_frame(one.name, view, "/pipelines"):
        with ui.element("section"):
            await live.block(lambda: top(view, one.id), "pipelines", "runs")
        with ui.element("section"):
            parts.heading("Steps: an arrow leads to what waits for it")
            await live.block(lambda: picture(view, one.id), "pipelines", "runs")
        with ui.element("section"):
            parts.heading("When each step ran")
            await live.block(lambda: schedule(view, one.id), "pipelines", "runs")
        with ui.element("section"):
            parts.heading("What each step said")
            await live.block(lambda: steps(view, one.id), "pipelines", "runs")
    acts.listen({"cancel": lambda _: _ask_cancel(view, one.id), "retry": lambda _: _retry(view, one.id)})
    live.start()


def top(view: View, ref: str) -> str:
    """Return the sentence: how far it is, and what it waits for or failed on."""
    one = pipelines.get(view.ctx, view.actor, ref)
    done = sum(step.state not in OPEN for step in one.steps)
    running = [step.key for step in one.steps if step.state is StepState.RUNNING]
    words = f"{done} of {len(one.steps)} steps are done"
    if running:
        words += f"; {', '.join(running)} {'runs' if len(running) == 1 else 'run'}"
    trouble = _trouble(one)
    words += f". {trouble}" if trouble else "."
    took = f" · {'took' if one.ended_at else 'for'} {parts.span(one.created_at, one.ended_at)}"
    may_end = view.may_edit and one.state is PipelineState.ACTIVE
    may_go_on = view.may_edit and one.state in (PipelineState.FAILED, PipelineState.CANCELLED)
    act = parts.button("Cancel pipeline", "cancel", is_bad=True) if may_end else ""
    act = parts.button("Go on after the good steps", "retry") if may_go_on else act
    return (
        f'<h2 class="ms-title">{parts.text(one.name)} {parts.state(one.state.value)}</h2>'
        f'<p class="ms-sentence">{parts.text(words)}</p>'
        f'<div class="ms-soft">{parts.text(one.owner)} · started {parts.moment(one.created_at)}{took} · '
        f"{parts.short_id(one.id, 40)} · {parts.link('its runs', view.url('/runs', link=one.id))}</div>"
        f'<div class="ms-actions" style="margin-top:6px">{act}</div>'
    )


def picture(view: View, ref: str) -> str:
    """Return the graph of the steps with the state and the time of each."""
    one = pipelines.get(view.ctx, view.actor, ref)
    standing = {step.key: step for step in one.steps}
    ran = _runs(view, one)
    boxes = {}
    for step in one.graph.steps:
        stands = standing.get(step.key, StepRun(key=step.key))
        run = ran.get(step.key)
        took = show_seconds((run.ended_at - run.started_at).total_seconds()) if run and run.started_at and run.ended_at else ""
        boxes[step.key] = graph.Box(
            kind=" · ".join(word for word in (_kind(step), stands.state.value, took) if word),
            label=step.key,
            target=_target(view, step, stands),
            title=stands.message or step.key,
            style=f"st-{stands.state.value}",
        )
    edges = [(before, step.key) for step in one.graph.steps for before in dict.fromkeys((*step.refs.values(), *step.after))]
    return graph.drawing(boxes, [edge for edge in edges if edge[0] in boxes], f"{len(boxes)} steps of {one.name}")


def schedule(view: View, ref: str) -> str:
    """Return a bar for each step that has a run: waiting, then running, on one scale."""
    one = pipelines.get(view.ctx, view.actor, ref)
    now = view.ctx.clock.now()
    whole = max(((one.ended_at or now) - one.created_at).total_seconds(), 0.001)

    def part(since: datetime, until: datetime) -> str:
        return f"{100 * max((until - since).total_seconds(), 0) / whole:.2f}%"

    out = []
    for key, run in _runs(view, one).items():
        end = run.ended_at or now
        begun = run.started_at or end
        kind = "bad" if run.state.value == "failed" else "run"
        told = f"waited {show_seconds(max(0.0, (begun - run.created_at).total_seconds()))}"
        told += f", ran {show_seconds((end - begun).total_seconds())}" if run.started_at else ""
        out.append(
            f"<div>{parts.text(key)}</div><div>"
            f'<div class="ms-track"><span style="width:{part(one.created_at, run.created_at)}"></span>'
            f'<i class="ms-phase-wait" style="width:{part(run.created_at, begun)}"></i>'
            f'<i class="ms-phase-{kind}" style="width:{part(begun, end)}"></i></div>'
            f'<span class="ms-soft">{told}</span></div>'
        )
    return f'<div class="ms-time">{"".join(out)}</div>' if out else parts.note("No step has a run yet.")


def steps(view: View, ref: str) -> str:
    """Return the steps as a table: the picture's twin."""
    one = pipelines.get(view.ctx, view.actor, ref)
    ran = _runs(view, one)
    known = {step.key: step for step in one.graph.steps}
    rows = []
    for stands in one.steps:
        step = known.get(stands.key)
        run = ran.get(stands.key)
        reason = run.reason.sentence if run is not None and run.reason is not None and run.started_at is None else ""
        target = _target(view, step, stands) if step else ""
        rows.append(
            (
                parts.text(stands.key),
                parts.text(_kind(step)) if step else "",
                parts.state(stands.state.value),
                parts.duration(run) if run else "",
                parts.link(run.name if run else step.endpoint if step and step.endpoint else "its runs", target)
                if target
                else "",
                parts.why(stands.message or reason),
            )
        )
    heads = ("Step", "Kind", "State", "Took", "Leads to", "Says")
    return parts.table(heads, rows, empty="It has no steps.", label="Steps", numeric=("Took",))


def _trouble(one: PipelineRun) -> str:
    failed = [step for step in one.steps if step.state is StepState.FAILED]
    return " ".join(f"{step.key}: {step.message}" if step.message else f"{step.key} failed." for step in failed[:2])


def _kind(step: Step) -> str:
    if step.kind is StepKind.GATE and step.objective is not None:
        return f"gate {step.objective.name}"
    return step.kind.value


def _target(view: View, step: Step, stands: StepRun) -> str:
    if stands.run:
        return view.url(f"/runs/{stands.run}")
    if step.kind is StepKind.DEPLOY and step.endpoint and stands.state is StepState.SUCCEEDED:
        return view.url(f"/endpoints/{step.endpoint}")
    return ""


def _runs(view: View, one: PipelineRun) -> Mapping[str, Run]:
    """Return the run of each step that has one."""
    found = {}
    for step in one.steps:
        if step.run:
            try:
                found[step.key] = runs.get(view.ctx, view.actor, step.run)
            except MainspringError:
                continue  # it was removed
    return found


async def _ask_cancel(view: View, ref: str) -> None:
    one: PipelineRun | None = await threads.io_bound(pipelines.get, view.ctx, view.actor, ref)
    if one is None:
        return
    running = sum(step.state is StepState.RUNNING for step in one.steps)
    done = sum(step.state is StepState.SUCCEEDED for step in one.steps)

    async def cancel() -> None:
        await acts.carry_out(lambda: pipelines.cancel(view.ctx, view.actor, ref), "The pipeline is cancelled.")

    happens = f"Ends {running} running {'step' if running == 1 else 'steps'}, starts no other; {done} results stay."
    acts.ask(f"Cancel {one.name}?", happens, "Cancel pipeline", cancel)


async def _retry(view: View, ref: str) -> None:
    again = await acts.carry_out(lambda: pipelines.retry(view.ctx, view.actor, ref), "It goes on as a new pipeline run.")
    if again is not None:
        ui.navigate.to(view.url(f"/pipelines/{again.id}"))
