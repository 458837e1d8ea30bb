"""The page of dependencies says something about each one, and about no other."""

from __future__ import annotations

import ast
import re
import sys
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


def test_the_contract_of_core_names_all_that_is_imported_anywhere(project: Path) -> None:
    contracts = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (forbidden,) = [set(one["forbidden_modules"]) for one in contracts if one["id"] == "core-alone"]
    used = set()
    for path in (project / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add(str(node.module).partition(".")[0])
    assert used - set(sys.stdlib_module_names) - {"mainspring", "msgspec"} <= forbidden
