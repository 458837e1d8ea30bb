"""When waiting runs are expected to start, and what another request would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import median

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.errors import AccessDeniedError, NotFoundError, SpecError, StateError, UsageError
from mainspring.core.forecasts import CONFIDENCE, Calibration, Choice, Forecast, Prospect
from mainspring.core.ids import RunId
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Desired, Project, Role, RunState
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import WaitingRun
from mainspring.core.specs import RunSpec
from mainspring.core.waiting import expected_by_engine
from mainspring.scheduler.forecast import Past, Record, Sampled, by_run, error_of, recalibrated, sampled
from mainspring.services.context import Context
from mainspring.services.runs import check_priority, check_project, get, make_run
from mainspring.store.forecasts import Arrival, Told

SEED = 7  # the same question at the same moment has the same answer
MOST_WAITING = 1000  # the front of the queue: who stands behind it waits for all of these
MOST_CHOICES = 32
# Who waits for somebody's word, or for machines that are not there, waits for no turn.
UNFORESEEN = frozenset({ReasonCode.PAUSED, ReasonCode.SHARE_HELD, ReasonCode.CANNOT_FIT, ReasonCode.NO_CLUSTER})
RECENT_S = 2.0  # so old may be the sample that one question is answered from
LATELY = timedelta(hours=6)  # who came then may come again
SLACK = timedelta(seconds=1)  # nobody notices


def of_run(ctx: Context, actor: Actor, ref: str) -> Forecast:
    """Return when a waiting run is expected to start: by the plan, or once it was placed by its engine's own word.

    Raises StateError for a run that does not wait, or not for its turn (`UNFORESEEN`).
    """
    run = get(ctx, actor, ref)
    begins_at = expected_by_engine(run.reason) if run.state is RunState.RUNNING else None
    if begins_at is not None:  # placed, and waiting in its engine's own queue: who runs that queue knows best
        at = max(begins_at, ctx.clock.now())
        return Forecast(earliest=ctx.clock.now(), median=at, latest=at)
    if run.state is not RunState.QUEUED:
        raise StateError(f"Run {run.name} does not wait: it is {run.state}.", hint=f"mainspring why {run.id}")
    if run.desired is not Desired.RUN or (run.reason is not None and run.reason.code in UNFORESEEN):
        why = run.reason.sentence if run.reason is not None else "It is paused."
        raise StateError(f"Nobody can say when run {run.name} starts. {why}", hint=f"mainspring why {run.id}")
    record = _record(_told(ctx))
    found = _sample(ctx, age_s=RECENT_S).forecast(run.id, record)
    if found is None:  # it came since
        found = _sample(ctx).forecast(run.id, record)
    if found is None:
        raise NotFoundError(
            f"Run {run.name} stands behind the first {MOST_WAITING} waiting runs: nobody can say yet when it starts.",
            hint=f"mainspring why {run.id}",
        )
    return _as_promised(found)


def of_queue(ctx: Context, actor: Actor, *, age_s: float = 0.0) -> dict[str, Forecast]:
    """Return when the first waiting runs that the actor may see are expected to start, soonest first.

    With a long queue the answer may be `age_s` seconds old: runs that came since are not in it.
    """
    found = ctx.recent.get("queue", lambda: _of_all(ctx), clock=ctx.clock, age_s=age_s)
    return {run: told for run, project, told in found if actor.may(project, Role.VIEWER)}


def _of_all(ctx: Context) -> list[tuple[str, str, Forecast]]:
    """Return what is expected of each of the first waiting runs but paused ones, with its project, soonest first."""
    sample = _sample(ctx)
    project_of = {run.id: run.project for run in sample.snapshot.waiting if not run.is_held}
    told = by_run(sample, _record(_told(ctx)))
    found = [(str(run), project_of[run], _as_promised(one)) for run, one in told.items() if run in project_of]
    return sorted(found, key=lambda one: (not one[2].is_bounded, one[2].median))


def prospects(ctx: Context, actor: Actor, choices: Sequence[Choice]) -> list[Prospect]:
    """Return what each choice would give were it submitted now; nothing is submitted. Raises UsageError for too many."""
    if not 1 <= len(choices) <= MOST_CHOICES:
        raise UsageError(f"{len(choices)} choices were given.", hint=f"Between 1 and {MOST_CHOICES} can be compared.")
    sample = _sample(ctx, age_s=RECENT_S)
    record = _record(_told(ctx))
    return [_prospect(ctx, actor, sample, record, choice) for choice in choices]


def calibration(ctx: Context) -> Calibration:
    """Return how often the intervals held, over the newest forecasts whose runs have started."""
    told = _told(ctx)
    errors = [abs((one.median - one.started_at).total_seconds()) / max(1.0, _waited_s(one)) for one in told]
    return Calibration(
        told=len(told),
        inside=sum(map(_is_inside, told)),
        confidence=CONFIDENCE,
        asked=round(_record(told).asked, 4),
        median_error=round(median(errors), 4) if errors else 0.0,
    )


def tell(ctx: Context) -> int:
    """Keep a forecast for each waiting run that has none yet; return how many. It is held against the start later."""
    snapshot = ctx.store.snapshot(ctx.clock.now(), limit=MOST_WAITING)
    untold = ctx.store.forecasts.untold([run.id for run in snapshot.waiting if not run.is_held])
    if not untold:
        return 0
    found = by_run(sampled(snapshot, _past(ctx), seed=SEED), _record(_told(ctx)))
    told = {run: replace(one, confidence=CONFIDENCE) for run, one in found.items() if run in untold and one.is_bounded}
    ctx.store.forecasts.tell(told, snapshot.now)
    return len(told)


def _told(ctx: Context) -> list[Told]:
    """Return the newest forecasts whose runs have started, in the order of their starts: so they were learned."""
    return sorted(ctx.store.forecasts.record(), key=lambda one: one.started_at)


def _record(told: Sequence[Told]) -> Record:
    errors = tuple(error_of((one.median - one.told_at).total_seconds(), _waited_s(one)) for one in told)
    return Record(asked=recalibrated(CONFIDENCE, [_is_inside(one) for one in told]), errors=errors)


def _is_inside(one: Told) -> bool:
    return one.earliest - SLACK <= one.started_at <= one.latest + SLACK


def _waited_s(one: Told) -> float:
    return max(0.0, (one.started_at - one.told_at).total_seconds())


def _sample(ctx: Context, *, age_s: float = 0.0) -> Sampled:
    """Return a sample of the near future; where many ask it may be `age_s` seconds old (less where it is made quickly)."""

    def make() -> Sampled:
        return sampled(ctx.store.snapshot(ctx.clock.now(), limit=MOST_WAITING), _past(ctx), seed=SEED)

    return ctx.recent.get("sample", make, clock=ctx.clock, age_s=age_s)


def _past(ctx: Context) -> Past:
    """Return how long runs last against what was believed, and who came in the last hours."""
    now = ctx.clock.now()
    share_of = {project.name: project.share for project in ctx.store.projects.all()}
    arrivals = tuple(
        ((now - one.created_at).total_seconds(), _coming(one, leaf_of(share_of.get(one.project, ""), one.owner)))
        for one in ctx.store.forecasts.arrivals(now - LATELY)
    )
    return Past(lengths=ctx.store.forecasts.lengths(), arrivals=arrivals)


def _coming(one: Arrival, share: str) -> WaitingRun:
    return WaitingRun(
        id=one.id,
        owner=one.owner,
        project=one.project,
        seq=2**61,
        priority=one.priority,
        submitted_at=one.created_at,
        resources=one.spec.resources,
        replicas=one.spec.replicas,
        alternatives=one.spec.alternatives,
        min_replicas=one.spec.min_replicas,
        same=one.spec.same,
        share=share,
        estimate_s=one.spec.timeout_s,
    )


def _as_promised(told: Forecast) -> Forecast:
    """Return the interval with the confidence that the record makes it hold, not the one that the sampler was asked for."""
    return replace(told, confidence=CONFIDENCE)


def _prospect(ctx: Context, actor: Actor, sample: Sampled, record: Record, choice: Choice) -> Prospect:
    project = check_project(ctx, choice.spec.project)
    actor.need(choice.spec.project, Role.EDITOR)
    try:
        check_priority(actor, project, choice.spec.priority)
        run = _as_waiting(ctx, actor, project, choice.spec)
    except (SpecError, AccessDeniedError) as wrong:
        return Prospect(label=choice.label, refusal=wrong.message)
    choices = (run.resources, *run.alternatives)
    never = scheduler.would_one_fit(sample.snapshot.nodes, choices, run.replicas, run.same, least=run.min_replicas)
    if never is not None and never.code is ReasonCode.CANNOT_FIT:
        return Prospect(label=choice.label, refusal=never.sentence)
    return Prospect(label=choice.label, forecast=_as_promised(sample.ask(run, record)))


def _as_waiting(ctx: Context, actor: Actor, project: Project, spec: RunSpec) -> WaitingRun:
    run = make_run(ctx, actor.name, spec, is_fresh=True)
    spec = run.spec  # what runs in an image may go only where containers run
    return WaitingRun(
        id=RunId(run.id),
        owner=run.owner,
        project=run.project,
        share=leaf_of(project.share, run.owner),
        estimate_s=ctx.store.forecasts.estimate(run.project, run.owner, spec),
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
