"""Checkpoints: what a run carries from one attempt to the next, and what an attempt without a recent one costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring.core.lifecycle import LOSS_CAUSES
from mainspring.core.records import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint of one replica: `manifest` is the digest of the manifest of its files, `number` grows."""

    run: str
    replica: int
    number: int
    attempt: str
    at: datetime
    manifest: str
    size_bytes: int = 0


def lost_work(attempt: Attempt) -> tuple[float, float]:
    """Return (seconds, GPU-seconds) that the end of `attempt` cost: what it did since its newest complete checkpoint.

    Zero unless it was preempted or lost. In a gang the newest checkpoint of any replica counts: often one saves for all.
    """
    is_lost = attempt.outcome is not None and attempt.outcome.cause in LOSS_CAUSES
    if not is_lost or attempt.started_at is None or attempt.ended_at is None:
        return 0.0, 0.0
    since = max(attempt.started_at, attempt.checkpoint_at or attempt.started_at)
    seconds = max(0.0, (attempt.ended_at - since).total_seconds())
    milli = sum(share.milli for replica in attempt.replicas for share in replica.granted.devices)
    return seconds, seconds * milli / 1000
