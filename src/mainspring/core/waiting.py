"""What people are told of a run that was placed and that its engine has not begun yet: the engine's own words. Pure."""

from __future__ import annotations

from datetime import datetime

from mainspring.core.reasons import Reason, ReasonCode

MOST = 400  # of an engine's words: some list each of a thousand nodes


def kept_waiting(cluster: str, words: str, expected_at: datetime | None) -> Reason:
    """Return why a placed run has not begun: `cluster` is its name, `expected_at` when its engine says that it will begin."""
    told = words.strip().rstrip(".")
    told = told if len(told) <= MOST else f"{told[:MOST].rstrip()} ..."
    when = f" It expects to begin it at {expected_at:%Y-%m-%d %H:%M:%S} UTC." if expected_at is not None else ""
    facts: dict[str, object] = {
        "cluster": cluster,
        "words": told,
        "expected_at": expected_at.isoformat() if expected_at is not None else None,
    }
    return Reason(code=ReasonCode.WAITING_FOR_ENGINE, sentence=f"{cluster} has not begun it yet: {told}.{when}", facts=facts)


def expected_by_engine(reason: Reason | None) -> datetime | None:
    """Return when the engine says that it will begin the run; None when it says nothing."""
    told = reason.facts.get("expected_at") if reason is not None and reason.code is ReasonCode.WAITING_FOR_ENGINE else None
    return datetime.fromisoformat(told) if isinstance(told, str) else None
