"""Whether a pipeline function is being called, and what records its calls then. Loads nothing, for user code's sake."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mainspring.sdk.recording import Recorder

active: ContextVar[Recorder | None] = ContextVar("mainspring_recorder", default=None)
