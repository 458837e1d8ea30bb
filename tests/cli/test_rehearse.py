"""`policy rehearse` against a real server."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e


def test_a_policy_is_tried_on_what_was_run(cli, server, tmp_path) -> None:
    (tmp_path / "short.py").write_text("pass")
    assert cli("run", "short.py", home=server).returncode == 0
    (tmp_path / "new.toml").write_text("[order]\nis_fair = false\n")
    in_force = json.loads(cli("policy", "show", "--json", home=server).stdout)["number"]
    found = json.loads(cli("policy", "rehearse", "new.toml", "--last", "1h", "--json", home=server).stdout)
    assert found["runs"] >= 1
    assert (found["now"]["policy"]["order"]["is_fair"], found["then"]["policy"]["order"]["is_fair"]) == (True, False)
    shown = cli("policy", "rehearse", "new.toml", "--last", "1h", home=server).stdout
    assert "everybody" in shown
    assert "Jain" in shown
    assert json.loads(cli("policy", "show", "--json", home=server).stdout)["number"] == in_force  # nothing was put in force


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("[order]\naging = 3\n", (), "aging_s"),
        ("[order]\n", ("--last", "tomorrow"), "tomorrow"),
        (None, (), "cannot be read"),
    ],
)
def test_mistakes_are_told(cli, server, tmp_path, text, words, said) -> None:
    if text is not None:
        (tmp_path / "new.toml").write_text(text)
    told = cli("policy", "rehearse", "new.toml", *words, home=server)
    assert told.returncode == 2
    assert said in told.stderr


def test_one_key_is_set_and_a_wrong_one_is_named(cli, server) -> None:
    assert "history = 0.3" in cli("policy", "set", "order.history", "0.3", home=server).stdout
    assert "history = 0.3" in cli("policy", "show", home=server).stdout
    for words, said in ((("order.histroy", "1"), "'history'"), (("burst.mode", "nevr"), "one of all_allocated, no_fit, never")):
        told = cli("policy", "set", *words, home=server)
        assert told.returncode == 2
        assert said in told.stderr
    assert "burst.mode never" in cli("policy", "set", "burst.mode", home=server).stderr
