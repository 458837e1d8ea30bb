"""The fleet on the command line."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from mainspring.cli.options import Json, Yes
from mainspring.cli.output import age, emit_json, say, state, table
from mainspring.cli.questions import confirm
from mainspring.client.connection import connect
from mainspring.client.transport import to_record
from mainspring.core.records import Cluster, Node
from mainspring.core.units import MILLI, show_bytes, show_milli


def ls(*, as_json: Json = False) -> None:
    """List clusters, their nodes, what is in use, and by whom."""
    found = connect().clusters.all()
    if as_json:
        emit_json(found)
        return
    rows = []
    for one in found:
        cluster = to_record(one["cluster"], Cluster)
        holders = one.get("holders") or {}
        nodes = [to_record(each, Node) for each in one["nodes"]]
        rows += [_row(cluster, node, holders.get(node.id) or []) for node in nodes]
        if not nodes:
            rows.append((state("unreachable"), cluster.name, "no nodes", "", "", "", cluster.message))
    table(("state", "cluster", "node", "CPUs", "memory", "GPUs", "held by"), rows, empty="No clusters.")
    for one in found:
        message = to_record(one["cluster"], Cluster).message
        if message:
            say(f"{one['cluster']['name']}: {message}")


def drain(node: str, /) -> None:
    """Let a node take no further runs; what runs there goes on."""
    say(f"{connect().clusters.act(node, 'drain').name} takes no further runs.")


def resume(node: str, /) -> None:
    """Let a node take runs again."""
    say(f"{connect().clusters.act(node, 'resume').name} takes runs again.")


def dead(node: str, /, *, yes: Yes = False) -> None:
    """Declare that a node is gone for good and nothing runs there any more: its runs start again elsewhere."""
    confirm(f"Is {node} surely off? Exclusive runs would run twice if it is not.", is_yes=yes)
    say(f"{connect().clusters.act(node, 'dead').name} is declared dead.")


def adopt(attempt: str | None = None, /, *, as_json: Json = False) -> None:
    """List the attempts whose runners outlived a restored backup, or take one in again: `mainspring adopt ATTEMPT`.

    One that is not adopted is ended after 24 hours.
    """
    clusters = connect().clusters
    if attempt is not None:
        run = clusters.adopt(attempt)
        if as_json:
            emit_json(run)
        else:
            say(f"{run.name} goes on as attempt {run.attempt} of {run.id}.")
        return
    found = clusters.unadopted()
    if as_json:
        emit_json(found)
        return
    rows = [(one.attempt, one.run or "not told yet", one.host, age(one.first_seen_at), age(one.seen_at)) for one in found]
    table(("attempt", "run", "host", "first seen", "last seen"), rows, empty="Every runner is known.")


def _row(cluster: Cluster, node: Node, holders: list[dict[str, Any]]) -> tuple[Text | str, ...]:
    gpus = f"{sum(one.milli for one in node.used_devices) / MILLI:g}/{len(node.devices)}"
    models = sorted({device.model for device in node.devices if device.model != "gpu"})
    who: dict[str, int] = {}
    for one in holders:
        who[str(one.get("owner", ""))] = who.get(str(one.get("owner", "")), 0) + 1
    return (
        state(node.state),
        cluster.name,
        node.id,
        f"{show_milli(node.used_cpu_milli)}/{show_milli(node.cpu_milli)}",
        f"{show_bytes(node.used_memory_bytes)}/{show_bytes(node.memory_bytes)}",
        gpus + (f" {', '.join(models)}" if models else ""),
        ", ".join(f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in sorted(who.items())),
    )
