"""`/clusters`: engines, nodes, devices, and who holds what; administrators drain and resume nodes."""

from __future__ import annotations

from nicegui import ui

from mainspring.core.health import why_closed
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import ALONE
from mainspring.core.units import show_bytes
from mainspring.services import clusters
from mainspring.services.clusters import ClusterView
from mainspring.ui import acts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_HOLDERS = 500


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
    acts.listen({"drain": lambda node: _ask_drain(view, node), "resume": lambda node: _resume(view, node)})
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
    act = ""
    if view.actor.is_admin:
        if node.state is NodeState.READY:
            act = parts.button("Drain", "drain", node.id, is_small=True)
        elif node.state in (NodeState.DRAINING, NodeState.QUARANTINED):
            act = parts.button("Resume", "resume", node.id, is_small=True)
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
        act,
    )


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


async def _ask_drain(view: View, node: str) -> None:
    async def drain() -> None:
        await acts.carry_out(lambda: clusters.drain(view.ctx, view.actor, node), "It takes nothing new.")

    acts.ask(
        f"Drain {node}?", "What runs there goes on to its end; nothing new is placed there until it is resumed.", "Drain", drain
    )


async def _resume(view: View, node: str) -> None:
    await acts.carry_out(lambda: clusters.resume(view.ctx, view.actor, node), "It takes runs again.")
