"""Who acts. Every use case takes an actor first and asks it before it does anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring.core.errors import AccessDeniedError
from mainspring.core.records import Role

_RANK = {Role.VIEWER: 1, Role.EDITOR: 2, Role.OWNER: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An authenticated user, or the system itself. `roles` maps project names to rights."""

    name: str
    is_admin: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)

    def may(self, project: str, least: Role) -> bool:
        """Say whether the actor has at least the right `least` in `project`."""
        role = self.roles.get(project)
        return self.is_admin or (role is not None and _RANK[role] >= _RANK[least])

    def need(self, project: str, least: Role) -> None:
        """Raise AccessDeniedError unless the actor has at least the right `least` in `project`."""
        if not self.may(project, least):
            held = self.roles.get(project)
            raise AccessDeniedError(
                f"{self.name} is {held or 'no member'} in project {project!r}; this needs the role {least}.",
                hint=f"Ask an owner: mainspring project grant {project} {self.name} {least}",
            )

    def need_admin(self) -> None:
        """Raise AccessDeniedError unless the actor is an administrator."""
        if not self.is_admin:
            raise AccessDeniedError(f"{self.name} is not an administrator.", hint="Ask an administrator.")


SYSTEM = Actor(name="system", is_admin=True)
