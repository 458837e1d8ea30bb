"""The planner's policy on the command line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.text import Text

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json
from mainspring.cli.output import age, emit_json, note, say, table
from mainspring.client.client import Client
from mainspring.core.errors import UsageError
from mainspring.core.policy_file import parse_policy, show_policy, with_value
from mainspring.core.rehearsals import Outlook
from mainspring.core.units import counted, show_seconds
from mainspring.sdk.resources import to_seconds


def show(*, as_json: Json = False) -> None:
    """Print the policy in force as TOML.

    Example: `mainspring policy show > new.toml`.
    """
    found = connect().policies.current()
    if as_json:
        emit_json(found)
        return
    say(str(found["text"]).rstrip("\n"))
    note(f"Policy {found['number']} by {found['actor']}." if found["number"] else "The built-in policy.")


def check(file: Path, /, *, as_json: Json = False) -> None:
    """Check a policy file; nothing changes.

    Example: `mainspring policy check new.toml`.
    """
    policy = connect().policies.check(_read(file))
    if as_json:
        emit_json(policy)
    else:
        say(f"{file} is a policy.")


def change(what: str, value: str = "", /, *, as_json: Json = False) -> None:
    """Put a policy file in force, or change one key (administrators); a wrong one is refused, and the one before goes on.

    Examples: `mainspring policy set policy.toml`, `mainspring policy set burst.mode never`.

    Parameters
    ----------
    what
        A TOML file, or a key such as `preemption.min_run_s`.
    value
        What the key is to be.
    """
    if value:
        client = connect()
        found = client.policies.current()
        made = client.policies.set(with_value(str(found["text"]), what, value), after=int(found["number"]))
    else:
        text = _read(Path(what))
        client = connect()
        made = client.policies.set(text)
    if as_json:
        emit_json(made)
        return
    say(f"Policy {made['number']} is in force.")
    for line in _differences(client, int(made["number"])):
        say(f"  {line}")


def rehearse(file: Path, /, *, last: str = "7d", as_json: Json = False) -> None:
    """Try a policy file on the runs of the last days: waits, fairness, and who wins or loses. Nothing changes.

    Example: `mainspring policy rehearse new.toml --last 7d`.

    Parameters
    ----------
    last
        How far back, such as 12h or 7d.
    """
    text, days = _read(file), to_seconds(last, "--last") / 86_400
    found = connect().policies.rehearse(text, days=days)
    if as_json:
        emit_json(found)
        return
    rows = [_compared("everybody", found.now.all, found.then.all)]
    rows += [
        _compared(share, found.now.by_share[share], outlook)
        for share, outlook in sorted(found.then.by_share.items())
        if share in found.now.by_share
    ]
    table(("share", "runs", "mean wait now", "then", "p90 now", "then", "change"), rows)
    say(
        f"Fairness (Jain) {found.now.jain:.3f} now, {found.then.jain:.3f} then; stopped for others {found.now.evictions} now, "
        f"{found.then.evictions} then; worked twice {found.now.lost:.2%} now, {found.then.lost:.2%} then."
    )
    if found.now.cost_usd or found.then.cost_usd:
        say(f"Rented machines ${found.now.cost_usd:,.2f} now, ${found.then.cost_usd:,.2f} then.")
    if found.left_out:
        note(f"Left out: {counted(found.left_out, 'run')}, older than the newest {found.runs} or fitting nowhere now.")


def history(*, as_json: Json = False) -> None:
    """List the policies that were set, newest first.

    Example: `mainspring policy history`.
    """
    found = connect().policies.history()
    if as_json:
        emit_json(found)
        return
    rows = [(str(one["number"]), str(one["actor"]), age(datetime.fromisoformat(str(one["at"])))) for one in found]
    table(("number", "by", "age"), rows, empty="The built-in policy has always been in force.")


def _compared(share: str, now: Outlook, then: Outlook) -> tuple[str | Text, ...]:
    change = then.mean_s - now.mean_s
    word, style = ("same", "default") if abs(change) < 1 else ("wins", "green") if change < 0 else ("loses", "red")
    shown = Text(f"{word} {show_seconds(abs(change))}" if word != "same" else word, style=style)
    times = (now.mean_s, then.mean_s, now.p90_s, then.p90_s)
    return (share, str(then.runs), *(show_seconds(one) for one in times), shown)


def _differences(client: Client, number: int) -> list[str]:
    """Return what the policy changed, line by line."""
    found = {int(one["number"]): str(one["text"]) for one in client.policies.history()}
    before = show_policy(parse_policy(found.get(number - 1, ""))).splitlines()
    return [line for line in show_policy(parse_policy(found[number])).splitlines() if line and line not in before]


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise UsageError(
            f"{file} cannot be read: {wrong}.", hint="Name a TOML file; or a key and its value, as in: burst.mode never"
        ) from wrong
