"""Routes of environments: of runs, and on nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.environments import NodeEnvironment, RunEnvironment
from mainspring.core.records import Run
from mainspring.services import environments

router = APIRouter(prefix=PREFIX, tags=["environments"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Which environments are to go: `keys` (or their beginnings), else those unused for `unused_s`, less `keep` a node."""

    keys: tuple[str, ...] = ()
    unused_s: float = 0.0
    keep: int = 0
    node: str = ""


@router.get("/environments")
@shaped(gives=NodeEnvironment, is_page=True)
def all_environments(ctx: Ctx, actor: Who) -> Response:
    """Return the environments on nodes, by node, the last used first."""
    return answer_all(environments.all(ctx, actor))


@router.post("/environments/prune")
@shaped(takes=Prune, gives=NodeEnvironment, is_page=True)
def prune(ctx: Ctx, actor: Who, body: Annotated[Prune, Depends(body_of(Prune))]) -> Response:
    """Let environments go: the next run on their node removes them, never one in use."""
    found = environments.prune(ctx, actor, keys=body.keys, unused_s=body.unused_s, keep=body.keep, node=body.node)
    return answer_all(found)


@router.post("/environments/remove")
@shaped(gives=Run, is_page=True)
def remove_now(ctx: Ctx, actor: Who) -> Response:
    """Submit the tiny runs that remove what is to go, one to each node that takes runs; return them."""
    return answer_all(environments.remove_now(ctx, actor))


@router.get("/runs/{ref}/environment")
@shaped(gives=RunEnvironment)
def of_run(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Return what a run ran with, and the lock that builds it again."""
    return answer(environments.of_run(ctx, actor, ref))
