"""Every page and every dialog in a real Chromium: quiet, local, no wider than the screen, and axe-core finds nothing wrong.

A page is loaded once, light and 1280 px wide; then theme and width change below it, as they do for people whose system turns dark
in the evening. Pictures of every page go to the folder that MAINSPRING_SCREENSHOTS names. axe comes from a package: no request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
# Without `preload`, which fetches what is played: nothing is.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "preload": False}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}, "preload": False}
AXE = "([context, rules]) => axe.run(context, {resultTypes: ['violations'], ...rules}).then((found) => found.violations)"
Look = tuple[str, int, dict[str, Any]]
LOOKS: tuple[Look, ...] = (("light", 1280, RULES), ("dark", 1280, COLOURS), ("dark", 400, RULES))
BOTH = (LOOKS[0], LOOKS[-1])  # of a dialog nothing is hidden where it is narrow
PICTURED = {("light", 1280), ("dark", 400)}
PAGE = {"exclude": [["#q-loading-bar"]]}  # Quasar's own line on top, there for as long as an answer takes
DIALOG = {"include": [["[role=dialog], dialog"]]}  # what is behind it is looked at as a page
UNFOLD = "for (const one of document.querySelectorAll('details:not([open])')) { one.open = true; one.dataset.folded = 'yes' }"
FOLD = "for (const one of document.querySelectorAll('details[data-folded]')) { one.open = false; delete one.dataset.folded }"
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"  # a resize is heard a frame later
# Dialogs fade in and out, and colours fade over: half transparent, words have half the contrast. Nobody waits for it here.
FADED = """() => {
  const fades = document.getAnimations().filter((one) => one.effect.getComputedTiming().endTime < Infinity);
  for (const one of fades) one.finish();
  return fades.length === 0;
}"""
TURNED = "(isDark) => document.body.classList.contains('body--dark') === isDark"
CLOSED = "() => !document.querySelector('[role=dialog], dialog')"
# What a change of theme could leave behind: the colours of everything.
PAINT = """() => [...document.querySelectorAll('body, body *')].map((one) => {
  const {color, backgroundColor, borderTopColor, fill, stroke} = getComputedStyle(one);
  return [one.tagName, color, backgroundColor, borderTopColor, fill, stroke].join(' ');
})"""
LOADED_AGAIN = "run-failed"  # a page of which nothing moves any more
WIDTH = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
FITS_MS = 3000  # a chart takes its new width a moment later
# Every button that opens a dialog, by page; `picked` is the list of runs with two of them ticked.
DIALOGS = {
    "run": ("Cancel run", "Pause", "Run again", "Keys"),
    "run-ended": ("Run again",),
    "picked": ("Cancel 2", "Run again"),
    "sweep": ("Stop sweep",),
    "clusters": ("Drain", "Add cluster", "Check", "Forget"),
    "model": ("Deploy v1", "Make v1 champion"),
    "endpoint": ("Stop endpoint",),
    "settings": ("New token", "New secret", "New project", "Add a member", "Add a person", "Revoke", "Replace", "Remove"),
}


def test_every_page_is_quiet_local_fits_and_is_not_hard_to_read(tab: Callable[..., Any], site: Any) -> None:
    seen = tab()
    wrong = []
    for name, path in site.full.pages().items():
        show(seen.page, *LOOKS[0][:2])
        page = seen.open(path)
        expect(page.locator(".ms-main")).to_be_visible()
        for theme, width in looked_at(page, name, PAGE, wrong, LOOKS):
            if (theme, width) in PICTURED:
                picture(page, f"{name}-{theme}-{width}")
        if name == LOADED_AGAIN:
            turned = page.evaluate(PAINT)
            seen.open(path)
            show(page, *LOOKS[-1][:2])
            assert page.evaluate(PAINT) == turned, "a page that turned dark differs from one that was loaded so"
    assert not wrong, "\n".join(wrong)
    seen.close()


def test_no_dialog_is_hard_to_read(tab: Callable[..., Any], site: Any) -> None:
    seen = tab()
    pages, wrong = site.full.pages(), []
    for name, buttons in DIALOGS.items():
        page = seen.open(pages.get(name) or f"/runs?picked={site.full.ids['waiting']},{site.full.ids['running']}")
        for button in buttons:
            show(page, *LOOKS[0][:2])
            page.get_by_role("button", name=button, exact=True).first.click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_be_visible()
            expect(dialog.get_by_role("button").first).to_be_visible()
            for _ in looked_at(page, f"{button} of {name}", DIALOG, wrong, BOTH):
                pass
            page.keyboard.press("Escape")
            page.evaluate(FRAMES)
            page.wait_for_function(FADED)
            page.wait_for_function(CLOSED)
    assert not wrong, "\n".join(wrong)
    seen.close()


def show(page: Any, theme: str, width: int) -> None:
    """Let the system be light or dark and the window so wide, and wait until the page has followed."""
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    if page.url != "about:blank":
        page.wait_for_function(TURNED, arg=theme == "dark")
        page.evaluate(FRAMES)
        page.wait_for_function(FADED)


def looked_at(
    page: Any, name: str, context: dict[str, Any], wrong: list[str], looks: tuple[Look, ...]
) -> Iterator[tuple[str, int]]:
    """Give each look; the page is judged with all its folds open, and `wrong` gets a line for whatever is."""
    for theme, width, rules in looks:
        show(page, theme, width)
        yield theme, width
        page.evaluate(UNFOLD)
        found = (*too_wide(page, name, width), *hard_to_read(page, name, context, rules))
        page.evaluate(FOLD)
        wrong += [f"{theme}, {width} px: {one}" for one in found]


def too_wide(page: Any, name: str, width: int) -> list[str]:
    """Return a line when the page is wider than the screen."""
    with suppress(PlaywrightError):
        page.wait_for_function(f"(width) => {WIDTH} <= width", arg=width, timeout=FITS_MS)
        return []
    return [f"{name} is {page.evaluate(WIDTH)} px wide"]


def hard_to_read(page: Any, name: str, context: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    """Return a line for each rule that the page as it is now breaks."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = []
    for one in page.evaluate(AXE, [context, rules]):
        places = [f"{node['target'][0]} {node['html'][:120]} {node['any'][:1]}" for node in one["nodes"][:3]]
        found.append(f"{name}: {one['id']} ({one['impact']}): {one['help']}; {places}")
    return found


def picture(page: Any, name: str) -> None:
    """Write a picture of the whole page where pictures are wanted."""
    folder = os.environ.get("MAINSPRING_SCREENSHOTS", "")
    if folder:
        page.wait_for_timeout(1200)
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
