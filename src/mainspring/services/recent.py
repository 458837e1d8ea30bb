"""Answers that take long to work out and hardly change: who asks soon after another is given the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from mainspring.core.clock import Clock

T = TypeVar("T")
TIMES = 20  # what took a second may be told for twenty: one part in twenty of a processor at most, however many ask


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: object = None
    at_s: float = 0.0
    took_s: float = -1.0  # before there was one


@dataclass(slots=True)
class Recent:
    """The last answer to each question, by name. Thread safe; those who ask at the same time wait for one answer."""

    _kept: dict[str, _Kept] = field(default_factory=dict)

    def get(self, name: str, work_out: Callable[[], T], *, clock: Clock, age_s: float = 0.0) -> T:
        """Return what `work_out` gives, or gave in the last `age_s` seconds; what was quick is worked out again sooner."""
        kept = self._kept.setdefault(name, _Kept())
        with kept.lock:
            began = clock.monotonic()
            if kept.took_s < 0 or began - kept.at_s >= min(age_s, TIMES * kept.took_s):
                kept.answer = work_out()
                kept.at_s = clock.monotonic()
                kept.took_s = kept.at_s - began
            return cast(T, kept.answer)
