"""When those who wait would start, one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.scheduler.line import Bag


def test_who_is_before_takes_what_comes_free_first_and_gives_it_back() -> None:
    bag = Bag([(60.0, 1000), (120.0, 1000)], free=0)
    assert [bag.start_s(1000, 600.0) for _ in range(5)] == [60.0, 120.0, 660.0, 720.0, 1260.0]


def test_what_is_free_is_taken_at_once_and_a_gang_waits_for_all_of_its_gpus() -> None:
    bag = Bag([(10.0, 1000), (20.0, 2000)], free=500)
    assert [bag.start_s(500, 5.0), bag.start_s(3000, 1.0)] == [0.0, 20.0]


def test_what_is_never_known_is_not_promised() -> None:
    bag = Bag([(10.0, 1000)], free=0)
    assert bag.start_s(2000, 1.0) is None


@given(
    ends=st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 8).map(lambda n: n * 1000)), max_size=20),
    asked=st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 1e6)), max_size=20),
)
def test_nobody_starts_before_who_is_before_it_nor_with_more_than_there_is(
    ends: list[tuple[float, int]], asked: list[tuple[int, float]]
) -> None:
    bag, most = Bag(sorted(ends), free=0), sum(milli for _, milli in ends)
    held: list[tuple[float, float, int]] = []  # from, until, milli
    last = 0.0
    for milli, length in asked:
        start = bag.start_s(milli, length)
        if milli > most:
            assert start is None
            return  # what is left behind is never enough again
        assert start is not None
        assert start >= last
        last = start
        held.append((start, start + length, milli))
        there = sum(one for at, one in ends if at <= start)
        assert sum(one for begun, until, one in held if begun <= start < until) <= there
