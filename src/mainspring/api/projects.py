"""Routes of projects and their members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainspring.api.answers import PREFIX, answer, answer_all, shaped
from mainspring.api.auth import Ctx, Who
from mainspring.api.bodies import body_of
from mainspring.core.records import Project, Role
from mainspring.services import projects

router = APIRouter(prefix=PREFIX, tags=["people"])


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """A project to add."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectChange:
    """What to change of a project; None leaves it. `share` is what its runs count to (empty: each person's own)."""

    description: str | None = None
    share: str | None = None
    priority_role: Role | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The role to give."""

    role: Role


@router.get("/projects")
@shaped(gives=Project, is_page=True)
def all_projects(ctx: Ctx, actor: Who) -> Response:
    """Return the projects that one may see."""
    return answer_all(projects.all(ctx, actor))


@router.post("/projects", status_code=201)
@shaped(takes=NewProject, gives=Project, status=201)
def add(ctx: Ctx, actor: Who, body: Annotated[NewProject, Depends(body_of(NewProject))]) -> Response:
    """Add a project; who adds it owns it."""
    return answer(projects.add(ctx, actor, body.name, description=body.description), status=201)


@router.patch("/projects/{name}")
@shaped(takes=ProjectChange, gives=Project)
def edit(ctx: Ctx, actor: Who, name: str, body: Annotated[ProjectChange, Depends(body_of(ProjectChange))]) -> Response:
    """Change a project's description, share, or who may raise priorities in it."""
    changed = projects.edit(ctx, actor, name, description=body.description, share=body.share, priority_role=body.priority_role)
    return answer(changed)


@router.get("/projects/{name}/members")
@shaped()
def members(ctx: Ctx, actor: Who, name: str) -> Response:
    """Return the role of each member."""
    return answer({"members": projects.members(ctx, actor, name)})


@router.put("/projects/{name}/members/{user}")
@shaped(takes=Grant)
def grant(ctx: Ctx, actor: Who, name: str, user: str, body: Annotated[Grant, Depends(body_of(Grant))]) -> Response:
    """Give a user a role in the project."""
    return answer({"members": projects.grant(ctx, actor, name, user, body.role)})


@router.delete("/projects/{name}/members/{user}")
@shaped()
def revoke(ctx: Ctx, actor: Who, name: str, user: str) -> Response:
    """Take a user's role away."""
    return answer({"members": projects.revoke(ctx, actor, name, user)})
