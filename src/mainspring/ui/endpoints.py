"""`/endpoints` and `/endpoints/{name}`: what answers, how often, which revision; roll back, and try it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from nicegui import run as threads
from nicegui import ui

from mainspring.core.errors import MainspringError
from mainspring.core.queries import RunFilter
from mainspring.core.records import Endpoint, EndpointState
from mainspring.services import endpoints, gates, lineage, models, runs
from mainspring.ui import acts, graph, parts
from mainspring.ui.live import Live
from mainspring.ui.runs import name_cell, state_cell
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

KEPT = 60
COUNTED_S = 2.0
MOST_ROWS = 16


async def page(view: View) -> None:
    """Draw the list of endpoints."""
    live = Live(view.ctx)
    with page_frame("Endpoints", view):
        await live.block(lambda: listed(view), "endpoints", "events", every_s=COUNTED_S)
    live.start()


def listed(view: View) -> str:
    """Return the endpoints with what each serves."""
    rows = []
    for one in endpoints.all(view.ctx, view.actor, project=view.project):
        history = endpoints.revisions(view.ctx, view.actor, one.name, project=view.project)
        serves = next((revision for revision in history if revision.number == one.revision), None)
        model = ""
        if serves is not None:
            address = view.url(f"/models/{serves.model}", version=str(serves.model_version))
            model = parts.link(f"{serves.model} v{serves.model_version}", address)
        rows.append(
            (
                parts.link(one.name, view.url(f"/endpoints/{one.name}")),
                parts.state(one.state.value) + parts.why(one.message),
                model,
                str(one.revision),
                str(one.replicas),
                f"{one.requests:,}",
                f"{one.errors:,}",
                parts.text(one.created_by),
                parts.moment(one.created_at),
            )
        )
    return parts.table(
        ("Endpoint", "State", "Serves", "Revision", "Replicas", "Requests", "Errors", "By", "Since"),
        rows,
        empty="Nothing is deployed. Type: mainspring deploy MODEL@champion --name NAME",
        label="Endpoints",
        numeric=("Revision", "Replicas", "Requests", "Errors"),
    )


async def one_page(view: View) -> None:
    """Draw one endpoint."""
    one: Endpoint | None = await threads.io_bound(endpoints.get, view.ctx, view.actor, view.ref, project=view.project)
    if one is None:
        return
    live = Live(view.ctx)
    rates: deque[tuple[float, int]] = deque(maxlen=KEPT)
    with page_frame(one.name, view, "/endpoints"):
        with ui.element("section"):
            await live.block(lambda: top(view, rates), "endpoints", "events", every_s=COUNTED_S)
        with ui.element("div").classes("ms-cols"):
            with ui.element("div").classes("ms-stack"):
                with ui.element("section"):
                    parts.heading("Revisions")
                    await live.block(lambda: revisions(view), "endpoints", "events")
                with ui.element("section"):
                    parts.heading("Replicas")
                    await live.block(lambda: replicas(view), "endpoints", "runs", "attempts")
            with ui.element("section"):
                parts.heading("Try it")
                await live.block(lambda: try_it(view, one))
        with ui.element("section"):
            parts.heading("Served from")
            await live.block(
                lambda: graph.picture(view, lineage.of_endpoint(view.ctx, view.actor, one.name, project=view.project))
            )
    acts.listen({"rollback": lambda number: _ask_rollback(view, number), "stop": lambda _: _ask_stop(view)})
    live.start()


def top(view: View, rates: deque[tuple[float, int]]) -> str:
    """Return value against the objective, then the requests, with their rate since the page was opened."""
    one = endpoints.get(view.ctx, view.actor, view.ref, project=view.project)
    rates.append((view.ctx.clock.monotonic(), one.requests))
    history = endpoints.revisions(view.ctx, view.actor, view.ref, project=view.project)
    serves = next((revision for revision in history if revision.number == one.revision), None)
    verdict = None
    if serves is not None:
        made_by = models.resolve(view.ctx, view.actor, serves.model, str(serves.model_version), project=view.project).run
        for said in gates.all(view.ctx, view.actor, project=view.project):
            if (said.model, said.model_version) == (serves.model, serves.model_version) or (said.run and said.run == made_by):
                verdict = said
                break
    words = f"Serves {serves.model} v{serves.model_version}. " if serves else ""
    place = endpoints.serves_in(view.ctx, one, history)
    value = verdict.sentence if verdict else "Its model was not judged by a gate."
    share = f" ({one.errors / one.requests:.2%})" if one.errors and one.requests else ""
    bad = f"{one.errors:,} {'error' if one.errors == 1 else 'errors'}{share}"
    stop = parts.button("Stop endpoint", "stop", is_bad=True) if view.may_edit and one.state is not EndpointState.STOPPED else ""
    return (
        f'<h2 class="ms-title">{parts.text(one.name)} {parts.state(one.state.value)}</h2>'
        f'<p class="ms-sentence">{parts.text(words + value)}</p>{parts.why(one.message)}'
        f"<p>{one.requests:,} requests, {bad} {_rate(rates)}</p>"
        f"{parts.note(f'Its replicas run in {place}.') if place else ''}"
        f'<div class="ms-actions" style="margin-top:6px">{stop}</div>'
    )


def revisions(view: View) -> str:
    """Return what the endpoint served, newest first, with the way back."""
    one = endpoints.get(view.ctx, view.actor, view.ref, project=view.project)
    rows = []
    for revision in reversed(endpoints.revisions(view.ctx, view.actor, view.ref, project=view.project)):
        is_live = revision.number == one.revision
        act = (
            ""
            if is_live or not view.may_edit
            else parts.button("Roll back to it", "rollback", str(revision.number), is_small=True)
        )
        address = view.url(f"/models/{revision.model}", version=str(revision.model_version))
        rows.append(
            (
                str(revision.number),
                parts.link(f"{revision.model} v{revision.model_version}", address),
                parts.tags(("live",)) if is_live else act,
                parts.text(revision.created_by),
                parts.moment(revision.created_at),
            )
        )
    return parts.table(("Revision", "Model", "", "By", "When"), rows, empty="None.", label="Revisions")


def replicas(view: View) -> str:
    """Return the newest runs that serve."""
    one = endpoints.get(view.ctx, view.actor, view.ref, project=view.project)
    found = runs.page(view.ctx, view.actor, RunFilter(project=view.project, link_id=one.id), limit=10).items
    rows = [(name_cell(view, run), state_cell(run), parts.duration(run)) for run in found]
    return parts.table(("Run", "State", "For"), rows, empty="None yet.", label="Replicas", numeric=("For",))


def try_it(view: View, one: Endpoint) -> str:
    """Return a box that asks the endpoint as any client would, with an example made from the model's signature."""
    path = f"/api/v1/endpoints/{quote(one.name)}/predict"
    if view.project != "default":
        path += "?" + urlencode({"project": view.project})
    body = json.dumps(example(view), indent=1)
    return (
        f'<textarea class="ms-field" id="try-body" aria-label="Request" spellcheck="false" '
        f'rows="{min(MOST_ROWS, body.count(chr(10)) + 2)}" style="height:auto">{parts.text(body)}</textarea>'
        f'<div class="ms-actions"><button type="button" class="ms-btn" data-try="{parts.text(path)}" data-name="try">Ask</button>'
        f'<code class="ms-soft">POST {parts.text(path)}</code></div>'
        '<pre class="ms-pre" id="try-answer" aria-live="polite" style="margin-top:8px;max-height:240px">Nothing asked yet.</pre>'
    )


def example(view: View) -> dict[str, object]:
    """Return a request that the live model understands: one record with a value for each input of its signature."""
    try:
        history = endpoints.revisions(view.ctx, view.actor, view.ref, project=view.project)
        live = history[-1]
        signature = models.resolve(view.ctx, view.actor, live.model, str(live.model_version), project=view.project).signature
    except (MainspringError, IndexError):
        return {"records": [{}]}
    columns = signature.get("inputs")
    record: dict[str, object] = {}
    for column in columns if isinstance(columns, list | tuple) else ():
        if isinstance(column, Mapping) and "name" in column:
            kind = str(column.get("datatype", column.get("type", "")))
            record[str(column["name"])] = "" if kind in ("BYTES", "string", "str") else 0
    return {"records": [record]}


def _rate(rates: deque[tuple[float, int]]) -> str:
    steps = [
        (later[1] - sooner[1]) / max(later[0] - sooner[0], 0.001) for sooner, later in zip(rates, list(rates)[1:], strict=False)
    ]
    if not steps:
        return ""
    curve = parts.spark(steps) if len(steps) > 1 else "·"
    return f'{curve} <span class="ms-soft">{steps[-1]:,.1f} a second when last counted</span>'


def _ask_rollback(view: View, number: str) -> None:
    async def back() -> None:
        await acts.carry_out(
            lambda: endpoints.rollback(view.ctx, view.actor, view.ref, to=int(number), project=view.project),
            "The earlier model comes back as a new revision.",
        )

    consequence = "Its model is deployed again as the next revision; the one that answers now goes on until that is ready."
    acts.ask(f"Roll {view.ref} back to revision {number}?", consequence, "Roll back", back)


def _ask_stop(view: View) -> None:
    async def stop() -> None:
        await acts.carry_out(lambda: endpoints.stop(view.ctx, view.actor, view.ref, project=view.project), "It is stopped.")

    consequence = "Requests are refused from now on; the history stays, and a later deployment brings it back."
    acts.ask(f"Stop {view.ref}?", consequence, "Stop endpoint", stop)
