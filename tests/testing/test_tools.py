"""The shipped tools behave as the real things do, only by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mainspring.core.clock import Clock
from mainspring.core.ids import Ids, is_id
from mainspring.testing.clock import FakeClock
from mainspring.testing.ids import FakeIds


def test_time_passes_for_both_clocks_and_a_jump_moves_the_wall_alone() -> None:
    fake = FakeClock()
    clock: Clock = fake
    wall, ticks_s = clock.now(), clock.monotonic()
    fake.advance(90.0)
    assert ((clock.now() - wall).total_seconds(), clock.monotonic() - ticks_s) == (90.0, 90.0)
    fake.jump(-86400.0)
    assert ((clock.now() - wall).total_seconds(), clock.monotonic() - ticks_s) == (90.0 - 86400.0, 90.0)
    assert clock.now().utcoffset() is not None


def test_ids_are_real_ids_in_order_and_the_same_each_time() -> None:
    ids: Ids = FakeIds()
    first = [ids.new("run") for _ in range(40)]
    again: Ids = FakeIds()
    assert first == sorted(first) == [again.new("run") for _ in range(40)]
    assert all(is_id(one) for one in first)


def test_ids_do_not_repeat_across_threads() -> None:
    ids = FakeIds()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ids.new("run"), range(2000)))
    assert len(set(made)) == 2000
