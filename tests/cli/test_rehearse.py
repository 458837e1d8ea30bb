"""`policy rehearse`, `plan show` and `plan replay` against a real server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.e2e


def test_a_policy_is_tried_on_what_was_run(typed, tmp_path) -> None:
    (tmp_path / "short.py").write_text("pass")
    assert typed("run", "short.py").returncode == 0
    (tmp_path / "new.toml").write_text("[order]\nis_fair = false\n")
    in_force = json.loads(typed("policy", "show", "--json").stdout)["number"]
    found = json.loads(typed("policy", "rehearse", "new.toml", "--last", "1h", "--json").stdout)
    assert found["runs"] >= 1
    assert (found["now"]["policy"]["order"]["is_fair"], found["then"]["policy"]["order"]["is_fair"]) == (True, False)
    shown = typed("policy", "rehearse", "new.toml", "--last", "1h").stdout
    assert "everybody" in shown
    assert "Jain" in shown
    assert json.loads(typed("policy", "show", "--json").stdout)["number"] == in_force  # nothing was put in force


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("[order]\naging = 3\n", (), "aging_s"),
        ("[order]\n", ("--last", "tomorrow"), "tomorrow"),
        (None, (), "cannot be read"),
    ],
)
def test_mistakes_are_told(typed, tmp_path, text, words, said) -> None:
    if text is not None:
        (tmp_path / "new.toml").write_text(text)
    told = typed("policy", "rehearse", "new.toml", *words)
    assert told.returncode == 2
    assert said in told.stderr


def test_one_key_is_set_and_a_wrong_one_is_named(typed) -> None:
    assert "history = 0.3" in typed("policy", "set", "order.history", "0.3").stdout
    assert "history = 0.3" in typed("policy", "show").stdout
    for words, said in ((("order.histroy", "1"), "'history'"), (("burst.mode", "nevr"), "one of all_allocated, no_fit, never")):
        told = typed("policy", "set", *words)
        assert told.returncode == 2
        assert said in told.stderr
    assert "burst.mode never" in typed("policy", "set", "burst.mode").stderr


def test_a_recorded_plan_is_shown_by_its_time_saved_and_made_again(typed, tmp_path, monkeypatch) -> None:
    runs, moments = [], []
    for _ in range(2):
        runs.append(typed("run", "--detach", "--", "true").stdout.strip())
        assert typed("logs", "-f", runs[-1]).returncode == 0
        moments.append(datetime.now(UTC).isoformat())
    last = typed("plan", "show")
    assert "fingerprint" in last.stdout.splitlines()[0]
    assert f"start {runs[1][-7:]}" in " ".join(last.stdout.split())
    first = typed("plan", "show", "--at", moments[0]).stdout
    assert runs[0][-7:] in first
    assert runs[1][-7:] not in first
    said = typed("plan", "show", "--at", moments[0], "--save", "plan.json")
    number = json.loads((tmp_path / "plan.json").read_text())["number"]
    assert said.stdout == f"Plan {number} and its snapshot are in plan.json.\n"
    assert first.startswith(f"Plan {number} of ")
    monkeypatch.setenv("MAINSPRING_HOME", str(tmp_path / "elsewhere"))  # where no server is
    assert typed("plan", "replay", "plan.json").stdout == f"Plan {number} is made again, byte for byte: 1 decision.\n"
    told = json.loads(typed("plan", "replay", "plan.json", "--json").stdout)
    assert (told["same_snapshot"], told["same_plan"], told["plan"]["decisions"][0]["run"]) == (True, True, runs[0])
    assert not (tmp_path / "elsewhere").exists()


def test_what_only_waits_is_not_recorded_and_made_again_when_asked(typed, again) -> None:
    assert typed("share", "held", "--hold").returncode == 0
    still = f"still{again}"
    assert typed("project", "add", still).returncode == 0
    assert typed("project", "edit", still, "--share", "held").returncode == 0
    run = typed("run", "--detach", "--project", still, "--", "true").stdout.strip()
    try:
        told = json.loads(typed("plan", "show", "--now", "--json").stdout)
        (mine,) = [one for one in told["plan"]["decisions"] if one["run"] == run]
        assert (told["number"], mine["kind"], mine["reason"]["code"]) == (0, "wait", "share_held")
        assert "Waits because share held is held" in typed("plan", "show", "--now").stdout
        assert json.loads(typed("plan", "show", "--now", "--save", "now.json", "--json").stdout)["saved"] == "now.json"
        assert "made again, byte for byte: 1 decision." in typed("plan", "replay", "now.json").stdout
        assert run not in typed("plan", "show", "--json").stdout
        assert json.loads(typed("ps", "--project", still, "--json", "--state", "queued").stdout)[0]["id"] == run
    finally:
        typed("cancel", run)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--at", "2001-01-01"), 4, "No plan is recorded from that time"),
        (("--at", "14:05", "--now"), 2, "Say one of --at and --now"),
        (("--now", "--save", "no-such-folder/plan.json"), 2, "no-such-folder/plan.json cannot be written"),
    ],
)
def test_a_plan_that_cannot_be_shown_says_why(typed, words, code, said) -> None:
    told = typed("plan", "show", *words)
    assert (told.returncode, told.stdout) == (code, "")
    assert said in told.stderr
    assert "hint:" in told.stderr
