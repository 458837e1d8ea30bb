"""What is known of a cluster: its settings, what its engine told, its nodes. For the fleet page and for the dialogs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mainspring.core.backend import Notice, Probe
from mainspring.core.codec import from_plain
from mainspring.core.errors import MainspringError
from mainspring.core.records import Node
from mainspring.core.resources import show_devices
from mainspring.core.units import MILLI, counted, show_bytes, show_seconds
from mainspring.services.clusters import ClusterView
from mainspring.ui import parts
from mainspring.ui.view import View


def cluster(view: View, one: ClusterView) -> str:
    """Return one cluster with what administrators may do, and a fold with everything that is known of it."""
    name = one.cluster.name
    probe = view.ctx.store.clusters.probe(one.cluster.id)
    buttons = ""
    if view.actor.is_admin:
        buttons = parts.button("Check", "cluster.check", name, is_small=True)
        if one.cluster.id != "local":  # the machine of the server cannot be removed
            buttons += parts.button("Forget", "cluster.forget", name, is_small=True, is_bad=True)
    size = f"{one.cluster.backend}, {counted(len(one.nodes), 'node')}"
    many = f": {counted(len(probe.notices), 'notice')}" if probe is not None and probe.notices else ""
    settings = [(key, _written(value)) for key, value in one.cluster.config.items() if value not in (0, "", None, [])]
    facts = told(probe, settings) if probe is not None else parts.note("Its engine has not been looked at yet.")
    return (
        f'<div class="ms-actions"><h3 class="ms-name">{parts.text(name)}</h3><span class="ms-soft">{parts.text(size)}</span>'
        f'{buttons}</div><details data-fold="{parts.text(name)}"><summary>What its engine told{many}</summary>'
        f"{facts}{nodes(name, one.nodes)}</details>"
    )


def told(probe: Probe, settings: Sequence[tuple[str, str]] = ()) -> str:
    """Return what is to be mended, each with the command that does it, then the facts."""
    answered = ("answered in", show_seconds(probe.latency_s) if probe.latency_s else "")
    named = (("version", probe.version), *probe.facts.items(), *settings, answered)
    facts = [(_titled(name), parts.text(value)) for name, value in named if value]
    return "".join(_notice(one) for one in probe.notices) + (parts.pairs(facts) if facts else "")


def nodes(name: str, found: Sequence[Node]) -> str:
    """Return the nodes of a cluster and what each has."""
    rows = [
        (
            parts.text(node.name),
            parts.state(node.state.value),
            parts.text(node.pool),
            f"{node.cpu_milli / MILLI:g}",
            show_bytes(node.memory_bytes),
            show_bytes(node.disk_bytes) if node.disk_bytes else "",
            parts.text(show_devices(node.devices)),
        )
        for node in found
    ]
    heads = ("Node", "State", "Pool", "CPUs", "Memory", "Free disk", "GPUs")
    return parts.table(heads, rows, empty="It has no nodes.", label=f"Nodes of {name}", numeric=("CPUs", "Memory", "Free disk"))


def looked(result: Mapping[str, object]) -> str:
    """Return what came of a look at an engine, as `POST /clusters` and a probe give it."""
    return told(_probe(result)) + nodes(str(result["cluster"]), nodes_of(result))


def nodes_of(result: Mapping[str, object]) -> list[Node]:
    """Return the nodes that a look at an engine found."""
    return from_plain(result.get("nodes") or [], list[Node])


def refused(wrong: MainspringError) -> str:
    """Return why an engine cannot be used: the sentence with what mends it, then what was found all the same."""
    if "probe" not in wrong.details:
        return parts.refusal(wrong)
    probe = _probe(wrong.details)
    first = replace(probe.notices[0], text=wrong.message) if probe.notices else Notice(text=wrong.message)
    return told(replace(probe, notices=(first, *probe.notices[1:])))


def _probe(result: Mapping[str, object]) -> Probe:
    return from_plain(result["probe"], Probe)


def _notice(one: Notice) -> str:
    mends = f"<div>Mend it: {parts.command(one.command)}</div>" if one.command else ""
    return f'<div class="ms-notice">{parts.words(one.text)}{mends}</div>'


def _titled(name: str) -> str:
    shown = name.replace("_", " ")
    return shown[:1].upper() + shown[1:]


def _written(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
