"""The built-in notifier: a line in the server's log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mainspring.core.records import Event
from mainspring.integrations.notifier import Notifier

log = logging.getLogger(__name__)


class LogNotifier:
    """Writes each notice as one INFO record with the event's fields."""

    def notify(self, event: Event, sentence: str) -> None:
        """Log the sentence; never fails."""
        log.info(sentence, extra={"event_kind": event.kind, "subject": event.subject, "seq": event.seq, "actor": event.actor})


def create(config: Mapping[str, object]) -> Notifier:
    """Return the notifier; it has nothing to configure."""
    del config
    return LogNotifier()
