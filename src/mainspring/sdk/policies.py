"""The planner's policy in Python: shown, rehearsed on the load of the last days, and set."""

from __future__ import annotations

from pathlib import Path

from mainspring.client.connection import connect
from mainspring.core.codec import from_plain
from mainspring.core.policy import Policy
from mainspring.core.rehearsals import Rehearsal
from mainspring.sdk.resources import to_seconds


def policy(file: str | Path | None = None) -> Policy:
    """Return the policy in force, after putting a TOML file in force where one is named (administrators).

    Raises SpecError with key, line and what would be right; the policy before stays in force then.
    """
    client = connect()
    found = client.policies.current() if file is None else client.policies.set(Path(file).read_text("utf-8"))
    return from_plain(found["policy"], Policy)


def rehearse(file: str | Path, *, last: str = "7d") -> Rehearsal:
    """Return what a policy file would have made of the runs of the last days, beside the one in force. Nothing changes."""
    days = to_seconds(last, "last") / 86_400
    return connect().policies.rehearse(Path(file).read_text("utf-8"), days=days)
