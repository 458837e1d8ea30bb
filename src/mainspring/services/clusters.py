"""Clusters, nodes and the queue: who holds what, who waits for what; what is asked of a cluster's engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from mainspring import plugins
from mainspring.core.actors import Actor
from mainspring.core.backend import Option, Probe
from mainspring.core.cluster_config import check_config, options_of, secret_names
from mainspring.core.errors import ConflictError, NotFoundError, ServerError, StateError, UsageError
from mainspring.core.health import drained, is_closed_by_hand, resumed
from mainspring.core.ids import check_name
from mainspring.core.operations import Operation, OperationKind
from mainspring.core.queries import Waiting
from mainspring.core.records import WHOLE, Cluster, Node, NodeState, Role, Run, SymptomKind
from mainspring.core.resources import Granted, Resources
from mainspring.core.specs import RunSpec
from mainspring.services import operations, secrets
from mainspring.services.context import Context
from mainspring.services.runs import said, submit

CHECK = "import os, platform; print(platform.node(), platform.python_version(), os.environ.get('CUDA_VISIBLE_DEVICES', ''))"
CHECK_S = 300.0
MAX_REASON = 500
PASSED = timedelta(seconds=5)  # a moment that was to come when it was typed


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
    """A cluster with its nodes, who holds what on each (by node id), and what its engine told when it was looked at last."""

    cluster: Cluster
    nodes: tuple[Node, ...]
    holders: dict[str, tuple[Holder, ...]]
    probe: Probe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An engine kind that is installed here. `targets` is what stands behind it in `cluster add`; empty: nothing."""

    name: str
    help: str
    targets: str
    options: tuple[Option, ...]


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
            cluster=replace(cluster, config=secrets.hide(cluster.config)),
            nodes=tuple(node for node in nodes if node.cluster == cluster.id),
            holders={node.id: tuple(holders.get(node.id, ())) for node in nodes if node.cluster == cluster.id},
        )
        for cluster in ctx.store.clusters.all()
    ]


def get(ctx: Context, actor: Actor, name: str) -> ClusterView:
    """Return one cluster, with what its engine told. Raises NotFoundError."""
    for view in all(ctx, actor):
        if name == view.cluster.name:
            return replace(view, probe=ctx.store.clusters.probe(view.cluster.id))
    raise _unknown(name)


def kinds() -> list[Kind]:
    """Return the engine kinds that are installed, by name; of one that is broken what is wrong with it."""
    found = []
    for name in plugins.names("backends"):
        try:
            found.append(kind(name))
        except ServerError as wrong:
            found.append(Kind(name=name, help=wrong.message, targets="", options=()))
    return found


def kind(name: str) -> Kind:
    """Return an engine kind with its options. Raises NotFoundError with the known ones."""
    engine = plugins.engine(name)
    return Kind(name=name, help=engine.help, targets=engine.targets, options=options_of(engine))


def add(
    ctx: Context,
    actor: Actor,
    kind: str,
    *,
    name: str = "",
    targets: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> Operation:
    """Ask for a cluster of `kind`; a controller looks at the engine, and registers it if it can be used.

    The cluster is called `name`, else as its kind. Raises UsageError (an option is wrong), NotFoundError (no such kind),
    ConflictError (the name is taken).
    """
    actor.need_admin()
    if kind == "local":
        raise ConflictError("The machine of the server is a cluster already.", hint="mainspring cluster show local")
    engine = plugins.engine(kind)
    called = check_name(name or kind, "cluster")
    config = check_config(kind, engine, options or {}, targets)
    if ctx.store.clusters.get(called) is not None:
        raise ConflictError(f"There is a cluster {called!r} already.", hint="Give another --name, or see: mainspring cluster ls")
    for secret in secret_names(engine) & config.keys():
        config[secret] = secrets.seal(ctx, called, secret, str(config[secret]))
    return operations.ask(ctx, actor, OperationKind.ADD_CLUSTER, called, {"backend": kind, "config": config})


def probe(ctx: Context, actor: Actor, name: str) -> Operation:
    """Ask for a fresh look at a cluster's engine. Raises NotFoundError."""
    actor.need_admin()
    return operations.ask(ctx, actor, OperationKind.PROBE_CLUSTER, _find(ctx, name).name, {})


def check(ctx: Context, actor: Actor, name: str, *, project: str = "default") -> list[Run]:
    """Submit a tiny run to each node of a cluster that takes runs; return them. Raises NotFoundError, StateError (no node)."""
    actor.need_admin()
    nodes = [node for node in ctx.store.nodes.all(_find(ctx, name).id) if node.state is NodeState.READY]
    if not nodes:
        raise StateError(f"No node of cluster {name!r} takes runs now.", hint=f"mainspring cluster show {name}")
    return [submit(ctx, actor, check_spec(node, project))[0] for node in nodes]


def check_spec(node: Node, project: str = "default") -> RunSpec:
    """Return the tiny run that tells whether a node can be used."""
    return RunSpec(
        name="check",
        project=project,
        command=("python3", "-c", CHECK),
        resources=Resources(cpu_milli=min(100, node.cpu_milli), labels={"node": node.id}),
        timeout_s=CHECK_S,
        tags=("cluster-check",),
    )


def remove(ctx: Context, actor: Actor, name: str) -> None:
    """Forget a cluster; what its machines are is not touched. Raises NotFoundError, StateError while runs are on it."""
    actor.need_admin()
    cluster = _find(ctx, name)
    if cluster.id == "local":
        raise StateError("The machine of the server cannot be removed.", hint="Let it take no runs: mainspring node drain NODE")
    ctx.store.clusters.remove(cluster.id, event=said(actor, "cluster.removed", cluster.name, ""))
    ctx.signals.hint("clusters")


def drain(
    ctx: Context, actor: Actor, node: str, *, device: int | None = None, by: datetime | None = None, reason: str = ""
) -> Node:
    """Let the node, or one of its devices, finish what it has and take nothing new.

    What still runs there at `by` is asked for a checkpoint ahead of it and stopped then; it goes on elsewhere (cause preempted).
    Raises NotFoundError (node, device), UsageError (a moment that has passed).
    """
    actor.need_admin()
    now = ctx.clock.now()
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise UsageError("The reason is too long, or holds control characters.", hint=f"Write {MAX_REASON} characters at most.")
    if by is not None and (by.tzinfo is None or by < now - PASSED):
        raise UsageError(f"{by.isoformat()} has passed, or has no time zone.", hint="Write a moment to come, with its time zone.")
    found = _node(ctx, node)
    ends_at = max(by, now) if by is not None else None
    change = partial(drained, by=actor.name, now=now, device=_device(found, device), reason=reason, ends_at=ends_at)
    return ctx.store.nodes.settle(found.id, change, actor=actor.name)


def resume(ctx: Context, actor: Actor, node: str, *, device: int | None = None) -> Node:
    """Let the node, or one of its devices, take runs again. Raises NotFoundError.

    What was counted against it is forgiven: only what happens from now on takes it out again. Devices that were taken out stay so
    until they are named. Raises StateError for a node that drains by its engine's word, or because its rent ends.
    """
    actor.need_admin()
    found = _node(ctx, node)
    if device is None and found.state is NodeState.DRAINING and not is_closed_by_hand(found):
        told = " ".join(one.detail for one in found.symptoms if one.kind is SymptomKind.ENGINE) or "It goes back to its site."
        hint = "Its engine says when it takes runs again; it is looked at every few seconds."
        raise StateError(f"Node {found.id} was not drained here. {told}", hint=hint)
    change = partial(resumed, now=ctx.clock.now(), device=_device(found, device))
    return ctx.store.nodes.settle(found.id, change, actor=actor.name, is_anew=device is None)


def declare_dead(ctx: Context, actor: Actor, node: str) -> Node:
    """Confirm by word of mouth that nothing runs on the node any more (protocol P4): its attempts end as lost."""
    actor.need_admin()
    found = _node(ctx, node)
    return ctx.store.nodes.set_state(found.id, NodeState.DEAD, event=said(actor, "node.dead", found.id, ""))


def queue(ctx: Context, actor: Actor, *, limit: int | None = None) -> list[Waiting]:
    """Return the waiting runs that the actor may see, or the first `limit` of them, in the order in which they are planned."""
    projects = None if actor.is_admin else [name for name in actor.roles if actor.may(name, Role.VIEWER)]
    return ctx.store.runs.waiting(projects=projects, limit=limit)


def crowd(ctx: Context, actor: Actor) -> dict[str, int]:
    """Return how many runs wait that the actor may see, by person; who has most comes first."""
    found: Counter[str] = Counter()
    for (project, owner), many in ctx.store.runs.crowd().items():
        if actor.may(project, Role.VIEWER):
            found[owner] += many
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _find(ctx: Context, name: str) -> Cluster:
    found = ctx.store.clusters.get(name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"There is no cluster {name[:80]!r}.", hint="mainspring cluster ls")


def _node(ctx: Context, ref: str) -> Node:
    """Return the node with that id, or the one of that name: one machine is a node of several clusters by its name."""
    nodes = ctx.store.nodes.all()
    found = [node for node in nodes if node.id == ref] or [node for node in nodes if node.name == ref]
    if len(found) > 1:
        ids = ", ".join(node.id for node in found)
        raise ConflictError(f"{ref[:80]!r} is a node of several clusters.", hint=f"Write which one: {ids}")
    if found:
        return found[0]
    raise NotFoundError(f"There is no node {ref[:80]!r}.", hint="mainspring cluster ls")


def _device(node: Node, device: int | None) -> int:
    if device is None:
        return WHOLE
    known = [one.index for one in node.devices]
    if device in known:
        return device
    has = f"it has {', '.join(str(one) for one in known)}" if known else "it has none"
    raise NotFoundError(f"Node {node.name} has no device {device}: {has}.", hint="mainspring cluster ls")
