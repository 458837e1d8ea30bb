"""What a page is asked to show: for whom, of which project, by which address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from mainspring.core.actors import Actor
from mainspring.core.records import Role
from mainspring.services.context import Context

MAIN_PROJECT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at one page. `ref` is what the address names, `query` the rest of it, `projects` what the actor may see."""

    ctx: Context
    who: Callable[[], Actor]
    path: str
    project: str = MAIN_PROJECT
    projects: tuple[str, ...] = (MAIN_PROJECT,)
    ref: str = ""
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def actor(self) -> Actor:
        """Return who looks, with the rights of this moment. Raises AuthError once the session is over."""
        return self.who()

    @property
    def may_edit(self) -> bool:
        """Say whether the actor may change things in the project."""
        return self.actor.may(self.project, Role.EDITOR)

    def url(self, path: str, **query: str) -> str:
        """Return an address on this site, in the same project."""
        asked = {name: value for name, value in query.items() if value}
        if self.project != MAIN_PROJECT and "project" not in query:
            asked["project"] = self.project
        return f"{path}?{urlencode(asked)}" if asked else path

    def again(self, **changed: str) -> str:
        """Return this page's address with some of its query changed; an empty value takes a name out."""
        return self.url(self.path, **{**self.query, **changed})
