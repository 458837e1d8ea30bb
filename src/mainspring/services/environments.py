"""Environments: what a run ran with, what nodes keep, and that some of it is to go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from mainspring.core.actors import Actor
from mainspring.core.codec import decode
from mainspring.core.environments import Captured, NodeEnvironment, RunEnvironment, lock_of
from mainspring.core.errors import MainspringError, NotFoundError, UsageError
from mainspring.core.records import Node, NodeState, Run
from mainspring.core.resources import Resources
from mainspring.core.specs import Environment, RunSpec
from mainspring.services import runs
from mainspring.services.context import Context

REMOVAL_S = 600.0
# its runner removes them beside it, and leaves a file when that is over
_UNTIL_OVER = 'until [ -e "$MAINSPRING_SPOOL/house_over" ]; do sleep 0.1; done'


def all(ctx: Context, actor: Actor) -> list[NodeEnvironment]:
    """Return the environments on nodes, as their last runs told; nodes and clusters are named for people."""
    del actor
    return _named(ctx, ctx.store.environments.all())


def of_run(ctx: Context, actor: Actor, ref: str) -> RunEnvironment:
    """Return what a run ran with, and the lock that builds it again. Raises NotFoundError."""
    run = runs.get(ctx, actor, ref)
    captured = _captured(ctx, run)
    asked = run.spec.environment
    python = captured.python if captured is not None else asked.interpreter if asked.interpreter[:1].isdigit() else ""
    if asked.lock:
        text = ctx.blobs.get(asked.lock).decode("utf-8", "replace")
        return RunEnvironment(run=run.id, python=python, lock=text, has_lock=True, digest=asked.lock, captured=captured)
    text, left_out = lock_of(captured) if captured is not None else ("", ())
    return RunEnvironment(run=run.id, python=python, lock=text, left_out=left_out, captured=captured)


def prune(
    ctx: Context, actor: Actor, *, keys: Sequence[str] = (), unused_s: float = 0.0, keep: int = 0, node: str = ""
) -> list[NodeEnvironment]:
    """Write that environments are to go (administrators), and return them; the next run on their node removes them.

    Those named by `keys` (or their beginnings); else those that no run used for `unused_s`, less the newest `keep` of a node.
    None that is in use. Raises NotFoundError for a key that nothing has.
    """
    actor.need_admin()
    if unused_s < 0 or keep < 0:
        raise UsageError("Less than nothing cannot be kept.", hint="mainspring env prune --older-than 30d --keep 2")
    names = {one.id: one.name for one in ctx.store.nodes.all()}
    found = [one for one in ctx.store.environments.all() if not node or node in (one.node, names.get(one.node))]
    for key in keys:
        if not any(one.key.startswith(key) for one in found):
            raise NotFoundError(f"No node has an environment {key[:80]!r}.", hint="mainspring env ls")
    now = ctx.clock.now()
    places: dict[str, int] = defaultdict(int)
    wanted = []
    for one in found:  # of each node the last used first
        places[one.node] += 1
        is_old = now - one.used_at >= timedelta(seconds=unused_s) and places[one.node] > keep
        is_meant = any(one.key.startswith(key) for key in keys) if keys else is_old
        if is_meant and not one.is_in_use:
            wanted.append(one)
    event = runs.said(actor, "environment.prune_asked", ctx.store.installation, "", count=len(wanted))
    ctx.store.environments.ask_to_go(wanted, now=now, event=event)
    return _named(ctx, [replace(one, asked_to_go_at=now) for one in wanted])


def remove_now(ctx: Context, actor: Actor) -> list[Run]:
    """Submit the runs that remove what is to go (administrators): a tiny one to each node that takes runs; return them.

    It runs as the last run did that used what is to go there, project, image and overrides: engines may keep caches apart by
    these. What is in use then, or on a node that takes no runs, goes with a later run.
    """
    actor.need_admin()
    wanted = [one for one in ctx.store.environments.all() if one.asked_to_go_at is not None and not one.is_in_use]
    ids = list(dict.fromkeys(one.run for one in wanted))
    users = {id: run for at in range(0, len(ids), 500) for id, run in ctx.store.runs.some(ids[at : at + 500]).items()}
    nodes = {node.id: node for node in ctx.store.nodes.all() if node.state is NodeState.READY}
    made: dict[tuple[str, str, str], Run] = {}
    for one in wanted:
        user, node = users.get(one.run), nodes.get(one.node)
        if user is None or node is None:
            continue
        place = (node.id, user.project, user.spec.environment.image)
        if place in made:
            continue
        try:
            made[place], _ = runs.submit(ctx, actor, _removal(node, user))
        except MainspringError:  # its project is gone, say, or the node takes less now: as on one that takes none
            continue
    return list(made.values())


def _removal(node: Node, user: Run) -> RunSpec:
    return RunSpec(
        name="env-prune",
        project=user.project,
        command=("sh", "-c", _UNTIL_OVER),
        environment=Environment(image=user.spec.environment.image),
        overrides=user.spec.overrides,
        resources=Resources(cpu_milli=min(100, node.cpu_milli), labels={"node": node.id}),
        timeout_s=REMOVAL_S,
        tags=("env-prune",),
    )


def _named(ctx: Context, found: Sequence[NodeEnvironment]) -> list[NodeEnvironment]:
    """Return them with the names of nodes and clusters in place of their ids."""
    names = {node.id: node.name for node in ctx.store.nodes.all()}
    clusters = {cluster.id: cluster.name for cluster in ctx.store.clusters.all()}
    return [replace(one, node=names.get(one.node, one.node), cluster=clusters.get(one.cluster, one.cluster)) for one in found]


def _captured(ctx: Context, run: Run) -> Captured | None:
    """Return what the newest try was seen to run with; of older ones only where the newest was not seen."""
    for attempt in reversed(ctx.store.attempts.of_run(run.id)):
        for replica in attempt.replicas:
            if replica.environment:
                try:
                    return decode(ctx.blobs.get(replica.environment), Captured)
                except MainspringError:  # gone, or no such thing: a runner may have told anything
                    continue
    return None
