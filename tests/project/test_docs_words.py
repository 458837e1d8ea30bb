"""What the documents tell people to type exists: commands, their flags, names of the Python interface."""

from __future__ import annotations

import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

import mainspring
from mainspring.cli import dispatch
from mainspring.core.cluster_config import flag, options_of
from mainspring.plugins import engine

TEST = re.compile(r"\b(tests/\w+/\w+\.py)(?:::(test_\w+))?")
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages(project: Path) -> list[Path]:
    """Return the pages that people read and wrote."""
    made = {"cli.md", "python.md", "rest.md"}
    found = [path for path in (project / "docs").rglob("*.md") if path.name not in made or path.parent.name != "reference"]
    return [project / "README.md", project / "CONTRIBUTING.md", project / "examples/README.md", *found]


@pytest.fixture(scope="module")
def flags(scripts_on_path: Path) -> dict[str, str]:
    """Return what the reference says about each command."""
    assert scripts_on_path.is_dir()
    page: str = importlib.import_module("docs_interfaces").command_line_page()
    parts = re.split(r"^#+ (mainspring [a-z -]+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _options_of(kind: str) -> str:
    """Return the options of an engine kind as they are written."""
    return " ".join(["--name", *(flag(option) for option in options_of(engine(kind)))])


def test_commands_in_the_documents_exist(pages: list[Path]) -> None:
    single = {name for name, *_ in dispatch.COMMANDS}
    groups = {name: {word for word, _ in members} for name, _, _, members in dispatch.GROUPS}
    seen = 0
    for page, words in _commands(pages):
        first, second = words[0], words[1] if len(words) > 1 else ""
        assert first in single or first in groups, f"{page}: mainspring {first}"
        if first in groups and re.fullmatch(r"[a-z]+", second):
            assert second in groups[first], f"{page}: mainspring {first} {second}"
        seen += 1
    assert seen > 50


def test_flags_in_the_documents_exist(pages: list[Path], flags: dict[str, str]) -> None:
    groups = {name for name, *_ in dispatch.GROUPS}
    for page, words in _commands(pages):
        command = " ".join(["mainspring", *words[: 2 if words[0] in groups else 1]])
        own = words[: words.index("--")] if "--" in words else words
        for word in own:
            if re.fullmatch(r"--[a-z-]+(?:=.*)?", word) and word not in ("--help", "--version"):
                told = flags.get(command, "") + (_options_of(words[2]) if command == "mainspring cluster add" else "")
                assert word.split("=")[0] in told, f"{page}: {command} {word}"


def test_commands_in_the_documents_are_taken_as_they_stand(pages: list[Path]) -> None:
    """Not only the words: how many there are, in which order, and what their values are."""
    app, seen, wrong = dispatch.build_app(), 0, []
    for page, words in _commands(pages, inline=False):
        if not any(mark in word for word in words for mark in ("…", "...", "|", "<", ">", "$(")):
            try:
                app.parse_args(words, exit_on_error=False, print_error=False)
            except CycloptsError as refused:
                wrong.append(f"{page}: mainspring {shlex.join(words)}: {refused}")
            seen += 1
    assert not wrong, "\n".join(wrong)
    assert seen > 80


def test_tests_that_the_documents_name_exist(pages: list[Path], project: Path) -> None:
    named = {found for page in pages for found in TEST.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 15
    for path, name in named:
        assert (project / path).exists(), path
        assert not name or f"def {name}(" in (project / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_names_of_the_python_interface_exist(pages: list[Path]) -> None:
    named = {(page.name, name) for page in pages for name in re.findall(r"\bms\.([A-Za-z_]+)", page.read_text(encoding="utf-8"))}
    assert len({name for _, name in named}) > 12
    missing = sorted(f"{page}: ms.{name}" for page, name in named if not hasattr(mainspring, name))
    assert not missing


def test_python_in_the_documents_compiles(pages: list[Path]) -> None:
    seen = 0
    for page in pages:
        for kind, code in FENCE.findall(page.read_text(encoding="utf-8")):
            if kind == "python":
                compile(textwrap.dedent(code), str(page), "exec")
                seen += 1
    assert seen > 6


def test_the_tutorial_s_task_is_a_plain_call(pages: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAINSPRING_SPOOL", raising=False)
    (page,) = [page for page in pages if page.name == "tutorial.md"]
    (code,) = [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if "@ms.task" in code]
    names: dict[str, Any] = {"__name__": "tutorial"}
    exec(compile(code, str(page), "exec"), names)  # noqa: S102 (the code that the tutorial asks people to run)
    model = names["train"](0.1)
    assert type(model).__name__ == "Model"


def _commands(pages: list[Path], *, inline: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield each `mainspring …` line of the shell blocks and of `inline` code, as words after the program's name."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        lines = [
            line
            for kind, code in FENCE.findall(text)
            if kind in ("bash", "sh", "")
            for line in code.replace("\\\n", " ").splitlines()
        ]
        lines += re.findall(r"`(mainspring [^`…]+)`", text) if inline else []
        for line in (part for whole in lines for part in re.split(r" && | ; ", whole)):
            if line.strip().startswith("mainspring "):
                words = shlex.split(line.split(" #")[0].replace("[", "").replace("]", ""))[1:]
                if words and re.fullmatch(r"[a-z]+", words[0]):
                    yield page.name, words
