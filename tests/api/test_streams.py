"""Server-sent events over a real socket: logs over several attempts, resumed where they broke off; changes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator

import httpx2
import pytest


def chunk(offset, data):
    return {"stream": "log", "offset": offset, "data": base64.b64encode(data).decode()}


def parse(lines) -> Iterator[tuple[str, str, dict]]:
    event = cursor = ""
    for line in lines:
        if line.startswith("id: "):
            cursor = line[4:]
        elif line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            yield event, cursor, json.loads(line[6:])


@pytest.fixture
def stream(world, served):
    def start(path, into, **headers):
        def feed():
            given = {"Authorization": f"Bearer {world.admin}", **headers}
            with httpx2.Client(timeout=20) as client, client.stream("GET", f"{served}/api/v1{path}", headers=given) as answer:
                for found in parse(answer.iter_lines()):
                    into.append(found)

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        return thread

    return start


def text(events):
    return b"".join(base64.b64decode(data["data"]) for event, _, data in events if event == "log")


def test_a_log_is_followed_over_attempts_to_the_end(world, stream, soon):
    run = world.submit(retries=1)
    seen: list = []
    thread = stream(f"/runs/{run['id']}/logs/follow", seen)
    attempt, token = world.launch()
    runner = world.client(token)
    base = f"/attempts/{attempt.id}/beat"
    assert runner.post(base, json={"state": "running", "chunks": [chunk(0, b"one\n")]}).status_code == 200
    soon(lambda: text(seen) == b"one\n")
    assert runner.post(base, json={"state": "running"}).json()["is_followed"] is True
    runner.post(base, json={"state": "running", "chunks": [chunk(4, b"\xff\x00two")]})
    soon(lambda: text(seen) == b"one\n\xff\x00two")
    runner.post(base, json={"state": "ended", "exit": {"cause": "user_error", "exit_code": 1}})

    second, token = world.launch()
    assert second.id != attempt.id
    runner = world.client(token)
    runner.post(f"/attempts/{second.id}/beat", json={"state": "running", "chunks": [chunk(0, b"again")]})
    runner.post(f"/attempts/{second.id}/beat", json={"state": "ended", "exit": {"cause": "succeeded", "exit_code": 0}})
    thread.join(60)
    assert not thread.is_alive()
    assert text(seen) == b"one\n\xff\x00twoagain"
    assert [(event, data.get("number")) for event, _, data in seen if event == "attempt"] == [("attempt", 1), ("attempt", 2)]
    assert seen[-1][0] == "end"
    assert seen[-1][2] == {"state": "succeeded"}
    assert not world.ctx.signals.is_followed(second.id)


def test_a_broken_stream_goes_on_where_it_broke(world, stream):
    run = world.submit()
    attempt, token = world.launch()
    runner = world.client(token)
    runner.post(f"/attempts/{attempt.id}/beat", json={"state": "running", "chunks": [chunk(0, b"abcdef")]})
    runner.post(f"/attempts/{attempt.id}/beat", json={"state": "ended", "exit": {"cause": "succeeded", "exit_code": 0}})
    for headers, wanted in (({}, b"abcdef"), ({"Last-Event-ID": "1:4"}, b"ef"), ({"Last-Event-ID": "1:6"}, b"")):
        seen: list = []
        stream(f"/runs/{run['id']}/logs/follow", seen, **headers).join(60)
        assert text(seen) == wanted
        assert seen[-1][0] == "end"
    seen = []
    stream(f"/runs/{run['id']}/logs/follow?offset=-2", seen).join(60)
    assert text(seen) == b"ef"
    bad = world.client(**{"Last-Event-ID": "x:y"}).get(f"/runs/{run['id']}/logs/follow")
    assert bad.status_code == 400


def test_a_cancelled_run_that_never_began_ends_its_stream(world, stream):
    run = world.submit()
    seen: list = []
    thread = stream(f"/runs/{run['id']}/logs/follow", seen)
    world.client().post(f"/runs/{run['id']}/cancel")
    thread.join(60)
    assert [(event, data) for event, _, data in seen] == [("end", {"state": "cancelled"})]


def test_a_replica_that_is_not_there_is_named_before_the_stream_begins(world, stream):
    waiting = world.submit(replicas=2)
    for replica, status in ((2, 404), (4097, 400)):
        refused = world.client().get(f"/runs/{waiting['id']}/logs/follow", params={"replica": replica})
        assert refused.status_code == status, refused.text
        assert refused.headers["content-type"] == "application/json"
    assert refused.json()["error"]["code"] == "spec"
    attempt, token = world.launch()
    base = f"/attempts/{attempt.id}/beat"
    for replica in (0, 1):
        said = {"replica": replica, "state": "running", "chunks": [chunk(0, b"of %d" % replica)]}
        assert world.client(token).post(base, json=said).status_code == 200
    refused = world.client().get(f"/runs/{waiting['id']}/logs/follow?replica=2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert refused.json()["error"]["message"] == "The run has no replica 2; it has 2, counted from 0."
    resumed = world.client(**{"Last-Event-ID": "1:0"}).get(f"/runs/{waiting['id']}/logs/follow?replica=2")
    assert resumed.status_code == 404
    for replica in (0, 1):
        ended = {"replica": replica, "state": "ended", "exit": {"cause": "succeeded", "exit_code": 0}}
        assert world.client(token).post(base, json=ended).status_code == 200
    assert world.client().get(f"/runs/{waiting['id']}/logs/follow?replica=2").status_code == 404
    seen: list = []
    stream(f"/runs/{waiting['id']}/logs/follow?replica=1", seen).join(60)
    assert (text(seen), seen[-1][0]) == (b"of 1", "end")


def test_an_attempt_without_the_replica_is_passed_over(world, served):
    run = world.submit(replicas=10, min_replicas=2, retries=1)  # the node has eight CPUs
    first, token = world.launch()
    there = len(first.replicas)
    assert 2 <= there < 10
    headers = {"Authorization": f"Bearer {world.admin}"}
    path = f"{served}/api/v1/runs/{run['id']}/logs/follow?replica={there}"
    with httpx2.Client(timeout=60) as client, client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200  # the next attempt may have more
        for replica in range(there):
            ended = {"replica": replica, "state": "ended", "exit": {"cause": "user_error", "exit_code": 1}}
            assert world.client(token).post(f"/attempts/{first.id}/beat", json=ended).status_code == 200
        world.client().post(f"/runs/{run['id']}/cancel")
        told = [(event, data) for event, _, data in parse(answer.iter_lines())]
    assert told == [("end", {"state": "cancelled"})]


def test_changes_arrive_in_order_and_resume(world, stream, soon):
    seen: list = []
    stream("/changes?since=0", seen)
    run = world.submit()
    soon(lambda: any(data["subject"] == run["id"] for _, _, data in seen))
    numbers = [data["seq"] for _, _, data in seen]
    assert numbers == sorted(numbers)
    assert [cursor for _, cursor, _ in seen] == [str(number) for number in numbers]
    later: list = []
    stream("/changes", later, **{"Last-Event-ID": str(numbers[-2])})
    soon(lambda: len(later) == 1)
    assert later[0][2]["seq"] == numbers[-1]
    world.client().post("/shutdown")


def test_events_page_by_cursor(world):
    for _ in range(5):
        world.submit()
    seen: list[int] = []
    since = "0"
    while since:
        page = world.client().get("/events", params={"since": since, "limit": 3}).json()
        seen += [event["seq"] for event in page["items"]]
        since = page["cursor"]
    assert seen == sorted(set(seen))
    assert len(seen) == world.ctx.store.events.last_seq()
    assert len(world.client().get("/audit", params={"limit": 1000}).json()["items"]) == len(seen)
