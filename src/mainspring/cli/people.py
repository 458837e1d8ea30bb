"""Users, projects, tokens, secrets, and logging in to a server elsewhere."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

from cyclopts import Parameter

from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json, Project
from mainspring.cli.output import age, done, emit_json, note, say, table
from mainspring.client.client import Client
from mainspring.client.connection import home_folder, save_login, shown_certificate
from mainspring.core.errors import AuthError, ServerUnreachableError, UsageError
from mainspring.core.records import Role
from mainspring.sdk.resources import to_seconds


def login(url: str, /, *, token: str = "", fingerprint: str = "", as_json: Json = False) -> None:
    """Keep the address and token of a server elsewhere for later commands: `mainspring login https://HOST`.

    Parameters
    ----------
    token
        The token; default asked for, so that it is in no history.
    fingerprint
        That of the server's own certificate, as `mainspring up` told it to the server's operator.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address.", hint="mainspring login https://HOST")
    plain = token or _asked("Token: ")
    certificate = _vouched(url, fingerprint) if fingerprint else ""
    client = Client.open(url, plain, certificate=certificate)
    try:
        who = client.people.whoami()
    except ServerUnreachableError as wrong:
        if "CERTIFICATE_VERIFY_FAILED" not in str(wrong.__cause__):
            raise
        raise AuthError(
            f"Nobody vouches for the certificate of {url}; its fingerprint is {shown_certificate(url)[1]}.",
            hint="If the server's operator tells the same one, repeat with --fingerprint.",
        ) from wrong
    finally:
        client.close()
    path = save_login(home_folder(), url, plain, certificate)
    told = f"Logged in to {url} as {who['name']}; kept in {path}. Remove that file to log out."
    done({"url": url, "user": who, "file": str(path)}, told, as_json=as_json)


def _vouched(url: str, fingerprint: str) -> str:
    """Return the server's certificate if it has the fingerprint. Raises AuthError."""
    certificate, found = shown_certificate(url)
    if found != fingerprint.replace(":", "").removeprefix("sha256").lower():
        raise AuthError(
            f"The certificate of {url} has the fingerprint {found}, not the one that was told.",
            hint="Somebody may stand between: ask the server's operator.",
        )
    return certificate


def user_ls(*, as_json: Json = False) -> None:
    """List users.

    Example: `mainspring user ls`.
    """
    found = connect().people.users()
    if as_json:
        emit_json(found)
        return
    rows = [
        (one.name, "admin" if one.is_admin else "", "shut out" if one.disabled_at else "", age(one.created_at)) for one in found
    ]
    table(("name", "role", "state", "age"), rows)


def user_add(name: str, /, *, admin: Annotated[bool, Flag] = False, as_json: Json = False) -> None:
    """Add a user; `mainspring token add NAME --user USER` lets the user in.

    Examples: `mainspring user add ann`, `mainspring user add ann --admin`.
    """
    made = connect().people.add_user(name, is_admin=admin)
    if as_json:
        emit_json(made)
    else:
        say(f"{made.name} is added.")


def user_edit(
    name: str,
    /,
    *,
    admin: Annotated[bool | None, Parameter(negative="--no-admin")] = None,
    disabled: Annotated[bool | None, Parameter(negative="--enabled")] = None,
    as_json: Json = False,
) -> None:
    """Make a user an administrator, or shut the user out.

    Examples: `mainspring user edit ann --admin`, `mainspring user edit ann --disabled`.
    """
    changed = connect().people.edit_user(name, is_admin=admin, is_disabled=disabled)
    if as_json:
        emit_json(changed)
    else:
        say(f"{changed.name}: {'admin' if changed.is_admin else 'no admin'}, {'shut out' if changed.disabled_at else 'let in'}.")


def project_ls(*, as_json: Json = False) -> None:
    """List projects.

    Example: `mainspring project ls`.
    """
    found = connect().people.projects()
    if as_json:
        emit_json(found)
        return
    table(("name", "description", "age"), [(one.name, one.description, age(one.created_at)) for one in found])


def project_add(name: str, /, *, description: str = "", as_json: Json = False) -> None:
    """Add a project; you own it.

    Example: `mainspring project add vision --description "Pictures"`.
    """
    made = connect().people.add_project(name, description=description)
    if as_json:
        emit_json(made)
    else:
        say(f"Project {made.name} is added.")


def project_show(name: str, /, *, as_json: Json = False) -> None:
    """Show who may do what in a project.

    Example: `mainspring project show vision`.
    """
    _members(connect().people.members(name), as_json)


def project_edit(
    name: str,
    /,
    *,
    description: str | None = None,
    share: str | None = None,
    priority_role: str | None = None,
    as_json: Json = False,
) -> None:
    """Change a project.

    Example: `mainspring project edit vision --share research/team-a`.

    Parameters
    ----------
    share
        What its runs count to (administrators); empty: each person's own.
    priority_role
        Who may ask for a priority above normal: viewer, editor or owner (administrators).
    """
    changed = connect().people.edit_project(name, description=description, share=share, priority_role=priority_role)
    if as_json:
        emit_json(changed)
    else:
        say(f"{changed.name}: share {changed.share or 'of each person'}, priorities above normal: {changed.priority_role}.")


def project_grant(project: str, user: str, role: str, /, *, as_json: Json = False) -> None:
    """Give a user a role in a project: viewer, editor or owner.

    Example: `mainspring project grant vision ann editor`.
    """
    if role not in set(Role):
        raise UsageError(f"{role!r} is no role.", hint="One of " + ", ".join(Role) + ".")
    _members(connect().people.grant(project, user, role), as_json)


def project_revoke(project: str, user: str, /, *, as_json: Json = False) -> None:
    """Take a user's role in a project away.

    Example: `mainspring project revoke vision ann`.
    """
    _members(connect().people.revoke(project, user), as_json)


def token_ls(*, user: str = "", as_json: Json = False) -> None:
    """List your tokens, or those of `--user`.

    Example: `mainspring token ls`.
    """
    found = connect().people.tokens(user=user)
    if as_json:
        emit_json(found)
        return
    rows = [
        (one.id, one.user, one.name, "revoked" if one.revoked_at else "valid", age(one.created_at), age(one.used_at))
        for one in found
    ]
    table(("id", "user", "name", "state", "age", "last used"), rows)


def token_add(name: str, /, *, user: str = "", expires: str = "", as_json: Json = False) -> None:
    """Issue a token; it is printed once and kept nowhere.

    Examples: `mainspring token add laptop --expires 30d`, `mainspring token add ci --user robot`.

    Parameters
    ----------
    user
        For whom; default yourself.
    expires
        When it ends, such as 30d; default never.
    """
    plain, record = connect().people.issue_token(
        name, user=user, expires_in_s=to_seconds(expires, "--expires") if expires else None
    )
    if as_json:
        emit_json({"token": plain, "record": record})
    else:
        say(plain)
        note(f"This is shown once. End it: mainspring token rm {record.id}")


def token_rm(token: str, /, *, as_json: Json = False) -> None:
    """End a token at once, by its id.

    Example: `mainspring token rm TOKEN`; `mainspring token ls` tells the ids.
    """
    connect().people.revoke_token(token)
    done({"ended": token}, f"{token} is ended.", as_json=as_json)


def secret_ls(*, project: Project = "default", as_json: Json = False) -> None:
    """List the names of a project's secrets, never their values.

    Example: `mainspring secret ls`.
    """
    found = connect().people.secrets(project=project)
    if as_json:
        emit_json(found)
        return
    table(("name", "by", "age"), [(one.name, one.created_by, age(one.created_at)) for one in found], empty="No secrets yet.")


def secret_set(name: str, /, *, project: Project = "default", as_json: Json = False) -> None:
    """Keep a secret; the value is asked for, or read from stdin, so that it is in no history.

    Examples: `mainspring secret set API_KEY`, `mainspring secret set API_KEY < key.txt`.
    """
    connect().people.put_secret(name, _asked(f"Value of {name}: "), project=project)
    told = f"{name} is kept. Use it: mainspring run --secret {name} ..."
    done({"kept": name, "project": project}, told, as_json=as_json)


def secret_rm(name: str, /, *, project: Project = "default", as_json: Json = False) -> None:
    """Forget a secret.

    Example: `mainspring secret rm API_KEY`.
    """
    connect().people.remove_secret(name, project=project)
    done({"forgotten": name, "project": project}, f"{name} is forgotten.", as_json=as_json)


def _members(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        emit_json(found)
    else:
        table(("user", "role"), sorted(found.items()), empty="No members.")


def _asked(question: str) -> str:
    value = getpass.getpass(question) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not value:
        what = question.rstrip(": ")
        raise UsageError(f"{what}: nothing was given.", hint="Type it when asked, or pass it by standard input.")
    return value
