"""Pipeline runs on the command line: listed, shown step by step, gone on with after a failure, cancelled."""

from __future__ import annotations

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json, Project
from mainspring.cli.output import age, emit_json, say, short, state, table
from mainspring.core.graphs import PipelineRun, StepState
from mainspring.core.units import counted

OPEN = (StepState.WAITING, StepState.RUNNING)


def ls(*, project: Project = "default", as_json: Json = False) -> None:
    """List pipeline runs, newest first.

    Example: `mainspring pipeline ls`.
    """
    found = connect().pipelines.all(project=project)
    if as_json:
        emit_json(found)
        return
    rows = [(state(one.state), one.name, one.id, one.owner, _done(one), age(one.created_at), _trouble(one)) for one in found]
    table(("state", "name", "id", "owner", "steps done", "age", "message"), rows, empty="No pipeline has run yet.")


def show(pipeline: str, /, *, as_json: Json = False) -> None:
    """Show the steps of a pipeline run, and what each said.

    Example: `mainspring pipeline show ID`.
    """
    one = connect().pipelines.get(pipeline)
    if as_json:
        emit_json(one)
        return
    say(f"{one.name} is {one.state}: {_done(one)}.")
    rows = [(step.key, state(step.state), short(step.run) if step.run else "", step.message) for step in one.steps]
    table(("step", "state", "run", "message"), rows)


def retry(pipeline: str, /, *, as_json: Json = False) -> None:
    """Go on after the last good steps: a new run of the same graph, in which what succeeded stays.

    Example: `mainspring pipeline retry ID`.
    """
    again = connect().pipelines.retry(pipeline)
    if as_json:
        emit_json(again)
        return
    kept = sum(step.state is StepState.SUCCEEDED for step in again.steps)
    say(f"{again.name} goes on as {again.id}: {kept} of {counted(len(again.steps), 'step')} kept.")


def cancel(pipeline: str, /, *, as_json: Json = False) -> None:
    """End a pipeline run: no further step starts, running ones are cancelled.

    Example: `mainspring pipeline cancel ID`.
    """
    ended = connect().pipelines.cancel(pipeline)
    if as_json:
        emit_json(ended)
    else:
        say(f"{ended.name} is {ended.state}.")


def _done(one: PipelineRun) -> str:
    return f"{sum(step.state not in OPEN for step in one.steps)} of {len(one.steps)}"


def _trouble(one: PipelineRun) -> str:
    return "; ".join(f"{step.key}: {step.message or 'failed'}" for step in one.steps if step.state is StepState.FAILED)
