"""The fleet on the command line."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from mainspring.cli.cluster_words import Words, read_words
from mainspring.cli.connecting import connect
from mainspring.cli.options import Json, Project, Yes
from mainspring.cli.output import age, done, emit_json, facts, note, say, state, table
from mainspring.cli.questions import confirm
from mainspring.client.client import Client
from mainspring.client.transport import to_record
from mainspring.core.errors import ClusterRefusedError
from mainspring.core.health import why_closed
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import WHOLE, Cause, Cluster, Node, Run, RunState
from mainspring.core.resources import ALONE, show_devices
from mainspring.core.units import MILLI, show_bytes, show_milli, show_seconds

CHECK_S = 300.0
LOOK_S = 3.0


def ls(*, as_json: Json = False) -> None:
    """List clusters, their nodes, what is in use, and by whom.

    Example: `mainspring cluster ls`.
    """
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
        for each in one["nodes"]:
            _say_health(to_record(each, Node))


def add(kind: str, /, *words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Register a cluster: `mainspring cluster add KIND [TARGETS...] [--name N] [--OPTION VALUE]...`.

    Its engine is looked at first; one that cannot be used is refused, with what mends it. `mainspring cluster kinds KIND`
    lists the options of a kind. A secret given as `-` is asked for, or read from standard input.
    """
    clusters = connect().clusters
    asked = read_words(clusters.kind(kind), words)
    options = {**asked.options, **{name: _secret(name) for name in asked.asked}}
    _report(asked, lambda: clusters.add(kind, *asked.targets, name=asked.name, **options))


def kinds(kind: str | None = None, /, *, as_json: Json = False) -> None:
    """List the engine kinds that can be added, or the options of one.

    Examples: `mainspring cluster kinds`, `mainspring cluster kinds ssh`.
    """
    clusters = connect().clusters
    if kind is None:
        listed = clusters.kinds()
        if as_json:
            emit_json(listed)
            return
        table(("kind", "targets", "what it is"), [(one["name"], one["targets"], one["help"]) for one in listed])
        return
    found = clusters.kind(kind)
    if as_json:
        emit_json(found)
        return
    say(f"mainspring cluster add {kind} {found['targets'] and found['targets'] + '... '}[--name NAME] [--OPTION VALUE]...")
    table(("option", "takes", "what it is"), [_option(one) for one in found["options"]])


def show(name: str, /, *, as_json: Json = False) -> None:
    """Show a cluster: its engine, its nodes, what is wrong with it and what mends that.

    Example: `mainspring cluster show ssh`.
    """
    found = connect().clusters.get(name)
    if as_json:
        emit_json(found)
        return
    cluster = to_record(found["cluster"], Cluster)
    config = {key: value for key, value in cluster.config.items() if value not in (0, "", None, [])}
    facts([("cluster", cluster.name), ("engine", cluster.backend), *((key, str(value)) for key, value in config.items())])
    _show_probe(found.get("probe") or {})
    nodes = [to_record(one, Node) for one in found["nodes"]]
    _show_nodes(nodes)
    if cluster.message:
        say(cluster.message)
    for node in nodes:
        _say_health(node)


def check(name: str, /, *, project: Project = "default", as_json: Json = False) -> int:
    """Look at a cluster's engine, and run something tiny on each of its nodes; 0 when all of that worked.

    Example: `mainspring cluster check ssh`.
    """
    client = connect()
    looked = client.clusters.probe(name)
    runs = client.clusters.check(name, project=project)
    until = time.monotonic() + CHECK_S
    refusals = {run.id: _awaited(client, run, until) for run in runs}
    ended = [client.runs.get(run.id) for run in runs]
    for run in ended:
        if run.state not in TERMINAL_RUN:
            client.runs.cancel(run.id)
    if as_json:
        emit_json({**looked, "runs": ended})
    else:
        _show_probe(looked["probe"])
        rows = [
            (
                state("failed" if refusals[run.id] else run.state),
                str(run.spec.resources.labels.get("node", "")),
                refusals[run.id] or _told(client.runs.log(run.id).data, run),
            )
            for run in ended
        ]
        table(("state", "node", "told"), rows)
    return 0 if all(run.state is RunState.SUCCEEDED for run in ended) else 1


def rm(name: str, /, *, yes: Yes = False, as_json: Json = False) -> None:
    """Forget a cluster on which nothing runs; its machines are not touched.

    Example: `mainspring cluster rm ssh --yes`.
    """
    confirm(f"Forget the cluster {name}?", is_yes=yes)
    connect().clusters.remove(name)
    done({"forgotten": name}, f"{name} is forgotten.", as_json=as_json)


def drain(node: str, /, *, device: int | None = None, by: str | None = None, reason: str = "", as_json: Json = False) -> None:
    """Let a node take no further runs; what runs there goes on, or until `--by`.

    `mainspring cluster drain gpu01 --by 18:00 --reason "new disks"`: what still runs there at that moment was asked for a
    checkpoint ahead of it, is stopped with its grace, and goes on elsewhere. `--by 30m`, `--by now` do as well.
    `mainspring cluster drain gpu01 --device 3` takes out one GPU.
    """
    found = connect().clusters.drain(node, device=device, by=by, reason=reason)
    if as_json:
        emit_json(found)
        return
    say(f"{_place(found, device)} takes no further runs.")
    ends = [
        one.ends_at for one in found.closures if one.ends_at is not None and one.device == (WHOLE if device is None else device)
    ]
    for moment in ends:
        say(f"What still runs there at {moment.astimezone():%Y-%m-%d %H:%M} is stopped and goes on elsewhere.")


def resume(node: str, /, *, device: int | None = None, as_json: Json = False) -> None:
    """Let a node, or one of its devices (`--device 3`), take runs again: after a drain, or a quarantine.

    Examples: `mainspring cluster resume gpu01`, `mainspring cluster resume gpu01 --device 3`.
    """
    found = connect().clusters.resume(node, device=device)
    if as_json:
        emit_json(found)
        return
    say(f"{_place(found, device)} takes runs again.")
    for one in sorted(found.out()):
        note(f"Device {one} stays out: mainspring cluster resume {found.name} --device {one}")


def dead(node: str, /, *, yes: Yes = False, as_json: Json = False) -> None:
    """Declare that a node is gone for good and nothing runs there any more: its runs start again elsewhere.

    Example: `mainspring node dead gpu01 --yes`.
    """
    confirm(f"Is {node} surely off? Exclusive runs would run twice if it is not.", is_yes=yes)
    gone = connect().clusters.dead(node)
    done(gone, f"{gone.name} is declared dead.", as_json=as_json)


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
    gpus += f" ({len(node.out())} out)" if node.out() else ""
    models = sorted({device.model for device in node.devices if device.model != "gpu"})
    who: dict[str, int] = {}
    for one in holders:
        who[str(one.get("owner", ""))] = who.get(str(one.get("owner", "")), 0) + 1
    told = [f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in sorted(who.items())]
    told += [f"others' work ({node.foreign.show()})"] if node.foreign != ALONE else []
    return (
        state(node.state),
        cluster.name,
        node.id,
        f"{show_milli(node.used_cpu_milli)}/{show_milli(node.cpu_milli)}",
        f"{show_bytes(node.used_memory_bytes)}/{show_bytes(node.memory_bytes)}",
        gpus + (f" {', '.join(models)}" if models else ""),
        ", ".join(told),
    )


def _report(asked: Words, act: Any) -> None:
    """Add, and print what was found, also of a cluster that is refused."""
    try:
        found = act()
    except ClusterRefusedError as refused:
        if not asked.is_json:
            _show_probe(dict(refused.details.get("probe") or {}))  # type: ignore[call-overload]
        raise
    if asked.is_json:
        emit_json(found)
        return
    _show_probe(found["probe"])
    nodes = [to_record(one, Node) for one in found["nodes"]]
    _show_nodes(nodes)
    say(f"{found['cluster']} is registered with {len(nodes)} node{'s' if len(nodes) != 1 else ''}.")
    note(f"Try it: mainspring cluster check {found['cluster']}")


def _show_probe(probe: Mapping[str, Any]) -> None:
    latency = show_seconds(float(probe["latency_s"])) if probe.get("latency_s") else ""
    facts([("version", str(probe.get("version", ""))), *dict(probe.get("facts") or {}).items(), ("answered in", latency)])
    for notice in probe.get("notices") or ():
        note(f"! {notice['text']}")
        if notice.get("command"):
            note(f"  mend it: {notice['command']}")


def _show_nodes(nodes: Sequence[Node]) -> None:
    rows = [
        (
            state(node.state),
            node.id,
            node.pool,
            show_milli(node.cpu_milli),
            show_bytes(node.memory_bytes),
            show_bytes(node.disk_bytes) if node.disk_bytes else "",
            show_devices(node.devices),
        )
        for node in nodes
    ]
    table(("state", "node", "pool", "CPUs", "memory", "free disk", "GPUs"), rows, empty="It has no nodes.")


def _say_health(node: Node) -> None:
    """Say why the node, or a device of it, takes nothing."""
    for told in why_closed(node):
        say(f"{node.id}: {told}")


def _place(node: Node, device: int | None) -> str:
    return node.name if device is None else f"Device {device} of {node.name}"


def _option(option: Mapping[str, Any]) -> tuple[str, str, str]:
    default = f" Default: {option['default']}." if option.get("default") not in (None, "", False) else ""
    takes = "" if option["kind"] == "flag" else option["kind"] + (", needed" if option.get("is_required") else "")
    return f"--{option['name'].replace('_', '-')}", takes, option["help"] + default


def _secret(name: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{name}: ")
    return sys.stdin.readline().rstrip("\n")


def _awaited(client: Client, run: Run, until: float) -> str:
    """Wait for the end of a tiny run; return why it cannot even start, as soon as that was tried once."""
    while time.monotonic() < until:
        if client.runs.wait(run.id, min(LOOK_S, max(0.0, until - time.monotonic()))).state in TERMINAL_RUN:
            break
        tried = [one.outcome for one in client.runs.attempts(run.id) if one.outcome is not None]
        if tried and tried[-1].cause is Cause.LAUNCH_FAILED:
            return tried[-1].message
    return ""


def _told(log: bytes, run: Run) -> str:
    if run.state is RunState.SUCCEEDED:
        return log.decode("utf-8", "replace").strip()
    return run.outcome.message if run.outcome is not None else "It did not end in time."
