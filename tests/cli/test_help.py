"""What every command has in common: an example in its help, JSON for programs, and help where it was called wrongly."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from mainspring.cli import dispatch
from mainspring.cli.cluster_words import read_words

COMMANDS = {name: target for name, target, *_ in dispatch.COMMANDS} | {
    f"{group} {word}": target for group, _, _, members in dispatch.GROUPS for word, target in members
}


@pytest.fixture(params=sorted(COMMANDS))
def command(request: pytest.FixtureRequest) -> tuple[str, Callable[..., Any]]:
    """Return the words of a command and its function."""
    module, _, name = COMMANDS[request.param].partition(":")
    return request.param, getattr(import_module(f"mainspring.cli.{module}"), name)


def test_each_command_prints_json_for_programs(command: tuple[str, Callable[..., Any]]) -> None:
    words, function = command
    if words == "cluster add":  # which reads its words itself: what it takes, only the kind knows
        assert read_words({"name": "slurm", "options": []}, ["local", "--json"]).is_json
    else:
        assert "as_json" in inspect.signature(function).parameters


def test_the_help_of_each_command_has_an_example(command: tuple[str, Callable[..., Any]]) -> None:
    words, function = command
    group, _, word = words.rpartition(" ")
    own = f"mainspring {words}" if group != "node" else f"mainspring node {word}"
    aliases = (own, own.replace("mainspring node", "mainspring cluster"))
    assert any(alias in (function.__doc__ or "") for alias in aliases)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["secret", "rm", "KEY", "--ys"], "mainspring secret rm --help"),
        (["token", "add"], "mainspring token add --help"),
        (["run", "--gpu", "1", "train.py"], "mainspring run --help"),
        (["cluster", "nothing"], "mainspring cluster --help"),
        (["lst"], "mainspring --help"),
    ],
)
def test_a_wrong_call_is_sent_to_the_help_of_that_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch.dispatch(words) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: ")
    assert f"hint: {hint}" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logs"], "error: mainspring logs needs RUN."),
        (["endpoint", "predict"], "error: mainspring endpoint predict needs NAME."),
        (["wait", "train"], "error: There is no command 'wait': it is `mainspring logs -f` here."),
        (["squeue"], "error: There is no command 'squeue': it is `mainspring ps` here."),
        (["run", "."], "error: . is a folder."),
        (["sweep", "train.py", "lr=1:2"], "error: lr=1:2 does not say how to search."),
        (["sweep", "train.py", "lr=3"], "error: The sweep searches nothing: lr=3 is the same for every trial."),
    ],
)
def test_what_newcomers_type_is_answered_in_our_words(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch.dispatch(words) == 2
    assert capsys.readouterr().err.splitlines()[0] == told


def test_what_is_called_otherwise_elsewhere_is_here() -> None:
    assert not set(dispatch.ELSEWHERE) & {name for name, *_ in (*dispatch.COMMANDS, *dispatch.GROUPS)}
    assert {words.removesuffix(" -f") for words in dispatch.ELSEWHERE.values()} <= set(COMMANDS)


def test_a_token_that_was_not_given_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert dispatch.dispatch(["login", "http://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: Token: nothing was given."
