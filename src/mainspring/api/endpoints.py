"""Routes of endpoints: deploy, show, roll back, stop. Requests to the models themselves go through `gateway.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core import codec
from mainspring.core.errors import UsageError
from mainspring.core.records import Endpoint
from mainspring.services import endpoints, lineage

router = APIRouter(prefix=PREFIX, tags=["endpoints"])
Project = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What to serve: `model` is NAME@ALIAS, NAME@3 or NAME. `pool`: null for that of the revision before, empty for any."""

    name: str
    model: str
    replicas: int = 1
    pool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """The revision to go back to; None for the one before."""

    to: int | None = None


@router.post("/endpoints", status_code=201)
@shaped(takes=Deployment, gives=Endpoint, status=201)
def deploy(
    ctx: Ctx, actor: Who, body: Annotated[Deployment, Depends(body_of(Deployment))], project: Project = "default"
) -> Response:
    """Serve a model version: an endpoint's first revision, or its next one."""
    if len(body.model) > 300:
        raise UsageError("model is too long.", hint="NAME@ALIAS or NAME@3.")
    if len(body.pool or "") > 128:
        raise UsageError("pool is too long.", hint="mainspring cluster ls shows the pools.")
    made = endpoints.deploy(ctx, actor, body.name, body.model, project=project, replicas=body.replicas, pool=body.pool)
    return answer(made, status=201)


@router.get("/endpoints")
@shaped(gives=Endpoint, is_page=True)
def all_endpoints(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return the endpoints."""
    return answer_all(endpoints.all(ctx, actor, project=project))


@router.get("/endpoints/{name}")
@shaped()
def get(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Return the endpoint with its revisions, the addresses of its replicas, and what those run in."""
    endpoint = endpoints.get(ctx, actor, name, project=project)
    revisions = endpoints.revisions(ctx, actor, name, project=project)
    addresses = endpoints.answering(ctx, name, project).addresses
    plain = codec.to_plain(endpoint)
    place = endpoints.serves_in(ctx, endpoint, revisions)
    return answer({**plain, "revisions": revisions, "addresses": addresses, "serves_in": place})


@router.get("/endpoints/{name}/lineage")
@shaped()
def tell_lineage(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Return what the live revision was made from, as a graph."""
    return answer(lineage.of_endpoint(ctx, actor, name, project=project))


@router.post("/endpoints/{name}/rollback")
@shaped(takes=Back, gives=Endpoint)
def rollback(
    ctx: Ctx, actor: Who, name: str, body: Annotated[Back, Depends(body_of(Back, default=Back()))], project: Project = "default"
) -> Response:
    """Serve an earlier revision's model again."""
    return answer(endpoints.rollback(ctx, actor, name, to=body.to, project=project))


@router.delete("/endpoints/{name}")
@shaped(gives=Endpoint)
def stop(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Stop serving; the history stays."""
    return answer(endpoints.stop(ctx, actor, name, project=project))
