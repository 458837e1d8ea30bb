"""The outbox loop: tells people what happened, in order, at least once, by the notifiers that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from mainspring import plugins
from mainspring.core.errors import BackendError, MainspringError
from mainspring.core.records import Event
from mainspring.integrations.notifier import Notifier
from mainspring.services.context import Context

log = logging.getLogger(__name__)
BATCH = 200
RETRY_S = 30.0
TOLD: Mapping[str, str] = {
    "run.failed": "Run {name} failed: {why}",
    "sweep.done": "Sweep {subject} is done.",
    "pipeline.failed": "Pipeline {name} failed.",
    "pipeline.succeeded": "Pipeline {name} succeeded.",
    "gate.refused": "{sentence}",
    "gate.passed": "{sentence}",
    "endpoint.failing": "Endpoint {subject} does not answer: its replicas die.",
    "endpoint.ready": "Endpoint {subject} answers.",
    "node.quarantined": "Node {subject} is in quarantine: {reason}",
    "node.dead": "Node {subject} was declared dead by {actor}.",
}


@dataclass(slots=True)
class Outbox:
    """Reads the events after its cursor and hands each on; the cursor moves after every notifier has taken the batch."""

    ctx: Context
    _notifiers: dict[str, Notifier] = field(default_factory=dict)

    def tick(self) -> float | None:
        """Tell one batch; return when to try again if a notifier could not be reached, 0 when more is waiting."""
        names = tuple(self.ctx.settings.notifiers)
        if not names:
            return None
        cursor = self.ctx.store.cursor("outbox")
        events = self.ctx.store.events.since(cursor, limit=BATCH)
        if not events:
            return None
        for event in events:
            sentence = sentence_of(self.ctx, event)
            if sentence and not self._tell(names, event, sentence):
                self.ctx.store.move_cursor("outbox", event.seq - 1)
                return RETRY_S
        self.ctx.store.move_cursor("outbox", events[-1].seq)
        return 0.0 if len(events) == BATCH else None

    def _tell(self, names: tuple[str, ...], event: Event, sentence: str) -> bool:
        """Return whether everybody was told; a notifier whose fault is not the network's is passed over."""
        for name in names:
            try:
                self._notifier(name).notify(event, sentence)
            except BackendError as wrong:
                log.warning("notifier unreachable", extra={"notifier": name, "error": wrong.message})
                return False
            except MainspringError as wrong:
                log.warning("notifier refused", extra={"notifier": name, "error": wrong.message})
        return True

    def _notifier(self, name: str) -> Notifier:
        if name not in self._notifiers:
            create = cast("Callable[[Mapping[str, object]], Notifier]", plugins.load("notifiers", name))
            self._notifiers[name] = create(self.ctx.settings.notifiers[name])
        return self._notifiers[name]


def sentence_of(ctx: Context, event: Event) -> str:
    """Return what people are told of `event`, empty when it is none of their business."""
    pattern = TOLD.get(event.kind)
    if pattern is None:
        return ""
    run = ctx.store.runs.get(event.subject) if event.kind == "run.failed" else None
    facts = {
        "subject": event.subject,
        "actor": event.actor,
        "name": run.name if run is not None else event.data.get("name", event.subject),
        "why": run.outcome.message or run.outcome.cause if run is not None and run.outcome is not None else "",
        "reason": f"device {event.data['device']}: {event.data['reason']}"
        if "device" in event.data
        else event.data.get("reason", ""),
        "sentence": event.data.get("sentence", ""),
    }
    return pattern.format(**facts)
