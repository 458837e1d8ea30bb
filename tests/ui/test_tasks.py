"""What a newcomer finds from the first page in three clicks at most, and what keys do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Any]
pytestmark = pytest.mark.browser
CLICKS = 3


class Newcomer:
    """Somebody who knows no address: begins at `/` and clicks on what is seen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._left = CLICKS

    def click(self, what: Locator) -> None:
        assert self._left, f"not found in {CLICKS} clicks"
        self._left -= 1
        what.click()

    def follow(self, name: str | re.Pattern[str]) -> None:
        self.click(self.page.locator(".ms-main, .ms-nav").get_by_role("link", name=name, exact=isinstance(name, str)).first)


def test_why_a_run_waits(tab: Open) -> None:
    seen = tab()
    who = Newcomer(seen.open("/"))
    who.follow("patient")
    expect(who.page.locator(".ms-title")).to_contain_text("queued")
    expect(who.page.locator(".ms-main")).to_contain_text(re.compile(r"GPU.*free"))
    seen.close()


def test_which_trial_was_best_and_why(tab: Open) -> None:
    seen = tab()
    who = Newcomer(seen.open("/"))
    who.follow("Sweeps")
    who.follow("search")
    expect(who.page.locator(".ms-sentence")).to_contain_text("the best auc is 0.62, trial 3 with depth 2, rate 0.06")
    expect(who.page.locator(".ms-chart canvas").first).to_be_visible()
    who.follow(re.compile("the best auc is"))
    expect(who.page.locator(".ms-title")).to_contain_text("search")
    seen.close()


def test_what_data_a_live_model_came_from(tab: Open) -> None:
    seen = tab()
    page = seen.open("/")
    who = Newcomer(page)
    who.click(page.get_by_role("table", name="Endpoints").get_by_role("link", name="delays"))
    expect(page.locator(".ms-graph")).to_contain_text("flights v2")
    who.click(page.locator(".ms-graph").get_by_role("link", name=re.compile("flights v2")))
    expect(page.locator(".ms-title")).to_contain_text("flights")
    seen.close()


def test_who_holds_a_gpu(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open("/")
    held = page.get_by_label(re.compile(r"^GPU 0 .*alice: steady \(0\.5\)"))
    expect(held).to_be_visible()
    expect(page.get_by_label(re.compile(r"^GPU 1 .*free"))).to_be_visible()
    who = Newcomer(page)
    who.click(held)
    page.wait_for_url(f"**/runs/{site.full.ids['running']}")
    seen.close()


def test_keys_search_walk_and_go(tab: Open) -> None:
    seen = tab()
    page = seen.open("/runs")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.get_by_role("searchbox").blur()
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("k")
    first = page.evaluate("document.activeElement.textContent")
    assert first
    assert first != second
    page.keyboard.press("x")
    expect(page.locator(".ms-picked")).to_contain_text("1 chosen")
    page.keyboard.press("g")
    page.keyboard.press("q")
    page.wait_for_url("**/queue")
    seen.close()


def test_a_key_tells_the_keys_and_a_button_does_too(tab: Open) -> None:
    seen = tab()
    page = seen.open("/")
    page.keyboard.press("?")
    told = page.get_by_role("dialog", name="Keys")
    expect(told).to_contain_text("next and previous row")
    expect(told).to_contain_text("Data sets")
    page.keyboard.press("Escape")
    expect(told).to_have_count(0)
    page.get_by_role("button", name="Keys").click()
    expect(told).to_be_visible()
    told.get_by_role("button", name="Close").click()
    expect(told).to_have_count(0)
    seen.close()


def test_everything_is_reached_by_its_name(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open("/")
    page.keyboard.press(".")
    asked = page.get_by_role("combobox", name="Go to or do")
    asked.fill("steady")
    expect(page.get_by_role("option").first).to_contain_text("steady")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{site.full.ids['running']}")
    page.wait_for_function("window.did_handshake === true || window.socket?.connected === true")
    page.keyboard.press(".")
    asked.fill("cancel run")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Cancel")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press(".")
    asked.fill("<b>no such</b>")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?q=*no+such*")
    expect(page.locator(".ms-main b")).to_have_count(0)
    seen.close()
