"""The page of dependencies says something about each one, and about no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROW = re.compile(r"^\| `([A-Za-z0-9._-]+)`(?: \(`([a-z]+)`\))? \| (.+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def declared(project: Path) -> dict[str, str]:
    """Return each dependency of pyproject.toml with the last extra or group that has it."""
    config = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    lists = {
        "": config["project"]["dependencies"],
        **config["project"]["optional-dependencies"],
        **{f"group {name}": wanted for name, wanted in config["dependency-groups"].items()},
    }
    found: dict[str, str] = {}
    for where, wanted in lists.items():
        for one in wanted:
            name = re.match(r"[A-Za-z0-9._-]+", one)
            assert name is not None
            if name[0] != "mainspring":
                found.setdefault(name[0], where)
    return found


def test_the_page_names_exactly_what_is_declared(project: Path, declared: dict[str, str]) -> None:
    page = (project / "docs" / "dependencies.md").read_text(encoding="utf-8")
    named = [row[0] for row in ROW.findall(page)]
    assert len(named) == len(set(named))
    assert set(named) == set(declared)


def test_every_row_has_a_reason_a_door_a_licence_and_a_fallback(project: Path) -> None:
    page = (project / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for row in ROW.findall(page):
        assert all(len(cell.strip()) > 1 for cell in row[2:]), row[0]


def test_extras_in_the_page_are_those_of_the_package(project: Path, declared: dict[str, str]) -> None:
    page = (project / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for name, extra, *_ in ROW.findall(page):
        if extra:
            assert declared[name] == extra, name
