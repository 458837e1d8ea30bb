"""Each command, given nonsense: a sentence, a next step, an exit code of the table, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e

NONSENSE: tuple[tuple[tuple[str, ...], int], ...] = (
    (("nonsense",), 2),
    (("ps", "--limit", "many"), 2),
    (("ps", "--state", "happy"), 2),
    (("ps", "--order", "sideways"), 2),
    (("ps", "--project", "nowhere"), 4),
    (("logs", "DONE", "--attempt", "99"), 4),
    (("logs", "DONE", "--replica", "7"), 4),
    (("logs", "DONE", "--tail", "-5"), 2),
    (("cancel", "DONE", "--grace", "soon"), 2),
    (("rerun", "DONE", "--set", "novalue"), 2),
    (("rerun", "DONE", "--set", "unknown=1"), 2),
    (("pull", "DONE", "FILE"), 2),
    (("tag", "DONE"), 2),
    (("tag", "DONE", "../x"), 2),
    (("resume", "DONE"), 5),
    (("pause", "DONE"), 5),
    (("sweep", "nothing.py:train", "-n", "2", "--maximize", "a", "x=uniform:0:1"), 2),
    (("sweep", "FILE:train", "-n", "2", "--maximize", "a", "x=uniform:1:0"), 2),
    (("sweep", "FILE:train", "-n", "2", "--maximize", "a", "x=log:-1:1"), 2),
    (("sweep", "FILE:train", "-n", "0", "--maximize", "a", "x=uniform:0:1"), 2),
    (("sweep", "FILE:train", "-n", "2", "--maximize", "a", "--sampler", "magic", "x=uniform:0:1"), 4),
    (("data", "add", "flights", "/nowhere/at/all"), 1),
    (("data", "add", "../x", "."), 2),
    (("data", "show", "nothing"), 4),
    (("data", "pull", "nothing@v9", "out"), 4),
    (("model", "show", "nothing"), 4),
    (("model", "alias", "nothing@1", "champion"), 4),
    (("deploy", "nothing@champion", "--name", "x"), 4),
    (("deploy", "nothing", "--name", "../x"), 2),
    (("endpoint", "show", "nothing"), 4),
    (("endpoint", "rollback", "nothing"), 4),
    (("node", "drain", "nothing"), 4),
    (("user", "add", "../x"), 2),
    (("project", "grant", "default", "nobody", "editor"), 4),
    (("project", "grant", "default", "nobody", "emperor"), 2),
    (("token", "rm", "nothing"), 4),
    (("token", "add", "x", "--expires", "-1d"), 2),
    (("secret", "rm", "NOTHING"), 4),
    (("secret", "set", "a-b"), 2),
    (("backup", "file.py/copy.db"), 2),
    (("restore", "/nowhere/at/all/copy.db"), 5),
    (("completion", "abacus"), 2),
    (("run", "LONG.py"), 2),
    (("run", "--environment", "LONG", "--", "true"), 2),
    (("sweep", "LONG.py:train", "-n", "2", "--maximize", "a", "x=uniform:0:1"), 2),
    (("data", "add", "flights", "LONG"), 1),
    (("backup", "LONG"), 1),
)
LONG = "x" * 5000  # longer than any file's name may be


@pytest.fixture(scope="session")
def done_run(shared_site: Site) -> str:
    """A run that is over."""
    ref = shared_site.python("print(1)")
    shared_site.wait(ref)
    return ref


@pytest.mark.parametrize(("words", "code"), NONSENSE, ids=[" ".join(words) for words, _ in NONSENSE])
def test_nonsense_is_answered_with_a_sentence(
    site: Site, done_run: str, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    (tmp_path / "file.py").write_text("def train(x=0.0):\n    return x\n")
    told = {"DONE": done_run, "FILE": "file.py", "FILE:train": "file.py:train"}
    told |= {"LONG": LONG, "LONG.py": f"{LONG}.py", "LONG.py:train": f"{LONG}.py:train"}
    done = site.cli(*[told.get(word, word) for word in words], cwd=tmp_path)
    assert done.code == code, done
    assert done.err.startswith("error: "), done
    assert "\nhint: " in done.err, done


def test_a_long_argument_is_no_path(site: Site, tmp_path: Path) -> None:
    done = site.cli("run", "--", sys.executable, "-c", f"print(len({LONG!r}))", cwd=tmp_path)
    assert (done.code, done.out.splitlines()[-1]) == (0, "5000"), done
