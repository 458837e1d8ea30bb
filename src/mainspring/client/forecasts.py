"""Forecasts over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.forecasts import Calibration, Choice, Forecast, Prospect


@dataclass(frozen=True, slots=True)
class Forecasts:
    """When runs will start."""

    transport: Transport

    def of_run(self, ref: str) -> Forecast:
        """Return when a waiting run is expected to start. Raises StateError for one that does not wait."""
        return self.transport.get(f"/runs/{quote(ref, safe='')}/forecast").record(Forecast)

    def of_queue(self) -> dict[str, Forecast]:
        """Return the forecasts of the first waiting runs by id, the soonest first."""
        return {run: to_record(one, Forecast) for run, one in self.transport.get("/forecasts").plain().items()}

    def record(self) -> Calibration:
        """Return how often the intervals held."""
        return self.transport.get("/forecasts/record").record(Calibration)

    def prospects(self, choices: Sequence[Choice]) -> list[Prospect]:
        """Return what each choice would give were it submitted now; nothing is submitted."""
        plain = self.transport.post("/forecasts", {"choices": tuple(choices)}, is_repeatable=True).plain()
        return [to_record(one, Prospect) for one in plain["items"]]
