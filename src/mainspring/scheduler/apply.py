"""The world after a plan, for simulators and tests. The server applies plans in its store, guarded by versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mainspring.core.errors import PlannerError
from mainspring.core.records import Node
from mainspring.core.resources import DeviceShare, Granted
from mainspring.core.snapshot import DecisionKind, PlacedRun, Plan, Snapshot
from mainspring.scheduler.cycle import as_placed


def apply_plan(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return `snapshot` with the starts of `plan` carried out at the same instant. Raises PlannerError."""
    waiting = {run.id: run for run in snapshot.waiting}
    taken: dict[str, list[Granted]] = {}
    placed: list[PlacedRun] = []
    for decision in plan.decisions:
        if decision.kind is not DecisionKind.START:
            continue
        run = waiting.pop(decision.run, None)
        if run is None or run.version != decision.version:
            raise PlannerError(f"The plan starts {decision.run}, which does not wait in this snapshot.")
        for place in decision.places:
            taken.setdefault(place.node, []).append(place.granted)
        placed.append(as_placed(run, decision.places, snapshot))
    nodes = tuple(_with(node, taken.get(node.id, ())) for node in snapshot.nodes)
    left = tuple(run for run in snapshot.waiting if run.id in waiting)
    return replace(snapshot, nodes=nodes, waiting=left, placed=(*snapshot.placed, *placed))


def _with(node: Node, granted: Sequence[Granted]) -> Node:
    if not granted:
        return node
    devices = {share.index: 0 for share in node.used_devices}
    for share in (*node.used_devices, *(share for one in granted for share in one.devices)):
        devices[share.index] = devices.get(share.index, 0) + share.milli
    return replace(
        node,
        used_cpu_milli=node.used_cpu_milli + sum(one.cpu_milli for one in granted),
        used_memory_bytes=node.used_memory_bytes + sum(one.memory_bytes for one in granted),
        used_disk_bytes=node.used_disk_bytes + sum(one.disk_bytes for one in granted),
        used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(devices.items())),
        version=node.version + 1,
    )
