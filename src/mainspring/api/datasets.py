"""Routes of data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.records import DatasetVersion
from mainspring.services import datasets

router = APIRouter(prefix=PREFIX, tags=["data"])
Project = Annotated[str, Query(max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to register: the digest of a manifest whose every file is uploaded."""

    manifest: str
    message: str = ""
    producer: str = ""


@router.get("/datasets")
@shaped()
def all_datasets(ctx: Ctx, actor: Who, project: Project = "default") -> Response:
    """Return every data set with its newest version."""
    found = datasets.all(ctx, actor, project=project)
    return answer_all([{"dataset": dataset, "latest": latest} for dataset, latest in found])


@router.post("/datasets/{name}/versions", status_code=201)
@shaped(takes=NewVersion, gives=DatasetVersion, status=201)
def add_version(
    ctx: Ctx, actor: Who, name: str, body: Annotated[NewVersion, Depends(body_of(NewVersion))], project: Project = "default"
) -> Response:
    """Register a manifest as the next version; 200 and the newest one when that is the same."""
    version, is_new = datasets.add_version(
        ctx, actor, name, body.manifest, project=project, message=body.message, producer=body.producer
    )
    return answer(version, status=201 if is_new else 200)


@router.get("/datasets/{name}/versions")
@shaped(gives=DatasetVersion, is_page=True)
def versions(ctx: Ctx, actor: Who, name: str, project: Project = "default") -> Response:
    """Return all versions, oldest first."""
    return answer_all(datasets.versions(ctx, actor, name, project=project))


@router.get("/datasets/{name}/versions/{ref}")
@shaped(gives=DatasetVersion)
def get(ctx: Ctx, actor: Who, name: str, ref: str, project: Project = "default") -> Response:
    """Return one version: a number, `v3` or `latest`."""
    return answer(datasets.get(ctx, actor, name, ref, project=project))
