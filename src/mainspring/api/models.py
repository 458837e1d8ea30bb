"""Routes of models and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, answer_nothing, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.errors import UsageError
from mainspring.core.records import ModelVersion
from mainspring.services import gates, lineage, models

router = APIRouter(prefix=PREFIX, tags=["models"])
Project = Annotated[str, Query(max_length=128)]
MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModelVersion:
    """A version to register: the digest of a manifest whose every file is uploaded, and what is known about it."""

    manifest: str
    format: str = "native"
    run: str = ""
    signature: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    verification: Mapping[str, object] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The version that an alias is to mean."""

    number: int


@router.get("/models")
@shaped()
def all_models(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return every model with its newest version and the objective it was last judged by."""
    verdicts = gates.all(ctx, actor, project=project)
    rows = []
    for one in models.all(ctx, actor, project=project):
        objective = next((verdict.objective for verdict in verdicts if gates.is_about(verdict, one)), "")
        rows.append({"name": one.model, "versions": one.number, "latest": one, "objective": objective})
    return answer_all(rows)


@router.post("/models/{name}/versions", status_code=201)
@shaped(takes=NewModelVersion, gives=ModelVersion, status=201)
def add_version(
    ctx: Ctx,
    actor: Who,
    name: str,
    body: Annotated[NewModelVersion, Depends(body_of(NewModelVersion))],
    project: Project = "default",
) -> Response:
    """Register a manifest as the next version of a model."""
    version = models.add_version(
        ctx,
        actor,
        name,
        body.manifest,
        project=project,
        format=body.format,
        run=body.run,
        signature=body.signature,
        metrics=body.metrics,
        verification=body.verification,
        aliases=body.aliases,
    )
    return answer(version, status=201)


@router.get("/models/{name}/versions")
@shaped(gives=ModelVersion, is_page=True)
def versions(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Return all versions, oldest first."""
    return answer_all(models.versions(ctx, actor, name, project=project))


@router.get("/models/{name}/versions/{ref}")
@shaped(gives=ModelVersion)
def get(ctx: Ctx, actor: Who, name: str, ref: str, project: Project = "default") -> Response:
    """Return one version: a number, `v3`, an alias or `latest`."""
    return answer(models.resolve(ctx, actor, name, ref, project=project))


@router.get("/models/{name}/versions/{ref}/lineage")
@shaped()
def tell_lineage(ctx: Ctx, actor: Who, name: str, ref: str, project: Project = "default") -> Response:
    """Return what the model version was made from, as a graph."""
    return answer(lineage.of_model(ctx, actor, name, ref, project=project))


@router.put("/models/{name}/aliases/{alias}")
@shaped(takes=Target, gives=ModelVersion)
def set_alias(
    ctx: Ctx, actor: Who, name: str, alias: str, body: Annotated[Target, Depends(body_of(Target))], project: Project = "default"
) -> Response:
    """Let an alias mean a version."""
    if not 1 <= body.number <= MAX_NUMBER:
        raise UsageError(f"{body.number} is no version.", hint="Versions begin at 1.")
    return answer(models.set_alias(ctx, actor, name, alias, body.number, project=project))


@router.delete("/models/{name}/aliases/{alias}", status_code=204)
@shaped(status=204)
def remove_alias(ctx: Ctx, actor: Who, name: str, alias: str, project: Project = "default") -> Response:
    """Take an alias away."""
    models.remove_alias(ctx, actor, name, alias, project=project)
    return answer_nothing()
