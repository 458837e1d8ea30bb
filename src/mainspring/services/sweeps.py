"""Sweeps: the same task with many parameters. No driver process: rows say what was asked, told and is still due."""

from __future__ import annotations

from dataclasses import replace

from mainspring import plugins
from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.records import Role, RunState, Sweep, SweepSpec, SweepState, Trial
from mainspring.core.spaces import check_space
from mainspring.core.specs import Link, RunSpec, Value, ValueKind
from mainspring.services import runs
from mainspring.services.context import Context
from mainspring.services.runs import check_project, said

MAX_TRIALS = 100_000


def start(ctx: Context, actor: Actor, spec: SweepSpec, *, key: str = "") -> Sweep:
    """Accept a sweep; its trials are submitted by the controller. The same `key` gives the same sweep."""
    project = spec.template.project
    found = check_project(ctx, project)
    actor.need(project, Role.EDITOR)
    runs.check_wanted(ctx, spec.template)
    runs.check_priority(actor, found, spec.template.priority)
    check_space(spec.space)
    plugins.load("samplers", spec.sampler)
    if not 1 <= spec.trials <= MAX_TRIALS or spec.parallel < 0:
        raise UsageError(f"trials is {spec.trials}; it must be between 1 and {MAX_TRIALS:,}.", hint="Such as -n 20.")
    name = spec.name or f"{runs.make_run(ctx, actor.name, spec.template).name}-sweep"
    check_name(name, "sweep")
    sweep = Sweep(id=ctx.ids.new("sweep"), project=project, name=name, owner=actor.name, spec=spec, created_at=ctx.clock.now())
    event = said(actor, "sweep.started", sweep.id, project, name=name, trials=spec.trials)
    return ctx.store.sweeps.add(sweep, key=key, event=event)


def get(ctx: Context, actor: Actor, ref: str) -> Sweep:
    """Return the sweep of that id, or the newest of that name. Raises NotFoundError."""
    found = ctx.store.sweeps.get(ref)
    if found is None or not actor.may(found.project, Role.VIEWER):
        raise NotFoundError(f"There is no sweep {ref[:80]!r}.", hint="mainspring sweep ls")
    return found


def all(ctx: Context, actor: Actor, *, project: str = "default") -> list[Sweep]:
    """Return the sweeps, newest first."""
    check_project(ctx, project)
    actor.need(project, Role.VIEWER)
    return ctx.store.sweeps.all(project)


def trials(ctx: Context, actor: Actor, ref: str) -> list[Trial]:
    """Return the trials by number, each with the state that its run is in now."""
    return ctx.store.sweeps.trials(get(ctx, actor, ref).id)


def stop(ctx: Context, actor: Actor, ref: str) -> Sweep:
    """End the sweep: running trials are cancelled, results stay."""
    sweep = get(ctx, actor, ref)
    actor.need(sweep.project, Role.EDITOR)
    if sweep.state is not SweepState.ACTIVE:
        return sweep
    event = said(actor, "sweep.stopped", sweep.id, sweep.project)
    stopped = ctx.store.sweeps.finish(sweep.id, SweepState.STOPPED, now=ctx.clock.now(), event=event)
    for trial in ctx.store.sweeps.trials(sweep.id):
        if trial.state in (RunState.QUEUED, RunState.RUNNING):
            runs.cancel(ctx, actor, trial.run)
    return stopped


def trial_spec(sweep: Sweep, number: int, params: dict[str, object]) -> RunSpec:
    """Return the run of one trial: the template with the suggested parameters."""
    template = sweep.spec.template
    args = {**template.args, **{name: Value(kind=ValueKind.JSON, json=value) for name, value in params.items()}}
    command = template.command
    if command:
        command = (*command, *(word for name, value in params.items() for word in (f"--{name}", str(value))))
    return replace(
        template,
        name=f"{sweep.name}-{number}",
        args=args if template.entry is not None else template.args,
        command=command,
        params={**template.params, **params},
        link=Link(kind="sweep", id=sweep.id, key=str(number)),
    )
