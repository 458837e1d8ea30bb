"""Projects and their members: a viewer reads, an editor also changes, an owner also manages members and secrets."""

from __future__ import annotations

from dataclasses import replace

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import ConflictError, NotFoundError, StateError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.records import Project, Role
from mainspring.services import shares, tokens, users
from mainspring.services.context import Context
from mainspring.services.runs import check_project, said

MAX_DESCRIPTION = 2000


def add(ctx: Context, actor: Actor, name: str, *, description: str = "") -> Project:
    """Add a project; who adds it owns it. Raises ConflictError when the name is taken."""
    check_name(name, "project")
    if len(description) > MAX_DESCRIPTION:
        raise UsageError(f"The description has {len(description):,} characters; the limit is {MAX_DESCRIPTION:,}.")
    if ctx.store.projects.get(name) is not None:
        raise ConflictError(f"There is a project {name!r} already.", hint="mainspring project ls")
    project = Project(name=name, created_at=ctx.clock.now(), description=description)
    ctx.store.projects.add(project, event=said(actor, "project.added", name, name))
    if actor.name != SYSTEM.name:
        event = said(actor, "project.granted", name, name, user=actor.name, role=Role.OWNER)
        ctx.store.projects.grant(name, actor.name, Role.OWNER, event=event)
        tokens.forget(ctx)
    return project


def ensure(ctx: Context, name: str = "default") -> Project:
    """Return the project of that name, added if need be: how an installation gets its first project."""
    return ctx.store.projects.get(name) or add(ctx, SYSTEM, name)


def all(ctx: Context, actor: Actor) -> list[Project]:
    """Return the projects that the actor may see, by name."""
    found = [one for one in ctx.store.projects.all() if actor.may(one.name, Role.VIEWER)]
    return sorted(found, key=lambda project: project.name)


def get(ctx: Context, actor: Actor, name: str) -> Project:
    """Return the project. Raises NotFoundError, AccessDeniedError."""
    check_project(ctx, name)
    actor.need(name, Role.VIEWER)
    found = ctx.store.projects.get(name)
    if found is None:
        raise NotFoundError(f"There is no project {name[:60]!r}.", hint="mainspring project ls")
    return found


def edit(
    ctx: Context,
    actor: Actor,
    name: str,
    *,
    description: str | None = None,
    share: str | None = None,
    priority_role: Role | None = None,
) -> Project:
    """Change a project (owners); the share that its runs count to, and who may raise priorities, are up to administrators."""
    project = get(ctx, actor, name)
    actor.need(name, Role.OWNER)
    if share is not None or priority_role is not None:
        actor.need_admin()
    if description is not None and len(description) > MAX_DESCRIPTION:
        raise UsageError(f"The description has {len(description):,} characters; the limit is {MAX_DESCRIPTION:,}.")
    new = replace(
        project,
        description=project.description if description is None else description,
        share=project.share if share is None else (shares.get(ctx, actor, share).name if share else ""),
        priority_role=project.priority_role if priority_role is None else priority_role,
    )
    if new == project:
        return project
    event = said(actor, "project.edited", name, name, share=new.share, priority_role=new.priority_role)
    return ctx.store.projects.edit(new, event=event)


def members(ctx: Context, actor: Actor, name: str) -> dict[str, Role]:
    """Return the role of each member, by user name."""
    check_project(ctx, name)
    actor.need(name, Role.VIEWER)
    return dict(sorted(ctx.store.projects.members(name).items()))


def grant(ctx: Context, actor: Actor, name: str, user: str, role: Role) -> dict[str, Role]:
    """Give `user` the right `role`, in place of what the user had; return the members. Raises StateError for the last owner."""
    check_project(ctx, name)
    actor.need(name, Role.OWNER)
    users.known(ctx, user)
    if role is not Role.OWNER:
        _keep_an_owner(ctx, actor, name, user)
    ctx.store.projects.grant(name, user, role, event=said(actor, "project.granted", name, name, user=user, role=role))
    tokens.forget(ctx)
    return members(ctx, SYSTEM, name)


def revoke(ctx: Context, actor: Actor, name: str, user: str) -> dict[str, Role]:
    """Take the rights of `user` away (anybody may leave); return the members. Silent for who is no member."""
    check_project(ctx, name)
    if actor.name != user:
        actor.need(name, Role.OWNER)
    if user in ctx.store.projects.members(name):
        _keep_an_owner(ctx, actor, name, user)
        ctx.store.projects.revoke(name, user, event=said(actor, "project.revoked", name, name, user=user))
        tokens.forget(ctx)
    return members(ctx, SYSTEM, name)


def _keep_an_owner(ctx: Context, actor: Actor, name: str, leaving: str) -> None:
    owners = [user for user, role in ctx.store.projects.members(name).items() if role is Role.OWNER]
    if owners == [leaving] and not actor.is_admin:
        raise StateError(
            f"{leaving} is the last owner of project {name!r}.",
            hint=f"Grant it first: mainspring project grant {name} NAME owner",
        )
