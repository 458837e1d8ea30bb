"""Pipelines: a recorded graph, carried out step by step by the controller. No driver process."""

from __future__ import annotations

from dataclasses import replace

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, StateError
from mainspring.core.graphs import Graph, PipelineRun, PipelineState, StepRun, StepState
from mainspring.core.ids import check_name
from mainspring.core.records import Role
from mainspring.services import runs
from mainspring.services.context import Context
from mainspring.services.runs import check_project, said
from mainspring.workflows.graphs import check_graph


def start(ctx: Context, actor: Actor, name: str, graph: Graph, *, project: str = "default", key: str = "") -> PipelineRun:
    """Accept a pipeline run. Raises SpecError for a graph that cannot be carried out."""
    found = check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    check_name(name, "pipeline")
    check_graph(graph)
    for step in graph.steps:
        if step.template is not None:
            runs.check_wanted(ctx, replace(step.template, project=project))
            runs.check_priority(actor, found, step.template.priority)
    pipeline = PipelineRun(
        id=ctx.ids.new("pipeline"),
        project=project,
        name=name,
        owner=actor.name,
        graph=graph,
        created_at=ctx.clock.now(),
        steps=tuple(StepRun(key=step.key) for step in graph.steps),
    )
    return ctx.store.pipelines.add(pipeline, key=key, event=said(actor, "pipeline.started", pipeline.id, project, name=name))


def retry(ctx: Context, actor: Actor, ref: str, *, key: str = "") -> PipelineRun:
    """Start a new run of the same graph after its last good steps: what succeeded stays, with its results.

    Raises StateError while it is active, and when all of it succeeded.
    """
    ended = get(ctx, actor, ref)
    actor.need(ended.project, Role.EDITOR)
    if ended.state is PipelineState.ACTIVE:
        raise StateError(f"Pipeline run {ended.id} is not over.", hint="Wait for its end, or cancel it.")
    if ended.state is PipelineState.SUCCEEDED:
        raise StateError(f"Every step of pipeline run {ended.id} succeeded.", hint="Submit it again to run it again.")
    good = {one.key: one for one in ended.steps if one.state is StepState.SUCCEEDED and _has_result(ctx, one)}
    again = PipelineRun(
        id=ctx.ids.new("pipeline"),
        project=ended.project,
        name=ended.name,
        owner=actor.name,
        graph=ended.graph,
        created_at=ctx.clock.now(),
        steps=tuple(good.get(step.key, StepRun(key=step.key)) for step in ended.graph.steps),
    )
    event = said(actor, "pipeline.retried", again.id, again.project, name=again.name, after=ended.id)
    return ctx.store.pipelines.add(again, key=key, event=event)


def _has_result(ctx: Context, standing: StepRun) -> bool:
    return not standing.run or ctx.store.runs.get(standing.run) is not None


def get(ctx: Context, actor: Actor, ref: str) -> PipelineRun:
    """Return the pipeline run of that id. Raises NotFoundError."""
    found = ctx.store.pipelines.get(ref)
    if found is None or not actor.may(found.project, Role.VIEWER):
        raise NotFoundError(f"There is no pipeline run {ref[:80]!r}.")
    return found


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[PipelineRun]:
    """Return the pipeline runs, newest first."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.pipelines.all(project)


def cancel(ctx: Context, actor: Actor, ref: str) -> PipelineRun:
    """End the pipeline run: no further step starts, running ones are cancelled."""
    pipeline = get(ctx, actor, ref)
    actor.need(pipeline.project, Role.EDITOR)
    if pipeline.state is not PipelineState.ACTIVE:
        return pipeline
    event = said(actor, "pipeline.cancelled", pipeline.id, pipeline.project)
    cancelled = ctx.store.pipelines.end(pipeline.id, PipelineState.CANCELLED, now=ctx.clock.now(), event=event)
    for step in cancelled.steps:
        if step.run and step.state == "running":
            runs.cancel(ctx, actor, step.run)
    return cancelled
