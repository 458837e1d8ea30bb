"""`/runs`: the table, filtered, sorted and paged by the server. The view is the address: a link shows the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nicegui import run as threads
from nicegui import ui

from mainspring.core.errors import MainspringError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.queries import Page, RunFilter
from mainspring.core.records import Desired, Run, RunState
from mainspring.core.units import show_milli
from mainspring.services import runs
from mainspring.ui import acts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

PAGE = 50
MAX_ROWS = 300  # that one page grows to while it is scrolled
ORDERS = ("newest", "oldest", "name", "state", "duration")
MAX_METRICS = 6
MAX_PICKED = 50
FEWEST, MOST = 2, 6  # that can be compared


async def page(view: View) -> None:
    """Draw the table that the address describes; rows stay where they are, new ones are announced."""
    wanted = filter_of(view)
    live = Live(view.ctx)
    cursor = view.query.get("cursor", "")
    first: Page[Run] | None = await threads.io_bound(runs.page, view.ctx, view.actor, wanted, cursor=cursor, limit=PAGE)
    if first is None:
        return
    seen = [first]
    newest = max((one.seq for one in first.items), default=0)
    picked = [ref for ref in view.query.get("picked", "").split(",") if ref][:MAX_PICKED]

    def now() -> View:
        return replace(view, query={**view.query, "picked": ",".join(picked)})

    with page_frame("Runs", view):
        ui.html(controls(view, wanted), sanitize=False)
        if wanted.order == "newest" and not cursor:
            await live.block(lambda: _news(view, wanted, newest), "runs")
        chosen = await live.block(lambda: choice(view, picked), "runs")
        table = await live.block(lambda: rows(now(), wanted, seen[0]), "runs", "attempts")

    async def pick(ref: str) -> None:
        picked.remove(ref) if ref in picked else picked.append(ref)
        del picked[MAX_PICKED:]
        ui.run_javascript(f"msPicked({json.dumps(picked)})")
        chosen.set_content(await threads.io_bound(choice, view, picked) or "")

    async def clear(_: str) -> None:
        picked.clear()
        ui.run_javascript("msPicked([])")
        chosen.set_content("")

    async def more(_: str) -> None:
        far = seen[0].cursor
        next_one: Page[Run] | None = await threads.io_bound(runs.page, view.ctx, view.actor, wanted, cursor=far, limit=PAGE)
        if next_one is not None and far and far == seen[0].cursor:
            seen[0] = Page(items=(*seen[0].items, *next_one.items), cursor=next_one.cursor, total=next_one.total)
            table.set_content(await threads.io_bound(rows, now(), wanted, seen[0]) or "")

    acts.listen(
        {
            "more": more,
            "pick": pick,
            "unpick": clear,
            "cancel": lambda _: _ask_cancel(view, picked),
            "rerun": lambda _: _ask_rerun(view, picked),
        }
    )
    live.start()


def filter_of(view: View) -> RunFilter:
    """Return what the address asks for; what it does not understand it ignores."""
    query: Mapping[str, str] = view.query
    state, order = query.get("state", ""), query.get("order", "newest")
    is_metric = order.startswith("metric:") and order.removeprefix("metric:").lstrip("-") != ""
    return RunFilter(
        project=view.project,
        states=(state,) if state in set(RunState) else (),
        owner=query.get("owner", ""),
        tag=query.get("tag", ""),
        text=query.get("q", "")[:200],
        link_id=query.get("link", ""),
        is_archived=query.get("archived") == "1",
        order=order if order in ORDERS or is_metric else "newest",
    )


def controls(view: View, wanted: RunFilter) -> str:
    """Return the filter's fields, filled with what is asked, and the links that take parts of it out."""
    chosen = wanted.states[0] if wanted.states else ""
    states = "".join(_option(one, chosen, one or "any state") for one in ("", *(state.value for state in RunState)))
    known = ORDERS if wanted.order in ORDERS else (*ORDERS, wanted.order)
    orders = "".join(_option(one, wanted.order, one) for one in known)
    kept = "".join(
        f'<input type="hidden" name="{name}" value="{parts.text(view.query[name])}">'
        for name in ("project", "owner", "tag", "link")
        if view.query.get(name)
    )
    taken_out = " ".join(
        f'<a class="ms-tag" href="{parts.text(view.again(**{name: "", "cursor": ""}))}">without {name} '
        f"{parts.text(view.query[name])}</a>"
        for name in ("owner", "tag", "link")
        if view.query.get(name)
    )
    archived = " checked" if wanted.is_archived else ""
    return (
        f'<form class="ms-filter" method="get" action="/runs" role="search">{kept}'
        f'<input name="q" type="search" value="{parts.text(wanted.text)}" placeholder="name, id, owner, command, tag" '
        'aria-label="Search">'
        f'<select name="state" aria-label="State">{states}</select>'
        f'<select name="order" aria-label="Order">{orders}</select>'
        f'<label><input type="checkbox" name="archived" value="1"{archived}> archived</label>'
        f'<button class="ms-btn" type="submit">Show</button>{taken_out}</form>'
    )


def choice(view: View, picked: Sequence[str]) -> str:
    """Return what one may do with the runs that are ticked; nothing while none is."""
    if not picked:
        return ""
    found = _known(view, picked)
    going = sum(one.state not in TERMINAL_RUN for one in found)
    compare = ""
    if FEWEST <= len(found) <= MOST:
        compare = f'<a class="ms-btn" href="{parts.text(view.url("/compare", runs=",".join(picked)))}">Compare</a>'
    elif len(found) > MOST:
        compare = f'<span class="ms-soft">Up to {MOST} can be compared.</span>'
    else:
        compare = '<span class="ms-soft">Tick another one to compare.</span>'
    again = parts.button("Run again", "rerun") if view.may_edit else ""
    cancel = parts.button(f"Cancel {going}", "cancel", is_bad=True) if view.may_edit and going else ""
    clear = parts.button("Clear", "unpick")
    return f'<div class="ms-actions ms-picked"><span>{len(found)} chosen</span>{compare}{again}{cancel}{clear}</div>'


def rows(view: View, wanted: RunFilter, seen: Page[Run]) -> str:
    """Return the runs `seen`, as they are now (also those that left the filter meanwhile), and the way to the next."""
    now = view.ctx.store.runs.some([one.id for one in seen.items if one.ended_at is None])
    items = [now.get(one.id, one) for one in seen.items]
    names = sorted({name for one in items for name in one.metrics})[:MAX_METRICS]
    params = sorted({name for one in items for name in one.spec.params})[:4]
    params = [name for name in params if len({str(one.spec.params.get(name)) for one in items}) > 1]
    heads = [_sorted_by(view, wanted, "name", "Run"), _sorted_by(view, wanted, "state", "State"), "Owner"]
    times = [_sorted_by(view, wanted, "newest", "Submitted"), _sorted_by(view, wanted, "duration", "Took")]
    metric_heads = [_sorted_by(view, wanted, f"metric:{name}", name) for name in names]
    table = parts.table(
        [*heads, *times, "Asks for", *metric_heads, *params, "Tags"],
        [(_tick(view, one) + first_cell, *rest) for one in items for first_cell, *rest in (row(view, one, params, names),)],
        empty="No run matches. Type: mainspring run train.py",
        label="Runs",
        numeric=(*params, *metric_heads, times[1]),
    )
    more = ""
    if seen.cursor and len(items) < MAX_ROWS:
        more = f'<button type="button" class="ms-btn ms-more" data-act="more" data-arg="{len(items)}">More</button>'
    elif seen.cursor:
        more = parts.link("Next page", view.again(cursor=seen.cursor))
    back = parts.link("First page", view.again(cursor="")) if view.query.get("cursor") else ""
    count = parts.note(f"{seen.total:,} {'run' if seen.total == 1 else 'runs'}")
    return f'{count}{table}<p style="margin-top:8px;display:flex;gap:16px">{back}{more}</p>'


def row(view: View, one: Run, params: list[str], names: list[str]) -> tuple[str, ...]:
    """Return one run as cells."""
    return (
        name_cell(view, one),
        state_cell(one),
        parts.link(one.owner, view.url("/runs", owner=one.owner)),
        parts.moment(one.created_at),
        parts.duration(one),
        asks(one),
        *(parts.figure(one.metrics[name]) if name in one.metrics else "" for name in names),
        *(parts.figure(one.spec.params[name]) if name in one.spec.params else "" for name in params),
        " ".join(f'<a class="ms-tag" href="{parts.text(view.url("/runs", tag=tag))}">{parts.text(tag)}</a>' for tag in one.tags),
    )


def name_cell(view: View, one: Run) -> str:
    """Return the run's name as a link to its page."""
    return f'<span class="ms-name">{parts.link(one.name, view.url(f"/runs/{one.id}"))}</span>'


def state_cell(one: Run, *, is_short: bool = False) -> str:
    """Return the state, with the reason of a run that waits, or is out of reach, and the message of one that failed."""
    why = parts.why_line if is_short else parts.why
    if one.state is RunState.RUNNING and one.reason is not None:
        return parts.state(one.state.value) + why(one.reason.sentence)
    if one.state is RunState.QUEUED and one.reason is not None:
        word = "paused" if one.desired is Desired.PAUSED else one.state.value
        return parts.state(word) + why(one.reason.sentence)
    if one.cached_from:
        return parts.state(one.state.value) + why(f"Taken from run {one.cached_from}.")
    if one.state is RunState.FAILED and one.outcome is not None:
        return parts.state(one.state.value) + why(one.outcome.message[:160])
    return parts.state(one.state.value)


def asks(one: Run) -> str:
    """Return what the run asks for, in short."""
    wanted = one.spec.resources
    gpus = f", {show_milli(wanted.gpu_milli)} GPU" if wanted.gpu_milli else ""
    times = f" × {one.spec.replicas}" if one.spec.replicas > 1 else ""
    return f"{show_milli(wanted.cpu_milli)} CPU{gpus}{times}"


def _tick(view: View, one: Run) -> str:
    is_picked = " checked" if one.id in view.query.get("picked", "").split(",") else ""
    return (
        f'<input type="checkbox" class="ms-tick" data-act="pick" data-arg="{parts.text(one.id)}"{is_picked} '
        f'aria-label="Choose {parts.text(one.name)}">'
    )


def _known(view: View, picked: Sequence[str]) -> list[Run]:
    """Return the chosen runs that are still there."""
    found = []
    for ref in picked:
        try:
            found.append(runs.get(view.ctx, view.actor, ref))
        except MainspringError:
            continue
    return found


async def _ask_cancel(view: View, picked: Sequence[str]) -> None:
    found = [one for one in await threads.io_bound(_known, view, picked) or [] if one.state not in TERMINAL_RUN]
    waiting = sum(one.state is RunState.QUEUED for one in found)

    async def cancel() -> None:
        await acts.carry_out(lambda: [runs.cancel(view.ctx, view.actor, one.id) for one in found], f"{len(found)} are cancelled.")

    happens = f"{waiting} leave the queue at once; {len(found) - waiting} get SIGTERM and their grace. Logs and metrics stay."
    acts.ask(f"Cancel {len(found)} {'run' if len(found) == 1 else 'runs'}?", happens, "Cancel them", cancel)


async def _ask_rerun(view: View, picked: Sequence[str]) -> None:
    found: list[Run] = await threads.io_bound(_known, view, picked) or []

    async def again() -> None:
        await acts.carry_out(lambda: [runs.rerun(view.ctx, view.actor, one.id) for one in found], "Submitted again.")

    question = f"Run {len(found)} {'run' if len(found) == 1 else 'runs'} again?"
    acts.ask(question, "New runs of the same code are submitted in your name.", "Run again", again, is_destructive=False)


def _news(view: View, wanted: RunFilter, newest: int) -> str:
    if not any(one.seq > newest for one in runs.page(view.ctx, view.actor, wanted, limit=1).items):
        return ""
    found = runs.page(view.ctx, view.actor, wanted, limit=PAGE)
    fresh = sum(one.seq > newest for one in found.items)
    if not fresh or not newest:
        return ""
    many = f"{fresh}+" if fresh >= PAGE else str(fresh)
    return f'<a class="ms-btn ms-news" href="{parts.text(view.again())}">{many} new: show</a>'


def _sorted_by(view: View, wanted: RunFilter, order: str, label: str) -> str:
    """Return a column's head that sorts by it; a second click on a metric or on the time turns the order round."""
    turned = {"newest": "oldest"}.get(order, f"metric:-{order[7:]}" if order.startswith("metric:") else order)
    is_this = wanted.order in (order, turned)
    target = turned if wanted.order == order else order
    arrow = " ▾" if wanted.order == order else " ▴" if is_this else ""
    return f'<a href="{parts.text(view.again(order=target, cursor=""))}">{parts.text(label)}{arrow}</a>'


def _option(value: str, chosen: str, label: str) -> str:
    return f'<option value="{parts.text(value)}"{" selected" if value == chosen else ""}>{parts.text(label)}</option>'
