"""The forecast loop: each waiting run is told when it will start, once, so that the record shows how often that was right."""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.services import forecasts
from mainspring.services.context import Context


@dataclass(slots=True)
class Forecasts:
    """Tells runs that wait. A run that starts within `gap_s` of the loop is told nothing: there is nothing to foresee."""

    ctx: Context

    def tick(self) -> float | None:
        """Tell whoever waits and was told nothing; nothing to do is one short read."""
        if self.ctx.store.runs.counts().get("queued", 0):
            forecasts.tell(self.ctx)
        return None
