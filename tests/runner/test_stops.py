"""A program that asks whether it is to end is told so, and not ended by the signal: by the shim and an installed Mainspring."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60.0  # only to end what hangs
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    (tmp_path / "kept").mkdir()
    return tmp_path / "spool"


@pytest.fixture(params=["shim", "installed"])
def start(request: pytest.FixtureRequest, bundle: Path, spool: Path) -> Start:
    """Start Python code as user code, once it has printed a line."""

    def begin(code: str) -> subprocess.Popen[str]:
        env = {"PATH": os.environ["PATH"], "MAINSPRING_SPOOL": str(spool), "MAINSPRING_CHECKPOINT": str(spool.parent / "kept")}
        words = ["-S"] if request.param == "shim" else []
        if words:
            env["PYTHONPATH"] = str(bundle / "shim")
        text = "import os, signal, sys, time\nimport mainspring as ms\n" + code
        made = subprocess.Popen([sys.executable, *words, "-u", "-c", text], env=env, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        assert made.stdout.readline() == "begun\n"
        return made

    return begin


def test_it_saves_once_and_ends_by_itself(start: Start, spool: Path) -> None:
    made = start(
        "assert not ms.should_checkpoint()\nprint('begun')\n"
        "while not ms.should_checkpoint(): time.sleep(0.01)\n"
        "with ms.writing_checkpoint() as folder: (folder / 'a').write_text('last')\n"
        "print(ms.should_checkpoint(), ms.should_stop())\nsys.exit(7)"
    )
    made.send_signal(signal.SIGTERM)  # an engine's own may come before the word
    (spool / "stop_requested").write_text("preempted\n")
    told, _ = made.communicate(timeout=LIMIT_S)
    assert (made.returncode, told) == (7, "False True\n")
    assert (spool.parent / "kept" / "a").read_text() == "last"


def test_a_signal_without_the_word_ends_it(start: Start) -> None:
    made = start("ms.should_stop()\nprint('begun')\nwhile True: time.sleep(0.05)")
    made.send_signal(signal.SIGTERM)
    assert made.wait(LIMIT_S) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("first", "ends"),
    [("", -signal.SIGTERM), ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); ms.should_stop()", 5)],
    ids=["it never asks", "a handler of its own"],
)
def test_the_signal_is_not_taken_from_others(start: Start, spool: Path, first: str, ends: Any) -> None:
    made = start(f"{first}\nprint('begun')\nwhile True: time.sleep(0.05)")
    (spool / "stop_requested").write_text("preempted\n")
    made.send_signal(signal.SIGTERM)
    assert made.wait(LIMIT_S) == ends


def test_what_it_forks_is_ended_by_the_signal(start: Start) -> None:
    """Once it is up: CPython loses a signal that comes while it forks."""
    made = start(
        "ms.should_stop()\nup, told = os.pipe()\npid = os.fork()\n"
        "if pid == 0: os.write(told, b'.'); time.sleep(300)\n"
        "os.read(up, 1); print('begun')\nos.kill(pid, signal.SIGTERM)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -15)"
    )
    assert made.wait(LIMIT_S) == 1
