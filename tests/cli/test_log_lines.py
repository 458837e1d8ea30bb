"""A log for programs: the same lines however it comes in pieces."""

from __future__ import annotations

import io
import json

import pytest

from mainspring.cli.log_lines import JsonLog

TEXT = "one\n\n50 %\r100 %\nzwölf\n".encode() + b"\xff\nno end"


@pytest.mark.parametrize("size", [1, 2, 7, len(TEXT)])
def test_each_line_is_one_object_with_its_place(size: int) -> None:
    to = io.StringIO()
    log = JsonLog(to)
    for offset in range(0, len(TEXT), size):
        log.take(TEXT[offset : offset + size], 1, offset)
    assert to.getvalue().count("\n") == 5, "the last line may go on"
    log.end()
    told = [json.loads(line) for line in to.getvalue().splitlines()]
    assert [one["text"] for one in told] == ["one", "", "50 %\r100 %", "zwölf", "\ufffd", "no end"]
    assert [one["offset"] for one in told] == [0, 4, 5, 16, 23, 25]
    assert {(one["stream"], one["attempt"]) for one in told} == {("log", 1)}


def test_the_log_of_another_attempt_begins_a_line() -> None:
    to = io.StringIO()
    log = JsonLog(to)
    log.take(b"killed in the mid", 1, 100)
    log.take(b"again\n", 2, 0)
    log.end()
    told = [json.loads(line) for line in to.getvalue().splitlines()]
    assert [(one["attempt"], one["offset"], one["text"]) for one in told] == [(1, 100, "killed in the mid"), (2, 0, "again")]
