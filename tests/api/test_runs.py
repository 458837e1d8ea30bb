"""Runs over HTTP: submit with a key, find, change, page, wait; and how a runner moves one to its end."""

from __future__ import annotations

import base64
import threading
import time

import pytest

from mainspring.core.records import Role
from mainspring.store.runs import Runs


def chunk(stream, offset, data):
    return {"stream": stream, "offset": offset, "data": base64.b64encode(data).decode()}


def test_a_key_gives_the_same_run_again(world):
    client = world.client(**{"Idempotency-Key": "k1"})
    first = client.post("/runs", json={"command": ["true"]})
    again = client.post("/runs", json={"command": ["true"]})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert world.client().get("/runs").json()["total"] == 1


def test_a_run_is_found_by_id_beginning_and_name(world):
    run = world.submit(name="first")
    client = world.client()
    for ref in (run["id"], run["id"][:-2], "first"):
        assert client.get(f"/runs/{ref}").json()["id"] == run["id"]
    newer = world.submit(name="first")
    assert client.get("/runs/first").json()["id"] == newer["id"]


def test_pages_by_cursor_cover_everything_once(world):
    made = {world.submit()["id"] for _ in range(7)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = world.client().get("/runs", params={"limit": 3, "cursor": cursor}).json()
        assert page["total"] == 7
        seen += [run["id"] for run in page["items"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert len(seen) == 7
    assert set(seen) == made


def test_a_question_narrows_the_list(world):
    world.submit(name="a", tags=["red"])
    done = world.submit(name="b")
    world.client().post(f"/runs/{done['id']}/cancel")

    def names(**asked):
        return [run["name"] for run in world.client().get("/runs", params=asked).json()["items"]]

    assert names(state="cancelled") == ["b"]
    assert names(state="queued,running") == ["a"]
    assert names(state=["queued", "cancelled"]) == ["b", "a"]
    assert names(tag="red") == ["a"]
    assert names(owner="nobody") == []
    assert names(order="name") == ["a", "b"]


def test_cancel_edit_archive_remove(world):
    run = world.submit()
    client = world.client()
    path = f"/runs/{run['id']}"
    assert client.post(f"{path}/archive").json()["error"]["code"] == "state"
    assert client.delete(path).status_code == 409
    assert client.patch(path, json={"add_tags": ["blue"], "priority": 5}).json()["tags"] == ["blue"]
    assert client.post(f"{path}/pause").json()["desired"] == "paused"
    assert client.post(f"{path}/resume").json()["desired"] == "run"
    assert client.post(f"{path}/cancel", json={"grace_s": 3}).json()["state"] == "cancelled"
    assert client.post(f"{path}/cancel", json={"grace_s": -3}).status_code == 400
    assert client.post(f"{path}/archive").json()["archived_at"] is not None
    assert client.get("/runs").json()["total"] == 0
    assert client.post(f"{path}/unarchive").json()["archived_at"] is None
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_rerun_with_arguments(world):
    run = world.submit(command=["python", "train.py", "--lr", "1"])
    again = world.client().post(f"/runs/{run['id']}/rerun", json={"set": {"lr": 2}})
    assert again.status_code == 201
    assert again.json()["spec"]["command"] == ["python", "train.py", "--lr", "2"]
    other = world.client().post(f"/runs/{run['id']}/rerun", json={"args": ["--fast"]}).json()
    assert other["spec"]["command"] == ["python", "train.py", "--fast"]
    assert world.client().post(f"/runs/{run['id']}/rerun").json()["spec"]["command"] == run["spec"]["command"]


def test_a_viewer_reads_and_changes_nothing(world):
    run = world.submit()
    viewer = world.client(world.token("vera", Role.VIEWER))
    path = f"/runs/{run['id']}"
    assert viewer.get(path).status_code == viewer.get(f"{path}/why").status_code == 200
    for answer in (
        viewer.post("/runs", json={"command": ["true"]}),
        viewer.post(f"{path}/cancel"),
        viewer.patch(path, json={"priority": 1}),
        viewer.delete(path),
        viewer.put("/blobs/" + "0" * 64, content=b""),
        viewer.get("/users"),
        viewer.get("/audit"),
        viewer.post("/backup"),
        viewer.post("/shutdown"),
        viewer.post("/nodes/here/drain"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access_denied")


def test_a_stranger_sees_nothing_of_a_project(world):
    run = world.submit()
    stranger = world.client(world.token("sid"))
    assert stranger.get(f"/runs/{run['id']}").status_code == 404
    assert stranger.get("/runs").status_code == 403
    assert stranger.get("/projects").json()["items"] == []
    assert stranger.get("/events").json()["items"] == []
    assert stranger.get("/queue").status_code == 200


def test_a_runner_takes_a_run_to_its_end(world):
    run = world.submit(name="whole")
    attempt, token = world.launch()
    runner = world.client(token)
    base = f"/attempts/{attempt.id}"
    work = runner.get(f"{base}/work").json()
    assert (work["run"], work["number"], work["spec"]["command"]) == (run["id"], 1, ["true"])

    beat = {"state": "running", "chunks": [chunk("log", 0, b"hello\n"), chunk("metrics", 0, b'["loss", 0.5, 1, 1700000000.0]\n')]}
    answer = runner.post(f"{base}/beat", json=beat).json()
    assert answer["ack"] == {"log": 6, "metrics": 31}
    assert runner.post(f"{base}/beat", json=beat).json()["ack"] == answer["ack"]

    client = world.client()
    assert client.get("/runs/whole").json()["state"] == "running"
    log = client.get("/runs/whole/logs", params={"offset": 2})
    assert (log.content, log.headers["X-Next-Offset"], log.headers["X-Attempt"], log.headers["X-End"]) == (
        b"llo\n",
        "6",
        "1",
        "0",
    )
    assert client.get("/runs/whole/logs", params={"offset": -3}).content == b"lo\n"
    assert client.get("/runs/whole/metrics").json()["loss"]["last"] == 0.5
    assert client.get("/runs/whole/metrics/loss").json()["points"] == [[1, 0.5, 1700000000.0]]
    assert client.get("/runs/whole/metrics/nope").status_code == 404

    end = {"state": "ended", "exit": {"cause": "succeeded", "exit_code": 0}}
    assert runner.post(f"{base}/beat", json=end).json()["is_acknowledged"] is True
    assert runner.post(f"{base}/beat", json=end).json()["is_acknowledged"] is True
    assert client.get("/runs/whole").json()["state"] == "succeeded"
    assert client.get("/runs/whole/logs").headers["X-End"] == "1"
    (told,) = client.get("/runs/whole/attempts").json()
    assert told["outcome"]["cause"] == "succeeded"
    assert told["token_hash"] == ""
    assert client.get("/runs/whole/why").json()["sentence"] == "It succeeded."


def test_a_runners_token_opens_its_own_attempt_and_blobs_alone(world):
    world.submit()
    first, token = world.launch()
    world.submit()
    second, other = world.launch()
    runner = world.client(token)
    assert runner.get(f"/attempts/{first.id}/work").status_code == 200
    assert runner.get(f"/attempts/{second.id}/work").status_code == 401
    assert world.client(other).get(f"/attempts/{first.id}/work").status_code == 401
    assert world.client().get(f"/attempts/{first.id}/work").status_code == 403
    for path in ("/runs", "/whoami", "/users", "/status"):
        assert runner.get(path).status_code == 401
    assert runner.post("/blobs/missing", json={"digests": ["0" * 64]}).json() == {"missing": ["0" * 64]}


def test_a_beat_of_an_attempt_that_nobody_knows_is_gone(world):
    from mainspring.services import attempts

    token = attempts.make_token(world.ctx, "attempt-unknown")
    answer = world.client(token).post("/attempts/attempt-unknown/beat", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone")


@pytest.mark.parametrize(
    "beat",
    [
        {"protocol": 2},
        {"replica": 7},
        {"replica": -1},
        {"state": "ended"},
        {"state": "dancing"},
        {"chunks": [{"stream": "log", "offset": 0, "data": "*"}]},
        {"chunks": [{"stream": "log", "offset": -1, "data": "aGk="}]},
        {"chunks": [{"stream": "nope", "offset": 0, "data": "aGk="}]},
        {"unknown": 1},
        {"no": 2**63},
    ],
)
def test_a_malformed_beat_is_refused(world, beat):
    world.submit()
    attempt, token = world.launch()
    answer = world.client(token).post(f"/attempts/{attempt.id}/beat", json=beat)
    assert answer.status_code in (400, 426), answer.text


def test_a_cancel_reaches_a_waiting_runner_at_once(world, soon):
    run = world.submit()
    attempt, token = world.launch()
    told: list[dict] = []

    def ask():
        told.append(world.client(token).get(f"/attempts/{attempt.id}/commands", params={"hold_s": 30}).json())

    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    world.client().post(f"/runs/{run['id']}/cancel", json={"grace_s": 4})
    thread.join(60)
    assert told[0]["commands"][0]["kind"] == "stop"
    assert told[0]["commands"][0]["deadline_s"] == 4
    assert time.monotonic() - began < 20
    number = told[0]["commands"][0]["no"]
    again = world.client(token).get(f"/attempts/{attempt.id}/commands", params={"hold_s": 0, "after": number}).json()
    assert again["commands"] == []


def test_waiting_ends_with_the_run(world):
    run = world.submit()
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(world.client().get(f"/runs/{run['id']}/wait").json()["state"]))
    thread.start()
    world.client().post(f"/runs/{run['id']}/cancel")
    thread.join(60)
    assert ended == ["cancelled"]


def test_waiting_no_time_tells_how_it_stands(world):
    run = world.submit()
    assert world.client().get(f"/runs/{run['id']}/wait", params={"timeout_s": 0}).json()["state"] == "queued"


def test_a_draining_server_ends_long_polls_and_calls_shutdown(world):
    called = threading.Event()
    world.app.state.shutdown = called.set
    run = world.submit()
    states: list[str] = []
    thread = threading.Thread(target=lambda: states.append(world.client().get(f"/runs/{run['id']}/wait").json()["state"]))
    thread.start()
    assert world.client().post("/shutdown").status_code == 202
    thread.join(60)
    assert states == ["queued"]
    assert called.is_set()


def test_a_runner_that_asks_for_its_work_costs_one_look_at_its_run(world, monkeypatch):
    """A thousand begin at once: what is counted of a wait is known by then."""
    run = world.submit()
    attempt, token = world.launch()
    get, looks = Runs.get, []

    def counted(runs, id):
        looks.append(id)
        return get(runs, id)

    monkeypatch.setattr(Runs, "get", counted)
    assert world.client(token).get(f"/attempts/{attempt.id}/work").json()["run"] == run["id"]
    assert looks == [run["id"]]


def test_a_runner_whose_folder_was_lost_begins_nothing_a_second_time(world):
    run = world.submit()
    attempt, token = world.launch()
    runner, base = world.client(token), f"/attempts/{attempt.id}"
    for _ in range(2):  # an answer may be lost on its way
        assert runner.get(f"{base}/work").status_code == 200
    assert runner.post(f"{base}/beat", json={"state": "running"}).status_code == 200
    assert runner.get(f"{base}/work").status_code == 409
    told = runner.post(f"{base}/beat", json={"state": "ended", "exit": {"cause": "superseded"}}).json()
    assert told["is_acknowledged"]
    found = world.client().get(f"/runs/{run['id']}").json()
    (first,) = world.client().get(f"/runs/{run['id']}/attempts").json()
    assert (found["state"], found["retries_used"], first["outcome"]["cause"]) == ("queued", 0, "node_lost")
    second, other = world.launch()
    assert world.client(other).get(f"/attempts/{second.id}/work").json()["number"] == 2
    figures = world.client().get(world.client().base_url.copy_with(path="/metrics")).text
    assert "mainspring_wait_seconds_count 1.0" in figures, "what a run waited before its first attempt is counted once"
