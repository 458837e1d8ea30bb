"""`/`: the sentence, the fleet, what is wrong, the newest runs, what models and endpoints do for the business."""

from __future__ import annotations

from nicegui import ui

from mainspring.core.health import why_closed
from mainspring.core.queries import RunFilter
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import EndpointState, GateResult, NodeState, RunState
from mainspring.services import clusters, endpoints, gates, runs
from mainspring.ui import parts
from mainspring.ui.live import Live
from mainspring.ui.runs import name_cell, state_cell
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

NEWEST = 12
FRONT = 50  # of the queue: the first of them that is not paused is told


async def page(view: View) -> None:
    """Draw the overview."""
    live = Live(view.ctx)
    with page_frame("Overview", view):
        await live.block(lambda: summary(view), "runs", "nodes")
        await live.block(lambda: alerts(view), "nodes", "endpoints", "runs")
        with ui.element("section"):
            parts.heading("Fleet: one square for each GPU, coloured by who holds it")
            await live.block(lambda: fleet(view), "runs", "nodes")
        with ui.element("div").classes("ms-cols ms-cols-wide"):
            with ui.element("section"):
                parts.heading("Newest runs")
                await live.block(lambda: newest(view), "runs", "attempts")
            with ui.element("div").classes("ms-stack"):
                with ui.element("section"):
                    parts.heading("Models against their objective")
                    await live.block(lambda: judged(view), "events", "runs")
                with ui.element("section"):
                    parts.heading("Endpoints")
                    await live.block(lambda: served(view), "endpoints", "events", every_s=5.0)
    live.start()


def summary(view: View) -> str:
    """Return the one sentence that matters now."""
    views = clusters.all(view.ctx, view.actor)
    total = sum(len(node.devices) for one in views for node in one.nodes)
    used = sum(share.milli for one in views for node in one.nodes for share in node.used_devices) / 1000
    running, waiting = (_count(view, state) for state in (RunState.RUNNING, RunState.QUEUED))
    gpus = f"{used:g} of {total} GPUs busy" if total else "No GPU is registered"
    words = [gpus, f"{running:,} {_plural('run', running)} running", f"{waiting:,} waiting"]
    sentence = "; ".join(words) + "."
    queue = clusters.queue(view.ctx, view.actor, limit=FRONT) if waiting else []
    first = next((one for one in queue if one.reason is None or one.reason.code != ReasonCode.PAUSED), None)
    if first is not None and first.reason is not None:
        sentence += f" Next is {first.name}: {first.reason.sentence}"
    return f'<p class="ms-sentence">{parts.words(sentence)}</p>'


def alerts(view: View) -> str:
    """Return what needs somebody's eyes, or nothing."""
    found = []
    for one in clusters.all(view.ctx, view.actor):
        found += [
            (
                parts.state(node.state.value),
                f"Node {parts.link(node.name, view.url('/clusters'))} of {parts.text(one.cluster.name)}"
                + "".join(f" {parts.text(told)}" for told in why_closed(node)),
            )
            for node in one.nodes
            if node.state in (NodeState.UNREACHABLE, NodeState.DEAD, NodeState.QUARANTINED) or node.out()
        ]
    found += [
        (
            parts.state(one.state.value),
            f"Endpoint {parts.link(one.name, view.url(f'/endpoints/{one.name}'))} {parts.text(one.message)}",
        )
        for one in endpoints.all(view.ctx, view.actor, project=view.project)
        if one.state is EndpointState.FAILING
    ]
    return "".join(f"<p>{word} {what}</p>" for word, what in found)


def fleet(view: View) -> str:
    """Return the map of all devices, coloured by who holds them."""
    return "".join(parts.gpu_map(one.nodes, one.holders, view.url) for one in clusters.all(view.ctx, view.actor))


def newest(view: View) -> str:
    """Return the newest runs of the project."""
    found = runs.page(view.ctx, view.actor, RunFilter(project=view.project), limit=NEWEST)
    table = parts.table(
        ("Run", "State", "Owner", "Submitted", "Took"),
        [
            (
                name_cell(view, one),
                state_cell(one, is_short=True),
                parts.text(one.owner),
                parts.moment(one.created_at),
                parts.duration(one),
            )
            for one in found.items
        ],
        empty="Nothing has run yet. Type: mainspring run train.py",
        label="Newest runs",
        numeric=("Took",),
    )
    more = parts.link(f"All {found.total:,} runs", view.url("/runs")) if found.total > NEWEST else ""
    return table + more


def judged(view: View) -> str:
    """Return each objective with its line, the values judged against it, and the newest verdict."""
    verdicts: dict[str, list[GateResult]] = {}
    for verdict in gates.all(view.ctx, view.actor, project=view.project):
        verdicts.setdefault(verdict.objective, []).append(verdict)
    goals = {one.name: one for one in gates.objectives(view.ctx, view.actor, project=view.project)}
    rows = []
    for name, found in verdicts.items():
        goal = goals.get(name)
        line = None if goal is None else goal.at_least if goal.at_least is not None else goal.at_most
        newest_one = found[0]
        rows.append(
            (
                parts.link(name, view.url(f"/models/{newest_one.model}")) if newest_one.model else parts.text(name),
                parts.spark([one.value for one in reversed(found[:50])], line=line, width=72),
                f"{parts.figure(newest_one.value)} <span class=ms-soft>{parts.text(newest_one.kpi)}</span>",
                parts.state("passed" if newest_one.is_passed else "refused"),
                parts.moment(newest_one.created_at),
            )
        )
    return parts.table(
        ("Objective", "Judged", "Value", "Verdict", "When"),
        rows,
        empty="No objective has been judged yet. In a pipeline: ms.gate(objective, figures)",
        label="Objectives",
        numeric=("Value",),
    )


def served(view: View) -> str:
    """Return the endpoints with what they have answered."""
    rows = [
        (
            parts.link(one.name, view.url(f"/endpoints/{one.name}")),
            parts.state(one.state.value),
            f"{one.requests:,}",
            f"{one.errors:,}",
        )
        for one in endpoints.all(view.ctx, view.actor, project=view.project)
    ]
    return parts.table(
        ("Endpoint", "State", "Requests", "Errors"),
        rows,
        empty="Nothing is deployed. Type: mainspring deploy MODEL@champion --name NAME",
        label="Endpoints",
        numeric=("Requests", "Errors"),
    )


def _count(view: View, state: RunState) -> int:
    return runs.page(view.ctx, view.actor, RunFilter(project=view.project, states=(state.value,)), limit=1).total


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
