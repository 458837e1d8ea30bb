"""`forecast` and `what-if` against a real server."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from mainspring.cli.forecasts import sentence
from mainspring.core.forecasts import Forecast

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("earliest_s", "latest_s", "words"),
    [
        (0, 1, r"now"),
        (60, 61, r"at about \d\d:\d\d:\d\d"),
        (60, 400, r"between \d\d:\d\d:\d\d and \d\d:\d\d:\d\d \(80 %\)"),
        (60, 4000, r"between \d\d:\d\d and \d\d:\d\d \(80 %\)"),
        (60, 30 * 3600, r"between \w+ \d\d \w+ \d\d:\d\d and \w+ \d\d \w+ \d\d:\d\d \(80 %\)"),
    ],
)
def test_both_ends_of_an_interval_are_told_alike(earliest_s: float, latest_s: float, words: str) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    early, late = (now + timedelta(seconds=one) for one in (earliest_s, latest_s))
    told = Forecast(earliest=early, median=early, latest=late, confidence=0.8)
    assert re.fullmatch(words, sentence(told, now))


def test_the_record_is_told(cli, server) -> None:
    assert set(json.loads(cli("forecast", "--record", "--json", home=server).stdout)) == {
        "told",
        "inside",
        "confidence",
        "asked",
        "median_error",
    }


def test_choices_are_compared_and_nothing_is_submitted(cli, server, tmp_path) -> None:
    (tmp_path / "later.py").write_text("pass")
    told = cli("forecast", "later.py", "--gpus", "1", home=server)
    assert (told.returncode, told.stdout) == (0, "It would start now.\n")
    compared = json.loads(cli("what-if", "--gpus 900", "--priority 5 --cpus 1", "later.py", "--json", home=server).stdout)
    assert [one["label"] for one in compared] == ["as it is", "--gpus 900", "--priority 5 --cpus 1"]
    assert compared[0]["forecast"] is not None
    assert "GPU" in compared[1]["refusal"]
    shown = cli("what-if", "--gpus 900", "later.py", home=server).stdout
    assert "now" in shown
    assert "never" in shown
    assert json.loads(cli("ps", "--json", "--text", "later", home=server).stdout) == []


def test_a_run_that_waits_tells_its_start_with_its_reason_and_a_paused_one_none(cli, server) -> None:
    names = ("fills", "waits")
    for name in names:
        cli("run", "--detach", "--name", name, "--gpus", "2", "--", "sleep", "60", home=server)
    try:
        deadline = time.monotonic() + 30
        while json.loads(cli("why", "fills", "--json", home=server).stdout)["state"] != "running":
            assert time.monotonic() < deadline
        told = cli("why", "waits", home=server).stdout
        assert re.search(r"waits is queued: .*\nIt starts between \S+ and .* \(80 %\)\.", told), told
        cli("pause", "waits", home=server)
        assert "It starts" not in cli("why", "waits", home=server).stdout
        refused = cli("forecast", "waits", home=server)
        assert refused.returncode != 0
        assert "Nobody can say when run waits starts." in refused.stderr
    finally:
        for name in names:
            cli("cancel", name, "--grace", "0s", home=server)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forecast",), "Of what?"),
        (("forecast", "no-such-run"), "There is no run"),
        (("what-if", "--gpus 2"), "no script"),
        (("what-if", "--cpus two", "later.py"), "cpus"),
        (("what-if", "--no-such-flag 1", "later.py"), "no-such-flag"),
    ],
)
def test_mistakes_are_told(cli, server, tmp_path, words, said) -> None:
    (tmp_path / "later.py").write_text("pass")
    told = cli(*words, home=server)
    assert told.returncode != 0
    assert said in told.stderr
    assert "Traceback" not in told.stderr
