"""The server about itself."""

from __future__ import annotations

import os
from collections import Counter

from mainspring.core.actors import Actor
from mainspring.core.beats import PROTOCOL
from mainspring.services.context import Context
from mainspring.settings import VERSION


def status(ctx: Context, actor: Actor, *, url: str) -> dict[str, object]:
    """Return version, place, and what runs. Any user may ask; counts cover the projects that the actor may see."""
    nodes = ctx.store.nodes.all()
    visible = [project.name for project in ctx.store.projects.all() if actor.is_admin or project.name in actor.roles]
    counts: dict[str, int] = {}
    for project in visible:
        for state, number in ctx.store.runs.counts(project).items():
            counts[state] = counts.get(state, 0) + number
    return {
        "version": VERSION,
        "protocol": PROTOCOL,
        "installation": ctx.store.installation,
        "pid": os.getpid(),
        "url": url,
        "home": str(ctx.settings.home),
        "ready": True,
        "started_at": ctx.started_at,
        "counts": counts,
        "gpus": {
            "total": sum(len(node.devices) for node in nodes),
            "used": sum(share.milli for node in nodes for share in node.used_devices) / 1000,
            "out": sum(len(node.out()) for node in nodes),
        },
        "nodes": dict(Counter(str(node.state) for node in nodes)),
    }
