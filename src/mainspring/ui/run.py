"""`/runs/{id}`: state with its reason, live log beside live charts, then parameters, files, lineage, attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nicegui import run as threads
from nicegui import ui

from mainspring.core.actors import Actor
from mainspring.core.errors import MainspringError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, Run
from mainspring.core.specs import Value
from mainspring.core.units import show_bytes, show_seconds
from mainspring.services import lineage, logs, metrics, runs
from mainspring.services.context import Context
from mainspring.ui import parts
from mainspring.ui.theme import SERIES, page_frame

TAIL = 200_000
MAX_CHARTS = 6


async def page(ctx: Context, actor: Actor, ref: str) -> None:
    """Draw the page of one run."""
    one: Run | None = await threads.io_bound(runs.get, ctx, actor, ref)
    if one is None:
        return
    with page_frame(one.name, "/runs"):
        await parts.live(ctx, lambda: top(ctx, actor, one.id), ("runs", "attempts"))
        _buttons(ctx, actor, one)
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading("Log")
                await log_block(ctx, actor, one.id)
            with ui.element("section"):
                parts.heading("Metrics")
                await charts(ctx, actor, one.id)
        with ui.element("div").classes("ms-cols"):
            for title, draw in (
                ("Parameters", parameters),
                ("Results", outputs),
                ("Attempts", attempts),
                ("Made from", made_from),
                ("Command and code", code),
            ):
                with ui.element("section"):
                    parts.heading(title)
                    await parts.live(ctx, lambda draw=draw: draw(ctx, actor, one.id), ("runs", "attempts"))  # type: ignore[misc]


def top(ctx: Context, actor: Actor, ref: str) -> str:
    """Return name, state and the one sentence."""
    one = runs.get(ctx, actor, ref)
    told = runs.why(ctx, actor, ref)
    sentence = parts.text(told["sentence"])
    return (
        f'<div class="ms-soft">{parts.text(one.owner)} · {parts.text(one.id)} · {parts.moment(one.created_at)}</div>'
        f'<p class="ms-sentence">{parts.text(one.name)} {parts.state(one.state.value)} {sentence}</p>'
    )


def _buttons(ctx: Context, actor: Actor, one: Run) -> None:
    with ui.row().classes("ms-actions"):
        if one.state not in TERMINAL_RUN:
            ui.button("Cancel run", on_click=lambda: _ask_cancel(ctx, actor, one)).props("outline no-caps dense")
        ui.button("Run again", on_click=lambda: _rerun(ctx, actor, one)).props("outline no-caps dense")


def _ask_cancel(ctx: Context, actor: Actor, one: Run) -> None:
    with ui.dialog() as dialog, ui.card():
        grace = show_seconds(one.spec.grace_s)
        ui.label(f"Cancel {one.name}? Its process gets SIGTERM, {grace} of grace, then it is killed. Logs and metrics stay.")
        with ui.row():
            ui.button("Keep it running", on_click=dialog.close).props("flat no-caps")

            async def cancel() -> None:
                dialog.close()
                await _try(lambda: runs.cancel(ctx, actor, one.id), "Cancelling")

            ui.button("Cancel run", on_click=cancel).props("no-caps color=negative")
    dialog.open()


async def _rerun(ctx: Context, actor: Actor, one: Run) -> None:
    again = await _try(lambda: runs.rerun(ctx, actor, one.id), "Submitted again")
    if again is not None:
        ui.navigate.to(f"/runs/{again.id}")


async def _try(act: object, done: str) -> Run | None:
    try:
        result: Run | None = await threads.io_bound(act)  # type: ignore[arg-type]
    except MainspringError as wrong:
        ui.notify(str(wrong), type="negative", close_button=True)
        return None
    ui.notify(done)
    return result


@dataclass(slots=True)
class _Tail:
    """The end of a log as one page shows it."""

    attempt: str
    offset: int
    data: bytes
    version: int = -1

    def grow(self, ctx: Context, actor: Actor, ref: str) -> bool:
        """Read what has come since, from the newest attempt; return whether anything has."""
        newest = logs.choose(ctx, actor, ref, None)
        if newest is not None and newest.id != self.attempt:
            self.attempt, self.offset, self.data = newest.id, 0, b""
        part = logs.read(ctx, actor, ref, offset=self.offset, limit=TAIL)
        self.data, self.offset = (self.data + part.data)[-TAIL:], part.next_offset
        return bool(part.data)


async def log_block(ctx: Context, actor: Actor, ref: str) -> None:
    """Draw the log's tail and keep appending what comes."""
    first = await threads.io_bound(logs.read, ctx, actor, ref, offset=-TAIL, limit=TAIL)
    if first is None:
        return
    block = ui.element("pre").classes("ms-log").props('tabindex=0 aria-label="Log"')
    with block:
        shown = ui.html(parts.text(first.data.decode("utf-8", "replace")) or "Nothing printed yet.", sanitize=False)
    tail = _Tail(attempt=first.attempt, offset=first.next_offset, data=first.data)

    async def more() -> None:
        version = ctx.signals.version(f"logs:{tail.attempt}", "attempts")
        if version == tail.version:
            return
        tail.version = version
        if await threads.io_bound(tail.grow, ctx, actor, ref):
            shown.set_content(parts.text(tail.data.decode("utf-8", "replace")))
            block.run_method("scrollTo", 0, 10_000_000)

    ui.timer(0.5, more)


async def charts(ctx: Context, actor: Actor, ref: str) -> None:
    """Draw one small chart for each metric and keep them current."""
    holder = ui.element("div")
    drawn: dict[str, ui.echart] = {}
    seen = {"version": -1}

    async def refresh() -> None:
        version = ctx.signals.version("runs", "attempts", "metrics")
        if version == seen["version"]:
            return
        seen["version"] = version
        series = await threads.io_bound(_series, ctx, actor, ref)
        for name, points in (series or {}).items():
            if name not in drawn:
                with holder:
                    drawn[name] = ui.echart(_chart(name, [])).style("height:180px;width:100%")
            drawn[name].options["series"][0]["data"] = points
            drawn[name].update()
        if not drawn and seen["version"] >= 0 and not holder.default_slot.children:
            with holder:
                ui.html(
                    '<p class="ms-soft">No metric yet. In your code: ms.log_metric("loss", value, step=n)</p>', sanitize=False
                )

    await refresh()
    ui.timer(1.0, refresh)


def _series(ctx: Context, actor: Actor, ref: str) -> dict[str, list[list[float]]]:
    names = sorted(metrics.summary(ctx, actor, ref))[:MAX_CHARTS]
    found = {}
    for name in names:
        points = metrics.series(ctx, actor, ref, name, points=1000)
        found[name] = [
            [float(n if step is None else step), float(value)]
            for n, (step, value, _) in enumerate(points)
            if isinstance(value, float | int)
        ]
    return found


def _chart(name: str, points: list[list[float]]) -> dict[str, object]:
    return {
        "animation": False,
        "title": {"text": name, "textStyle": {"fontSize": 12, "fontWeight": 600, "color": "#7f8a93"}},
        "grid": {"left": 56, "right": 12, "top": 28, "bottom": 24},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "scale": True, "axisLabel": {"color": "#7f8a93"}, "splitLine": {"show": False}},
        "yAxis": {
            "type": "value",
            "scale": True,
            "axisLabel": {"color": "#7f8a93"},
            "splitLine": {"lineStyle": {"opacity": 0.25}},
        },
        "series": [{"type": "line", "data": points, "symbolSize": 5, "lineStyle": {"width": 1.5}, "color": SERIES[0]}],
    }


def parameters(ctx: Context, actor: Actor, ref: str) -> str:
    """Return the parameters as names and values."""
    found = metrics.params(ctx, actor, ref)
    if not found:
        return '<p class="ms-soft">None.</p>'
    return parts.pairs([(name, parts.text(value)) for name, value in sorted(found.items())])


def outputs(ctx: Context, actor: Actor, ref: str) -> str:
    """Return what the run gave back."""
    one = runs.get(ctx, actor, ref)
    return parts.table(
        ("Name", "Kind", "Value"),
        [(parts.text(name), parts.text(value.kind.value), parts.text(_shown(value))) for name, value in one.outputs.items()],
        empty="Nothing yet.",
    )


def attempts(ctx: Context, actor: Actor, ref: str) -> str:
    """Return each try: where, how it ended, how long it took."""
    rows = []
    for one in runs.attempts(ctx, actor, ref):
        ended = one.outcome
        how = f"{ended.cause.value}: {ended.message}" if ended else ""
        rows.append((str(one.number), parts.state(one.state.value), parts.text(_where(one)), parts.text(how), _took(one)))
    return parts.table(("Try", "State", "Node", "End", "Took"), rows, empty="Not placed yet.")


def made_from(ctx: Context, actor: Actor, ref: str) -> str:
    """Return the run's lineage as rows."""
    graph: Mapping[str, object] = lineage.of_run(ctx, actor, ref)
    nodes = [one for one in graph["nodes"] if isinstance(one, lineage.LineageNode)]  # type: ignore[attr-defined]
    rows = [(parts.text(one.kind), parts.text(one.label), parts.text(one.detail[:24])) for one in nodes[1:]]
    return parts.table(("Kind", "Name", "Digest or id"), rows, empty="Nothing that is versioned.")


def code(ctx: Context, actor: Actor, ref: str) -> str:
    """Return the command, the commit and the resources."""
    one = runs.get(ctx, actor, ref)
    spec = one.spec
    what = " ".join(spec.command) if spec.command else f"{spec.entry.module}:{spec.entry.function}" if spec.entry else ""
    commit = f"{spec.code.git_commit[:12]}{' with changes' if spec.code.is_dirty else ''}" if spec.code.git_commit else "no git"
    return parts.pairs(
        [
            ("Command", f"<code>{parts.text(what[:500])}</code>"),
            ("Asks for", parts.text(spec.resources.show())),
            ("Commit", parts.text(commit)),
            ("Bundle", parts.text(spec.code.manifest[:16] or "none")),
        ]
    )


def _shown(value: Value) -> str:
    if value.digest:
        return f"{value.digest[:12]} {show_bytes(value.size_bytes) if value.size_bytes else ''}"
    return str(value.json)[:300]


def _where(one: Attempt) -> str:
    return ", ".join(sorted({replica.node for replica in one.replicas}))


def _took(one: Attempt) -> str:
    begun = one.started_at or one.launched_at
    return show_seconds((one.ended_at - begun).total_seconds()) if begun and one.ended_at else ""
