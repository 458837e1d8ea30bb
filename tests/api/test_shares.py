"""Shares, policy, windows, the bill and recorded plans over HTTP, and what Prometheus is told of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mainspring.core.records import Node, Role
from mainspring.core.resources import Device
from mainspring.scheduler.plan import plan

HOUR = 3600
MOMENT = "2026-05-02T00:00:00Z"
WINDOW = {"share": "a", "begins_at": MOMENT, "ends_at": "2026-05-03T00:00:00Z"}


def test_a_share_is_configured_shown_and_removed_by_its_path(world):
    client = world.client()
    made = client.patch("/shares/lab/team", json={"guarantee": {"gpu": 999_000}, "weight": 2.0}).json()
    assert (made["share"]["name"], made["share"]["weight"], len(made["notices"])) == ("lab/team", 2.0, 1)
    assert [one["name"] for one in client.get("/shares").json()["items"]] == ["lab/team"]
    assert [one["name"] for one in client.get("/standings").json()["items"]] == ["", "lab", "lab/team"]
    assert client.patch("/projects/default", json={"share": "team"}).json()["share"] == "lab/team"
    assert client.delete("/shares/lab/team").status_code == 409
    client.patch("/projects/default", json={"share": ""})
    assert client.delete("/shares/lab/team").status_code == 204
    wrong = client.patch("/shares/lab", json={"weight": -1})
    assert (wrong.status_code, wrong.json()["error"]["details"]["path"]) == (400, "weight")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/shares/lab", {"weight": 2}),
        ("DELETE", "/shares/lab", None),
        ("PUT", "/policy", {"text": ""}),
        ("POST", "/reservations", WINDOW),
        ("DELETE", "/reservations/rsv-1", None),
        ("GET", "/plan", None),
        ("GET", "/plan?fresh=true", None),
        ("POST", "/plan/replay", {"number": 1, "at": MOMENT, "plan": {"fingerprint": ""}}),
        ("PATCH", "/projects/default", {"priority_role": "viewer"}),
    ],
)
def test_what_only_administrators_may(world, method, path, body):
    client = world.client(world.token("bob", Role.OWNER))
    assert client.request(method, path, json=body).status_code == 403


def test_a_policy_is_checked_set_and_told(world):
    client = world.client()
    wrong = client.put("/policy", json={"text": "[order]\nhalf_life = 1\n"})
    assert (wrong.status_code, wrong.json()["error"]["details"]["line"]) == (400, 2)
    assert client.post("/policy/check", json={"text": "[order]\nhistory = 1\n"}).json()["order"]["history"] == 1.0
    assert client.get("/policy").json()["number"] == 0
    assert client.put("/policy", json={"text": "max_starts = 5\n", "after": 0}).json()["number"] == 1
    assert client.put("/policy", json={"text": "", "after": 0}).status_code == 409
    assert [one["text"] for one in client.get("/policy/history").json()["items"]] == ["max_starts = 5\n"]


def test_usage_is_asked_by_month(world):
    client = world.client()
    assert client.get("/usage", params={"by": "user"}).json()["items"] == []
    assert client.get("/usage", params={"month": "x"}).status_code == 400
    assert client.get("/usage", params={"by": "moon"}).status_code in (400, 422)


def test_a_window_is_made_listed_and_given_up(world):
    client = world.client()
    made = client.post("/reservations", json={**WINDOW, "resources": {"cpu_milli": 2000}, "replicas": 2})
    assert made.status_code == 201
    kept = made.json()["reservation"]
    assert (kept["share"], kept["resources"]["cpu_milli"], kept["replicas"]) == ("a", 2000, 2)
    assert [one["id"] for one in client.get("/reservations").json()["items"]] == [kept["id"]]
    assert client.delete(f"/reservations/{kept['id']}").status_code == 204
    assert client.get("/reservations").json()["items"] == []
    assert client.delete(f"/reservations/{kept['id']}").status_code == 404


def test_what_shares_held_before_is_told(world):
    world.client().patch("/shares/lab", json={})
    world.client().patch("/projects/default", json={"share": "lab"})
    world.submit(resources={"cpu_milli": 2000})
    world.clock.move(HOUR)
    world.launch()
    world.clock.move(HOUR)
    found = world.client().get("/standings/history", params={"hours": 2, "stretches": 2}).json()
    assert (found["unit"], found["stretch_s"], found["held"]) == ("cpu", HOUR, {"lab/ada": [0.0, 2000.0]})
    assert world.client().get("/standings/history", params={"hours": 0}).status_code == 400


def record(world):
    """Plan, carry it out and record it, as the schedule loop does."""
    snapshot = world.ctx.store.snapshot(world.clock.now())
    world.ctx.store.apply(plan(snapshot), now=world.clock.now(), seen=snapshot)


def test_a_recorded_plan_is_read_and_made_again(world):
    client = world.client()
    assert client.get("/plan").status_code == 404
    first = world.submit()
    at = world.clock.now().isoformat()
    record(world)
    world.clock.move(60)
    second = world.submit()
    record(world)
    found = client.get("/plan").json()
    assert (found["number"], found.get("snapshot")) == (2, None)
    assert [(one["run"], one["kind"]) for one in found["plan"]["decisions"]] == [(second["id"], "start")]
    whole = client.get("/plan", params={"at": at, "snapshot": "true"}).json()
    assert (whole["number"], [one["id"] for one in whole["snapshot"]["waiting"]]) == (1, [first["id"]])
    again = client.post("/plan/replay", json=whole).json()
    assert (again["number"], again["same_snapshot"], again["same_plan"]) == (1, True, True)
    assert again["plan"] == whole["plan"]
    other = {**whole, "plan": {**whole["plan"], "decisions": []}}
    told = client.post("/plan/replay", json=other).json()
    assert (told["same_snapshot"], told["same_plan"], told["plan"]) == (True, False, whole["plan"])
    whole["snapshot"]["waiting"][0]["seq"] += 1
    told = client.post("/plan/replay", json=whole).json()
    assert (told["same_snapshot"], told["same_plan"], told["plan"]) == (False, False, None)
    lacks = client.post("/plan/replay", json=found)
    assert (lacks.status_code, lacks.json()["error"]["details"]["path"]) == (400, "snapshot")


def test_the_plan_of_now_tells_of_what_only_waits(world):
    """It starts nothing and is not recorded: asking is not deciding."""
    client = world.client()
    world.submit()
    record(world)
    waits = world.submit(resources={"cpu_milli": 8000})
    record(world)
    assert client.get("/plan").json()["number"] == 1
    found = client.get("/plan", params={"fresh": "true"}).json()
    assert (found["number"], found["at"][:19]) == (0, world.clock.now().isoformat()[:19])
    assert [(one["run"], one["kind"], one["reason"]["code"]) for one in found["plan"]["decisions"]] == [
        (waits["id"], "wait", "no_free_cpu")
    ]
    world.client().post(f"/runs/{waits['id']}/cancel")
    may_start = world.submit()
    assert client.get("/plan", params={"fresh": "true"}).json()["plan"]["decisions"][0]["kind"] == "start"
    assert client.get(f"/runs/{may_start['id']}").json()["state"] == "queued"
    assert client.get("/plan").json()["number"] == 1
    assert client.get("/plan", params={"fresh": "true", "at": MOMENT}).status_code == 400


def test_what_would_let_a_run_start_is_told(world):
    two = (Device(index=0), Device(index=1))
    node = Node(id="local-gpu", cluster="local", name="gpu", cpu_milli=8000, memory_bytes=2**33, devices=two)
    world.ctx.store.nodes.upsert("local", [node], now=world.clock.now())
    holds = world.submit(resources={"gpu_milli": 1000}, timeout_s=HOUR)
    record(world)
    asks = world.submit(resources={"gpu_milli": 2000})
    less, then = world.client().get(f"/runs/{asks['id']}/why").json()["changes"]
    assert (less["sentence"], less["at"], less["facts"]) == ("starts now with 1 GPU less", None, {"gpu_milli": 1000})
    assert then["facts"] == {"run": holds["id"]}
    assert then["sentence"].startswith(f"when {holds['id']} ends, about ")
    assert then["at"] > world.clock.now().isoformat()


@pytest.fixture
def figures(world):
    """Return what Prometheus reads: `{sample name: [(labels, value)]}`."""

    def read():
        text = world.client().get(world.client().base_url.copy_with(path="/metrics")).text
        found = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                found.setdefault(one.name, []).append((one.labels, one.value))
        return found

    return read


def test_prometheus_hears_of_queue_shares_and_plans(world, figures):
    world.ctx.planned.count(0.02, 3)
    world.ctx.planned.count(7.0, 1)
    world.client().patch("/shares/lab", json={"guarantee": {"cpu": 1000, "memory": 2**20}})
    world.submit(name="runs", resources={"cpu_milli": 3000})
    world.clock.move(20)
    attempt, token = world.launch()
    world.clock.move(2)
    assert world.client(token).get(f"/attempts/{attempt.id}/work").status_code == 200
    world.submit(name="waits", resources={"cpu_milli": 6000})
    record(world)
    world.clock.move(90)
    world.submit(name="new")
    told = figures()
    assert sorted((one["reason"], value) for one, value in told["mainspring_waiting"]) == [
        ("no_free_cpu", 1.0),
        ("not_planned_yet", 1.0),
    ]
    assert told["mainspring_longest_wait_seconds"] == [({}, 90.0)]
    assert {one["state"]: value for one, value in told["mainspring_runs"]} == {"queued": 2.0, "running": 1.0}
    shares = {(one["share"], one["resource"], one["kind"]): value for one, value in told["mainspring_share"]}
    assert shares["lab", "cpu", "guarantee"] == 1.0
    assert shares["lab", "memory", "guarantee"] == 2**20
    assert (shares["ada", "cpu", "held"], shares["/", "cpu", "held"], shares["ada", "cpu", "asked"]) == (3.0, 3.0, 7.0)
    assert {one["kind"]: value for one, value in told["mainspring_gpus"]} == {"total": 0.0, "used": 0.0, "out": 0.0}
    assert ({"state": "ready"}, 1.0) in told["mainspring_nodes"]
    waits = {one["le"]: value for one, value in told["mainspring_wait_seconds_bucket"]}
    assert (waits["5.0"], waits["30.0"], waits["+Inf"]) == (0.0, 1.0, 1.0)
    assert told["mainspring_wait_seconds_sum"] == [({}, 20.0)]
    buckets = {one["le"]: value for one, value in told["mainspring_plan_seconds_bucket"]}
    assert (buckets["0.01"], buckets["0.05"], buckets["5.0"], buckets["+Inf"]) == (0.0, 1.0, 1.0, 2.0)
    assert told["mainspring_plan_seconds_sum"] == [({}, 7.02)]
    assert told["mainspring_decisions_total"] == [({}, 4.0)]


def test_every_figure_of_the_queue_is_in_the_documents(world, figures):
    page = Path(__file__).parents[2] / "docs/how-to/shares.md"
    listed = set(re.findall(r"^\| `(mainspring_\w+)` \|", page.read_text(), re.MULTILINE))
    world.submit()
    others = ("mainspring_http_", "mainspring_endpoint_")
    plain = {re.sub(r"_(bucket|sum|count|created)\Z", "", name) for name in figures()}
    assert listed == {name for name in plain if not name.startswith(others)}
