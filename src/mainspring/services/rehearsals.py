"""Rehearse a policy on the load of the last days: the same runs, nodes and shares, under the real planner, twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError
from mainspring.core.policy import Policy, check_policy
from mainspring.core.queries import RunFilter
from mainspring.core.records import Attempt, Node, NodeState, Run
from mainspring.core.rehearsals import Outlook, Rehearsal, Rehearsed
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import ShareState, Snapshot
from mainspring.services.context import Context
from mainspring.simulator import Job, Setting, Waits, figures, simulate

MAX_RUNS = 1000  # so that a page or a command has its answer in seconds
PAGE = 500


def rehearse(ctx: Context, actor: Actor, policy: Policy, *, days: float = 7.0) -> Rehearsal:
    """Return what `policy` and the one in force make of the runs that ended in the last `days`. For administrators.

    Raises SpecError for a policy that makes no sense, NotFoundError when no run ended in that time.
    """
    actor.need_admin()
    check_policy(policy)
    now = ctx.clock.now()
    snapshot = ctx.store.snapshot(now, limit=0)
    rented = {machine.node for machine in snapshot.rented}
    nodes = [emptied(node) for node in snapshot.nodes if node.state is NodeState.READY and node.id not in rented]
    found, total = _ended(ctx, now - timedelta(days=days))
    share_of = {project.name: project.share for project in ctx.store.projects.all()}
    jobs = {run.id: job_of(run, leaf_of(share_of.get(run.project, ""), run.owner), _first_attempt(ctx, run)) for run in found}
    fitting = [run for run in found if _fits(nodes, jobs[run.id])]
    if not fitting:
        raise NotFoundError(
            f"No run that would fit ended in the last {days:g} day{'s' * (days != 1)}.", hint="Rehearse a longer time."
        )
    start = min(jobs[run.id].submit_s for run in fitting)

    def under(one: Policy) -> Rehearsed:
        at_home = ctx.store.datasets.kept_at_home(one.burst.home_data)
        load = [
            replace(jobs[run.id], submit_s=jobs[run.id].submit_s - start, sites=() if at_home & _inputs(run) else None)
            for run in fitting
        ]
        return _under(one, load, nodes, snapshot)

    return Rehearsal(now=under(snapshot.policy), then=under(policy), runs=len(fitting), left_out=total - len(fitting))


def in_force(ctx: Context, actor: Actor) -> Policy:
    """Return the policy that plans are made under now."""
    del actor
    return ctx.store.snapshot(ctx.clock.now(), limit=0).policy


def emptied(node: Node) -> Node:
    """Return the node as if nobody held anything on it."""
    return replace(node, used_cpu_milli=0, used_memory_bytes=0, used_disk_bytes=0, used_devices=())


def job_of(run: Run, share: str, attempt: Attempt | None) -> Job:
    """Return a run that ended as the simulator takes it: the planner is told what was believed, never its true duration.

    A gang that may have several sizes asks for the one that it had in its first `attempt`: how long it takes with another
    nobody knows.
    """
    replicas = len(attempt.replicas) if attempt is not None and run.spec.min_replicas else run.spec.replicas
    believed_s = attempt.estimate_s if attempt is not None else 0.0  # 0: nobody knew
    begun, ended = run.started_at or run.created_at, run.ended_at or run.created_at
    return Job(
        id=str(run.id),
        share=share,
        owner=run.owner,
        submit_s=run.created_at.timestamp(),
        duration_s=max((ended - begun).total_seconds(), 0.001),
        estimate_s=believed_s or run.spec.timeout_s,
        resources=run.spec.resources,
        replicas=replicas,
        priority=run.priority,
        is_preemptible=run.spec.is_preemptible,
        alternatives=run.spec.alternatives,
        same=run.spec.same,
        data_bytes=sum(value.size_bytes for value in run.spec.args.values()),
    )


def _fits(nodes: Sequence[Node], job: Job) -> bool:
    return scheduler.would_one_fit(nodes, (job.resources, *job.alternatives), job.replicas, job.same) is None


def _inputs(run: Run) -> frozenset[str]:
    return frozenset(value.digest for value in run.spec.args.values() if value.digest)


def _ended(ctx: Context, since: datetime) -> tuple[list[Run], int]:
    """Return the newest runs that were submitted and ended since then, and how many there are."""
    found: list[Run] = []
    total, cursor = 0, ""
    while True:
        page = ctx.store.runs.page(RunFilter(order="newest"), cursor=cursor, limit=PAGE)
        recent = [run for run in page.items if run.created_at >= since]
        ended = [run for run in recent if run.started_at is not None and run.ended_at is not None]
        total += len(ended)
        found += ended[: MAX_RUNS - len(found)]
        cursor = page.cursor
        if not cursor or len(recent) < len(page.items):
            return found, total


def _first_attempt(ctx: Context, run: Run) -> Attempt | None:
    placed = ctx.store.attempts.of_run(run.id)
    return placed[0] if placed else None


def _under(policy: Policy, jobs: Sequence[Job], nodes: Sequence[Node], snapshot: Snapshot) -> Rehearsed:
    """Play the load on own nodes that nobody has used yet, with all paid sites at hand and nothing of any budget spent."""
    shares = tuple(ShareState(share=state.share) for state in snapshot.shares)
    sites = tuple(replace(site, running=0, cooldown_until=None) for site in snapshot.sites)
    setting = Setting(nodes=nodes, policy=policy, shares=shares, sites=sites, budget_usd=policy.burst.budget_usd)
    history = simulate(jobs, setting)
    gpus = float(sum(len(node.devices) for node in nodes)) or 1.0
    said = figures(history, gpus=gpus)
    return Rehearsed(
        policy=policy,
        all=_outlook(said.waits),
        by_share={share: _outlook(one) for share, one in said.by_share.items()},
        jain=said.jain,
        evictions=said.evictions,
        lost=said.lost,
        makespan_s=said.makespan_s,
        cost_usd=round(said.cost_usd, 2),
    )


def _outlook(waits: Waits) -> Outlook:
    return Outlook(runs=waits.jobs, mean_s=waits.mean_s, p50_s=waits.p50_s, p90_s=waits.p90_s)
