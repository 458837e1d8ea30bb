"""`/`: the sentence, the fleet, my runs, the models with their objective."""

from __future__ import annotations

from nicegui import ui

from mainspring.core.actors import Actor
from mainspring.core.queries import RunFilter
from mainspring.core.records import Run
from mainspring.services import clusters, gates, runs
from mainspring.services.context import Context
from mainspring.ui import parts
from mainspring.ui.theme import page_frame

TOPICS = ("runs", "nodes", "endpoints", "attempts")


async def page(ctx: Context, actor: Actor) -> None:
    """Draw the overview."""
    with page_frame("Overview", "/"):
        await parts.live(ctx, lambda: summary(ctx, actor), TOPICS)
        with ui.element("section"):
            parts.heading("Fleet")
            await parts.live(ctx, lambda: fleet(ctx, actor), ("runs", "nodes"))
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading("Newest runs")
                await parts.live(ctx, lambda: newest(ctx, actor), ("runs", "attempts"))
            with ui.element("section"):
                parts.heading("Models and their objective")
                await parts.live(ctx, lambda: judged(ctx, actor), ("events", "runs"))


def summary(ctx: Context, actor: Actor) -> str:
    """Return the one sentence that matters now."""
    views = clusters.all(ctx, actor)
    total = sum(len(node.devices) for view in views for node in view.nodes)
    used = sum(share.milli for view in views for node in view.nodes for share in node.used_devices) / 1000
    counts = ctx.store.runs.counts("")
    waiting, running = counts.get("queued", 0), counts.get("running", 0)
    gpus = f"{used:g} of {total} GPUs busy" if total else "No GPU is registered"
    return f'<p class="ms-sentence">{gpus}; {running} {_runs(running)} running, {waiting} waiting.</p>'


def fleet(ctx: Context, actor: Actor) -> str:
    """Return the map of all devices, coloured by who holds them."""
    return "".join(parts.gpu_map(view.nodes, view.holders) for view in clusters.all(ctx, actor))


def newest(ctx: Context, actor: Actor) -> str:
    """Return the newest runs of the default project."""
    found = runs.page(ctx, actor, RunFilter(project="default"), limit=12).items
    return parts.table(
        ("Run", "State", "Owner", "Submitted", "Took"),
        [row(one) for one in found],
        empty="Nothing has run yet. Type: mainspring run train.py",
        label="Newest runs",
    )


def row(one: Run) -> tuple[str, ...]:
    """Return one run as cells."""
    waits = f'<div class="ms-soft">{parts.text(one.reason.sentence)}</div>' if one.reason and one.state == "queued" else ""
    return (
        parts.link(one.name, f"/runs/{one.id}"),
        parts.state(one.state.value) + waits,
        parts.text(one.owner),
        parts.moment(one.created_at),
        parts.duration(one),
    )


def judged(ctx: Context, actor: Actor) -> str:
    """Return the newest verdict on each objective."""
    newest_first: dict[str, tuple[str, ...]] = {}
    for verdict in gates.all(ctx, actor, project="default"):
        newest_first.setdefault(
            verdict.objective,
            (
                parts.text(verdict.objective),
                parts.state("passed" if verdict.is_passed else "refused"),
                f"{verdict.value:,.6g} {parts.text(verdict.kpi)}",
                parts.moment(verdict.created_at),
            ),
        )
    return parts.table(
        ("Objective", "Newest verdict", "Value", "When"),
        list(newest_first.values()),
        empty="No objective has been judged yet.",
        label="Objectives",
    )


def _runs(number: int) -> str:
    return "run" if number == 1 else "runs"
