"""`/clusters`: nodes, devices and who holds them, clusters with what their engines told; what one may do is in `cluster_acts`."""

from __future__ import annotations

from nicegui import ui

from mainspring.core.health import is_closed_by_hand, why_closed
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import ALONE
from mainspring.core.units import show_bytes
from mainspring.services import clusters
from mainspring.services.clusters import ClusterView
from mainspring.ui import acts, cluster_acts, cluster_facts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_HOLDERS = 500
TOLD_S = 10.0  # how often it is read anew what engines told: that moves no topic


async def page(view: View) -> None:
    """Draw the fleet."""
    live = Live(view.ctx)
    with page_frame("Fleet", view):
        await live.block(lambda: summary(view), "nodes", "runs", "clusters")
        with ui.element("section"):
            parts.heading("Nodes")
            await live.block(lambda: nodes(view), "nodes", "runs", "clusters")
        with ui.element("section"):
            parts.heading("Who holds what")
            await live.block(lambda: holders(view), "nodes", "runs")
        with ui.element("section"):
            parts.heading("Clusters")
            await live.block(lambda: engines(view), "nodes", "clusters", every_s=TOLD_S)
    acts.listen(cluster_acts.handlers(view))
    live.start()


def summary(view: View) -> str:
    """Return the one sentence, and what engines report."""
    found = clusters.all(view.ctx, view.actor)
    every = [node for one in found for node in one.nodes]
    ready = sum(node.state is NodeState.READY for node in every)
    gpus = sum(len(node.devices) for node in every)
    used = sum(share.milli for node in every for share in node.used_devices) / 1000
    words = f"{ready} of {len(every)} {'node' if len(every) == 1 else 'nodes'} ready; {used:g} of {gpus} GPUs busy."
    notices = "".join(
        f'<p class="ms-soft">{parts.text(one.cluster.name)}: {parts.text(one.cluster.message)}</p>'
        for one in found
        if one.cluster.message
    )
    return f'<p class="ms-sentence">{words}</p>{notices}'


def nodes(view: View) -> str:
    """Return every node of every cluster."""
    found = clusters.all(view.ctx, view.actor)
    rows = [row(view, one, node) for one in found for node in one.nodes]
    heads = ("Node", "Cluster", "State", "CPUs", "Memory", "GPUs", "Pool", "Price", "Seen", "")
    legends = "".join(parts.legend(people(one)) for one in found)
    return parts.table(heads, rows, empty="No node is registered. Type: mainspring up", label="Nodes") + legends


def row(view: View, one: ClusterView, node: Node) -> tuple[str, ...]:
    """Return one node as cells."""
    cpus = parts.meter(node.used_cpu_milli, node.cpu_milli, f"{node.used_cpu_milli / 1000:g} of {node.cpu_milli / 1000:g}")
    memory = parts.meter(
        node.used_memory_bytes, node.memory_bytes, f"{show_bytes(node.used_memory_bytes)} of {show_bytes(node.memory_bytes)}"
    )
    health = why_closed(node) + ([f"Others' work holds {node.foreign.show()}."] if node.foreign != ALONE else [])
    price = f"{parts.text(node.price_usd_per_hour)} USD/h" if node.price_usd_per_hour not in ("0", "") else ""
    return (
        parts.text(node.name),
        parts.text(
            one.cluster.name if one.cluster.name == one.cluster.backend else f"{one.cluster.name} ({one.cluster.backend})"
        ),
        parts.state(node.state.value) + "".join(parts.why(told) for told in health),
        cpus,
        memory,
        parts.squares(node, one.holders.get(node.id, ()), people(one), view.url),
        parts.text(node.pool),
        price,
        parts.moment(node.seen_at),
        buttons(node) if view.actor.is_admin else "",
    )


def buttons(node: Node) -> str:
    """Return what may be done with the node, and with those of its GPUs that are out."""
    found = []
    if node.state is NodeState.READY:
        found.append(parts.button("Drain", "drain", node.id, is_small=True))
    elif node.state is NodeState.QUARANTINED or is_closed_by_hand(node):
        found.append(parts.button("Resume", "resume", node.id, is_small=True))
    found += [parts.button(f"Resume GPU {one}", "resume", f"{node.id} {one}", is_small=True) for one in sorted(node.out())]
    return " ".join(found)


def engines(view: View) -> str:
    """Return every cluster with what its engine told when it was looked at last."""
    found = "".join(cluster_facts.cluster(view, one) for one in clusters.all(view.ctx, view.actor))
    add = f'<div class="ms-actions">{parts.button("Add cluster", "cluster.add")}</div>' if view.actor.is_admin else ""
    return f'<div class="ms-clusters">{found}{add}</div>'


def people(one: ClusterView) -> list[str]:
    """Return who holds something in the cluster, by name."""
    return sorted({holder.owner for held in one.holders.values() for holder in held})


def holders(view: View) -> str:
    """Return each run that holds something, longest first."""
    found = [
        (node, holder)
        for one in clusters.all(view.ctx, view.actor)
        for node in one.nodes
        for holder in one.holders.get(node.id, ())
    ]
    found.sort(key=lambda pair: pair[1].since)
    rows = [
        (
            parts.link(holder.name, view.url(f"/runs/{holder.run}"))
            if holder.run
            else '<span class="ms-soft">of another project</span>',
            parts.text(holder.owner),
            parts.text(node.name),
            f"{holder.granted.cpu_milli / 1000:g}",
            show_bytes(holder.granted.memory_bytes) if holder.granted.memory_bytes else "",
            ", ".join(
                f"{share.index}" if share.milli == 1000 else f"{share.milli / 1000:g} of {share.index}"
                for share in holder.granted.devices
            ),
            parts.span(holder.since, None),
        )
        for node, holder in found[:MAX_HOLDERS]
    ]
    heads = ("Run", "Owner", "Node", "CPUs", "Memory", "GPUs", "For")
    return parts.table(
        heads, rows, empty="Nobody: everything is free.", label="Who holds what", numeric=("CPUs", "Memory", "For")
    )
