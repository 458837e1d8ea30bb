"""`/rehearsal`: what another policy would have done with the last days: waits before and after, who wins, who loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nicegui import background_tasks, ui
from nicegui import run as threads

from mainspring.core.errors import MainspringError
from mainspring.core.policy import Policy
from mainspring.core.rehearsals import Outlook, Rehearsal
from mainspring.core.units import counted, show_seconds
from mainspring.services import rehearsals
from mainspring.ui import charts, parts
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

DAYS = ("1", "7", "30")
MODES = ("never", "reclaim", "priority")
MAX_BARS = 20
NO_CHANGE_S = 1.0
HOUR_S = 3600.0


async def page(view: View) -> None:
    """Draw the form, and below it what it gives once it was sent."""
    with page_frame("Rehearsal", view, "/queue"):
        if not view.actor.is_admin:
            parts.sentence("A policy is rehearsed by administrators.")
            return
        in_force: Policy | None = await threads.io_bound(rehearsals.in_force, view.ctx, view.actor)
        wanted = policy_of(view, in_force or Policy())
        parts.sentence("What would another policy have done with the last days?")
        ui.html(form(view, wanted), sanitize=False)
        if view.query.get("go"):
            holder = ui.element("div").classes("ms-stack")
            with holder:
                ui.html(parts.note("Rehearsing: every run of that time is planned again, twice."), sanitize=False)
            background_tasks.create(_show(view, wanted, holder), name="rehearse")


def policy_of(view: View, in_force: Policy) -> Policy:
    """Return the policy in force with what the address changes of it; what it does not understand it ignores."""
    query = view.query
    order, backfill, preemption = in_force.order, in_force.backfill, in_force.preemption
    if query.get("go"):
        order = replace(order, is_fair=query.get("fair") == "1", is_shortest_first=query.get("shortest") == "1")
    order = replace(
        order,
        aging_s=_number(query.get("aging"), order.aging_s / HOUR_S) * HOUR_S,
        half_life_s=_number(query.get("half"), order.half_life_s / HOUR_S) * HOUR_S,
        history=_number(query.get("history"), order.history),
    )
    mode = query.get("mode", "")
    preemption = replace(
        preemption,
        mode=mode if mode in MODES else preemption.mode,
        min_run_s=_number(query.get("min_run"), preemption.min_run_s / 60) * 60,
    )
    backfill = replace(backfill, reserved=round(_number(query.get("reserved"), float(backfill.reserved))))
    return replace(in_force, order=order, backfill=backfill, preemption=preemption)


def form(view: View, wanted: Policy) -> str:
    """Return the fields, filled with what is asked."""
    order, preemption = wanted.order, wanted.preemption
    days = days_of(view)

    def number(name: str, label: str, value: float, unit: str) -> str:
        shown = f'<input name="{name}" type="number" step="any" min="0" value="{value:g}"> <span class="ms-soft">{unit}</span>'
        return f"<label>{label} {shown}</label>"

    def tick(name: str, label: str, is_on: bool) -> str:
        return f'<label><input type="checkbox" name="{name}" value="1"{" checked" if is_on else ""}> {label}</label>'

    def choice(name: str, label: str, known: Sequence[str], value: str) -> str:
        options = "".join(f"<option{' selected' if one == value else ''}>{one}</option>" for one in known)
        return f'<label>{label} <select name="{name}">{options}</select></label>'

    fields = (
        tick("fair", "Fair shares (else strict priority)", order.is_fair),
        tick("shortest", "Shortest first inside a share", order.is_shortest_first),
        number("aging", "Aging", order.aging_s / HOUR_S, "h"),
        number("half", "Half-life of past use", order.half_life_s / HOUR_S, "h"),
        number("history", "Weight of past use", order.history, "0 to 1"),
        choice("mode", "Stop runs for others", MODES, preemption.mode),
        number("min_run", "Not before", preemption.min_run_s / 60, "min"),
        number("reserved", "Blocked runs that keep their time", float(wanted.backfill.reserved), ""),
        choice("days", "Days", DAYS, str(days)),
    )
    kept = f'<input type="hidden" name="project" value="{parts.text(view.query["project"])}">' if "project" in view.query else ""
    return (
        f'<form class="ms-filter ms-policy" method="get" action="/rehearsal">{kept}{"".join(fields)}'
        '<input type="hidden" name="go" value="1"><button class="ms-btn" type="submit">Rehearse</button></form>'
    )


def days_of(view: View) -> int:
    """Return how many days are replayed."""
    asked = view.query.get("days", "")
    return int(asked) if asked in DAYS else int(DAYS[1])


def sentence(found: Rehearsal) -> str:
    """Return how the mean wait moves, who wins most and who loses most."""
    before, after = found.now.all.mean_s, found.then.all.mean_s
    if abs(before - after) < NO_CHANGE_S:
        words = f"The mean wait stays {told(before)}."
    else:
        words = f"The mean wait would be {told(after)} instead of {told(before)}."
    moves = sorted((change(found, share), share) for share in found.now.by_share)
    if moves and moves[0][0] < -NO_CHANGE_S:
        words += f" {moves[0][1]} wins most ({told(-moves[0][0])} less)."
    if moves and moves[-1][0] > NO_CHANGE_S:
        words += f" {moves[-1][1]} loses most ({told(moves[-1][0])} more)."
    return words


def change(found: Rehearsal, share: str) -> float:
    """Return how many seconds longer the share would wait, on average."""
    return found.then.by_share[share].mean_s - found.now.by_share[share].mean_s


def summary(found: Rehearsal) -> str:
    """Return the whole of it as a table: both policies, side by side."""
    now, then = found.now, found.then
    rows = [
        ("Mean wait", told(now.all.mean_s), told(then.all.mean_s)),
        ("Half wait less than", told(now.all.p50_s), told(then.all.p50_s)),
        ("Nine of ten wait less than", told(now.all.p90_s), told(then.all.p90_s)),
        ("How fairly it was shared (Jain, 1 is best)", f"{now.jain:.3f}", f"{then.jain:.3f}"),
        ("Runs stopped for others", f"{now.evictions:,}", f"{then.evictions:,}"),
        ("GPU time worked twice", f"{now.lost:.2%}", f"{then.lost:.2%}"),
        ("Until all was done", told(now.makespan_s), told(then.makespan_s)),
    ]
    if now.cost_usd or then.cost_usd:
        rows.append(("Rented machines", f"{now.cost_usd:,.2f} USD", f"{then.cost_usd:,.2f} USD"))
    heads = ("Of all", "Now", "Rehearsed")
    return parts.table(heads, rows, empty="", label="Both policies", numeric=heads[1:])


def by_share(found: Rehearsal) -> str:
    """Return the waits of each share, the greatest change first: the chart's twin."""
    rows = []
    for share in sorted(found.now.by_share, key=lambda one: -abs(change(found, one))):
        before, after, moved = found.now.by_share[share], found.then.by_share[share], change(found, share)
        word = parts.state("stays") if abs(moved) < NO_CHANGE_S else parts.state("loses" if moved > 0 else "wins")
        rows.append((parts.text(share), word, f"{before.runs:,}", *_both(before, after), _moved(moved)))
    heads = ("Person", "", "Runs", "Mean now", "Rehearsed", "90 % now", "90 % rehearsed", "Change of the mean")
    return parts.table(heads, rows, empty="Nobody.", label="Waits of each person", numeric=heads[2:])


def chart(found: Rehearsal) -> dict[str, object]:
    """Return two bars for each share: its mean wait now and rehearsed, those who wait longest first."""
    ranked = sorted(found.now.by_share, key=lambda one: -max(found.now.by_share[one].mean_s, found.then.by_share[one].mean_s))
    shown = ranked[:MAX_BARS]
    rows = [(one, found.now.by_share[one].mean_s / 60, found.then.by_share[one].mean_s / 60) for one in shown]
    return charts.pairs("Mean wait, minutes", ("now", "rehearsed"), rows)


def told(seconds: float) -> str:
    """Return seconds as people read them."""
    return show_seconds(float(round(seconds))) if seconds >= 1 else "0 s"


def _both(before: Outlook, after: Outlook) -> tuple[str, str, str, str]:
    return told(before.mean_s), told(after.mean_s), told(before.p90_s), told(after.p90_s)


def _moved(seconds: float) -> str:
    if abs(seconds) < NO_CHANGE_S:
        return "none"
    return f"{'+' if seconds > 0 else '−'}{told(abs(seconds))}"


async def _show(view: View, wanted: Policy, holder: ui.element) -> None:
    """Rehearse, then draw what came of it."""
    try:
        found: Rehearsal | None = await threads.io_bound(
            rehearsals.rehearse, view.ctx, view.actor, wanted, days=float(days_of(view))
        )
    except MainspringError as wrong:
        holder.clear()
        with holder:
            parts.sentence(wrong.message)
            ui.html(parts.note(wrong.hint), sanitize=False)
        return
    if found is None:
        return
    holder.clear()
    with holder:
        parts.sentence(sentence(found))
        left_out = f" Left out: {counted(found.left_out, 'other')}." if found.left_out else ""
        ui.html(parts.note(f"{counted(found.runs, 'run')} of the last {days_of(view)} days, replayed.{left_out}"), sanitize=False)
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading("Waits of each person")
                ui.echart(chart(found)).classes("ms-chart").style("height:300px")
            with ui.element("section"):
                parts.heading("Both policies")
                ui.html(summary(found), sanitize=False)
        with ui.element("section"):
            parts.heading("Who wins, who loses")
            ui.html(by_share(found), sanitize=False)


def _number(said: str | None, otherwise: float) -> float:
    try:
        value = float(said) if said else otherwise
    except ValueError:
        return otherwise
    return value if 0 <= value < float("inf") else otherwise
