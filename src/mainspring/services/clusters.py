"""Clusters, nodes and the queue: who holds what, who waits for what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring.core.actors import Actor
from mainspring.core.errors import NotFoundError
from mainspring.core.queries import Waiting
from mainspring.core.records import Cluster, Node, NodeState, Role
from mainspring.core.resources import Granted
from mainspring.services.context import Context
from mainspring.services.runs import said


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A run that holds something on a node."""

    run: str
    name: str
    owner: str
    granted: Granted
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """A cluster with its nodes, and who holds what on each (by node id)."""

    cluster: Cluster
    nodes: tuple[Node, ...]
    holders: dict[str, tuple[Holder, ...]]


def all(ctx: Context, actor: Actor) -> list[ClusterView]:
    """Return every cluster. Names of runs in projects that the actor may not see are left out, what they hold is shown."""
    nodes = ctx.store.nodes.all()
    names: dict[str, tuple[str, bool]] = {}
    holders: dict[str, list[Holder]] = {}
    for allocation in ctx.store.nodes.open_allocations():
        if allocation.run not in names:
            run = ctx.store.runs.get(allocation.run)
            names[allocation.run] = (run.name, actor.may(run.project, Role.VIEWER)) if run else ("", False)
        name, is_visible = names[allocation.run]
        holders.setdefault(allocation.node, []).append(
            Holder(
                run=allocation.run if is_visible else "",
                name=name if is_visible else "",
                owner=allocation.owner,
                granted=allocation.granted,
                since=allocation.opened_at,
            )
        )
    return [
        ClusterView(
            cluster=cluster,
            nodes=tuple(node for node in nodes if node.cluster == cluster.id),
            holders={node.id: tuple(holders.get(node.id, ())) for node in nodes if node.cluster == cluster.id},
        )
        for cluster in ctx.store.clusters.all()
    ]


def drain(ctx: Context, actor: Actor, node: str) -> Node:
    """Let the node finish what it has and take nothing new."""
    return _set(ctx, actor, node, NodeState.DRAINING)


def resume(ctx: Context, actor: Actor, node: str) -> Node:
    """Let the node take runs again."""
    return _set(ctx, actor, node, NodeState.READY)


def declare_dead(ctx: Context, actor: Actor, node: str) -> Node:
    """Confirm by word of mouth that nothing runs on the node any more (protocol P4): its attempts end as lost."""
    return _set(ctx, actor, node, NodeState.DEAD)


def queue(ctx: Context, actor: Actor) -> list[Waiting]:
    """Return the waiting runs that the actor may see, in the order in which they are planned."""
    return [one for one in ctx.store.runs.waiting() if actor.may(one.project, Role.VIEWER)]


def _set(ctx: Context, actor: Actor, ref: str, state: NodeState) -> Node:
    actor.need_admin()
    for node in ctx.store.nodes.all():
        if ref in (node.id, node.name):
            return ctx.store.nodes.set_state(node.id, state, event=said(actor, f"node.{state}", node.id, ""))
    raise NotFoundError(f"There is no node {ref[:80]!r}.", hint="mainspring cluster ls")
