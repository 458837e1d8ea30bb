"""Every page in both themes against axe-core: contrast, names, landmarks, tables. No request: axe comes from a package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]}
PASSING = {"exclude": [["#q-loading-bar"]]}  # Quasar's own line on top, there for as long as an answer takes
DIALOG = {"include": [["[role=dialog], dialog"]]}  # what is behind it is looked at as a page
# A dialog fades in: half transparent its words have half the contrast.
SETTLED = """() => [...document.querySelectorAll('[role=dialog]')].every(
  (one) => getComputedStyle(one).opacity === '1'
    && one.getAnimations({subtree: true}).every((move) => move.playState !== 'running'))"""
# Every button that opens a dialog, by page; `picked` is the list of runs with two of them ticked.
DIALOGS = {
    "run": ("Cancel run", "Pause", "Run again", "Keys"),
    "run-ended": ("Run again",),
    "picked": ("Cancel 2", "Run again"),
    "sweep": ("Stop sweep",),
    "clusters": ("Drain",),
    "model": ("Deploy v1", "Make v1 champion"),
    "endpoint": ("Stop endpoint",),
    "settings": ("New token", "New secret", "New project", "Add a member", "Add a person", "Revoke", "Replace", "Remove"),
}


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
def test_no_page_is_hard_to_read(tab: Callable[..., Any], site: Any, theme: str, width: int) -> None:
    seen = tab(theme=theme, width=width)
    wrong = []
    for name, path in site.full.pages().items():
        page = seen.open(path)
        expect(page.locator(".ms-main")).to_be_visible()
        wrong += hard_to_read(page, name)
    assert not wrong, "\n".join(wrong)
    seen.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 400)])
def test_no_dialog_is_hard_to_read(tab: Callable[..., Any], site: Any, theme: str, width: int) -> None:
    seen = tab(theme=theme, width=width)
    pages, wrong = site.full.pages(), []
    for name, buttons in DIALOGS.items():
        address = pages.get(name) or f"/runs?picked={site.full.ids['waiting']},{site.full.ids['running']}"
        page = seen.open(address)
        for button in buttons:
            page.get_by_role("button", name=button, exact=True).first.click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_be_visible()
            expect(dialog.get_by_role("button").first).to_be_visible()
            page.wait_for_function(SETTLED)
            wrong += hard_to_read(page, f"{button} of {name}", DIALOG)
            wide = page.evaluate("document.documentElement.scrollWidth")
            wrong += [f"{button} of {name} is {wide} px wide on a screen of {width}"] if wide > width else []
            page.keyboard.press("Escape")
            expect(dialog).to_have_count(0)
    assert not wrong, "\n".join(wrong)
    seen.close()


def hard_to_read(page: Any, name: str, context: dict[str, Any] = PASSING) -> list[str]:
    """Return a line for each rule that the page as it is now breaks."""
    found = []
    for one in Axe().run(page, context=context, options=RULES).response["violations"]:
        places = [f"{node['target'][0]} {node['html'][:120]} {node['any'][:1]}" for node in one["nodes"][:3]]
        found.append(f"{name}: {one['id']} ({one['impact']}): {one['help']}; {places}")
    return found
