"""How long runs of each kind took: few samples a kind, and their median, read by key.

Beside the kinds, `estimated N` keeps what runs took whose estimate was of class N: whether such estimates say anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from mainspring.core.durations import KEPT, LEARNED, WORTHLESS, class_of, instead, keys_of, typical, with_sample
from mainspring.core.policy import Policy
from mainspring.core.records import Cause
from mainspring.store.share_tables import durations
from mainspring.store.statements import Listed, Statement

_MEDIANS = Listed(lambda keys: select(durations.c.key, durations.c.median_s).where(durations.c.key.in_(keys)))
_SAMPLES = Listed(lambda keys: select(durations.c.key, durations.c.samples).where(durations.c.key.in_(keys)))
_CHANGE = Statement(update(durations).where(durations.c.key == bindparam("of")))
_NEW = Statement(durations.insert())
_ESTIMATED = {f"estimated {label}": label for label in range(32)}  # up to a hundred years
_DOUBTED = select(durations.c.key, durations.c.samples).where(
    durations.c.key.in_(list(_ESTIMATED)), durations.c.median_s >= WORTHLESS
)


def insteads_of(conn: Connection, policy: Policy) -> dict[int, float]:
    """Return what to believe of runs whose class of estimates has shown to say nothing, where the policy wants that."""
    if not policy.order.learns:
        return {}
    rows = conn.execute(_DOUBTED).tuples()
    found = ((_ESTIMATED[key], instead(_ESTIMATED[key], samples)) for key, samples in rows)
    return {label: seconds for label, seconds in found if seconds}


def medians_of(conn: Connection, keys: Iterable[str]) -> dict[str, float]:
    """Return the median duration of each of these kinds that is known."""
    return {row["key"]: float(row["median_s"]) for row in _MEDIANS.rows(conn, sorted(set(keys)))}


def learn(conn: Connection, rows: Sequence[Mapping[Any, Any]], now: datetime) -> None:
    """Take the durations of user code of succeeded attempts from the allocations that are booked (one replica counts)."""
    samples: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        is_told = row["replica"] == 0 and row["outcome"] is not None and row["outcome"].cause is Cause.SUCCEEDED
        if is_told and row["started_at"] is not None and row["ended_at"] is not None:
            seconds = max(0.0, (row["ended_at"] - row["started_at"]).total_seconds())
            for key in keys_of(row["project"], row["owner"], row["spec"]):
                samples[key].append(seconds)
            if row["estimate_s"] > 0:  # as it was told, never as it was believed: else what is learned would feed on itself
                samples[f"estimated {class_of(row['estimate_s'])}"].append(seconds)
    keys = sorted(samples)
    known: dict[str, tuple[float, ...]] = {row["key"]: row["samples"] for row in _SAMPLES.rows(conn, keys)}
    changed, new = [], []
    for key in keys:
        kept = known.get(key, ())
        for seconds in samples[key]:
            kept = with_sample(kept, seconds, LEARNED if key in _ESTIMATED else KEPT)
        values = {"at": now, "median_s": typical(kept), "samples": kept}
        if key in known:
            changed.append({"of": key} | values)
        else:
            new.append({"key": key} | values)
    _CHANGE.many(conn, changed)
    _NEW.many(conn, new)
