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


def test_the_record_is_told(typed) -> None:
    assert set(json.loads(typed("forecast", "--record", "--json").stdout)) == {
        "told",
        "inside",
        "confidence",
        "asked",
        "median_error",
    }


def test_choices_are_compared_and_nothing_is_submitted(typed, tmp_path) -> None:
    (tmp_path / "compared.py").write_text("pass")
    now, deadline = "It would start now.\n", time.monotonic() + 30
    while (told := typed("forecast", "compared.py", "--gpus", "1")).stdout != now and time.monotonic() < deadline:
        pass  # what another test of this server cancelled is ending
    assert (told.returncode, told.stdout) == (0, now)
    compared = json.loads(typed("what-if", "--gpus 900", "--priority 5 --cpus 1", "compared.py", "--json").stdout)
    assert [one["label"] for one in compared] == ["as it is", "--gpus 900", "--priority 5 --cpus 1"]
    assert compared[0]["forecast"] is not None
    assert "GPU" in compared[1]["refusal"]
    shown = typed("what-if", "--gpus 900", "compared.py").stdout
    assert "now" in shown
    assert "never" in shown
    assert json.loads(typed("ps", "--json", "--text", "compared").stdout) == []


def test_a_run_that_waits_tells_its_start_with_its_reason_and_a_paused_one_none(typed) -> None:
    names = ("fills", "waits")
    for name in names:
        typed("run", "--detach", "--name", name, "--gpus", "2", "--", "sleep", "60")
    try:
        deadline = time.monotonic() + 30
        while json.loads(typed("why", "fills", "--json").stdout)["state"] != "running":
            assert time.monotonic() < deadline
        told = typed("why", "waits").stdout
        assert re.search(r"waits is queued: .*\nIt starts between \S+ and .* \(80 %\)\.", told), told
        typed("pause", "waits")
        assert "It starts" not in typed("why", "waits").stdout
        refused = typed("forecast", "waits")
        assert refused.returncode != 0
        assert "Nobody can say when run waits starts." in refused.stderr
    finally:
        for name in names:
            typed("cancel", name, "--grace", "0s")


def test_what_would_let_it_start_is_told_of_a_run_and_before_one_is_submitted(typed, tmp_path) -> None:
    """One of two GPUs is held for an hour at most: half of what is asked for would start now, all of it then."""
    (tmp_path / "later.py").write_text("pass")
    holds = typed("run", "--detach", "--gpus", "1", "--timeout", "1h", "--", "tail", "-f", "/dev/null").stdout.strip()
    asks = ""
    try:
        deadline = time.monotonic() + 30
        while json.loads(typed("why", holds, "--json").stdout)["state"] != "running":
            assert time.monotonic() < deadline
        wanted = re.compile(r"It would start (between .*|at about .*)\. With --gpus 1: now\.\n")
        while not wanted.fullmatch(said := typed("forecast", "later.py", "--gpus", "2").stdout):
            assert time.monotonic() < deadline, said  # at most two seconds behind the runs' states
        assert "With" not in typed("forecast", "later.py", "--gpus", "1").stdout
        asks = typed("run", "--detach", "--gpus", "2", "later.py").stdout.strip()
        less, then = json.loads(typed("why", asks, "--json").stdout)["changes"]
        assert (less["sentence"], less["at"], less["facts"]) == ("starts now with 1 GPU less", None, {"gpu_milli": 1000})
        assert then["facts"] == {"run": holds}
        at = datetime.fromisoformat(then["at"])
        assert timedelta(minutes=30) < at - datetime.now(UTC) < timedelta(hours=3)
        told = typed("why", asks).stdout
        assert "What would change it: it starts now with 1 GPU less.\n" in told
        assert f"It would start when {holds} ends, about {at.astimezone(UTC):%H:%M} UTC.\n" in told
    finally:
        typed("cancel", *filter(None, (asks, holds)), "--grace", "0s")


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
def test_mistakes_are_told(typed, tmp_path, words, said) -> None:
    (tmp_path / "later.py").write_text("pass")
    told = typed(*words)
    assert told.returncode != 0
    assert said in told.stderr
    assert "Traceback" not in told.stderr
