"""The checker of house rules finds what it is there to find, and nothing in the project."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def house(scripts_on_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], list[str]]:
    """Return a function that judges a project made of the given files."""
    assert (scripts_on_path / "check_house.py").is_file()
    checker: Any = importlib.import_module("check_house")

    def judge(files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (tmp_path / "src/mainspring").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(checker, "ROOT", tmp_path)
        return list(checker.breaches())

    return judge


def test_the_project_keeps_its_rules(project: Path, project_command: Callable[..., Any]) -> None:
    judged = project_command(project / ".venv/bin/python", "scripts/check_house.py")
    assert judged.returncode == 0, judged.stdout


def test_a_tidy_project_has_no_breach(house: Callable[[dict[str, str]], list[str]]) -> None:
    files = {
        "src/mainspring/core/ids.py": "X = 1\n",
        "src/mainspring/core/__init__.py": '"""Ids."""\n\nfrom mainspring.core.ids import X\n\n__all__ = ["X"]\n',
        "src/mainspring/core/README.md": "# core\n",
        "src/mainspring/cli/up.py": "def up():\n    from mainspring.app import serve\n    return serve\n",
        "src/mainspring/cli/README.md": "# cli\n",
        "src/mainspring/app.py": "def serve():\n    pass\n",
        "src/mainspring/core/most.py": "def f():\n" + "    x = 1\n" * 79,
    }
    assert house(files) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("src/mainspring/core/long.py", "x = 1\n" * 601, "601 lines"),
        ("src/mainspring/core/one.py", "def f():\n" + "    x = 1\n" * 80, "f has 81 lines"),
        (
            "src/mainspring/core/two.py",
            "def f(\n" + "".join(f"    a{n}=0,\n" for n in range(78)) + "):\n    x = 1\n",
            "f has 81 l",
        ),
        ("src/mainspring/core/utils.py", "x = 1\n", "says nothing"),
        ("src/mainspring/core/typed.py", "import msgspec\n\nX = msgspec.json.decode(b'[]', type=list)\n", "reads one at a time"),
        ("src/mainspring/core/made.py", "import msgspec\n\nX = msgspec.json.Decoder(list)\n", "reads one at a time"),
        ("src/mainspring/core/late.py", "def f():\n    from mainspring.store import x\n    return x\n", "inside f"),
        ("src/mainspring/core/__init__.py", "x = 1\n", "only a docstring"),
        ("src/mainspring/core/__init__.py", '__all__ = ["b", "a"]\n', "not sorted"),
        ("tests/core/test_place.py", "# " + "/" + "work/main/x\n", "one machine"),
        ("src/mainspring/core/README.md", "line\n" * 61, "longer than one screen"),
    ],
)
def test_a_breach_is_found(house: Callable[[dict[str, str]], list[str]], name: str, text: str, said: str) -> None:
    found = house({"src/mainspring/core/README.md": "# core\n", "src/mainspring/core/good.py": "x = 1\n", name: text})
    assert len(found) == 1
    assert said in found[0]


def test_a_room_without_a_page_is_found(house: Callable[[dict[str, str]], list[str]]) -> None:
    assert house({"src/mainspring/store/runs.py": "x = 1\n"}) == ["src/mainspring/store: the room has no README.md"]


def test_a_cycle_is_found_over_three_modules(house: Callable[[dict[str, str]], list[str]]) -> None:
    found = house(
        {
            "src/mainspring/core/README.md": "# core\n",
            "src/mainspring/core/a.py": "from mainspring.core import b\n",
            "src/mainspring/core/b.py": "import mainspring.core.c\n",
            "src/mainspring/core/c.py": "from .a import x\n",
        }
    )
    assert found == ["import cycle: mainspring.core.a -> mainspring.core.b -> mainspring.core.c"]
