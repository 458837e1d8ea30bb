"""Estimates that have shown to say nothing are not believed; all others are, as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.durations import FEWEST, believed, class_of, instead


def test_a_class_is_a_power_of_two_and_below_a_second_is_a_second() -> None:
    assert [class_of(estimate) for estimate in (0.0, 0.2, 1.0, 1.99, 2.0, 3600.0)] == [0, 0, 0, 0, 1, 11]


def test_a_class_that_is_ten_times_too_low_in_the_middle_is_believed_to_take_its_mean() -> None:
    assert instead(0, [1000.0] * FEWEST) == pytest.approx(1000.0, rel=0.1)
    taken = [30.0] * 15 + [3000.0] * 5
    assert instead(0, taken) == pytest.approx(772.5, rel=0.1)  # the mean, not the middle one


def test_few_runs_or_a_few_slow_ones_condemn_nothing() -> None:
    assert instead(0, []) == 0.0
    assert instead(0, [1000.0] * (FEWEST - 1)) == 0.0
    assert instead(0, [1.0] * 60 + [100_000.0] * 40) == 0.0
    assert instead(10, [9_000.0] * 50) == 0.0  # nine times too low
    assert instead(10, [10.0] * 50) == 0.0  # too high


def test_what_is_believed_moves_in_steps_so_that_one_more_run_changes_nothing() -> None:
    taken = [1000.0] * 100
    assert instead(0, taken) == instead(0, [*taken, 1200.0])


def test_only_the_class_that_says_nothing_is_replaced_and_never_beyond_the_time_limit() -> None:
    insteads = {0: 1000.0}
    assert [believed(estimate, insteads) for estimate in (1.0, 1.5, 2.0, 0.0)] == [1000.0, 1000.0, 2.0, 0.0]
    assert believed(1.0, insteads, 600.0) == 600.0
    assert believed(1.0, {}) == 1.0


@given(st.integers(0, 30), st.lists(st.floats(0, 1e9), max_size=60))
def test_what_is_believed_instead_is_longer_than_any_estimate_of_the_class(label: int, taken: list[float]) -> None:
    found = instead(label, taken)
    assert found == 0.0 or found > 2 ** (label + 1)
