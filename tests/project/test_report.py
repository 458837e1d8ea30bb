"""What a bench reports: rounding, ratio, conditions."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def reporting(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that benches report with."""
    monkeypatch.syspath_prepend(str(project))
    yield importlib.import_module("benchmarks.report")
    sys.modules.pop("benchmarks.report", None)


def test_a_ratio_is_ours_over_the_peers(reporting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    reporting.report("import", "import", 20.0, "ms", peer="other 1.0", peer_value=400.0, conditions={"rounds": 3})
    row = json.loads(capsys.readouterr().out)
    assert (row["ratio"], row["peer"], row["peer_value"]) == (0.05, "other 1.0", 400.0)
    assert row["conditions"]["rounds"] == 3
    assert {"cores", "python", "commit"} <= set(row["conditions"])


def test_without_a_peer_there_is_no_ratio(reporting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    reporting.report("size", "wheel", 0.3, "MB", peer="not measured")
    row = json.loads(capsys.readouterr().out)
    assert (row["peer"], row["peer_value"], row["ratio"]) == ("", None, None)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (0.0, 1), (1.0, 100)])
def test_percentiles_are_values_that_were_measured(reporting: Any, share: float, expected: int) -> None:
    assert reporting.percentile(list(range(100, 0, -1)), share) == expected


def test_the_percentile_of_one_value_is_that_value(reporting: Any) -> None:
    assert reporting.percentile([7.0], 0.99) == 7.0
