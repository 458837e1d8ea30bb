"""Environments: what a run ran with, what nodes keep, and that some of it is to go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from mainspring.core.actors import Actor
from mainspring.core.codec import decode
from mainspring.core.environments import Captured, NodeEnvironment, RunEnvironment, lock_of
from mainspring.core.errors import MainspringError, NotFoundError, UsageError
from mainspring.core.ids import RunId
from mainspring.core.records import NodeState, Run
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import runs
from mainspring.services.context import Context

REMOVED_S = 120.0  # what is not gone by then goes with a later run
# its runner removes them beside it, and writes an event of each
_UNTIL_REMOVED = """n=0
until [ "$(grep -c environment_removed "$MAINSPRING_SPOOL/events" 2>/dev/null)" -ge {count} ] || [ $n -ge {looks} ]; do
  n=$((n + 1)); sleep 0.2
done"""


def all(ctx: Context, actor: Actor) -> list[NodeEnvironment]:
    """Return the environments on nodes, as their last runs told; nodes and runs are named for people."""
    del actor
    names = {node.id: node.name for node in ctx.store.nodes.all()}
    clusters = {cluster.id: cluster.name for cluster in ctx.store.clusters.all()}
    found = ctx.store.environments.all()
    return [replace(one, node=names.get(one.node, one.node), cluster=clusters.get(one.cluster, one.cluster)) for one in found]


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
    ctx: Context,
    actor: Actor,
    *,
    keys: Sequence[str] = (),
    unused_s: float = 0.0,
    keep: int = 0,
    node: str = "",
    is_now: bool = False,
) -> list[NodeEnvironment]:
    """Write that environments are to go (administrators), and return them; the next run on their node removes them.

    Those named by `keys` (or their beginnings); else those that no run used for `unused_s`, less the newest `keep` of a node.
    None that is in use. `is_now`: that run is submitted, a tiny one for each node. Raises NotFoundError (no such key).
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
    if is_now:
        _remove(ctx, actor, wanted)
    return [replace(one, asked_to_go_at=now, node=names.get(one.node, one.node)) for one in wanted]


def _remove(ctx: Context, actor: Actor, wanted: Sequence[NodeEnvironment]) -> None:
    """Submit a run to each node that lives until they are gone there, for each project: a container engine keeps them apart."""
    nodes = {node.id: node for node in ctx.store.nodes.all() if node.state is NodeState.READY}
    known = ctx.store.runs.some([RunId(one.run) for one in wanted])
    places = Counter((one.node, known[RunId(one.run)].project if one.run in known else "default") for one in wanted)
    for (node, project), count in places.items():
        if node not in nodes:  # it takes no runs now
            continue
        command = ("sh", "-c", _UNTIL_REMOVED.format(count=count, looks=int(REMOVED_S / 0.2)))
        asked = Resources(cpu_milli=min(100, nodes[node].cpu_milli), labels={"node": node})
        spec = RunSpec(name="env-prune", project=project, command=command, resources=asked, tags=("env-prune",))
        runs.submit(ctx, actor, spec)


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
