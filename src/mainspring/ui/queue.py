"""`/queue`: who holds what is fair and who is owed more; who waits, in the order expected, why, and until when."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nicegui import ui

from mainspring.core.forecasts import Forecast
from mainspring.core.queries import Waiting
from mainspring.core.reasons import Reason
from mainspring.core.records import Desired, RunState
from mainspring.services import clusters, forecasts, runs
from mainspring.ui import parts, shares
from mainspring.ui.live import Live
from mainspring.ui.runs import asks
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_ROWS = 200
RUN_ID = re.compile(r"(?:run )?\b(?P<id>run-[0-9a-z]{12,32})\b")
MAX_PEOPLE = 4  # named in the sentence
FORECAST_S = 10.0  # how often the expected starts are worked out while somebody looks


async def page(view: View) -> None:
    """Draw the queue."""
    live = Live(view.ctx, every_s=2.0)
    with page_frame("Queue", view):
        await live.block(lambda: summary(view), "runs", "nodes")
        with ui.element("section"):
            parts.heading("Shares: who holds what, and what would be fair")
            await live.block(lambda: shares.tree(view), every_s=FORECAST_S)
            more = [parts.link("Shares over the last hours", view.url("/shares"))]
            if view.actor.is_admin:
                more.append(parts.link("Rehearse another policy", view.url("/rehearsal")))
            ui.html(f"<p>{' · '.join(more)}</p>", sanitize=False)
        with ui.element("section"):
            parts.heading("Who waits, in the order in which starts are expected")
            await live.block(lambda: waiting(view), "runs", "nodes", every_s=FORECAST_S)
    live.start()


def summary(view: View) -> str:
    """Return the sentence: how many wait, whose they are, and why the first one does."""
    people = clusters.crowd(view.ctx, view.actor)
    if not people:
        return '<p class="ms-sentence">Nobody waits.</p>'
    total = sum(people.values())
    many = f"{total:,} {'run waits' if total == 1 else 'runs wait'}"
    who = ", ".join(f"{number:,} of {name}" for name, number in list(people.items())[:MAX_PEOPLE])
    return f'<p class="ms-sentence">{parts.text(f"{many}: {who}.")}</p>'


def waiting(view: View) -> str:
    """Return the runs that wait, the next one first."""
    found = clusters.queue(view.ctx, view.actor, limit=forecasts.MOST_WAITING)  # of those behind nobody knows a start
    if not found:
        return parts.note("Nobody: what is submitted now starts at once where it fits.")
    expected = forecasts.of_queue(view.ctx, view.actor, age_s=FORECAST_S)
    order = {run: number for number, run in enumerate(expected)}
    ranked = sorted(
        found,
        key=lambda one: (one.reason is not None and one.reason.code in forecasts.UNFORESEEN, order.get(one.run, len(order))),
    )
    known = view.ctx.store.runs.some([one.run for one in ranked[:MAX_ROWS]])
    names = {str(one.run): one.name for one in found}
    has_priority = any(one.priority for one in found)
    rows = []
    for position, one in enumerate(ranked[:MAX_ROWS], 1):
        run = known.get(one.run)
        rows.append(
            (
                str(position),
                f'<div class="ms-name">{parts.link(one.name, view.url(f"/runs/{one.run}"))}</div>{why(view, one, names)}',
                start(view, one.reason, expected.get(one.run)),
                parts.text(one.owner),
                asks(run) if run else "",
                parts.span(run.created_at, None) if run else "",
                *((str(one.priority),) if has_priority else ()),
            )
        )
    table = parts.table(
        ("Place", "Run, and why it waits", "Starts", "Owner", "Asks for", "Waits for", *(("Priority",) if has_priority else ())),
        rows,
        empty="Nobody waits.",
        label="Waiting runs",
        numeric=("Place", "Priority", "Waits for"),
    )
    return f"{table}{_rest(view) if len(found) > MAX_ROWS else ''}"


def _rest(view: View) -> str:
    """Return the line below a long queue: how much of it is shown, and where the rest is."""
    total = sum(clusters.crowd(view.ctx, view.actor).values())
    rest = parts.link("all that wait in this project", view.url("/runs", state="queued", order="oldest"))
    return f'<p class="ms-soft">The first {MAX_ROWS} of {total:,}; {rest}.</p>'


def why(view: View, one: Waiting, names: Mapping[str, str]) -> str:
    """Return the reason, with the runs that it names as links."""
    sentence = parts.words(one.reason.sentence if one.reason else "It is planned with the next plan.")

    def linked(found: re.Match[str]) -> str:
        id = found["id"]
        return parts.link(names.get(id, id[:4] + "…" + id[-4:]), view.url(f"/runs/{id}"))

    return f'<div class="ms-why ms-among">{RUN_ID.sub(linked, sentence)}</div>'


def start_of(view: View, ref: str) -> str:
    """Return the line of a run that waits about its start; nothing for any other, nor for one that has just come."""
    one = runs.get(view.ctx, view.actor, ref)
    if one.state is not RunState.QUEUED or one.desired is not Desired.RUN:
        return ""
    expected = forecasts.of_queue(view.ctx, view.actor, age_s=FORECAST_S).get(one.id)
    if expected is None:
        return ""
    where = parts.link("the queue", view.url("/queue"))
    return f'<p class="ms-soft">Expected to start: {start(view, one.reason, expected)} ({where}).</p>'


def start(view: View, reason: Reason | None, expected: Forecast | None) -> str:
    """Return the interval in which a run is expected to start, the exact moments on hover."""
    if expected is None or (reason is not None and reason.code in forecasts.UNFORESEEN):
        return '<span class="ms-soft">not foreseen</span>'
    now = view.ctx.clock.now()
    soon, late = ((at - now).total_seconds() for at in (expected.earliest, expected.latest))
    words = parts.between(soon, late)
    if not expected.is_bounded:
        words = f"{parts.ahead(soon)} at the soonest"
    told = f"between {expected.earliest:%H:%M:%S} and {expected.latest:%H:%M:%S} UTC ({expected.confidence:.0%})"
    return f'<span title="{parts.text(told)}">{parts.text(words)}</span>'
