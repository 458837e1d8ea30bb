"""Routes of rented machines, and of the sites that rent them out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.core.machines import Bill, Machine
from mainspring.core.snapshot import Site
from mainspring.services import machines

router = APIRouter(prefix=PREFIX, tags=["machines"])


@router.get("/machines")
@shaped(gives=Bill, is_page=True)
def all_machines(ctx: Ctx, actor: Who) -> Response:
    """Return rented machines, the newest first, with what they cost."""
    return answer_all(machines.all(ctx, actor))


@router.get("/sites")
@shaped(gives=Site, is_page=True)
def all_sites(ctx: Ctx, actor: Who) -> Response:
    """Return where machines can be rented."""
    return answer_all(machines.sites(ctx, actor))


@router.post("/machines/{ref}/give_back")
@shaped(gives=Machine)
def give_back(ctx: Ctx, actor: Who, ref: str) -> Response:
    """Let a machine end before its time."""
    return answer(machines.give_back(ctx, actor, ref))
