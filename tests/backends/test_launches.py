"""What a runner wrote of its end: user code can write there too, and harms nobody else by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.backends.launches import exit_record, json_object
from mainspring.backends.local.processes import read_record
from mainspring.core.codec import encode
from mainspring.runner.folder import read_json


@pytest.mark.parametrize("cause", [None, [], {}, ["user_error"], 5, "nonsense"])
def test_a_cause_that_is_none_is_no_end(cause: object) -> None:
    assert exit_record({"outcome": {"cause": cause}}) is None


def test_what_a_row_cannot_hold_is_not_in_an_end() -> None:
    told = json.loads('{"outcome": {"cause": "user_error", "exit_code": 1' + "0" * 99 + ', "message": "half \\ud800"}}')
    record = exit_record(told)
    assert record is not None
    assert (record.outcome.exit_code, record.outcome.message) == (None, "half ?")
    assert encode(record.outcome)


def test_a_record_of_brackets_alone_is_none(tmp_path: Path) -> None:
    """A parser gives up at the thousandth; whoever asks for all runs of a cluster would be told of none."""
    brackets = "[" * 4096
    (tmp_path / "exit.json").write_text(brackets)
    assert json_object(brackets) == json_object(brackets.encode()) == {}
    assert read_record(tmp_path / "exit.json") == {}
    assert read_json(str(tmp_path / "exit.json")) is None
