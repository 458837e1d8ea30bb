"""What the command line says when it is asked for help, and when it is used wrongly: never a traceback."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import mainspring
from mainspring.cli.dispatch import COMMANDS, GROUPS, build_app
from mainspring.cli.main import run_cli

EVERY = [(name,) for name, *_ in COMMANDS] + [(name, word) for name, _, _, members in GROUPS for word, _ in members]


@pytest.mark.parametrize("group", [name for name, *_ in GROUPS])
def test_a_group_says_what_each_of_its_commands_does(group, capsys):
    assert run_cli([group, "--help"]) == 0
    told = capsys.readouterr().out
    assert run_cli([group]) == 0
    assert capsys.readouterr().out == told
    members = next(members for name, _, _, members in GROUPS if name == group)
    lines = {words[1]: words[2:] for words in (line.split() for line in told.splitlines()) if len(words) > 2 and words[0] == "│"}
    assert all(len(lines[word]) > 2 for word, _ in members), told


def test_the_version_is_quick():
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mainspring.cli.main", "--version"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - began)
        assert done.stdout.strip() == f"mainspring {mainspring.__version__}"
    assert min(times) < 0.15


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    build_app()([*words, "--help"], result_action="return_value", exit_on_error=False)
    said = capsys.readouterr().out
    assert "Usage: mainspring " + " ".join(words) in said
    assert "." in said.split("Usage:")[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("frobnicate",), 2, "frobnicate"),
        (("run",), 2, "nothing to run"),
        (("run", "missing.py"), 2, "missing.py is not a file"),
        (("run", "train.py", "--lr", "3"), 2, "behind --"),
        (("run", "--memory", "4", "--", "true"), 2, "memory=4GiB"),
        (("run", "--gpus", "-1", "--", "true"), 2, "zero or more"),
        (("run", "--gpus", "nan", "--", "true"), 2, "not an amount"),
        (("run", "--gpus", "many", "--", "true"), 2, "many"),
        (("run", "--name", "../x", "--", "true"), 2, "cannot name a run"),
        (("run", "--env", "NOT_SET_ANYWHERE", "--", "true"), 2, "not set here"),
        (("run", "--timeout", "5", "--", "true"), 2, "timeout=90s"),
        (("run", "--label", "x", "--", "true"), 2, "NAME=VALUE"),
        (("sweep", "x.py:f", "-n", "3", "--maximize", "m", "lr"), 2, "NAME=SPACE"),
        (("sweep", "x.py:f", "-n", "3", "--maximize", "m", "lr=3"), 2, "searches nothing"),
        (("sweep", "x.py:f", "-n", "3", "--maximize", "m", "lr=log:0:1"), 2, "begins above 0"),
        (("status",), 7, "mainspring up"),
        (("login", "fleet"), 2, "no address"),
        (("restore", "nothing.db"), 2, "not a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_a_sentence_with_an_exit_code(cli, words, code, said, tmp_path):
    (tmp_path / "train.py").write_text("print(1)")
    done = cli(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "empty" / "server.json").exists()


def test_a_server_elsewhere_that_does_not_answer(cli):
    done = cli("ps", MAINSPRING_URL="http://127.0.0.1:9", MAINSPRING_TOKEN="x")
    assert done.returncode == 7
    assert "No server answers at http://127.0.0.1:9" in done.stderr


def test_completion_scripts_are_printed(cli):
    assert "_mainspring" in cli("completion", "bash").stdout
