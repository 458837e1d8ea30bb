"""The pages in a real Chromium: buttons that work, logs that follow, markup that stays text. How each page looks: `test_axe`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from mainspring.core.actors import SYSTEM
from mainspring.core.records import NodeState
from mainspring.services import tokens

Open = Callable[..., Any]
Aside = Callable[[Callable[[], Any]], Any]
pytestmark = pytest.mark.browser


def test_a_run_is_cancelled_after_the_dialog_said_what_happens(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs/{site.full.ids['waiting']}")
    page.get_by_role("button", name="Cancel run").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("it leaves the queue at once")
    dialog.get_by_role("button", name="Leave it").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".ms-title")).to_contain_text("queued")
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel run").click()
    expect(page.locator(".ms-title")).to_contain_text("cancelled")
    run = aside(lambda: site.full.ctx.store.runs.get(site.full.ids["waiting"]))
    assert run is not None
    assert run.state == "cancelled"
    seen.close()


def test_a_run_is_run_again_with_another_parameter(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs/{site.full.ids['good']}")
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("dialog").get_by_label("rate").fill("0.25")
    page.get_by_role("dialog").get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: site.full.ids["good"] not in url)
    fresh = aside(lambda: site.full.ctx.store.runs.get(page.url.rpartition("/")[2]))
    assert fresh is not None
    assert fresh.spec.command[-2:] == ("--rate", "0.25")
    seen.close()


def test_the_log_follows_and_is_searched(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs/{site.full.ids['running']}")
    log = page.locator(".ms-log")
    expect(log).to_contain_text("epoch 39")
    aside(lambda: site.full.write(site.full.ids["running"], "log", b"\x1b[31m<b>needle</b>\x1b[0m\n"))
    expect(log).to_contain_text("<b>needle</b>")
    expect(log.locator(".an-31")).to_have_count(1)
    page.wait_for_function("(() => { const l = document.querySelector('.ms-log'); return l.scrollTop > 0 })()")
    page.get_by_label("Search the log").fill("NEEDLE")
    expect(log.locator("mark")).to_have_text("needle")
    expect(log).not_to_contain_text("epoch 39")
    seen.close()


def test_markup_of_users_never_runs(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs/{site.full.ids['good']}")
    expect(page.locator(".ms-log")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator(".ms-log img").count() == 0
    seen.close()


def test_a_node_and_a_gpu_are_drained_and_resumed(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open("/clusters")
    page.get_by_role("button", name="Drain").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("By").fill("soon")
    dialog.get_by_role("button", name="Drain").click()
    expect(dialog.get_by_role("status")).to_contain_text("By 'soon' is no moment.")
    dialog.get_by_label("By").fill("30m")
    dialog.get_by_label("Reason").fill("new disks")
    dialog.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("table", name="Nodes")).to_contain_text("drained by alice: new disks; what still runs is stopped at")
    assert [node.state for node in aside(site.full.ctx.store.nodes.all)] == [NodeState.DRAINING]
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Drain").click()
    dialog.get_by_label("What").click()
    page.get_by_role("option", name="GPU 1").click()
    dialog.get_by_role("button", name="Drain").click()
    page.get_by_role("button", name="Resume GPU 1").click()
    expect(page.get_by_role("button", name="Resume GPU 1")).to_have_count(0)
    assert [(node.state, node.out()) for node in aside(site.full.ctx.store.nodes.all)] == [(NodeState.READY, frozenset())]
    seen.close()


def test_the_box_of_an_endpoint_shows_what_a_client_gets(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open("/endpoints/delays")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#try-answer")).to_contain_text("503")  # nothing serves in this house
    expect(page.locator("#try-answer")).to_contain_text("No replica of endpoint")
    seen.complaints = [one for one in seen.complaints if "503" not in one]
    seen.close()


def test_who_is_not_known_is_told_how_to_come_in(site: Any) -> None:
    request = urllib.request.Request(f"{site.url}/runs", headers={"Accept": "text/html"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 401
    assert "mainspring ui" in refused.value.read().decode()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_of_the_interface_without_a_route_is_told_in_json(site: Any, method: str) -> None:
    token = tokens.issue(site.full.ctx, SYSTEM, "alice", "test")[0]
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{site.url}/api/v1/nowhere", headers=headers, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert (refused.value.code, json.load(refused.value)["error"]["code"]) == (404, "not_found")


def test_answers_forbid_other_hosts(tab: Open, site: Any) -> None:
    seen = tab()
    answer = seen.go(site.url + "/queue")
    assert answer is not None
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]
    seen.close()
