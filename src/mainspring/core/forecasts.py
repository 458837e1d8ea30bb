"""When a run is expected to start, as it is told to people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring.core.specs import RunSpec

CONFIDENCE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The start is expected between `earliest` and `latest` with `confidence`; `median` is as likely too early as too late.

    `is_bounded` False: in some samples the run never started (what it needs is not there, or does not come free).
    """

    earliest: datetime
    median: datetime
    latest: datetime
    confidence: float = CONFIDENCE
    is_bounded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to ask for a run that is not submitted yet. `label` is what people call it."""

    label: str
    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a choice would give: the forecast, or in `refusal` why it could never run."""

    label: str
    forecast: Forecast | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Were the intervals right? `inside` of `told` starts lay in their interval; `asked` is what to ask the sampler for."""

    told: int = 0
    inside: int = 0
    confidence: float = CONFIDENCE
    asked: float = CONFIDENCE
    median_error: float = 0.0  # of the wait, as a part of it
