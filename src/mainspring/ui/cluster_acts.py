"""What administrators do on the fleet page: add a cluster, check it, forget it; take nodes and GPUs out, and put them back.

An engine is asked by a row, as from the command line: a controller acts, the dialog waits for what it records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nicegui import run as threads
from nicegui import ui

from mainspring.core.backend import Option, OptionKind
from mainspring.core.errors import UnreachableError, from_wire
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.moments import parse_deadline
from mainspring.core.operations import Operation, OperationState
from mainspring.core.records import WHOLE, Cause, Node, Run, RunState
from mainspring.core.units import counted
from mainspring.services import clusters, logs, operations, runs
from mainspring.services.clusters import Kind
from mainspring.ui import acts, cluster_facts, parts
from mainspring.ui.view import View

ANSWER_S = 120.0  # an engine that has not answered by then is said not to
LOOK_S = 3.0
MAX_LOG = 4096
ADDED = "Its engine is looked at first; one that cannot be used is refused, with what mends it."
CHECKED = "Its engine is looked at, and something tiny runs on each of its nodes that takes runs."
DRAINED = "What runs there goes on to its end, or to the time below; nothing new is placed there until it is resumed."


def handlers(view: View) -> dict[str, acts.Handler]:
    """Return what each button of the page does."""
    return {
        "drain": lambda node: _ask_drain(view, node),
        "resume": lambda place: _resume(view, place),
        "cluster.add": lambda _: _ask_add(view),
        "cluster.check": lambda name: _check(view, name),
        "cluster.forget": lambda name: _ask_forget(view, name),
    }


# --- nodes and devices --------------------------------------------------------------------------------------------------


async def _ask_drain(view: View, ref: str) -> None:
    node: Node | None = await threads.io_bound(view.ctx.store.nodes.get, ref)
    if node is None:
        return
    places = {WHOLE: "the whole node"}
    places |= {one.index: f"GPU {one.index}, {one.model}" for one in node.devices if one.index not in node.out()}
    clock = f"{view.ctx.clock.now().astimezone():%H:%M %Z}"
    with acts.asked(f"Drain {node.name}?", DRAINED) as dialog:
        place = acts.choice("What", places, WHOLE)
        by = acts.field("By", hint=f"Such as 30m, 18:00 or tomorrow 9:00. The server's clock: {clock}. Empty: no time.")
        reason = acts.field("Reason", hint="Shown to whoever waits.")
        said = acts.answer()

        async def drain() -> None:
            device = None if place.value == WHOLE else int(place.value)
            time, why = str(by.value).strip(), str(reason.value).strip()

            def act() -> Node:
                ends_at = parse_deadline(time, view.ctx.clock.now(), "By") if time else None
                return clusters.drain(view.ctx, view.actor, node.id, device=device, by=ends_at, reason=why)

            if await acts.tried(act, said) is not None:
                dialog.close()
                ui.notify("It takes nothing new.")

        acts.buttons(dialog, "Drain", drain, is_destructive=True)


async def _resume(view: View, place: str) -> None:
    """Resume a node, or a device of it: `NODE`, `NODE 3`."""
    node, _, device = place.partition(" ")
    index = int(device) if device else None
    await acts.carry_out(lambda: clusters.resume(view.ctx, view.actor, node, device=index), "It takes runs again.")


# --- clusters -----------------------------------------------------------------------------------------------------------


async def _ask_add(view: View) -> None:
    known: list[Kind] = await threads.io_bound(clusters.kinds) or []
    kinds = {one.name: one for one in known if one.name != "local"}  # the machine of the server is a cluster already
    with acts.asked("Add a cluster?", ADDED) as dialog:
        kind = acts.choice("Kind", list(kinds), next(iter(kinds)))
        name = acts.field("Name", hint="Empty: as its kind.")
        form = _Form(ui.element("div").classes("ms-fields"))
        form.draw(kinds[str(kind.value)])
        kind.on_value_change(lambda: form.draw(kinds[str(kind.value)]))
        said = acts.answer()

        async def add() -> None:
            chosen, called, targets, options = str(kind.value), str(name.value).strip(), form.words(), form.options()
            button.disable()
            found = await _answer(
                view, lambda: clusters.add(view.ctx, view.actor, chosen, name=called, targets=targets, options=options), said
            )
            button.enable()
            if found is not None and dialog.value:
                dialog.close()
                _show_added(view, found)

        button = acts.buttons(dialog, "Add cluster", add)


def _show_added(view: View, found: Mapping[str, object]) -> None:
    name, many = str(found["cluster"]), counted(len(cluster_facts.nodes_of(found)), "node")
    with acts.asked(
        f"{name} is registered with {many}.", "Something tiny that runs on each node tells whether they can be used."
    ) as dialog:
        ui.html(cluster_facts.looked(found), sanitize=False).classes("ms-answer")

        async def check() -> None:
            dialog.close()
            await _check(view, name)

        acts.buttons(dialog, "Check", check, leave="Close")


@dataclass(slots=True)
class _Form:
    """The fields of the engine kind that is chosen, in `holder`; each option with what it has untouched."""

    holder: ui.element
    targets: ui.input | None = None
    fields: dict[str, tuple[ui.input | ui.checkbox, object]] = field(default_factory=dict)

    def draw(self, kind: Kind) -> None:
        """Show what `kind` takes; what it can do without is folded away."""
        needed = [one for one in kind.options if one.is_required]
        other = [one for one in kind.options if not one.is_required]
        self.holder.clear()
        with self.holder:
            ui.html(parts.note(kind.help), sanitize=False)
            self.targets = acts.field(kind.targets, hint="Several are separated by spaces.") if kind.targets else None
            self.fields = {one.name: _option(one) for one in needed}
            if other:
                with ui.element("details"):
                    with ui.element("summary"):
                        ui.html(counted(len(other), "option"), sanitize=False, tag="span")
                    with ui.element("div").classes("ms-fields ms-options"):
                        self.fields |= {one.name: _option(one) for one in other}

    def words(self) -> list[str]:
        """Return the targets that were written."""
        return str(self.targets.value).split() if self.targets is not None else []

    def options(self) -> dict[str, object]:
        """Return the options that were set, as they were written."""
        return {name: one.value for name, (one, untouched) in self.fields.items() if one.value != untouched}


def _option(one: Option) -> tuple[ui.input | ui.checkbox, object]:
    """Draw the field of an option, named as on the command line."""
    name = one.name.replace("_", "-")
    if one.kind is OptionKind.FLAG:
        return ui.checkbox(f"{name}: {one.help}", value=bool(one.default)), bool(one.default)
    told = one.help.replace("`", "") + (f" Default: {one.default}." if one.default not in (None, "") else "")
    if one.kind is OptionKind.LIST and "comma" not in told:
        told += " Several are separated by commas."
    if one.kind is OptionKind.PATH:
        told += " On the server's machine."
    return acts.field(name, hint=told, is_hidden=one.kind is OptionKind.SECRET), ""


def _ask_forget(view: View, name: str) -> None:
    happens = "Its nodes leave the fleet; its machines are not touched, and it can be added again. It stays while runs are on it."
    with acts.asked(f"Forget {name}?", happens) as dialog:
        said = acts.answer()

        async def forget() -> None:
            def act() -> bool:
                clusters.remove(view.ctx, view.actor, name)
                return True

            if await acts.tried(act, said):
                dialog.close()
                ui.notify(f"{name} is forgotten.")

        acts.buttons(dialog, "Forget", forget, is_destructive=True)


async def _check(view: View, name: str) -> None:
    """Look at the engine, then let something tiny run on each node, and show how each does."""
    with acts.asked(f"Check {name}", CHECKED) as dialog:
        said = acts.answer()
        found = ui.html("", sanitize=False).classes("ms-answer")
        with ui.row().classes("ms-actions"):
            acts.plain_button("Close", dialog.close)
    result = await _answer(view, lambda: clusters.probe(view.ctx, view.actor, name), said)
    if result is None:
        return
    found.set_content(cluster_facts.looked(result))
    tiny = await acts.tried(lambda: clusters.check(view.ctx, view.actor, name, project=view.project), said)
    if tiny is not None:
        await _follow(view, [run.id for run in tiny], said)


async def _follow(view: View, ids: Sequence[str], said: ui.html) -> None:
    """Show how the tiny runs do until each has ended or cannot even start; what has not ended by then is cancelled.

    It goes on when the dialog is closed: nobody else would cancel a run that never starts.
    """
    signals, until = view.ctx.signals, view.ctx.clock.monotonic() + clusters.CHECK_S
    while True:
        seen = signals.version("runs", "attempts")
        tried = await acts.tried(lambda: [_tried(view, id) for id in ids], said)
        if tried is None:
            return
        said.set_content(_results(view, tried))
        left = until - view.ctx.clock.monotonic()
        if left <= 0 or all(one.refusal or one.run.state in TERMINAL_RUN for one in tried):
            break
        await signals.wait_async(("runs", "attempts"), seen, min(left, LOOK_S))
    rest = [one.run.id for one in tried if one.run.state not in TERMINAL_RUN]
    await acts.tried(lambda: [runs.cancel(view.ctx, view.actor, id) for id in rest], said)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A tiny run, what it printed or why it waits, and why it cannot even start."""

    run: Run
    told: str = ""
    refusal: str = ""


def _tried(view: View, id: str) -> _Tried:
    run = runs.get(view.ctx, view.actor, id)
    ended = [one.outcome for one in runs.attempts(view.ctx, view.actor, id) if one.outcome is not None]
    if ended and ended[-1].cause is Cause.LAUNCH_FAILED:
        return _Tried(run=run, refusal=ended[-1].message or "It could not be launched.")
    if run.state is RunState.SUCCEEDED:
        printed = logs.read(view.ctx, view.actor, id, limit=MAX_LOG).data
        return _Tried(run=run, told=printed.decode("utf-8", "replace").strip())
    if run.outcome is not None:
        return _Tried(run=run, told=run.outcome.message)
    return _Tried(run=run, told=run.reason.sentence if run.reason is not None else "")


def _results(view: View, tried: Sequence[_Tried]) -> str:
    rows = [
        (
            parts.state("failed" if one.refusal else one.run.state.value),
            parts.text(one.run.spec.resources.labels.get("node", "")),
            parts.link(one.run.name, view.url(f"/runs/{one.run.id}")),
            f'<div class="ms-why">{parts.text(one.refusal or one.told)}</div>',
        )
        for one in tried
    ]
    return parts.table(("State", "Node", "Run", "Told"), rows, empty="", label="Tiny runs")


async def _answer(view: View, ask: Callable[[], Operation], said: ui.html) -> Mapping[str, object] | None:
    """Ask an engine something and wait for what it answers; None when that is a refusal, which `said` then tells."""
    signals, until = view.ctx.signals, view.ctx.clock.monotonic() + ANSWER_S
    seen = signals.version("operations")
    said.set_content(parts.note("Its engine is asked."))
    asked = await acts.tried(ask, said)
    if asked is None:
        return None
    id, found = asked.id, asked
    while found.state is OperationState.PENDING:
        left = until - view.ctx.clock.monotonic()
        if left <= 0:
            late = UnreachableError(f"{found.subject} has not answered for {ANSWER_S:g} s.", hint="mainspring status")
            said.set_content(parts.refusal(late))
            return None
        await signals.wait_async(("operations",), seen, min(left, LOOK_S))
        seen = signals.version("operations")
        again = await acts.tried(lambda: operations.get(view.ctx, view.actor, id), said)
        if again is None:
            return None
        found = again
    if found.error:
        said.set_content(cluster_facts.refused(from_wire({"error": found.error})))
        return None
    said.set_content("")
    return found.result
