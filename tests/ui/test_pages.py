"""Each page with NiceGUI's simulated user: the answer is on the first screen and follows what happens."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from nicegui.testing import User

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.records import Role
from mainspring.core.resources import Device, Foreign, Resources
from mainspring.core.specs import RunSpec
from mainspring.services import clusters, projects, runs
from mainspring.ui import clusters as clusters_page
from mainspring.ui import compare, queue, run_facts, zoom
from mainspring.ui import live as live_blocks
from mainspring.ui import runs as runs_page

NASTY = "<img src=x onerror=alert(1)>"
FIRST_SCREEN = {
    "overview": ("GPUs busy", "steady", "flight-delays", "delays"),
    "runs": ("steady", "patient", "good", "bad"),
    "run": ("steady", "epoch 39", "Cancel run", "Try 1"),
    "run-ended": ("It succeeded", "model.onnx", "Run again"),
    "run-failed": ("Its log ends with: ValueError: no such column", "user error"),
    "sweeps": ("search", "3 of 6"),
    "sweep": ("3 of 6 trials are in", "the best auc is 0.62"),
    "compare": ("They differ in rate", "steady", "good", "leave out", "the same in all"),
    "pipelines": ("nightly", "5 of 5", "refused: value_usd is 7,000"),
    "pipeline": ("5 of 5 steps are done", "refused: value_usd is 7,000", "gate flight-delays", "serve", "skipped"),
    "queue": ("runs wait: 2 of alice", "patient", "Waits for 2 GPUs", "in the order in which starts are expected"),
    "rehearsal": ("What would another policy have done", "Half-life of past use"),
    "shares": ("alice", "Fair", "Held over the last 24 hours"),
    "clusters": ("1 of 1 node ready", "steady", "Drain", "gpu02: the driver does not answer", "Add cluster"),
    "datasets": ("flights", "v2"),
    "dataset": ("Version 2 of 2", "1 added, 1 changed", "b.csv"),
    "models": ("delays", "champion"),
    "model": ("passed: value_usd is 18,240", "refused", "Deploy v1"),
    "endpoints": ("delays v1",),
    "settings": ("You are alice, an administrator", "laptop", "HF_TOKEN", "Archived runs", "Who is told"),
    "endpoint": ("Serves delays v1", "0 requests", "Stop endpoint", "predict"),
}


async def test_each_page_answers_on_its_first_screen(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        for name, path in full.pages().items():
            await user.open(path)
            for words in FIRST_SCREEN[name]:
                await user.should_see(words)


async def test_a_wrong_name_is_told_in_a_sentence(simulated: Any) -> None:
    async with simulated() as user:
        for path in (
            "/runs/nonsense",
            "/sweeps/nonsense",
            "/pipelines/x",
            "/compare?runs=x,y",
            "/datasets/x",
            "/models/x",
            "/endpoints/x",
            "/runs?project=x",
        ):
            response = await user.http_client.get(path)
            assert (path, response.status_code) == (path, 404)
            assert "There is no" in response.text
            assert "Traceback" not in response.text


async def test_who_sees_other_projects_only_lands_in_one_of_them(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await asyncio.to_thread(projects.add, full.ctx, SYSTEM, "theirs")
        user.http_client.headers["as"] = "bob"
        await user.open("/runs")
        await user.should_see("No run matches")
        await user.should_not_see("steady")
        refused = await user.http_client.get("/runs?project=default")
        assert (refused.status_code, "bob is no member" in refused.text) == (403, True)


async def test_an_address_without_a_page_is_told(simulated: Any) -> None:
    async with simulated() as user:
        page = await user.http_client.get("/nowhere")
        assert (page.status_code, "There is nothing at /nowhere" in page.text) == (404, True)


async def test_a_page_follows_what_happens(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await user.open(f"/runs/{full.ids['running']}")
        await user.should_see("running")
        await asyncio.to_thread(full.house.end, full.ids["running"], loss=0.01)
        await _until_seen(user, "It succeeded")


async def test_what_users_wrote_is_never_markup(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        page = await user.http_client.get(f"/runs/{full.ids['good']}")
        assert "&lt;img src=x" in page.text.replace("\\u003c", "<").replace("&amp;", "&")
        assert "<img src=x" not in page.text


async def test_nothing_is_asked_while_nobody_looks(full: Any) -> None:
    asked = []

    async def refresh() -> None:
        asked.append(1)

    live = live_blocks.Live(full.ctx)
    await live.add(refresh, "runs")
    await live._tick()
    assert len(asked) == 1  # nothing has moved
    live.is_visible = False
    full.ctx.signals.hint("runs")
    await live._tick()
    assert len(asked) == 1
    live.is_visible = True
    await live._tick()
    assert len(asked) == 2


def test_the_view_is_the_address(full: Any) -> None:
    view = full.view("/runs", q="train", state="failed", order="metric:-loss", owner="alice", junk="1")
    wanted = runs_page.filter_of(view)
    assert (wanted.text, wanted.states, wanted.order, wanted.owner) == ("train", ("failed",), "metric:-loss", "alice")
    assert runs_page.filter_of(full.view("/runs", state="odd", order="odd")).order == "newest"


async def test_the_server_sorts_and_filters(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await user.open("/runs?state=failed")
        await user.should_see("bad")
        await user.should_not_see("steady")
        await user.open("/runs?order=metric:auc")
        await user.should_see("auc ▾")


def test_a_run_that_waits_tells_when_it_is_expected_to_start(full: Any) -> None:
    late = full.submit("late", gpus=2)
    full.house.plan()
    told = queue.start_of(full.view("/runs"), late.id)
    assert re.search(r"Expected to start: <span title=\"between [0-9:]{8} and [0-9:]{8} UTC \(80%\)\">.*in \d+ (s|m|h)", told)
    assert "/queue" in told
    runs.pause(full.ctx, full.actor, late.id)
    assert queue.start_of(full.view("/runs"), late.id) == ""
    assert queue.start_of(full.view("/runs"), full.ids["running"]) == ""


def test_the_queue_tells_of_each_run_when_it_is_expected_to_start(full: Any) -> None:
    held = full.submit("held", gpus=2)
    runs.pause(full.ctx, full.actor, held.id)
    full.house.plan()
    rows = {
        name: row
        for row in queue.waiting(full.view("/queue")).split("<tr>")
        for name in ("patient", "held")
        if f">{name}<" in row
    }
    assert re.search(r"<span title=\"between [0-9:]{8} and [0-9:]{8} UTC \(80%\)\">[^<]*in \d+ (s|m|h)", rows["patient"])
    assert "not foreseen" in rows["held"], "nobody knows when its owner lets it go on"


def test_a_run_that_waits_tells_what_would_change_it(full: Any) -> None:
    view = full.view("/runs")
    assert "What would change it: It starts now with 1 GPU less.</p>" in run_facts.top(view, full.ids["waiting"])
    assert "What would change it" not in run_facts.top(view, full.ids["running"])
    runs.cancel(full.ctx, full.actor, full.ids["waiting"])
    full.house.end(full.ids["running"])
    spec = RunSpec(command=("x",), name="bounded", resources=Resources(gpu_milli=2000), timeout_s=3600)
    bounded, _ = runs.submit(full.ctx, full.actor, spec)
    full.house.plan()
    full.house.begin(full.house.attempt_of(bounded))
    late = full.submit("late", gpus=2)
    full.house.plan()
    told = rf'It would start when <a href="/runs/{bounded.id}">bounded</a> ends, about \d\d:\d\d UTC\.'
    assert re.search(told, run_facts.top(view, late.id))


def test_a_long_queue_shows_its_front_and_where_the_rest_is(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_ROWS", 2)
    for number in range(4):
        full.submit(f"late-{number}", gpus=2)
    full.house.plan()
    view = full.view("/queue")
    assert "6 runs wait: 6 of alice." in queue.summary(view)
    shown = queue.waiting(view)
    assert shown.count("<tr>") == 3, "a head and two rows"
    assert "patient" in shown
    assert "1 CPU, 2 GPU" in shown
    assert "The first 2 of 6" in shown
    assert "/runs?state=queued&amp;order=oldest" in shown


async def test_rows_stay_where_they_are_and_new_ones_are_announced(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await user.open("/runs")
        await user.should_see("patient")
        await asyncio.to_thread(full.submit, "newcomer")
        await _until_seen(user, "1 new: show")
        await user.should_not_see("newcomer")


def test_a_viewer_is_offered_nothing_that_is_refused(full: Any) -> None:
    full.actor = Actor(name="eve", roles={"default": Role.VIEWER})
    assert "drain" not in "".join(_node_cells(full))
    with pytest.raises(Exception, match="eve is viewer"):
        runs.cancel(full.ctx, full.actor, full.ids["running"])


def _node_cells(full: Any) -> tuple[str, ...]:
    one = clusters.get(full.ctx, full.actor, "local")
    return clusters_page.row(full.view("/clusters"), one, one.nodes[0])


def test_a_node_tells_what_others_work_holds(full: Any) -> None:
    assert "Others" not in "".join(_node_cells(full))
    one = clusters.get(full.ctx, full.actor, "local")
    node = replace(one.nodes[0], foreign=Foreign(cpu_milli=2500, memory_bytes=3 << 30, devices=(Device(index=7),)))
    cells = "".join(clusters_page.row(full.view("/clusters"), one, node))
    assert "work holds 1 GPU, 2.5 CPUs and 3 GiB." in cells


async def test_fewer_than_two_runs_are_not_compared(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        for runs_named in ("", full.ids["good"], f"{full.ids['good']},{full.ids['good']}"):
            await user.open(f"/compare?runs={runs_named}")
            await user.should_see("Choose two to six runs")


async def test_no_more_than_six_runs_are_compared(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        many = [(await asyncio.to_thread(full.submit, f"r{n}", rate=n)).id for n in range(7)]
        await user.open(f"/compare?runs={','.join(many)}")
        await user.should_see("The first 6 of 7")
        await user.should_not_see("r6")


def test_what_differs_comes_first_and_what_is_the_same_is_folded(full: Any) -> None:
    found = [full.ctx.store.runs.get(full.submit(f"r{n}", rate=n, kept=NASTY).id) for n in range(2)]
    view = full.view("/compare")
    rows = {row.name: row.is_same for row in compare.parameters(view, found)}
    assert rows == {"kept": True, "rate": False}
    drawn = compare.table(view, [one.id for one in found], compare.parameters, "Parameters")
    assert drawn.index("rate") < drawn.index("1 is the same in all") < drawn.index("kept")
    assert NASTY not in drawn


def saw(full: Any, run: Any, **packages: str) -> None:
    """Let a run tell what it runs with."""
    listed = [{"name": name, "version": version} for name, version in packages.items()]
    told = {"python": "3.11.4", "implementation": "cpython", "platform": "linux", "packages": listed}
    digest = full.ctx.blobs.put_bytes(json.dumps(told).encode())
    full.write(run, "events", json.dumps({"kind": "environment_seen", "digest": digest}).encode() + b"\n")


def test_what_a_run_ran_with_is_shown_and_compared(full: Any, house: Any) -> None:
    found = []
    for name, version in (("one", "1.0"), ("two", NASTY)):
        run = full.submit(name, gpus=0)
        house.plan()
        house.begin(house.attempt_of(run))
        if name == "one":
            assert "Not seen" in run_facts.environment(full.view(), run.id)
        saw(full, run, alpha=version, beta="2.0")
        found.append(full.ctx.store.runs.get(run.id))
    view = full.view("/compare")
    rows = {row.name: row.is_same for row in compare.ran_with(view, found)}
    assert rows == {"Python": True, "Platform": True, "alpha": False, "beta": True}
    shown = run_facts.environment(view, found[0].id)
    assert "cpython 3.11.4 on linux" in shown
    assert "2 packages" in shown
    assert f"from:{found[0].id}" in shown
    assert NASTY not in run_facts.environment(view, found[1].id)
    assert NASTY not in compare.table(view, [one.id for one in found], compare.ran_with, "Environment")


def test_a_zoom_that_is_no_number_is_none(full: Any) -> None:
    assert zoom.zoom_of(full.view("/runs/x", **{"from": "nan", "to": "x"})) == zoom.Zoom()
    assert zoom.zoom_of(full.view("/runs/x", **{"from": "1.5", "to": ""})) == zoom.Zoom(1.5, None)


async def test_settings_offer_a_viewer_nothing_that_is_refused(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await asyncio.to_thread(projects.add, full.ctx, SYSTEM, "theirs")
        user.http_client.headers["as"] = "bob"
        await user.open("/settings?project=theirs")
        await user.should_see("You are bob, viewer of theirs")
        await user.should_see("New token")
        for words in ("Secrets of", "People", "Add a member", "Who is told", "laptop"):
            await user.should_not_see(words)


async def _until_seen(user: User, words: str, timeout_s: float = 60.0) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            await user.should_see(words, retries=1)
        except AssertionError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def test_requests_are_counted_while_one_looks(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await user.open("/endpoints/delays")
        await user.should_see("0 requests")
        endpoint = full.ctx.store.endpoints
        one = await asyncio.to_thread(endpoint.get, "default", "delays")
        await asyncio.to_thread(endpoint.count, one.id, 41, 1)
        full.house.clock.advance(5)
        await _until_seen(user, "41 requests, 1 error (2.44%)")
