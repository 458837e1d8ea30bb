"""What people do on the pages, in a real Chromium: compare, zoom, deploy, roll back, cancel, run again, add a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from mainspring.controllers.fleet import Fleet, Reach
from mainspring.controllers.operations import Operations
from mainspring.core.actors import SYSTEM
from mainspring.core.records import Role, RunState
from mainspring.services import endpoints, models, pipelines, projects, secrets, users
from mainspring.testing.lanes import AtOnce

Open = Callable[..., Any]
Aside = Callable[[Callable[[], Any]], Any]
pytestmark = pytest.mark.browser
# The first chart is drawn and has taken the brush: before that a drag does nothing.
BRUSHED = """() => {
  const drawn = document.querySelector(".ms-chart canvas");
  const chart = drawn && getElement(Number(drawn.closest(".ms-chart").id.slice(1)))?.chart;
  return chart && chart.msHasBrush;
}"""


def test_runs_are_ticked_and_compared(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open("/runs")
    page.get_by_label("Choose good").check()
    expect(page.locator(".ms-picked")).to_contain_text("Tick another one")
    page.get_by_label("Choose steady").check()
    expect(page.locator(".ms-picked")).to_contain_text("2 chosen")
    page.wait_for_url(lambda url: "%2C" in url or "," in urlsplit(url).query)
    assert set(_query(page)["picked"][0].split(",")) == {site.full.ids["good"], site.full.ids["running"]}
    page.get_by_role("link", name="Compare").click()
    expect(page.locator(".ms-sentence")).to_contain_text("They differ in rate")
    expect(page.get_by_role("table", name="Parameters that differ")).to_contain_text("0.2")
    expect(page.locator(".ms-chart canvas").first).to_be_visible()
    seen.close()


def test_ticks_outlive_a_filter_and_a_fresh_drawing(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open("/runs")
    page.get_by_label("Choose good").check()
    expect(page.locator(".ms-picked")).to_contain_text("1 chosen")
    aside(lambda: site.full.submit("newcomer"))
    expect(page.get_by_text("1 new: show")).to_be_visible()
    expect(page.get_by_label("Choose good")).to_be_checked()
    page.get_by_label("State").select_option("succeeded")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".ms-picked")).to_contain_text("1 chosen")
    expect(page.get_by_label("Choose good")).to_be_checked()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".ms-picked")).to_have_count(0)
    expect(page.get_by_label("Choose good")).not_to_be_checked()
    seen.close()


def test_chosen_runs_are_cancelled_together(tab: Open, aside: Aside, site: Any) -> None:
    ids = [aside(lambda: site.full.submit(f"late-{n}", gpus=2)).id for n in range(2)]  # noqa: B023
    seen = tab()
    page = seen.open(f"/runs?picked={','.join(ids)}")
    page.get_by_role("button", name="Cancel 2").click()
    expect(page.get_by_role("dialog")).to_contain_text("2 leave the queue at once")
    page.get_by_role("dialog").get_by_role("button", name="Cancel them").click()
    expect(page.locator(".ms-picked")).not_to_contain_text("Cancel")
    assert [aside(lambda: site.full.ctx.store.runs.get(id)).state for id in ids] == [RunState.CANCELLED] * 2  # noqa: B023
    seen.close()


def test_chosen_runs_are_run_again_together(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs?picked={site.full.ids['good']},{site.full.ids['bad']}")
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("dialog").get_by_role("button", name="Run again").click()
    expect(page.get_by_text("2 new: show")).to_be_visible()
    seen.close()


def test_a_long_list_grows_while_it_is_scrolled(tab: Open, aside: Aside, site: Any) -> None:
    aside(lambda: [site.full.submit(f"many-{n}", gpus=2) for n in range(110)])
    seen = tab()
    page = seen.open("/runs")
    rows = page.get_by_role("table", name="Runs").locator("tbody tr")
    expect(rows).to_have_count(50)
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 5000)
    expect(rows).to_have_count(100)
    page.mouse.wheel(0, 9000)
    expect(rows).to_have_count(118)
    expect(page.get_by_role("button", name="More")).to_have_count(0)
    seen.close()


def test_a_drag_over_a_chart_asks_for_its_steps(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open(f"/runs/{site.full.ids['running']}")
    page.wait_for_function(BRUSHED)
    box = page.locator(".ms-chart canvas").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=4)
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=4)
    page.mouse.up()
    expect(page.get_by_label("From step")).not_to_have_value("")
    start, end = float(_query(page)["from"][0]), float(_query(page)["to"][0])
    assert 5 < start < end < 34
    page.get_by_role("button", name="Whole").click()
    expect(page.get_by_label("From step")).to_have_value("")
    assert "from" not in _query(page)
    page.get_by_label("From step").fill("10")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url(lambda url: "from=10" in url)
    seen.close()


def test_a_point_that_comes_later_is_drawn(tab: Open, aside: Aside, site: Any) -> None:
    run = site.full.ids["running"]
    seen = tab()
    page = seen.open(f"/runs/{run}")
    page.wait_for_function(BRUSHED)
    last = "(id) => getElement(id).chart.getOption().series[0].data.at(-1)[0]"
    chart = int(page.locator(".ms-chart").first.get_attribute("id").removeprefix("c"))
    assert page.evaluate(last, chart) == 39
    aside(lambda: site.full.write(run, "metrics", b'["loss",0.02,47,47.0]\n'))
    page.wait_for_function(f"(id) => ({last})(id) === 47", arg=chart)
    seen.close()


def test_a_version_is_deployed_and_rolled_back(tab: Open, aside: Aside, site: Any) -> None:
    full = site.full
    aside(lambda: _second_version(full))
    seen = tab()
    page = seen.open("/models/delays")
    page.get_by_role("button", name="Deploy v2").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("can be rolled back")
    expect(dialog.get_by_label("Endpoint")).to_have_value("delays")
    dialog.get_by_role("button", name="Deploy").click()
    page.wait_for_url(lambda url: "/endpoints/delays" in url)
    expect(page.get_by_role("table", name="Revisions")).to_contain_text("delays v2")
    page.get_by_role("button", name="Roll back to it").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("deployed again as the next revision")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("table", name="Revisions").locator("tbody tr")).to_have_count(3)
    found = aside(lambda: endpoints.revisions(full.ctx, full.actor, "delays"))
    assert [one.model_version for one in found] == [1, 2, 1]
    seen.close()


def test_a_pipeline_is_cancelled(tab: Open, aside: Aside, site: Any) -> None:
    full = site.full
    graph = aside(lambda: full.ctx.store.pipelines.get(full.ids["pipeline"])).graph
    fresh = aside(lambda: pipelines.start(full.ctx, full.actor, "fresh", graph))
    seen = tab()
    page = seen.open(f"/pipelines/{fresh.id}")
    page.get_by_role("button", name="Cancel pipeline").click()
    expect(page.get_by_role("dialog")).to_contain_text("Ends 0 running steps, starts no other; 0 results stay.")
    page.get_by_role("dialog").get_by_role("button", name="Cancel pipeline").click()
    expect(page.locator(".ms-title")).to_contain_text("cancelled")
    expect(page.get_by_role("button", name="Cancel pipeline")).to_have_count(0)
    seen.close()


def test_a_pipeline_that_failed_goes_on_after_its_good_steps(tab: Open, aside: Aside, site: Any) -> None:
    full = site.full
    seen = tab()
    page = seen.open(f"/pipelines/{full.ids['pipeline']}")
    page.get_by_role("button", name="Go on after the good steps").click()
    page.wait_for_url(lambda url: "/pipelines/" in url and full.ids["pipeline"] not in url)
    again = page.url.rpartition("/")[2].partition("?")[0]
    found = aside(lambda: pipelines.get(full.ctx, full.actor, again))
    before = aside(lambda: pipelines.get(full.ctx, full.actor, full.ids["pipeline"]))
    assert found.graph == before.graph
    assert [one.run for one in found.steps if one.state == "succeeded"] == [
        one.run for one in before.steps if one.state == "succeeded" and one.run
    ]
    expect(page.get_by_role("button", name="Cancel pipeline")).to_be_visible()
    aside(lambda: pipelines.cancel(full.ctx, full.actor, again))
    seen.close()


def test_a_cluster_is_refused_then_added_checked_and_forgotten(tab: Open, aside: Aside, site: Any, tmp_path: Path) -> None:
    ctx = site.full.ctx
    reach = Reach(url=site.url, network_url="https://192.0.2.1:1")
    controller = Operations(ctx, Fleet(ctx, tmp_path / "clusters"), cast(Any, AtOnce()), reach)

    def answered() -> None:
        while not aside(ctx.store.operations.pending):
            page.wait_for_timeout(50)
        aside(controller.tick)

    seen = tab()
    page = seen.open("/clusters")
    fold = page.locator("[data-fold=lab]")
    fold.locator("summary").click()
    page.get_by_role("button", name="Add cluster").click()
    dialog = page.get_by_role("dialog")
    add, said = dialog.get_by_role("button", name="Add cluster"), dialog.get_by_role("status")
    dialog.locator("summary").click()
    dialog.get_by_label("gpus", exact=True).fill("many")
    add.click()
    expect(said).to_contain_text("--gpus takes a number, not 'many'.")
    dialog.get_by_label("gpus", exact=True).fill("")
    dialog.get_by_label("host", exact=True).fill("nonsense")
    add.click()
    answered()
    expect(said).to_contain_text("Cluster 'docker' cannot be used:")
    expect(said.get_by_role("button")).to_be_visible()  # what mends it, to be copied
    dialog.get_by_label("Kind").click()
    page.get_by_role("option", name="simulated-cloud").click()
    dialog.get_by_label("Name").fill("cloud")
    add.click()
    answered()
    told = page.get_by_role("dialog", name="cloud is registered with 0 nodes.")
    expect(told).to_contain_text("4 at most")
    told.get_by_role("button", name="Check").click()
    expect(told).to_have_count(0)  # and does not take along what it opened
    answered()
    expect(page.get_by_role("dialog", name="Check cloud")).to_contain_text("No node of cluster 'cloud' takes runs now.")
    page.keyboard.press("Escape")
    block = page.locator("section", has=page.get_by_role("heading", name="Clusters"))
    expect(block).to_contain_text("simulated-cloud, 0 nodes")
    expect(fold).to_have_attribute("open", "")  # what was drawn again is as it was left
    block.get_by_role("button", name="Forget").first.click()
    expect(dialog).to_contain_text("Forget cloud?")
    dialog.get_by_role("button", name="Forget").click()
    expect(block).not_to_contain_text("simulated-cloud")
    assert [one.name for one in aside(ctx.store.clusters.all)] == ["lab", "local"]
    seen.close()


def test_rights_that_end_do_so_on_open_pages_too(tab: Open, aside: Aside, site: Any) -> None:
    full = site.full
    run = aside(lambda: full.submit("guarded", gpus=2))
    aside(lambda: users.add(full.ctx, SYSTEM, "bob", is_admin=True))  # somebody must stay one
    aside(lambda: projects.grant(full.ctx, SYSTEM, "default", "alice", Role.EDITOR))
    seen = tab()
    page = seen.open(f"/runs/{run.id}")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    aside(lambda: users.edit(full.ctx, SYSTEM, "alice", is_admin=False))
    aside(lambda: projects.grant(full.ctx, SYSTEM, "default", "alice", Role.VIEWER))
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    aside(lambda: projects.revoke(full.ctx, SYSTEM, "default", "alice"))
    expect(page.get_by_text("There is no run").first).to_be_visible()
    aside(lambda: users.edit(full.ctx, SYSTEM, "alice", is_admin=True))
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    seen.close()


def test_a_token_is_made_shown_once_and_revoked(tab: Open, site: Any) -> None:
    seen = tab()
    page = seen.open("/settings")
    page.get_by_role("button", name="New token").click()
    page.get_by_role("dialog").get_by_label("Name").fill("notebook")
    page.get_by_role("dialog").get_by_role("button", name="Make token").click()
    told = page.get_by_role("dialog").filter(has_text="Copy it now")
    expect(told).to_be_visible()
    plain = told.locator("code").inner_text()
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert plain not in page.content()
    row = page.get_by_role("table", name="Tokens").locator("tr", has_text="notebook")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke token").click()
    expect(row).to_have_count(0)
    seen.close()


def _keep_secret(page: Page, name: str, value: str) -> None:
    page.get_by_role("button", name="New secret").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Value").fill(value)
    dialog.get_by_role("button", name="Keep secret").click()


def test_an_act_that_outlives_its_dialog_is_told_all_the_same(
    tab: Open, aside: Aside, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, is_gone = secrets.put, threading.Event()

    def put_later(*args: Any, **how: Any) -> None:
        assert is_gone.wait(30)
        put(*args, **how)

    monkeypatch.setattr(secrets, "put", put_later)
    seen = tab()
    page = seen.open("/settings")
    _keep_secret(page, "SLOW_KEY", "slow-value")
    expect(page.get_by_role("dialog")).to_have_count(0)
    is_gone.set()
    expect(page.get_by_role("alert")).to_contain_text("It is kept.")
    assert "SLOW_KEY" in [one.name for one in aside(lambda: secrets.all(site.full.ctx, site.full.actor))]
    seen.close()


def test_a_secret_is_kept_and_its_value_is_never_on_a_page(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open("/settings")
    _keep_secret(page, "WANDB_KEY", "s3cr3t-value")
    expect(page.get_by_role("table", name="Secrets")).to_contain_text("WANDB_KEY")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert "s3cr3t-value" not in page.content()
    assert "WANDB_KEY" in [one.name for one in aside(lambda: secrets.all(site.full.ctx, site.full.actor))]
    seen.close()


def test_a_page_that_is_drawn_again_keeps_the_focus(tab: Open, aside: Aside, site: Any) -> None:
    seen = tab()
    page = seen.open("/queue")
    page.get_by_role("link", name="patient").focus()
    aside(lambda: site.full.submit("later", gpus=2))
    expect(page.get_by_role("link", name="later")).to_be_visible()
    expect(page.get_by_role("link", name="patient")).to_be_focused()
    seen.close()


def _second_version(full: Any) -> None:
    run = full.submit("better", gpus=0.5)
    full.house.plan()
    full.house.begin(full.house.attempt_of(run))
    ended = full.house.end(run, outputs={"result": full.house.model_value("other weights")}, auc=0.8)
    models.add_from_run(full.ctx, full.actor, "delays", ended)


def _query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)
