"""What people write for GPUs and replicas, and what it means."""

from __future__ import annotations

import pytest

from mainspring.core.errors import SpecError, UsageError
from mainspring.core.specs import RunSpec, asks_for, check_spec
from mainspring.sdk.resources import make_choices, to_replicas


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (2, [(2000, ())]),
        ("0.5", [(500, ())]),
        ("A100:1 | L4:2", [(1000, ("A100",)), (2000, ("L4",))]),
        ("H100:8|4", [(8000, ("H100",)), (4000, ())]),
        (None, [(0, ())]),
    ],
)
def test_gpus_may_be_choices_by_model(written: str | float | None, meant: list[tuple[int, tuple[str, ...]]]) -> None:
    """The first choice first."""
    choices = make_choices(written, cpus=2)
    assert [(one.gpu_milli, one.gpu_models) for one in choices] == meant
    assert {one.cpu_milli for one in choices} == {2000}


@pytest.mark.parametrize("written", ["", "A100", "A100:", "A100:1 |", "|", "A100:two", "-1", "nan", "1.5"])
def test_what_is_no_number_of_gpus_is_refused(written: str) -> None:
    """With the form that is right."""
    with pytest.raises((UsageError, SpecError)) as caught:
        make_choices(written)
    assert caught.value.hint


def test_a_model_named_twice_is_refused() -> None:
    """In `gpus` and in `gpu_model`."""
    with pytest.raises(UsageError):
        make_choices("A100:1", gpu_model="L4")


@pytest.mark.parametrize(("written", "meant"), [(4, (4, 0)), ("4", (4, 0)), ("2..8", (8, 2)), (" 3..3 ", (3, 3))])
def test_replicas_may_be_a_range(written: str | int, meant: tuple[int, int]) -> None:
    """(most, least); least is 0 where all are needed."""
    assert to_replicas(written) == meant


@pytest.mark.parametrize("written", ["", "..", "2..", "..8", "8..2", "0..4", "two", "-1"])
def test_what_is_no_number_of_replicas_is_refused(written: str) -> None:
    """With both forms in the hint."""
    with pytest.raises(UsageError, match="replicas"):
        to_replicas(written)


def test_a_spec_says_what_it_asks_for_and_refuses_what_makes_no_sense() -> None:
    """More at least than at most; too many alternatives; a label with control characters."""
    first, *others = make_choices("A100:1 | L4:2")
    spec = RunSpec(command=("true",), resources=first, alternatives=tuple(others), replicas=8, min_replicas=2, same="rack")
    assert asks_for(check_spec(spec)) == ("1 CPU, 1 GPU, of model A100, or 1 CPU, 2 GPUs, of model L4; 2..8 replicas of one rack")
    for wrong in ({"min_replicas": 2}, {"alternatives": (first,) * 17}, {"same": "ra\x00ck"}):
        with pytest.raises(SpecError):
            check_spec(RunSpec(command=("true",), **wrong))
