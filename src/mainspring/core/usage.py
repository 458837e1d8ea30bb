"""What was used, exactly: whole milli-GPU-milliseconds and the like, so that sums are the same in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from mainspring.core.resources import Granted

_MS = timedelta(milliseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What somebody used in a month. All are whole numbers; `cost_micros` are millionths of a US dollar."""

    gpu_milli_ms: int = 0
    cpu_milli_ms: int = 0
    memory_mib_ms: int = 0
    cost_micros: int = 0

    def __add__(self, other: Used) -> Used:
        """Return the sum."""
        return Used(
            gpu_milli_ms=self.gpu_milli_ms + other.gpu_milli_ms,
            cpu_milli_ms=self.cpu_milli_ms + other.cpu_milli_ms,
            memory_mib_ms=self.memory_mib_ms + other.memory_mib_ms,
            cost_micros=self.cost_micros + other.cost_micros,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One line of the bill: who, and how many hours of what. `share` is the leaf, `key` what the lines are grouped by."""

    key: str
    gpu_hours: float
    cpu_hours: float
    memory_gib_hours: float
    cost_usd: str
    used: Used = field(default_factory=Used)


def month_of(moment: datetime) -> str:
    """Return the calendar month (UTC) as `2026-01`."""
    return f"{moment.year:04d}-{moment.month:02d}"


def begin_of(month: str) -> datetime:
    """Return the first moment of a month. Raises ValueError for what is none."""
    year, _, number = month.partition("-")
    if len(year) != 4 or len(number) != 2:
        raise ValueError(month)
    return _EPOCH.replace(year=int(year), month=int(number))


def used(granted: Granted, since: datetime, until: datetime, cost_per_hour: Decimal = Decimal(0)) -> Iterator[tuple[str, Used]]:
    """Give (month, what was used in it) of an allocation that was held from `since` to `until`."""
    while since < until:
        month = month_of(since)
        end = min(until, _next_month(since))
        ms = max(0, (end - _EPOCH) // _MS - (since - _EPOCH) // _MS)
        yield (
            month,
            Used(
                gpu_milli_ms=sum(one.milli for one in granted.devices) * ms,
                cpu_milli_ms=granted.cpu_milli * ms,
                memory_mib_ms=(granted.memory_bytes >> 20) * ms,
                cost_micros=int((cost_per_hour * 1_000_000 * ms / HOUR_MS).to_integral_value(ROUND_HALF_UP)),
            ),
        )
        since = end


def row_of(key: str, used: Used) -> UsageRow:
    """Return the line of the bill."""
    return UsageRow(
        key=key,
        gpu_hours=round(used.gpu_milli_ms / 1000 / HOUR_MS, 6),
        cpu_hours=round(used.cpu_milli_ms / 1000 / HOUR_MS, 6),
        memory_gib_hours=round(used.memory_mib_ms / 1024 / HOUR_MS, 6),
        cost_usd=usd(used.cost_micros),
        used=used,
    )


def usd(micros: int) -> str:
    """Return millionths of a dollar as an exact decimal text."""
    return format((Decimal(micros) / 1_000_000).normalize(), "f")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastUse:
    """What a leaf used, in seconds of whole GPUs, whole CPUs and GiB, with what is `half_life_s` ago counted half, at `at`.

    `served_at` is when it was last given something.
    """

    at: datetime
    served_at: datetime | None = None
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    memory_s: float = 0.0

    def amounts(self) -> tuple[float, float, float]:
        """Return the three figures."""
        return self.gpu_s, self.cpu_s, self.memory_s


def decayed(past: PastUse, now: datetime, half_life_s: float) -> PastUse:
    """Return what is left of it at `now`."""
    part = 0.5 ** (max(0.0, (now - past.at).total_seconds()) / half_life_s)
    return replace(past, at=now, gpu_s=past.gpu_s * part, cpu_s=past.cpu_s * part, memory_s=past.memory_s * part)


def with_use(past: PastUse, granted: Granted, since: datetime, until: datetime, half_life_s: float) -> PastUse:
    """Return `past` with an allocation held from `since` to `until` counted, as of `past.at` or `until`, whichever is later."""
    now = max(past.at, until)
    left = decayed(past, now, half_life_s)
    held_s = max(0.0, (until - since).total_seconds())
    ago_s = (now - until).total_seconds()
    whole_s = half_life_s / 0.6931471805599453 * (0.5 ** (ago_s / half_life_s)) * (1 - 0.5 ** (held_s / half_life_s))
    return PastUse(
        at=now,
        served_at=max(since, past.served_at or since),
        gpu_s=left.gpu_s + whole_s * sum(one.milli for one in granted.devices) / 1000,
        cpu_s=left.cpu_s + whole_s * granted.cpu_milli / 1000,
        memory_s=left.memory_s + whole_s * granted.memory_bytes / (1 << 30),
    )


def history_of(past: Mapping[str, PastUse], capacity: Sequence[float]) -> dict[str, float]:
    """Return each share's dominant past use as a part of that of all its siblings; `past` is by leaf, all at one moment.

    `capacity` is what there is of whole GPUs, whole CPUs and GiB: of what is scarce, an hour weighs more.
    """
    sums: dict[str, list[float]] = {}
    for leaf, one in past.items():
        parts = leaf.split("/")
        for depth in range(len(parts)):
            into = sums.setdefault("/".join(parts[: depth + 1]), [0.0, 0.0, 0.0])
            for place, amount in enumerate(one.amounts()):
                into[place] += amount
    dominant = {
        name: max((amount / most for amount, most in zip(amounts, capacity, strict=True) if most > 0), default=0.0)
        for name, amounts in sums.items()
    }
    of_siblings: dict[str, float] = {}
    for name, amount in dominant.items():
        parent = name.rpartition("/")[0]
        of_siblings[parent] = of_siblings.get(parent, 0.0) + amount
    return {
        name: round(amount / total, 6) if (total := of_siblings[name.rpartition("/")[0]]) > 0 else 0.0
        for name, amount in sorted(dominant.items())
    }


def _next_month(moment: datetime) -> datetime:
    first = _EPOCH.replace(year=moment.year, month=moment.month)
    return first.replace(year=first.year + 1, month=1) if first.month == 12 else first.replace(month=first.month + 1)
