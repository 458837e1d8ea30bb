"""When waiting runs are expected to start, and what another request would give."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError, SpecError, StateError, UsageError
from mainspring.core.forecasts import Choice, Forecast, Prospect
from mainspring.core.ids import RunId
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Role, RunState
from mainspring.core.snapshot import WaitingRun
from mainspring.core.specs import RunSpec
from mainspring.scheduler.forecast import Past, Sampled, by_run, sampled
from mainspring.services.context import Context
from mainspring.services.runs import check_project, get, make_run

SEED = 7  # the same question at the same moment has the same answer
MOST_WAITING = 1000  # the front of the queue: who stands behind it waits for all of these
MOST_CHOICES = 32


def of_run(ctx: Context, actor: Actor, ref: str) -> Forecast:
    """Return when a waiting run is expected to start. Raises StateError for a run that does not wait."""
    run = get(ctx, actor, ref)
    if run.state is not RunState.QUEUED:
        raise StateError(f"Run {run.name} does not wait: it is {run.state}.", hint=f"mainspring why {run.id}")
    found = _sample(ctx).forecast(run.id)
    if found is None:
        raise NotFoundError(
            f"Run {run.name} stands behind the first {MOST_WAITING} waiting runs: nobody can say yet when it starts.",
            hint=f"mainspring why {run.id}",
        )
    return found


def of_queue(ctx: Context, actor: Actor) -> dict[str, Forecast]:
    """Return when the first waiting runs that the actor may see are expected to start, soonest first."""
    sample = _sample(ctx)
    seen = {run.id for run in sample.snapshot.waiting if actor.may(run.project, Role.VIEWER)}
    told = [(str(run), forecast) for run, forecast in by_run(sample).items() if run in seen]
    return dict(sorted(told, key=lambda one: (not one[1].is_bounded, one[1].median)))


def prospects(ctx: Context, actor: Actor, choices: Sequence[Choice]) -> list[Prospect]:
    """Return what each choice would give were it submitted now; nothing is submitted. Raises UsageError for too many."""
    if not 1 <= len(choices) <= MOST_CHOICES:
        raise UsageError(f"{len(choices)} choices were given.", hint=f"Between 1 and {MOST_CHOICES} can be compared.")
    sample = _sample(ctx)
    return [_prospect(ctx, actor, sample, choice) for choice in choices]


def _sample(ctx: Context) -> Sampled:
    return sampled(ctx.store.snapshot(ctx.clock.now(), limit=MOST_WAITING), Past(), seed=SEED)


def _prospect(ctx: Context, actor: Actor, sample: Sampled, choice: Choice) -> Prospect:
    check_project(ctx, choice.spec.project)
    actor.need(choice.spec.project, Role.EDITOR)
    try:
        run = _as_waiting(ctx, actor, choice.spec)
    except SpecError as wrong:
        return Prospect(label=choice.label, refusal=wrong.message)
    never = scheduler.would_fit(sample.snapshot.nodes, run.resources, run.replicas)
    if never is not None and never.code is ReasonCode.CANNOT_FIT:
        return Prospect(label=choice.label, refusal=never.sentence)
    return Prospect(label=choice.label, forecast=sample.ask(run))


def _as_waiting(ctx: Context, actor: Actor, spec: RunSpec) -> WaitingRun:
    run = make_run(ctx, actor.name, spec, is_fresh=True)
    return WaitingRun(
        id=RunId(run.id),
        owner=run.owner,
        project=run.project,
        seq=2**62,  # behind everybody who waits
        priority=run.priority,
        submitted_at=run.created_at,
        resources=spec.resources,
        replicas=spec.replicas,
        alternatives=spec.alternatives,
        min_replicas=spec.min_replicas,
        same=spec.same,
        is_preemptible=spec.is_preemptible,
    )
