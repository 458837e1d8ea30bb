"""The planner's policy over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mainspring.client.transport import Transport, to_record
from mainspring.core.policy import Policy
from mainspring.core.rehearsals import Rehearsal


@dataclass(frozen=True, slots=True)
class Policies:
    """The rules by which plans are made."""

    transport: Transport

    def current(self) -> dict[str, Any]:
        """Return `{number, at, actor, text, policy}` of the policy in force; `text` is TOML."""
        return dict(self.transport.get("/policy").plain())

    def history(self) -> list[dict[str, Any]]:
        """Return the policies that were set, newest first."""
        return list(self.transport.get("/policy/history").plain()["items"])

    def check(self, text: str) -> Policy:
        """Return the policy that a TOML text describes. Raises SpecError that names key and line."""
        return to_record(self.transport.post("/policy/check", {"text": text}, is_repeatable=True).plain(), Policy)

    def set(self, text: str, *, after: int | None = None) -> dict[str, Any]:
        """Put a policy in force; `after` refuses when another than that number was set meanwhile."""
        return dict(self.transport.send("PUT", "/policy", body={"text": text, "after": after}).plain())

    def rehearse(self, text: str, *, days: float = 7.0) -> Rehearsal:
        """Return what a policy would have done with the runs of the last days, beside the one in force."""
        return self.transport.post("/policy/rehearse", {"text": text, "days": days}, is_repeatable=True).record(Rehearsal)
