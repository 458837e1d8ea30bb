"""`/shares`: who holds what, who is promised what, who is owed what: the tree of shares with bars, and its last hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nicegui import run as threads
from nicegui import ui

from mainspring.core.shares import show_amounts
from mainspring.core.standings import History, Standing
from mainspring.core.units import MILLI, show_bytes
from mainspring.services import standings
from mainspring.ui import charts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import SERIES, page_frame
from mainspring.ui.view import View

WIDTH = 220
HOURS = ("6", "24", "168")
AGE_S = 4.0  # of what a long queue makes slow to work out
PAST_S = 60.0  # how often the past is drawn again
MAX_BANDS = 7
MAX_ROWS = 200
NUMERIC = ("Hold", "Fair", "Owed", "Ask for", "Weight now")
NAMES = {"gpu": "GPU", "cpu": "CPU", "memory": "memory"}


async def page(view: View) -> None:
    """Draw the tree."""
    live = Live(view.ctx, every_s=2.0)
    with page_frame("Shares", view, "/queue"):
        await live.block(lambda: summary(view), every_s=4.0)
        with ui.element("section"):
            await live.block(lambda: tree(view), every_s=4.0)
        with ui.element("section"):
            parts.heading(f"Held over the last {hours_of(view)} hours")
            ui.html(spans(view), sanitize=False)
            await _past(live, view)
    live.start()


def hours_of(view: View) -> int:
    """Return how far back the address wants to see."""
    asked = view.query.get("hours", "")
    return int(asked) if asked in HOURS else int(HOURS[1])


def spans(view: View) -> str:
    """Return links to the spans that can be looked at."""
    now = str(hours_of(view))
    words = {"6": "6 hours", "24": "a day", "168": "a week"}
    return (
        '<p style="display:flex;gap:16px">'
        + "".join(f"<b>{words[one]}</b>" if one == now else parts.link(words[one], view.again(hours=one)) for one in HOURS)
        + "</p>"
    )


async def _past(live: Live, view: View) -> None:
    """Draw who held how much when, and the sums as a table."""
    holder = ui.element("div")
    drawn: list[ui.echart] = []

    async def refresh() -> None:
        found: History | None = await threads.io_bound(standings.history, view.ctx, view.actor, hours=hours_of(view))
        if found is None or not found.held:
            return
        options = past_chart(found)
        if drawn:
            drawn[0].options.update(options)
            drawn[0].update()
        else:
            with holder:
                drawn.append(ui.echart(options).classes("ms-chart").style("height:260px"))

    await live.add(refresh, also=lambda: (f"clock:{int(view.ctx.clock.monotonic() / PAST_S)}",))
    await live.block(lambda: sums(view), every_s=PAST_S)


def past_chart(found: History) -> dict[str, object]:
    """Return the bands of those who held most, and one for all others."""
    bands = list(found.held.items())
    rest = bands[MAX_BANDS:]
    if rest:
        bands = [*bands[:MAX_BANDS], ("others", tuple(map(sum, zip(*(values for _, values in rest), strict=True))))]
    lines = [
        charts.Line(name=name, points=[[round(value / MILLI, 2)] for value in values], colour=SERIES[number % len(SERIES)])
        for number, (name, values) in enumerate(bands)
    ]
    return charts.stacked(f"{NAMES[found.unit]}s", found.begin.timestamp(), found.stretch_s, lines)


def sums(view: View) -> str:
    """Return what each leaf of the tree held in all: the chart's twin."""
    found = standings.history(view.ctx, view.actor, hours=hours_of(view))
    whole = sum(map(sum, found.held.values())) or 1.0
    name = f"{NAMES[found.unit]}-hours"
    rows = [
        (parts.text(leaf), f"{sum(values) * found.stretch_s / 3600 / MILLI:,.2f}", f"{sum(values) / whole:.1%}")
        for leaf, values in found.held.items()
    ]
    return parts.table(
        ("Share", name, "Of all"), rows[:MAX_ROWS], empty="Nobody held anything.", label=name, numeric=(name, "Of all")
    )


def summary(view: View) -> str:
    """Return the sentence: who is owed most, and who holds more than is fair."""
    found = standings.standings(view.ctx, view.actor, age_s=AGE_S)
    unit = unit_of(found)
    return f'<p class="ms-sentence">{parts.text(sentence(found, unit))}</p>'


def sentence(found: Sequence[Standing], unit: str) -> str:
    """Say who is owed most and who borrows most, of one resource."""
    parents = {one.name.rpartition("/")[0] for one in found if one.name}
    leaves = [one for one in found if one.name and one.name not in parents]
    if not any(one.held.get(unit) or one.asked.get(unit) for one in leaves):
        return "Nobody holds or asks for anything."
    owed = max(leaves, key=lambda one: owed_of(one, unit))
    over = max(leaves, key=lambda one: one.held.get(unit, 0) - one.fair.get(unit, 0))
    more = over.held.get(unit, 0) - over.fair.get(unit, 0)
    if not owed_of(owed, unit):
        return "Everybody who asks holds what is fair."
    words = f"{owed.name} is owed {amount(owed_of(owed, unit), unit)} more"
    if more > 0:
        words += f"; {over.name} holds {amount(more, unit)} more than is fair"
    return words + "."


def tree(view: View) -> str:
    """Return every share as a row with a bar: what it holds, what would be fair, what it is promised and limited to."""
    found = standings.standings(view.ctx, view.actor, age_s=AGE_S)
    unit = unit_of(found)
    whole = capacity(found, unit)
    is_promised = any(one.guarantee for one in found[1:])
    is_limited = any(one.limit for one in found)
    is_weighed = any(abs(one.weight - 1) > 0.005 for one in found[1:])
    kept = [True] * 6 + [is_promised, is_limited, is_weighed]
    heads = (
        "Share",
        f"{NAMES.get(unit, unit)}s, of {number(whole, unit)}",
        "Hold",
        "Fair",
        "Owed",
        "Ask for",
        "Promised",
        "Limit",
        "Weight now",
    )
    rows = [[cell for cell, is_kept in zip(row(one, unit, whole), kept, strict=True) if is_kept] for one in found[:MAX_ROWS]]
    shown = [head for head, is_kept in zip(heads, kept, strict=True) if is_kept]
    table = parts.table(shown, rows, empty="Nobody holds or asks for anything.", label="Shares", numeric=NUMERIC)
    more = parts.note(f"The first {MAX_ROWS} of {len(found):,}.") if len(found) > MAX_ROWS else ""
    return f"{table}{more}{key(is_promised=is_promised, is_limited=is_limited)}"


def key(*, is_promised: bool, is_limited: bool) -> str:
    """Return what the marks of the bars mean."""
    marks = [("held", "holds"), ("over", "above what is fair"), ("fair", "fair as things are now")]
    marks += [("promise", "promised")] if is_promised else []
    marks += [("limit", "limit")] if is_limited else []
    return (
        '<div class="ms-legend">'
        + "".join(f'<span><i class="ms-share-{one}"></i>{words}</span>' for one, words in marks)
        + "</div>"
    )


def row(one: Standing, unit: str, whole: int) -> tuple[str, ...]:
    """Return one share as cells."""
    name = one.name.rpartition("/")[2] if one.name else "all"
    held = parts.tags(("held",)) if one.is_held else ""
    return (
        f'<span style="padding-left:{max(one.depth, 0) * 16}px">{parts.text(name)}</span> {held}',
        bar(one, unit, whole),
        number(one.held.get(unit, 0), unit),
        number(one.fair.get(unit, 0), unit),
        number(owed_of(one, unit), unit) if one.name and owed_of(one, unit) else "",
        number(one.asked.get(unit, 0), unit) if one.asked.get(unit) else "",
        parts.text(show_amounts(pledged(one.guarantee))) if one.guarantee and one.name else "",
        parts.text(show_amounts(one.limit)) if one.limit else "",
        f"{one.weight:.3g}" if one.name else "",
    )


def bar(one: Standing, unit: str, whole: int) -> str:
    """Return what a share holds as a bar, on the scale of all that there is."""
    held, fair, promised = one.held.get(unit, 0), one.fair.get(unit, 0), one.guarantee.get(unit, 0)
    limit = one.limit.get(unit)

    def at(value: float) -> float:
        return round(min(max(value / whole, 0.0), 1.0) * WIDTH, 1) if whole else 0.0

    within = min(held, fair) if one.name else held
    told = f"holds {amount(held, unit)}, fair {amount(fair, unit)}"
    told += f", promised {amount(promised, unit)}" if promised and one.name else ""
    told += f", limit {amount(limit, unit)}" if limit is not None else ""
    marks = ""
    if promised and one.name:
        marks += f'<line class="ms-share-promise" x1="{at(promised)}" x2="{at(promised)}" y1="0" y2="16"/>'
    if limit is not None:
        marks += f'<line class="ms-share-limit" x1="{at(limit)}" x2="{at(limit)}" y1="0" y2="16"/>'
    return (
        f'<svg class="ms-share" width="{WIDTH}" height="16" viewBox="0 0 {WIDTH} 16" role="img" aria-label="{parts.text(told)}">'
        f'<title>{parts.text(told)}</title><rect class="ms-share-all" x="0" y="3" width="{WIDTH}" height="10"/>'
        f'<rect class="ms-share-held" x="0" y="3" width="{at(within)}" height="10"/>'
        f'<rect class="ms-share-over" x="{at(within)}" y="3" width="{round(at(held) - at(within), 1)}" height="10"/>'
        f'<rect class="ms-share-fair" x="0.5" y="1.5" width="{max(at(fair) - 1, 0)}" height="13"/>{marks}</svg>'
    )


def unit_of(found: Sequence[Standing]) -> str:
    """Return the resource that is shared: GPUs where anybody holds, asks for or is promised some, else CPUs."""
    if any(one.held.get("gpu") or one.asked.get("gpu") or one.guarantee.get("gpu") for one in found):
        return "gpu"
    return "cpu"


def capacity(found: Sequence[Standing], unit: str) -> int:
    """Return how much there is of a resource."""
    return found[0].total.get(unit, 0) if found else 0


def owed_of(one: Standing, unit: str) -> int:
    """Return what a share would fairly hold more than it does."""
    return max(0, one.fair.get(unit, 0) - one.held.get(unit, 0))


def pledged(amounts: Mapping[str, int]) -> dict[str, int]:
    """Return promised amounts without the model-less total where the models say it."""
    has_models = any(name.startswith("gpu:") for name in amounts)
    return {name: value for name, value in amounts.items() if not (has_models and name == "gpu")}


def number(value: float, unit: str) -> str:
    """Return an amount without its unit."""
    return show_bytes(round(value)) if unit == "memory" else f"{value / MILLI:,.3g}"


def amount(value: float, unit: str) -> str:
    """Return an amount with its unit."""
    if unit == "memory":
        return show_bytes(round(value))
    return f"{number(value, unit)} {NAMES.get(unit, unit)}{'' if round(value) == MILLI else 's'}"
