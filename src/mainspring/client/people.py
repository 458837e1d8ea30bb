"""Users, projects, tokens and secrets over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.records import Project, Secret, Token, User


@dataclass(frozen=True, slots=True)
class People:
    """Who may do what."""

    transport: Transport

    def whoami(self) -> dict[str, Any]:
        """Return `{name, is_admin, roles}`."""
        return dict(self.transport.get("/whoami").plain())

    def login_link(self) -> str:
        """Return a one-time link for the browser (60 s)."""
        return str(self.transport.post("/login-link").plain()["url"])

    def users(self) -> list[User]:
        """Return every user."""
        return [to_record(one, User) for one in self.transport.get("/users").plain()["items"]]

    def add_user(self, name: str, *, is_admin: bool = False) -> User:
        """Add a user."""
        return self.transport.post("/users", {"name": name, "is_admin": is_admin}).record(User)

    def edit_user(self, name: str, *, is_admin: bool | None = None, is_disabled: bool | None = None) -> User:
        """Change a user's rights, or shut the user out."""
        body = {"is_admin": is_admin, "is_disabled": is_disabled}
        return self.transport.send("PATCH", f"/users/{_quoted(name)}", body=body, is_repeatable=True).record(User)

    def projects(self) -> list[Project]:
        """Return the projects that one may see."""
        return [to_record(one, Project) for one in self.transport.get("/projects").plain()["items"]]

    def add_project(self, name: str, *, description: str = "") -> Project:
        """Add a project."""
        return self.transport.post("/projects", {"name": name, "description": description}).record(Project)

    def edit_project(
        self, name: str, *, description: str | None = None, share: str | None = None, priority_role: str | None = None
    ) -> Project:
        """Change a project: its description, the share that its runs count to, who may raise priorities."""
        body = {"description": description, "share": share, "priority_role": priority_role}
        return self.transport.send("PATCH", f"/projects/{_quoted(name)}", body=body, is_repeatable=True).record(Project)

    def members(self, project: str) -> dict[str, str]:
        """Return the role of each member."""
        return dict(self.transport.get(f"/projects/{_quoted(project)}/members").plain()["members"])

    def grant(self, project: str, user: str, role: str) -> dict[str, str]:
        """Give a user a role in a project; return all members."""
        path = f"/projects/{_quoted(project)}/members/{_quoted(user)}"
        return dict(self.transport.send("PUT", path, body={"role": role}).plain()["members"])

    def revoke(self, project: str, user: str) -> dict[str, str]:
        """Take a user's role away; return all members."""
        path = f"/projects/{_quoted(project)}/members/{_quoted(user)}"
        return dict(self.transport.send("DELETE", path).plain()["members"])

    def tokens(self, *, user: str = "") -> list[Token]:
        """Return one's own tokens, or those of `user`."""
        return [to_record(one, Token) for one in self.transport.get("/tokens", {"user": user}).plain()["items"]]

    def issue_token(self, name: str, *, user: str = "", expires_in_s: float | None = None) -> tuple[str, Token]:
        """Return (the token's text, shown once; its record)."""
        body = {"name": name, "user": user, "expires_in_s": expires_in_s}
        plain = self.transport.post("/tokens", body).plain()
        return str(plain["token"]), to_record(plain["record"], Token)

    def revoke_token(self, token: str) -> None:
        """End a token at once."""
        self.transport.send("DELETE", f"/tokens/{_quoted(token)}")

    def secrets(self, *, project: str = "default") -> list[Secret]:
        """Return the project's secrets, never their values."""
        return [to_record(one, Secret) for one in self.transport.get("/secrets", {"project": project}).plain()["items"]]

    def put_secret(self, name: str, value: str, *, project: str = "default") -> Secret:
        """Keep a value under a name."""
        path = f"/secrets/{_quoted(name)}"
        return self.transport.send("PUT", path, body={"value": value}, query={"project": project}).record(Secret)

    def remove_secret(self, name: str, *, project: str = "default") -> None:
        """Forget a secret."""
        self.transport.send("DELETE", f"/secrets/{_quoted(name)}", query={"project": project})


def _quoted(text: str) -> str:
    return quote(text, safe="")
