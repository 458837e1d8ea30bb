"""Users: people and services. An administrator has every right everywhere; the last one cannot be lost."""

from __future__ import annotations

from dataclasses import replace

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import ConflictError, StateError
from mainspring.core.ids import check_name
from mainspring.core.records import User
from mainspring.services import tokens
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.store.projects import unknown_user


def add(ctx: Context, actor: Actor, name: str, *, is_admin: bool = False) -> User:
    """Add a user, who has no rights in any project yet. Raises ConflictError when the name is taken."""
    actor.need_admin()
    check_name(name, "user")
    if name == SYSTEM.name or ctx.store.users.get(name) is not None:
        raise ConflictError(f"There is a user {name!r} already.", hint="mainspring user ls")
    user = User(name=name, created_at=ctx.clock.now(), is_admin=is_admin)
    ctx.store.users.add(user, event=said(actor, "user.added", name, "", is_admin=is_admin))
    return user


def ensure(ctx: Context, name: str, *, is_admin: bool = False) -> User:
    """Return the user of that name, added if need be: how an installation gets its first administrator."""
    return ctx.store.users.get(name) or add(ctx, SYSTEM, name, is_admin=is_admin)


def get(ctx: Context, actor: Actor, name: str) -> User:
    """Return the user. Users see themselves, administrators see all. Raises NotFoundError."""
    if actor.name != name:
        actor.need_admin()
    return known(ctx, name)


def all(ctx: Context, actor: Actor) -> list[User]:
    """Return every user, by name."""
    actor.need_admin()
    return sorted(ctx.store.users.all(), key=lambda user: user.name)


def edit(ctx: Context, actor: Actor, name: str, *, is_admin: bool | None = None, is_disabled: bool | None = None) -> User:
    """Change a user's rights, or shut the user out, from the next request on. Raises StateError for the last administrator."""
    actor.need_admin()
    user = known(ctx, name)
    wanted = user if is_admin is None else replace(user, is_admin=is_admin)
    if is_disabled is not None:
        wanted = replace(wanted, disabled_at=(user.disabled_at or ctx.clock.now()) if is_disabled else None)
    if wanted == user:
        return user
    if _rules(user) and not _rules(wanted) and not any(_rules(one) and one.name != name for one in ctx.store.users.all()):
        raise StateError(
            f"{name} is the last administrator.", hint="Make somebody else one first: mainspring user edit NAME --admin"
        )
    event = said(actor, "user.edited", name, "", is_admin=wanted.is_admin, is_disabled=wanted.disabled_at is not None)
    changed = ctx.store.users.edit(name, is_admin=wanted.is_admin, disabled_at=wanted.disabled_at, event=event)
    tokens.forget(ctx)
    return changed


def known(ctx: Context, name: str) -> User:
    """Return the user of that name, whoever asks. Raises NotFoundError with the names there are."""
    user = ctx.store.users.get(name)
    if user is None:
        raise unknown_user(name)
    return user


def _rules(user: User) -> bool:
    return user.is_admin and user.disabled_at is None
