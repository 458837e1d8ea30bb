"""Routes of the fleet: clusters, nodes, the queue; and what became of what was asked of engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, assert_never

from fastapi import APIRouter, Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_nothing, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.api.streams import is_draining
from mainspring.core.errors import UsageError
from mainspring.core.operations import Operation, OperationState
from mainspring.core.records import Node, Run, Unadopted
from mainspring.services import adoption, clusters, operations
from mainspring.services.clusters import ClusterView, Kind

MAX_WAIT_S = 60.0
router = APIRouter(prefix=PREFIX, tags=["fleet"])


class NodeAction(StrEnum):
    """What an operator does to a node."""

    DRAIN = "drain"
    RESUME = "resume"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAsked:
    """A cluster to register: its engine kind, what stands behind it, and options by name."""

    backend: str
    name: str = ""
    targets: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAsked:
    """What goes with an action on a node: one device of it; a drain's time (with a zone) and why."""

    device: int | None = None
    by: datetime | None = None
    reason: str = ""


NOTHING = NodeAsked()


@router.get("/clusters")
@shaped(gives=ClusterView, is_list=True)
def all_clusters(ctx: Ctx, actor: Who) -> Response:
    """Return every cluster with its nodes, and who holds what."""
    return answer(clusters.all(ctx, actor))


@router.post("/clusters", status_code=202)
@shaped(takes=ClusterAsked, gives=Operation, status=202)
def add(ctx: Ctx, actor: Who, asked: Annotated[ClusterAsked, Depends(body_of(ClusterAsked))]) -> Response:
    """Ask for a cluster; the operation's result tells what was found, its error why it was refused."""
    name, targets, options = asked.name, asked.targets, asked.options
    return answer(clusters.add(ctx, actor, asked.backend, name=name, targets=targets, options=options), status=202)


@router.get("/clusters/{name}")
@shaped(gives=ClusterView)
def get(ctx: Ctx, actor: Who, name: str) -> Response:
    """Return one cluster, with what its engine told when it was looked at last."""
    return answer(clusters.get(ctx, actor, name))


@router.delete("/clusters/{name}", status_code=204)
@shaped(status=204)
def remove(ctx: Ctx, actor: Who, name: str) -> Response:
    """Forget a cluster on which nothing runs."""
    clusters.remove(ctx, actor, name)
    return answer_nothing()


@router.post("/clusters/{name}/probe", status_code=202)
@shaped(gives=Operation, status=202)
def probe(ctx: Ctx, actor: Who, name: str) -> Response:
    """Ask for a fresh look at a cluster's engine."""
    return answer(clusters.probe(ctx, actor, name), status=202)


@router.post("/clusters/{name}/check")
@shaped(gives=Run, is_list=True)
def check(ctx: Ctx, actor: Who, name: str, project: str = "default") -> Response:
    """Submit a tiny run to each node of a cluster that takes runs."""
    return answer(clusters.check(ctx, actor, name, project=project))


@router.get("/backends")
@shaped(gives=Kind, is_list=True)
def kinds(actor: Who) -> Response:
    """Return the engine kinds that are installed, with the options of `POST /clusters`."""
    del actor
    return answer(clusters.kinds())


@router.get("/backends/{name}")
@shaped(gives=Kind)
def kind(actor: Who, name: str) -> Response:
    """Return one engine kind."""
    del actor
    return answer(clusters.kind(name))


@router.get("/operations/{operation_id}")
@shaped(gives=Operation)
async def operation(
    request: Request, ctx: Ctx, actor: Who, operation_id: str, timeout_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 25.0
) -> Response:
    """Return what became of something asked of an engine when it has ended, or as it stands after `timeout_s`."""
    until = ctx.clock.monotonic() + timeout_s
    while True:
        seen = ctx.signals.version("operations", "shutdown")
        found = await run_in_threadpool(operations.get, ctx, actor, operation_id)
        left = until - ctx.clock.monotonic()
        if found.state is not OperationState.PENDING or left <= 0 or is_draining(request.app):
            return answer(found)
        await ctx.signals.wait_async(("operations", "shutdown"), seen, left)


@router.post("/nodes/{node_id}/{action}")
@shaped(takes=NodeAsked, gives=Node)
def act(
    ctx: Ctx,
    actor: Who,
    node_id: str,
    action: NodeAction,
    asked: Annotated[NodeAsked, Depends(body_of(NodeAsked, default=NOTHING))],
) -> Response:
    """Drain a node or one of its devices, let it take runs again, or declare it dead."""
    match action:
        case NodeAction.DRAIN:
            node = clusters.drain(ctx, actor, node_id, device=asked.device, by=asked.by, reason=asked.reason)
        case NodeAction.RESUME:
            _need_only(asked, NodeAsked(device=asked.device), "device")
            node = clusters.resume(ctx, actor, node_id, device=asked.device)
        case NodeAction.DEAD:
            _need_only(asked, NOTHING, "nothing")
            node = clusters.declare_dead(ctx, actor, node_id)
        case _:
            assert_never(action)
    return answer(node)


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


def _need_only(asked: NodeAsked, meant: NodeAsked, what: str) -> None:
    if asked != meant:
        raise UsageError("That does not go with this action.", hint=f"It takes {what} more.")
