"""What a Kubernetes for tests knows when a test has failed: its nodes, its pods, what it said of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EVENTS = 40


def of(ask: Callable[[str, str], Any]) -> str:
    """Return it as lines. Never raises: a test has failed already, and its own reason comes first."""
    try:
        return "\n".join([*_nodes(ask), *_pods(ask), *_events(ask)])
    except Exception as wrong:  # whatever it is, it is told beside the reason of the test
        return f"Kubernetes does not tell: {wrong!r}"


def _nodes(ask: Callable[[str, str], Any]) -> list[str]:
    found = []
    for node in ask("GET", "/api/v1/nodes")["items"]:
        conditions = [f"{one['type']}={one['status']}" for one in node["status"].get("conditions", ())]
        taints = [one["key"] for one in node["spec"].get("taints", ())]
        has = {key: value for key, value in node["status"].get("allocatable", {}).items() if key in ("cpu", "memory", "pods")}
        found.append(f"node {node['metadata']['name']}: {' '.join(conditions)}; takes {has}; taints {taints}")
    return found


def _pods(ask: Callable[[str, str], Any]) -> list[str]:
    found = []
    for pod in ask("GET", "/api/v1/pods?fieldSelector=status.phase%21%3DSucceeded")["items"]:
        about, status = pod["metadata"], pod["status"]
        conditions = [
            f"{one['type']}={one['status']} {one.get('reason', '')} {one.get('message', '')}".strip()
            for one in status.get("conditions", ())
            if one["status"] != "True" or one["type"] == "DisruptionTarget"
        ]
        states = [one.get("state") for one in status.get("containerStatuses", ())]
        asks = [one.get("resources", {}).get("requests", {}) for one in pod["spec"]["containers"]]
        ends = f", ends at {about['deletionTimestamp']}" if "deletionTimestamp" in about else ""
        where = f"{about['namespace']}/{about['name']} of {about['creationTimestamp']}{ends}"
        on = pod["spec"].get("nodeName", "no node")
        found.append(f"pod {where}: {status.get('phase')} on {on}, asks for {asks}; {conditions}; {states}")
    return found


def _events(ask: Callable[[str, str], Any]) -> list[str]:
    there = ask("GET", "/api/v1/events")["items"]
    there.sort(key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "")
    return [
        f"{one.get('lastTimestamp') or one.get('eventTime')} {one['involvedObject'].get('kind')} "
        f"{one['involvedObject'].get('name')}: {one.get('reason')}: {one.get('message', '')[:300]}"
        for one in there[-EVENTS:]
    ]
