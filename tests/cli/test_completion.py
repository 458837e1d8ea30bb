"""Completion in real shells: commands, members of groups, options, and files where a file is meant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mainspring.cli.completion import script
from mainspring.cli.dispatch import dispatch

BASH = """
source <(mainspring completion bash)
asked=$(complete -p mainspring)
[[ $asked == *"-o default"* ]] || echo "no files"
name=${asked##*-F }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
${name%% *} mainspring "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'mainspring completion fish | source; complete -C "$argv"'
# A terminal of its own: what zsh completes it only tells there. Two tabs, then it is read until the word is offered.
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -U compinit; compinit -D -u; SETUP; PS1=LIS""TENS'
zpty -r z line '*LISTENS*'
zpty -w -n z "$1"$'\\t\\t'
zpty -r z line "*$2*" && print -r -- "$line"
zpty -d z
"""


def test_programs_get_the_script_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["completion", "zsh", "--json"]) in (0, None)
    assert json.loads(capsys.readouterr().out) == {"shell": "zsh", "script": script("zsh")}


@pytest.fixture
def told(tmp_path: Path, need: Callable[[bool, str, str], None]) -> Callable[..., str]:
    """Return what a shell program prints in a folder with two scripts, with our command on the PATH."""
    for name in ("hello.py", "help.py"):
        (tmp_path / name).write_text("print(1)\n", encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HOME": str(tmp_path), "MAINSPRING_HOME": str(tmp_path / "home"), "TERM": "xterm"}

    def run(*words: str) -> str:
        need(shutil.which(words[0]) is not None, words[0], "scripts/engines/install")
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    return run


def bash(_offered: str, *words: str) -> tuple[str, ...]:
    return ("bash", "--norc", "-c", BASH, "bash", *words)


def fish(_offered: str, *words: str) -> tuple[str, ...]:
    return ("fish", "--no-config", "-c", FISH, " ".join(words))


def zsh(offered: str, *words: str) -> tuple[str, ...]:
    return ("zsh", "-f", "-c", ZSH.replace("SETUP", "source <(mainspring completion zsh)"), "zsh", " ".join(words), offered)


@pytest.mark.parametrize("shell", [bash, fish, zsh])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("mainspring", "s"), "sweep"),
        (("mainspring", "cluster", ""), "drain"),
        (("mainspring", "run", "--gpu"), "--gpu-memory"),
    ],
)
def test_commands_and_options_are_completed(
    told: Callable[..., str], shell: Callable[..., tuple[str, ...]], words: tuple[str, ...], offered: str
) -> None:
    assert offered in told(*shell(offered, *words))


def test_bash_completes_files_where_nothing_else_is_meant(told: Callable[..., str]) -> None:
    assert told(*bash("", "mainspring", "run", "he")).strip() == ""


@pytest.mark.parametrize("shell", [fish, zsh])
def test_files_are_completed_for_a_run(told: Callable[..., str], shell: Callable[..., tuple[str, ...]]) -> None:
    assert "help.py" in told(*shell("help.py", "mainspring", "run", "he"))


def test_zsh_answers_from_its_folder_of_functions_too(told: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "_mainspring").write_text(script("zsh"), encoding="utf-8")
    program = ZSH.replace("autoload", f"fpath=({tmp_path}/functions $fpath); autoload").replace("SETUP", ":")
    assert "drain" in told("zsh", "-f", "-c", program, "zsh", "mainspring cluster ", "drain")
