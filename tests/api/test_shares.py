"""Shares, policy, windows, the bill and recorded plans over HTTP, and what Prometheus is told of them."""

from __future__ import annotations

import pytest

from mainspring.core.records import Role


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
        ("POST", "/reservations", {"share": "a", "begins_at": "2026-05-02T00:00:00Z", "ends_at": "2026-05-03T00:00:00Z"}),
        ("DELETE", "/reservations/rsv-1", None),
        ("GET", "/plan", None),
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


def test_prometheus_hears_of_queue_shares_and_plans(world):
    world.submit(name="waits")
    world.ctx.planned.count(0.02, 3)
    world.client().patch("/shares/lab", json={"guarantee": {"cpu": 1000}})
    text = world.client().get(world.client().base_url.copy_with(path="/metrics")).text
    assert 'mainspring_waiting{reason="not_planned_yet"} 1.0' in text
    assert 'mainspring_share{kind="guarantee",resource="cpu",share="lab"} 1.0' in text
    assert 'mainspring_plan_seconds_bucket{le="0.05"} 1.0' in text
    assert "mainspring_decisions_total 3.0" in text
