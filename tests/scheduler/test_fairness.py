"""Jain's index over the contended time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.scheduler.fairness import Served, fairness, jain, water_fill

AMOUNTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 50), max_size=6)


def served(share: str, begin: float, start: float | None, end: float | None, gpus: float = 1) -> Served:
    return Served(share=share, gpus=gpus, submitted_s=begin, started_s=start, ended_s=end)


def test_equal_turns_are_fair_and_one_sided_ones_are_not() -> None:
    fair = [served("a", 0, 0, 10), served("b", 0, 0, 10), served("a", 0, 10, 20), served("b", 0, 10, 20)]
    assert fairness(fair, gpus=2).index == pytest.approx(1.0)
    unfair = [
        served("a", 0, 0, 10),
        served("a", 0, 0, 10),
        served("b", 0, 10, 20),
        served("b", 0, 10, 20),
        served("a", 0, 10, 20),
    ]
    found = fairness(unfair, gpus=2)
    assert found.contended_s == 10  # from 10 on everybody has what is asked for
    assert found.index == pytest.approx(0.5)


def test_time_without_contention_counts_nothing() -> None:
    found = fairness([served("a", 0, 0, 10), served("a", 0, 10, 20), served("b", 5, 5, 6)], gpus=2)
    assert (found.contended_s, found.index) == (0, 1.0)


def test_small_asks_are_entitled_to_no_more_than_they_ask() -> None:
    assert water_fill({"a": 1, "b": 9, "c": 9}, 8, {}) == pytest.approx({"a": 1, "b": 3.5, "c": 3.5})
    assert water_fill({"a": 9, "b": 9}, 6, {"a": 2}) == pytest.approx({"a": 4, "b": 2})


@given(asked=AMOUNTS, total=st.floats(0, 40))
def test_the_fill_gives_all_there_is_and_no_more_than_asked(asked: dict[str, float], total: float) -> None:
    filled = water_fill(asked, total, {"a": 3.0, "b": 0.5})
    assert sum(filled.values()) == pytest.approx(min(total, sum(asked.values())), abs=1e-6)
    assert all(filled[share] <= asked[share] + 1e-6 for share in asked)


@given(values=st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_index_is_between_one_part_and_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
