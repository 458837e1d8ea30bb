"""Every page in both themes against axe-core: contrast, names, landmarks, tables. No request: axe comes from a package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]}


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
def test_no_page_is_hard_to_read(tab: Callable[..., Any], site: Any, theme: str, width: int) -> None:
    seen = tab(theme=theme, width=width)
    wrong = []
    for name, path in site.full.pages().items():
        page = seen.open(path)
        expect(page.locator(".ms-main")).to_be_visible()
        for one in Axe().run(page, options=RULES).response["violations"]:
            places = [f"{node['target'][0]} {node['html'][:120]} {node['any'][:1]}" for node in one["nodes"][:3]]
            wrong.append(f"{name}: {one['id']} ({one['impact']}): {one['help']}; {places}")
    assert not wrong, "\n".join(wrong)
    seen.close()
