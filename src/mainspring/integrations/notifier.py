"""The contract of notifiers: what tells people that something happened."""

from __future__ import annotations

from typing import Protocol

from mainspring.core.records import Event


class Notifier(Protocol):
    """Built by a plug-in's factory `create(config: Mapping[str, object]) -> Notifier`. Thread safe."""

    def notify(self, event: Event, sentence: str) -> None:
        """Tell `sentence`, which is about `event`, and return within 10 s.

        May be called twice for the same event (`event.seq` tells): a repeated notice is better than a lost one.
        Raises UnreachableError (tried again later) or CredentialsError (an operator must act).
        """
        ...
