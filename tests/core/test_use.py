"""Past use fades by its half-life, and what is held counts for as long as it was held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import log

import pytest

from mainspring.core.resources import DeviceShare, Granted
from mainspring.core.usage import PastUse, decayed, with_use

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELD = Granted(cpu_milli=4000, memory_bytes=2 << 30, devices=(DeviceShare(index=0, milli=500), DeviceShare(index=1, milli=1000)))


@pytest.mark.parametrize("half_life_s", [60.0, 3600.0])
def test_it_fades_by_half_in_a_half_life(half_life_s: float) -> None:
    past = PastUse(at=NOW, served_at=None, gpu_s=80.0, cpu_s=40.0, memory_s=20.0)
    for count in (1, 3):
        left = decayed(past, NOW + timedelta(seconds=count * half_life_s), half_life_s)
        assert (left.gpu_s, left.cpu_s, left.memory_s) == pytest.approx((80 / 2**count, 40 / 2**count, 20 / 2**count))


@pytest.mark.parametrize("half_life_s", [60.0, 604_800.0])
def test_what_was_held_counts_as_if_it_had_been_added_second_by_second(half_life_s: float) -> None:
    nothing = PastUse(at=NOW, served_at=None, gpu_s=0.0, cpu_s=0.0, memory_s=0.0)
    ended, told = NOW + timedelta(seconds=120), NOW + timedelta(seconds=180)
    whole = decayed(with_use(nothing, HELD, NOW, ended, half_life_s), told, half_life_s)
    steps = nothing
    for second in range(120):
        steps = with_use(steps, HELD, NOW + timedelta(seconds=second), NOW + timedelta(seconds=second + 1), half_life_s)
    assert decayed(steps, told, half_life_s).gpu_s == pytest.approx(whole.gpu_s)
    late = with_use(decayed(nothing, told, half_life_s), HELD, NOW, ended, half_life_s)
    assert late.gpu_s == pytest.approx(whole.gpu_s), "it may be told of late"
    summed = 1.5 * half_life_s / log(2) * (0.5 ** (60 / half_life_s) - 0.5 ** (180 / half_life_s))
    assert whole.gpu_s == pytest.approx(summed)
    assert (whole.cpu_s, whole.memory_s) == pytest.approx((summed * 4 / 1.5, summed * 2 / 1.5))
