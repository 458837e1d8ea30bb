"""The planner's policy on the command line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mainspring.cli.options import Json
from mainspring.cli.output import age, emit_json, note, say, table
from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import UsageError
from mainspring.core.policy_file import parse_policy, show_policy


def show(*, as_json: Json = False) -> None:
    """Print the policy in force as TOML."""
    found = connect().policies.current()
    if as_json:
        emit_json(found)
        return
    say(str(found["text"]).rstrip("\n"))
    note(f"Policy {found['number']} by {found['actor']}." if found["number"] else "The built-in policy.")


def check(file: Path, /, *, as_json: Json = False) -> None:
    """Check a policy file; nothing changes."""
    policy = connect().policies.check(_read(file))
    if as_json:
        emit_json(policy)
    else:
        say(f"{file} is a policy.")


def change(file: Path, /, *, as_json: Json = False) -> None:
    """Put a policy file in force (administrators); a wrong one is refused, and the one before goes on."""
    client = connect()
    made = client.policies.set(_read(file))
    if as_json:
        emit_json(made)
        return
    say(f"Policy {made['number']} is in force.")
    for line in _differences(client, int(made["number"])):
        say(f"  {line}")


def history(*, as_json: Json = False) -> None:
    """List the policies that were set, newest first."""
    found = connect().policies.history()
    if as_json:
        emit_json(found)
        return
    rows = [(str(one["number"]), str(one["actor"]), age(datetime.fromisoformat(str(one["at"])))) for one in found]
    table(("number", "by", "age"), rows, empty="The built-in policy has always been in force.")


def _differences(client: Client, number: int) -> list[str]:
    """Return what the policy changed, line by line."""
    found = {int(one["number"]): str(one["text"]) for one in client.policies.history()}
    before = show_policy(parse_policy(found.get(number - 1, ""))).splitlines()
    return [line for line in show_policy(parse_policy(found[number])).splitlines() if line and line not in before]


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise UsageError(f"{file} cannot be read: {wrong}.", hint="Name a TOML file.") from wrong
