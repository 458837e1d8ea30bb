"""`/settings`: people, the project's members, one's tokens, names of secrets, who is told, what is kept how long."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from mainspring.core.records import Role
from mainspring.services import projects, secrets, tokens, users
from mainspring.ui import acts, parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

DAY_S = 86400.0
LIVES = {"30 days": 30 * DAY_S, "90 days": 90 * DAY_S, "a year": 365 * DAY_S, "for ever": 0.0}


async def page(view: View) -> None:
    """Draw what the actor may see; what would be refused is not offered."""
    live = Live(view.ctx)
    with page_frame("Settings", view):
        ui.html(standing(view), sanitize=False)
        with ui.element("div").classes("ms-cols"):
            with ui.element("div").classes("ms-stack"):
                await _block(live, "Everybody's tokens" if view.actor.is_admin else "Your tokens", lambda: own_tokens(view))
                if view.actor.may(view.project, Role.EDITOR):
                    await _block(live, f"Secrets of {view.project}", lambda: named_secrets(view))
                await _block(live, "Projects", lambda: known_projects(view))
            with ui.element("div").classes("ms-stack"):
                await _block(live, f"Members of {view.project}", lambda: members(view))
                if view.actor.is_admin:
                    await _block(live, "People", lambda: people(view))
                    await _block(live, "Who is told", lambda: notifiers(view))
                await _block(live, "What is kept how long", lambda: retention(view))
    acts.listen(
        {
            "token.add": lambda _: _ask_token(view),
            "token.revoke": lambda id: _ask_revoke(view, id),
            "secret.put": lambda name: _ask_secret(view, name),
            "secret.remove": lambda name: _ask_forget(view, name),
            "member.grant": lambda name: _ask_grant(view, name),
            "member.revoke": lambda name: _ask_leave(view, name),
            "project.add": lambda _: _ask_project(view),
            "user.add": lambda _: _ask_user(view),
            "user.disable": lambda name: _ask_disable(view, name),
            "user.enable": lambda name: _edit_user(view, name, is_disabled=False),
        }
    )
    live.start()


def standing(view: View) -> str:
    """Return the sentence: who one is here."""
    role = view.actor.roles.get(view.project)
    what = "an administrator" if view.actor.is_admin else f"{role.value} of {view.project}" if role else "a guest"
    return f'<p class="ms-sentence">{parts.text(f"You are {view.actor.name}, {what}.")}</p>'


def own_tokens(view: View) -> str:
    """Return the tokens that are good, with their last use."""
    now = view.ctx.clock.now()
    found = [
        one
        for one in tokens.all(view.ctx, view.actor, user="*" if view.actor.is_admin else "")
        if one.revoked_at is None and (one.expires_at is None or one.expires_at > now)
    ]
    rows = [
        (
            parts.text(one.name),
            parts.text(one.user),
            parts.moment(one.used_at) or '<span class="ms-soft">never</span>',
            f'<time title="{one.expires_at:%Y-%m-%d %H:%M} UTC">{one.expires_at:%Y-%m-%d}</time>' if one.expires_at else "never",
            parts.button("Revoke", "token.revoke", one.id, is_small=True, is_bad=True),
        )
        for one in reversed(found)
    ]
    heads = ("Token", "Of", "Last used", "Ends", "")
    return parts.table(heads, rows, empty="No token yet.", label="Tokens") + _do(parts.button("New token", "token.add"))


def named_secrets(view: View) -> str:
    """Return the names of the project's secrets; no page ever shows a value."""
    may_change = view.actor.may(view.project, Role.OWNER)
    rows = [
        (
            f"<code>{parts.text(one.name)}</code>",
            parts.text(one.created_by),
            parts.moment(one.created_at),
            parts.button("Replace", "secret.put", one.name, is_small=True)
            + " "
            + parts.button("Remove", "secret.remove", one.name, is_small=True, is_bad=True)
            if may_change
            else "",
        )
        for one in secrets.all(view.ctx, view.actor, project=view.project)
    ]
    add = _do(parts.button("New secret", "secret.put")) if may_change else ""
    empty = "No secret yet. A run gets one as an environment variable: mainspring run --secret NAME train.py"
    return parts.table(("Secret", "By", "Set", ""), rows, empty=empty, label="Secrets") + add


def members(view: View) -> str:
    """Return who may do what in the project."""
    may_change = view.actor.may(view.project, Role.OWNER)
    rows = [
        (
            parts.text(name),
            parts.text(role.value),
            parts.button("Change", "member.grant", name, is_small=True)
            + " "
            + parts.button("Remove", "member.revoke", name, is_small=True, is_bad=True)
            if may_change
            else "",
        )
        for name, role in projects.members(view.ctx, view.actor, view.project).items()
    ]
    add = _do(parts.button("Add a member", "member.grant")) if may_change else ""
    empty = "Nobody but administrators."
    return parts.table(("Person", "Role", ""), rows, empty=empty, label="Members") + add


def known_projects(view: View) -> str:
    """Return the projects that the actor may see."""
    rows = [
        (
            parts.link(one.name, f"/settings?project={one.name}"),
            parts.text(view.actor.roles[one.name].value if one.name in view.actor.roles else "administrator"),
            parts.why(one.description),
            parts.moment(one.created_at),
        )
        for one in projects.all(view.ctx, view.actor)
    ]
    add = _do(parts.button("New project", "project.add"))
    return parts.table(("Project", "You are", "About", "Since"), rows, empty="None.", label="Projects") + add


def people(view: View) -> str:
    """Return everybody who has a name here."""
    rows = [
        (
            parts.text(one.name) + (" " + parts.tags(("administrator",)) if one.is_admin else ""),
            parts.state("ended") + " " + parts.moment(one.disabled_at) if one.disabled_at else parts.state("active"),
            parts.moment(one.created_at),
            parts.button("Let in again", "user.enable", one.name, is_small=True)
            if one.disabled_at
            else parts.button("Shut out", "user.disable", one.name, is_small=True, is_bad=True)
            if one.name != view.actor.name
            else "",
        )
        for one in users.all(view.ctx, view.actor)
    ]
    return parts.table(("Person", "State", "Since", ""), rows, empty="Nobody.", label="People") + _do(
        parts.button("Add a person", "user.add")
    )


def notifiers(view: View) -> str:
    """Return who is told of failures and verdicts: names of settings, never their values, which may be secret."""
    found = view.ctx.settings.notifiers
    rows = [(parts.text(name), parts.text(", ".join(sorted(given)) or "no settings")) for name, given in sorted(found.items())]
    empty = "Nobody. In config.toml under the server's home: [notifiers.NAME]"
    return parts.table(("Notifier", "Has"), rows, empty=empty, label="Notifiers")


def retention(view: View) -> str:
    """Return how long what is kept, as the server was started."""
    given = view.ctx.settings
    told = (
        ("Logs of ended runs", given.logs_days, "logs_days"),
        ("Events", given.events_days, "events_days"),
        ("Archived runs", given.archived_days, "archived_days"),
        ("Blobs that nothing names", given.blob_grace_s / DAY_S, "blob_grace_s"),
    )
    rows = [
        (parts.text(what), f"{days:,.4g} {'day' if days == 1 else 'days'}", f"<code>{name}</code>") for what, days, name in told
    ]
    return parts.table(("What", "Kept", "Setting"), rows, empty="", label="Retention", numeric=("Kept",)) + parts.note(
        "Runs, metrics, data sets and models are kept until somebody removes them. Settings are read when the server starts."
    )


async def _block(live: Live, title: str, draw: Callable[[], str]) -> None:
    with ui.element("section"):
        parts.heading(title)
        await live.block(draw, "events")


def _do(button: str) -> str:
    return f'<div class="ms-actions" style="margin-top:8px">{button}</div>'


def _ask_token(view: View) -> None:
    with acts.asked("New token?", "A program that shows it acts as you. It is shown once and stored nowhere.") as dialog:
        name = acts.field("Name", "laptop")
        life = acts.choice("Good for", list(LIVES), "90 days")

        async def make() -> None:
            dialog.close()
            good_for = LIVES[str(life.value)] or None
            who = view.actor.name
            made = await acts.carry_out(
                lambda: tokens.issue(view.ctx, view.actor, who, str(name.value), good_for), "The token is made."
            )
            if made is not None:
                _show_token(made[0])

        acts.buttons(dialog, "Make token", make)


def _show_token(plain: str) -> None:
    with acts.asked("Your token", "Copy it now: this is the only time that it is shown.") as dialog:
        ui.html(f"<code>{parts.text(plain)}</code> {parts.short_id(plain, 6)}", sanitize=False)
        ui.html(parts.note("mainspring login asks for it; programs read it from MAINSPRING_TOKEN."), sanitize=False)
        with ui.row().classes("ms-actions"):
            acts.plain_button("I have it", dialog.close)


def _ask_revoke(view: View, id: str) -> None:
    async def revoke() -> None:
        await acts.carry_out(lambda: tokens.revoke(view.ctx, view.actor, id), "The token is good for nothing now.")

    acts.ask("Revoke this token?", "Whatever uses it is refused from its next request on.", "Revoke token", revoke)


def _ask_secret(view: View, known: str) -> None:
    note = "Runs that name it get the value as an environment variable. It is stored encrypted and never shown again."
    with acts.asked(f"Replace {known}?" if known else "New secret?", note) as dialog:
        name = acts.field("Name", known)
        value = acts.field("Value", is_hidden=True)

        async def put() -> None:
            dialog.close()
            given = str(name.value), str(value.value)
            await acts.carry_out(lambda: secrets.put(view.ctx, view.actor, *given, project=view.project), "It is kept.")

        acts.buttons(dialog, "Keep secret", put)


def _ask_forget(view: View, name: str) -> None:
    async def remove() -> None:
        await acts.carry_out(lambda: secrets.remove(view.ctx, view.actor, name, project=view.project), "It is gone.")

    acts.ask(f"Remove secret {name}?", "Runs that name it fail when they start; it cannot be brought back.", "Remove", remove)


def _ask_grant(view: View, known: str) -> None:
    note = "A viewer reads, an editor also submits and changes, an owner also manages members and secrets."
    with acts.asked(f"Change the role of {known}?" if known else "Add a member?", note) as dialog:
        name = acts.field("Person", known)
        role = acts.choice("Role", [one.value for one in Role], "editor")

        async def grant() -> None:
            dialog.close()
            who, what = str(name.value), Role(str(role.value))
            await acts.carry_out(lambda: projects.grant(view.ctx, view.actor, view.project, who, what), "The role is given.")

        acts.buttons(dialog, "Give role", grant)


def _ask_leave(view: View, name: str) -> None:
    async def revoke() -> None:
        await acts.carry_out(lambda: projects.revoke(view.ctx, view.actor, view.project, name), f"{name} is no member now.")

    acts.ask(f"Remove {name} from {view.project}?", "Runs that were submitted go on; nothing more is allowed.", "Remove", revoke)


def _ask_project(view: View) -> None:
    with acts.asked("New project?", "A project has runs, data sets, models, endpoints and secrets of its own.") as dialog:
        name, about = acts.field("Name"), acts.field("About")

        async def add() -> None:
            dialog.close()
            given, told = str(name.value), str(about.value)
            done = await acts.carry_out(lambda: projects.add(view.ctx, view.actor, given, description=told), "It is there.")
            if done is not None:
                ui.navigate.to(f"/settings?project={done.name}")

        acts.buttons(dialog, "Add project", add)


def _ask_user(view: View) -> None:
    with acts.asked("Add a person?", "Without a role in a project, a person sees nothing. Give one below Members.") as dialog:
        name = acts.field("Name")
        is_admin = ui.checkbox("Administrator: every right everywhere")

        async def add() -> None:
            dialog.close()
            given, admin = str(name.value), bool(is_admin.value)
            await acts.carry_out(lambda: users.add(view.ctx, view.actor, given, is_admin=admin), f"{given} is there.")

        acts.buttons(dialog, "Add person", add)


def _ask_disable(view: View, name: str) -> None:
    async def disable() -> None:
        await _edit_user(view, name, is_disabled=True)

    happens = "Tokens and sessions are refused from the next request on; runs go on, and what was made stays."
    acts.ask(f"Shut {name} out?", happens, "Shut out", disable)


async def _edit_user(view: View, name: str, *, is_disabled: bool) -> None:
    done = "is shut out." if is_disabled else "is let in again."
    await acts.carry_out(lambda: users.edit(view.ctx, view.actor, name, is_disabled=is_disabled), f"{name} {done}")
