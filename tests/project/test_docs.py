"""The documentation agrees with the code, builds without a warning, and loads nothing from outside."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mainspring.core.errors import BY_CODE
from mainspring.core.lifecycle import ATTEMPT, RUN
from mainspring.core.reasons import ReasonCode
from mainspring.settings import Settings

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}


@pytest.fixture(scope="module")
def generator(scripts_on_path: Path) -> Any:
    """Return the module that writes the generated pages."""
    assert (scripts_on_path / "docs_generate.py").is_file()
    return importlib.import_module("docs_generate")


@pytest.fixture(scope="module")
def site(project: Path, project_command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation once and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    built = project_command(project / ".venv/bin/mkdocs", "build", "--strict", "-d", folder)
    assert built.returncode == 0, built.stderr[-4000:]
    assert not re.search(r"^WARNING", built.stderr, re.MULTILINE), built.stderr
    return folder


def test_committed_pages_are_what_the_code_gives(project: Path, generator: Any) -> None:
    stale = [
        name for name, make in generator.COMMITTED.items() if (project / "docs" / name).read_text(encoding="utf-8") != make()
    ]
    assert not stale, f"run scripts/docs and commit: {', '.join(stale)}"


def test_every_reason_has_a_section(project: Path) -> None:
    page = (project / "docs/reference/reasons.md").read_text(encoding="utf-8")
    assert re.findall(r"^## `(.+)`$", page, re.MULTILINE) == [code.value for code in ReasonCode]


def test_every_error_code_and_setting_is_in_its_page(project: Path) -> None:
    page = (project / "docs/reference/errors.md").read_text(encoding="utf-8")
    assert {row for row in re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)} == set(BY_CODE)
    page = (project / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE) == list(Settings.model_fields)


@pytest.mark.parametrize(("name", "table"), [("run", RUN), ("attempt", ATTEMPT)])
def test_the_drawing_has_every_state_and_one_arrow_for_each_pair(project: Path, name: str, table: dict[Any, Any]) -> None:
    drawing = ElementTree.parse(project / "docs/internals" / f"lifecycle-{name}.svg")  # noqa: S314 (our own file)
    inside = list(drawing.iter("{http://www.w3.org/2000/svg}text"))
    states = {one.text for one in inside if one.get("class") == "s"}
    arrows = [one for one in drawing.iter("{http://www.w3.org/2000/svg}path") if one.get("class") == "arrow"]
    assert states == {str(state) for (start, _), end in table.items() for state in (start, end)}
    assert len(arrows) == len({(start, end) for (start, _), end in table.items()})


def test_pages_load_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        outside = [address for address in _loaded(page) if re.match(r"(?:https?:)?//", address)]
        assert not outside, f"{page.relative_to(site)} loads {outside}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_interface_pages_are_made_from_the_programs(site: Path) -> None:
    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    for word in ("run", "ps", "logs", "why", "sweep", "deploy", "backup"):
        assert f"mainspring {word}" in commands
    routes = (site / "reference/rest.html").read_text(encoding="utf-8")
    assert routes.count("/api/v1/") > 60
    names = (site / "reference/python.html").read_text(encoding="utf-8")
    for word in ("log_metric", "sweep", "deploy", "Dataset", "Objective"):
        assert f">{word}<" in names or f'.{word}"' in names, word


def test_links_of_the_front_page_lead_somewhere(project: Path) -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (project / page).read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link and not link.endswith(".png")]
        assert links
        assert [link for link in links if not (project / link).exists()] == []


def _loaded(page: Path) -> list[str]:
    """Return what a browser would fetch by itself when it opens the page."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = {name: value or "" for name, value in attrs}
            if tag in LOADS and LOADS[tag] in given:
                found.append(given[LOADS[tag]])
            if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "modulepreload"):
                found.append(given.get("href", ""))

    Reader().feed(page.read_text(encoding="utf-8"))
    return found
