"""Every numbered promise has a test on generated worlds that bears its number, and there are enough worlds."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMISES, LEAST = 28, 2000


def test_each_promise_is_tested_on_generated_worlds_and_often_enough() -> None:
    found: dict[int, int] = {}
    total = 0
    for name, test in _properties():
        examples = int(test._hypothesis_internal_use_settings.max_examples)
        total += examples
        for number in _numbers(name):
            found[number] = found.get(number, 0) + examples
    assert sorted(found) == list(range(1, PROMISES + 1))
    assert min(found.values()) >= 100, found
    assert total >= LEAST, total


def _properties() -> Iterator[tuple[str, Any]]:
    """Give name and function of each test of a numbered promise that hypothesis feeds."""
    for path in sorted(HERE.rglob("test_*invariants.py")):
        spec = importlib.util.spec_from_file_location(f"_numbers_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, test in vars(module).items():
            if name.startswith("test_invariant") and hasattr(test, "hypothesis"):
                yield name, test


def _numbers(name: str) -> range | list[int]:
    """Return the promises that a test is about: `test_invariants_22_to_27_...`, `test_invariants_19_20_21_...`."""
    told = re.match(r"test_invariants?_(\d\d)_to_(\d\d)_", name)
    if told is not None:
        return range(int(told[1]), int(told[2]) + 1)
    numbers = re.match(r"test_invariants?((?:_\d\d)+)_", name)
    return [int(one) for one in numbers[1].split("_")[1:]] if numbers is not None else []
