"""`/runs`: the table, filtered, sorted and paged by the server. The view is the address: a link shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from nicegui import ui

from mainspring.core.actors import Actor
from mainspring.core.queries import RunFilter
from mainspring.core.records import Run, RunState
from mainspring.core.units import show_milli
from mainspring.services import runs
from mainspring.services.context import Context
from mainspring.ui import parts
from mainspring.ui.theme import page_frame

PAGE = 50
ORDERS = ("newest", "oldest", "name", "state", "duration")


async def page(ctx: Context, actor: Actor, query: Mapping[str, str]) -> None:
    """Draw the table that `query` describes."""
    wanted = filter_of(query)
    with page_frame("Runs", "/runs"):
        with ui.element("form").classes("ms-filter").props('method="get" action="/runs" role="search"'):
            ui.html(controls(query), sanitize=False)
        await parts.live(ctx, lambda: rows(ctx, actor, wanted, query), ("runs", "attempts"))


def filter_of(query: Mapping[str, str]) -> RunFilter:
    """Return what the address asks for; what it does not understand it ignores."""
    state = query.get("state", "")
    order = query.get("order", "newest")
    return RunFilter(
        project=query.get("project", "") or "default",
        states=(state,) if state in set(RunState) else (),
        owner=query.get("owner", ""),
        tag=query.get("tag", ""),
        text=query.get("q", "")[:200],
        link_id=query.get("link", ""),
        is_archived=query.get("archived") == "1",
        order=order if order in ORDERS or order.startswith("metric:") else "newest",
    )


def controls(query: Mapping[str, str]) -> str:
    """Return the filter's fields, filled with what is asked."""
    chosen, order = query.get("state", ""), query.get("order", "newest")
    states = "".join(_option(one, chosen, one or "any state") for one in ("", *(state.value for state in RunState)))
    orders = "".join(_option(one, order, one) for one in ORDERS)
    search = parts.text(query.get("q", ""))
    return (
        f'<input name="q" type="search" value="{search}" placeholder="name, id, owner, command, tag" aria-label="Search">'
        f'<select name="state" aria-label="State">{states}</select>'
        f'<select name="order" aria-label="Order">{orders}</select>'
        '<button type="submit">Show</button>'
    )


def rows(ctx: Context, actor: Actor, wanted: RunFilter, query: Mapping[str, str]) -> str:
    """Return one page of runs and the way to the next."""
    found = runs.page(ctx, actor, wanted, cursor=query.get("cursor", ""), limit=PAGE)
    names = sorted({name for one in found.items for name in one.metrics})[:4]
    table = parts.table(
        ("Run", "State", "Owner", "Asks for", *names, "Submitted", "Took", "Tags"),
        [row(one, names) for one in found.items],
        empty="No run matches. Type: mainspring run train.py",
        label="Runs",
    )
    more = ""
    if found.cursor:
        more = parts.link("Older runs", "/runs?" + urlencode({**query, "cursor": found.cursor}))
    return f'<p class="ms-soft">{found.total:,} runs</p>{table}{more}'


def row(one: Run, names: list[str]) -> tuple[str, ...]:
    """Return one run as cells."""
    waits = ""
    if one.reason and one.state is RunState.QUEUED:
        waits = f'<div class="ms-soft">{parts.text(one.reason.sentence)}</div>'
    gpus = f", {show_milli(one.spec.resources.gpu_milli)} GPU" if one.spec.resources.gpu_milli else ""
    return (
        parts.link(one.name, f"/runs/{one.id}"),
        parts.state(one.state.value) + waits,
        parts.text(one.owner),
        f"{show_milli(one.spec.resources.cpu_milli)} CPU{gpus}",
        *(f"{one.metrics[name]:.4g}" if name in one.metrics else "" for name in names),
        parts.moment(one.created_at),
        parts.duration(one),
        parts.text(", ".join(one.tags)),
    )


def _option(value: str, chosen: str, label: str) -> str:
    return f'<option value="{parts.text(value)}"{" selected" if value == chosen else ""}>{parts.text(label)}</option>'
