"""Routes of the fleet: clusters, nodes, the queue."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import assert_never

from fastapi import APIRouter
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.core.actors import Actor
from mainspring.core.records import Node, Run, Unadopted
from mainspring.services import adoption, clusters
from mainspring.services.clusters import ClusterView
from mainspring.services.context import Context

router = APIRouter(prefix=PREFIX, tags=["fleet"])


class NodeAction(StrEnum):
    """What an operator does to a node."""

    DRAIN = "drain"
    RESUME = "resume"
    DEAD = "dead"


@router.get("/clusters")
@shaped(gives=ClusterView, is_list=True)
def all_clusters(ctx: Ctx, actor: Who) -> Response:
    """Return every cluster with its nodes, and who holds what."""
    return answer(clusters.all(ctx, actor))


@router.post("/nodes/{node_id}/{action}")
@shaped(gives=Node)
def act(ctx: Ctx, actor: Who, node_id: str, action: NodeAction) -> Response:
    """Drain a node, let it take runs again, or declare it dead."""
    return answer(_function(action)(ctx, actor, node_id))


@router.get("/queue")
@shaped()
def queue(ctx: Ctx, actor: Who) -> Response:
    """Return the waiting runs in the order in which they are planned."""
    last = ctx.store.decisions.latest()
    planned = {"planned_at": last.at if last else None, "fingerprint": last.plan.fingerprint if last else ""}
    return answer({"waiting": clusters.queue(ctx, actor), **planned})


@router.get("/unadopted")
@shaped(gives=Unadopted, is_list=True)
def all_unadopted(ctx: Ctx, actor: Who) -> Response:
    """Return the attempts whose runners live and that nobody knows: an older backup was restored."""
    return answer(adoption.all(ctx, actor))


@router.post("/unadopted/{attempt_id}/adopt")
@shaped(gives=Run)
def adopt(ctx: Ctx, actor: Who, attempt_id: str) -> Response:
    """Make the rows of such an attempt again; its runner then sends what it kept."""
    return answer(adoption.adopt(ctx, actor, attempt_id))


def _function(action: NodeAction) -> Callable[[Context, Actor, str], Node]:
    match action:
        case NodeAction.DRAIN:
            return clusters.drain
        case NodeAction.RESUME:
            return clusters.resume
        case NodeAction.DEAD:
            return clusters.declare_dead
        case _:
            assert_never(action)
