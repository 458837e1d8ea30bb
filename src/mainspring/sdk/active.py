"""Whether a pipeline function is being called, and what records its calls then. Loads nothing, for user code's sake."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

recorder: ContextVar[Any] = ContextVar("mainspring_recorder", default=None)  # `recording.active` says of what type
