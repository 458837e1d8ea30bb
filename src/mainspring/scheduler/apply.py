"""The world after a plan, for simulators and tests. The server applies plans in its store, guarded by versions."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from datetime import timedelta

from mainspring.core.errors import PlannerError
from mainspring.core.records import Node
from mainspring.core.resources import DeviceShare, Granted
from mainspring.core.shares import Share
from mainspring.core.snapshot import OVERDUE, DecisionKind, PlacedRun, Plan, ShareState, Snapshot
from mainspring.scheduler.cycle import as_placed
from mainspring.scheduler.evict import waits_again


def apply_plan(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return `snapshot` with `plan` carried out and its evictions completed, at the same instant. Raises PlannerError.

    Evicted runs wait again with their old place in the order; nominated runs wait with their places, and start in the next
    plan; machines asked for count at their sites and have not come; released ones are gone.
    """
    waiting = {run.id: run for run in snapshot.waiting}
    placed = {run.id: run for run in snapshot.placed}
    changes: dict[str, list[tuple[Granted, int]]] = {}
    asked: dict[str, int] = {}
    started: list[PlacedRun] = []
    for decision in plan.decisions:
        if decision.kind is DecisionKind.EVICT:
            victim = placed.pop(decision.run, None)
            if victim is None or victim.version != decision.version:
                raise PlannerError(f"The plan stops {decision.run}, which is not placed in this snapshot.")
            sites = () if decision.rule == OVERDUE else victim.sites
            waiting[victim.id] = replace(waits_again(victim), nominated=decision.places, sites=sites)
            for place in victim.places:
                changes.setdefault(place.node, []).append((place.granted, -1))
            continue
        run = waiting.get(decision.run)
        if run is None or run.version != decision.version:
            raise PlannerError(f"The plan decides about {decision.run}, which does not wait in this snapshot.")
        if decision.kind is DecisionKind.START:
            del waiting[run.id]
            started.append(as_placed(run, decision.places, snapshot))
            for place in decision.places:
                changes.setdefault(place.node, []).append((place.granted, 1))
        elif decision.kind is DecisionKind.NOMINATE:
            waiting[run.id] = replace(run, nominated=decision.places)
        elif decision.kind is DecisionKind.BURST:
            waiting[run.id] = replace(run, is_bursting=True)
            asked[decision.site] = asked.get(decision.site, 0) + run.replicas
    nodes = tuple(_with(node, changes.get(node.id, ())) for node in snapshot.nodes if node.id not in plan.release)
    return replace(
        snapshot,
        nodes=nodes,
        waiting=tuple(waiting.values()),
        placed=(*placed.values(), *started),
        shares=_served(snapshot, started),
        sites=tuple(replace(site, running=site.running + asked.get(site.name, 0)) for site in snapshot.sites),
        rented=tuple(one for one in snapshot.rented if one.node not in plan.release),
    )


def ended(snapshot: Snapshot, runs: Container[str]) -> Snapshot:
    """Return `snapshot` without these placed runs: what they held is free."""
    gone = [run for run in snapshot.placed if run.id in runs]
    changes: dict[str, list[tuple[Granted, int]]] = {}
    for place in (place for run in gone for place in run.places):
        changes.setdefault(place.node, []).append((place.granted, -1))
    nodes = tuple(_with(node, changes.get(node.id, ())) for node in snapshot.nodes)
    return replace(snapshot, nodes=nodes, placed=tuple(run for run in snapshot.placed if run.id not in runs))


def _served(snapshot: Snapshot, started: Sequence[PlacedRun]) -> tuple[ShareState, ...]:
    """Return the shares, each with its last start; one that nobody configured is remembered as it is."""
    states = {state.share.name: state for state in snapshot.shares}
    for number, run in enumerate(started):
        name = run.share or run.owner
        state = states.get(name) or ShareState(share=Share(name=name))
        states[name] = replace(state, served_at=snapshot.now + timedelta(microseconds=number))
    return tuple(states.values())


def _with(node: Node, changes: Sequence[tuple[Granted, int]]) -> Node:
    if not changes:
        return node
    devices: dict[int, int] = {}
    for share, sign in (
        *((share, 1) for share in node.used_devices),
        *((share, sign) for granted, sign in changes for share in granted.devices),
    ):
        devices[share.index] = devices.get(share.index, 0) + sign * share.milli
    return replace(
        node,
        used_cpu_milli=node.used_cpu_milli + sum(sign * one.cpu_milli for one, sign in changes),
        used_memory_bytes=node.used_memory_bytes + sum(sign * one.memory_bytes for one, sign in changes),
        used_disk_bytes=node.used_disk_bytes + sum(sign * one.disk_bytes for one, sign in changes),
        used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(devices.items()) if milli),
        version=node.version + 1,
    )
