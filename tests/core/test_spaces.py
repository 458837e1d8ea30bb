"""Search spaces as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.core.errors import SpecError
from mainspring.core.records import Dimension
from mainspring.core.spaces import check_space, choice, integers, loguniform, named, parse_dimension, uniform


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log:1e-3:0.3", loguniform(1e-3, 0.3)),
        ("uniform:0:1", uniform(0, 1)),
        ("uniform:-1:-0.5", uniform(-1, -0.5)),
        ("int:1:8", integers(1, 8)),
        ("choice:a,b , c", choice("a", "b", "c")),
        ("choice:1,2.5,true,x:y", choice(1, 2.5, True, "x:y")),
    ],
)
def test_texts_and_constructors_agree(text: str, expected: Dimension) -> None:
    assert parse_dimension(text, "lr") == named("lr", expected)


@pytest.mark.parametrize(
    "text",
    [
        *("", "log", "log:0:1", "log:-1:1", "log:1", "log:1:2:3", "uniform:2:1", "uniform:nan:1", "uniform:0:inf"),
        *("int:0.5:2", "int:a:b", "choice:", "choice:a,a", "gauss:0:1", "uniform:-1e308:1e308"),
    ],
)
def test_other_texts_are_refused_with_the_forms(text: str) -> None:
    with pytest.raises(SpecError, match="choice:a,b,c") as caught:
        parse_dimension(text, "lr")
    assert caught.value.details["path"] == "space.lr"


@pytest.mark.parametrize("wrong", ["1", True, None, float("nan"), 10**400])
def test_ends_are_numbers(wrong: Any) -> None:
    with pytest.raises(SpecError):
        uniform(wrong, 2.0)


@pytest.mark.parametrize("wrong", [[1], {"a": 1}, float("inf"), object()])
def test_choices_are_json_scalars(wrong: Any) -> None:
    with pytest.raises(SpecError):
        choice("a", wrong)


def test_lists_and_look_alikes_may_be_chosen_from() -> None:
    assert choice(["a", "b"]) == choice("a", "b")
    assert choice(1, True, 1.0).choices == (1, True, 1.0)


def test_a_space_has_names_of_its_own() -> None:
    one = named("a", uniform(0, 1))
    assert check_space([one]) == (one,)
    for wrong in ([], [one, one], [uniform(0, 1)], [Dimension(name="a", kind="gauss")]):
        with pytest.raises(SpecError):
            check_space(wrong)
