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
from mainspring.core.records import Node, NodeState, Run
from mainspring.core.rehearsals import Outlook, Rehearsal, Rehearsed
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import Snapshot
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
    nodes = [emptied(node) for node in snapshot.nodes if node.state is NodeState.READY]
    found, total = _ended(ctx, now - timedelta(days=days))
    share_of = {project.name: project.share for project in ctx.store.projects.all()}
    jobs = [
        job_of(run, leaf_of(share_of.get(run.project, ""), run.owner), _believed(ctx, run))
        for run in found
        if scheduler.would_fit(nodes, run.spec.resources, run.spec.replicas) is None
    ]
    if not jobs:
        raise NotFoundError(
            f"No run that would fit ended in the last {days:g} day{'s' * (days != 1)}.", hint="Rehearse a longer time."
        )
    start = min(job.submit_s for job in jobs)
    jobs = [replace(job, submit_s=job.submit_s - start) for job in jobs]
    before, after = (_under(one, jobs, nodes, snapshot) for one in (snapshot.policy, policy))
    return Rehearsal(now=before, then=after, runs=len(jobs), left_out=total - len(jobs))


def in_force(ctx: Context, actor: Actor) -> Policy:
    """Return the policy that plans are made under now."""
    del actor
    return ctx.store.snapshot(ctx.clock.now(), limit=0).policy


def emptied(node: Node) -> Node:
    """Return the node as if nobody held anything on it."""
    return replace(node, used_cpu_milli=0, used_memory_bytes=0, used_disk_bytes=0, used_devices=())


def job_of(run: Run, share: str, believed_s: float) -> Job:
    """Return a run that ended as the simulator takes it: the planner is told what was believed, never its true duration."""
    begun, ended = run.started_at or run.created_at, run.ended_at or run.created_at
    return Job(
        id=str(run.id),
        share=share,
        owner=run.owner,
        submit_s=run.created_at.timestamp(),
        duration_s=max((ended - begun).total_seconds(), 0.001),
        estimate_s=believed_s,
        resources=run.spec.resources,
        replicas=run.spec.replicas,
        priority=run.priority,
        is_preemptible=run.spec.is_preemptible,
    )


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


def _believed(ctx: Context, run: Run) -> float:
    """Return how long the run was believed to take when it was placed, else its time limit; 0 when nobody knew."""
    placed = ctx.store.attempts.of_run(run.id)
    return placed[0].estimate_s if placed and placed[0].estimate_s > 0 else run.spec.timeout_s


def _under(policy: Policy, jobs: Sequence[Job], nodes: Sequence[Node], snapshot: Snapshot) -> Rehearsed:
    history = simulate(jobs, Setting(nodes=nodes, policy=policy, shares=snapshot.shares))
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
    )


def _outlook(waits: Waits) -> Outlook:
    return Outlook(runs=waits.jobs, mean_s=waits.mean_s, p50_s=waits.p50_s, p90_s=waits.p90_s)
