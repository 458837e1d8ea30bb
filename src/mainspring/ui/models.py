"""`/models` and `/models/{name}`: versions against the objective, where they come from, and the way into production."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import run as threads
from nicegui import ui

from mainspring.core.records import GateResult, ModelVersion
from mainspring.core.units import counted
from mainspring.services import endpoints, gates, lineage, models
from mainspring.ui import acts, graph, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_METRICS = 5


async def page(view: View) -> None:
    """Draw the list of models."""
    live = Live(view.ctx)
    with page_frame("Models", view):
        await live.block(lambda: listed(view), "events")
    live.start()


def listed(view: View) -> str:
    """Return the newest version of every model with its newest verdict."""
    verdicts = gates.all(view.ctx, view.actor, project=view.project)
    rows = []
    for one in models.all(view.ctx, view.actor, project=view.project):
        verdict = next((found for found in verdicts if is_about(found, one)), None)
        rows.append(
            (
                parts.link(one.model, view.url(f"/models/{one.model}")),
                f"v{one.number}",
                parts.tags(one.aliases),
                parts.text(one.format),
                ", ".join(f"{parts.text(name)} {parts.figure(value)}" for name, value in list(one.metrics.items())[:3]),
                parts.state("passed" if verdict.is_passed else "refused") if verdict else "",
                parts.text(one.created_by),
                parts.moment(one.created_at),
            )
        )
    return parts.table(
        ("Model", "Newest", "Aliases", "Format", "Metrics", "Gate", "By", "When"),
        rows,
        empty="No model yet. In code: run.result().register(NAME)",
        label="Models",
        numeric=("Newest",),
    )


def is_about(verdict: GateResult, one: ModelVersion) -> bool:
    """Say whether a verdict was given on this version, or on the run that made it."""
    is_named = verdict.model == one.model and verdict.model_version == one.number
    return is_named or (bool(verdict.run) and verdict.run == one.run)


async def one_page(view: View) -> None:
    """Draw one model and the version that the address names."""
    asked = view.query.get("version", "latest")
    chosen: ModelVersion | None = await threads.io_bound(
        models.resolve, view.ctx, view.actor, view.ref, asked, project=view.project
    )
    if chosen is None:
        return
    live = Live(view.ctx)
    with page_frame(view.ref, view, "/models"):
        with ui.element("section"):
            await live.block(lambda: top(view, chosen), "events", "endpoints")
        with ui.element("section"):
            parts.heading("Versions")
            await live.block(lambda: versions(view), "events")
        with ui.element("div").classes("ms-cols"):
            with ui.element("section"):
                parts.heading("What gates said")
                await live.block(lambda: judged(view), "events")
            with ui.element("section"):
                parts.heading(f"Version {chosen.number}: figures, inputs, verification")
                await live.block(lambda: described(chosen))
        with ui.element("section"):
            parts.heading(f"Version {chosen.number} was made from")
            await live.block(lambda: graph.picture(view, _lineage(view, chosen)))
    acts.listen({"deploy": lambda number: _ask_deploy(view, number), "champion": lambda number: _ask_champion(view, number)})
    live.start()


def top(view: View, chosen: ModelVersion) -> str:
    """Return the sentence: what serves it, and what its gate said."""
    serving = [
        (one, revision)
        for one in endpoints.all(view.ctx, view.actor, project=view.project)
        for revision in endpoints.revisions(view.ctx, view.actor, one.name, project=view.project)
        if revision.number == one.revision and revision.model == view.ref and one.stopped_at is None
    ]
    verdict = next((one for one in gates.all(view.ctx, view.actor, project=view.project) if is_about(one, chosen)), None)
    words = [parts.text(verdict.sentence if verdict else f"Version {chosen.number} has not been judged by a gate.")]
    for one, revision in serving:
        words.append(f"v{revision.model_version} serves {parts.link(one.name, view.url(f'/endpoints/{one.name}'))}.")
    act = ""
    if view.may_edit:
        number = str(chosen.number)
        act = parts.button(f"Deploy v{number}", "deploy", number) + parts.button(f"Make v{number} champion", "champion", number)
    return (
        f'<h2 class="ms-title">{parts.text(view.ref)} v{chosen.number} {parts.tags(chosen.aliases)}</h2>'
        f'<p class="ms-sentence">{" ".join(words)}</p><div class="ms-actions" style="margin-top:6px">{act}</div>'
    )


def versions(view: View) -> str:
    """Return the versions, newest first."""
    found = models.versions(view.ctx, view.actor, view.ref, project=view.project)
    verdicts = gates.all(view.ctx, view.actor, project=view.project)
    names = sorted({name for one in found for name in one.metrics})[:MAX_METRICS]
    rows = []
    for one in reversed(found):
        verdict = next((said for said in verdicts if is_about(said, one)), None)
        judged_cell = (
            f"{parts.state('passed' if verdict.is_passed else 'refused')} {parts.figure(verdict.value)}" if verdict else ""
        )
        rows.append(
            (
                parts.link(f"v{one.number}", view.url(f"/models/{view.ref}", version=str(one.number))),
                parts.tags(one.aliases),
                parts.text(one.format),
                judged_cell,
                *(parts.figure(one.metrics[name]) if name in one.metrics else "" for name in names),
                parts.link("its run", view.url(f"/runs/{one.run}")) if one.run else "",
                parts.text(one.created_by),
                parts.moment(one.created_at),
            )
        )
    heads = ("Version", "Aliases", "Format", "Gate", *names, "Made by", "By", "When")
    return parts.table(heads, rows, empty="", label="Versions", numeric=tuple(names))


def judged(view: View) -> str:
    """Return what gates said of this model, newest first, above the values against their line."""
    made_by = {one.run for one in models.versions(view.ctx, view.actor, view.ref, project=view.project) if one.run}
    every = gates.all(view.ctx, view.actor, project=view.project)
    mine = {one.objective for one in every if one.model == view.ref or (one.run and one.run in made_by)}
    found = [one for one in every if one.objective in mine]
    goals = {one.name: one for one in gates.objectives(view.ctx, view.actor, project=view.project)}
    curves = []
    for name in sorted(mine):
        goal = goals.get(name)
        line = None if goal is None else goal.at_least if goal.at_least is not None else goal.at_most
        values = [one.value for one in reversed(found) if one.objective == name]
        wanted = f"at least {parts.figure(goal.at_least)}" if goal and goal.at_least is not None else ""
        wanted = f"at most {parts.figure(goal.at_most)}" if goal and goal.at_most is not None else wanted
        owner = f", {parts.text(goal.owner)} {parts.text(goal.ticket)}" if goal and goal.owner else ""
        curves.append(f"<p>{parts.spark(values, line=line, width=160, height=36)} {parts.text(name)}: {wanted}{owner}</p>")
    rows = [
        (
            parts.state("passed" if one.is_passed else "refused"),
            parts.figure(one.value),
            f'<div class="ms-why">{parts.text(one.sentence)}</div>',
            parts.moment(one.created_at),
        )
        for one in found[:50]
    ]
    empty = "No gate has judged it. In a pipeline: ms.gate(objective, figures)"
    return "".join(curves) + parts.table(
        ("Verdict", "Value", "Sentence", "When"), rows, empty=empty, label="Gates", numeric=("Value",)
    )


def described(chosen: ModelVersion) -> str:
    """Return figures, signature and verification of a version."""
    told = [(name, parts.figure(value)) for name, value in chosen.metrics.items()]
    told += [(name, _columns(value)) for name, value in chosen.signature.items()]
    told += [("Verified", parts.text(verified_words(chosen.verification)))] if chosen.verification else []
    told.append(("Digest", parts.short_id(chosen.manifest, 16)))
    return parts.pairs(told)


def verified_words(told: Mapping[str, object]) -> str:
    """Return in words how the stored model compared with the one that was trained."""
    note, rows, most = told.get("note") or "", told.get("rows") or 0, told.get("max_abs_difference")
    words = "yes" if told.get("is_verified") else "no"
    words += f", on {counted(int(str(rows)), 'row')}" if rows else ""
    words += f", {parts.figure(most)} apart at most" if most is not None else ""
    return f"{words}: {note}" if note else words


def _columns(value: object) -> str:
    """Return the columns of a signature as words; anything else as it is."""
    columns = [one for one in value if isinstance(one, Mapping) and "name" in one] if isinstance(value, list | tuple) else []
    if not columns:
        return f"<code>{parts.text(str(value)[:600])}</code>"
    return ", ".join(
        f"{parts.text(one['name'])} <span class=ms-soft>{parts.text(one.get('dtype', ''))}</span>" for one in columns
    )


def _lineage(view: View, chosen: ModelVersion) -> dict[str, object]:
    return lineage.of_model(view.ctx, view.actor, chosen.model, str(chosen.number), project=view.project)


async def _ask_deploy(view: View, number: str) -> None:
    known = await threads.io_bound(endpoints.all, view.ctx, view.actor, project=view.project) or []
    with acts.asked(f"Deploy {view.ref} v{number}?") as dialog:
        ui.label(
            "An endpoint that exists gets it as its next revision: requests move over when it answers, and can be rolled back. "
            "A new name becomes a new endpoint."
        )
        name = acts.field("Endpoint", known[0].name if known else view.ref)

        async def deploy() -> None:
            dialog.close()
            target, model = str(name.value).strip(), f"{view.ref}@{number}"
            done = await acts.carry_out(
                lambda: endpoints.deploy(view.ctx, view.actor, target, model, project=view.project), "It is being deployed."
            )
            if done is not None:
                ui.navigate.to(view.url(f"/endpoints/{target}"))

        acts.buttons(dialog, "Deploy", deploy)


def _ask_champion(view: View, number: str) -> None:
    async def move() -> None:
        await acts.carry_out(
            lambda: models.set_alias(view.ctx, view.actor, view.ref, "champion", int(number), project=view.project),
            "It is champion.",
        )

    consequence = "The alias moves; endpoints that run now keep what they serve until they are deployed again."
    acts.ask(f"Make v{number} the champion of {view.ref}?", consequence, "Make champion", move, is_destructive=False)
