"""P4 and P5 on a real server: engines that are cut off, blind, slow, and nodes that vanish."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mainspring.app import SystemClock, SystemIds
from mainspring.core.records import Cluster
from mainspring.store.store import Store
from mainspring.testing.flaky import Trouble, register, trouble

LOST_AFTER_S = 3.0
SIDES = ("east", "west")
# Says when it lives, and who it is; ends when it is let go. Its output names its attempt.
USER = """
import os, signal, sys, time
who = os.environ["MAINSPRING_ATTEMPT"]
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def say(what): os.write(ledger, f"{who} {what} {time.monotonic()}\\n".encode())
def end(*_):
    say("stopped")
    sys.exit(9)
signal.signal(signal.SIGTERM, end)
print("begun by", who, flush=True)
while not os.path.exists(os.environ["LET_GO"]):
    say("alive")
    if os.path.exists(os.environ["MAINSPRING_SPOOL"] + "/checkpoint_requested"):
        say("checkpoint")
        os.unlink(os.environ["MAINSPRING_SPOOL"] + "/checkpoint_requested")
    time.sleep(0.05)
open(os.environ["MAINSPRING_OUT"] + "/who", "w").write(who)
print("ended by", who, flush=True)
"""


@dataclass
class Sides:
    """An installation with two clusters of one node each, in one pool, whose networks can be troubled."""

    site: Any
    poll: Callable[..., None]

    @property
    def ledger(self) -> Path:
        return self.site.home / "ledger"

    def submit(self, **spec: Any) -> str:
        env = {"LEDGER": str(self.ledger), "LET_GO": str(self.site.home / "let-go")}
        asked = {
            "command": [sys.executable, "-c", USER],
            "env": env,
            "grace_s": 0.5,
            "resources": {"cpu_milli": 1000, "pool": "far"},
        }
        answer = self.site.call("POST", "/runs", json=asked | spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def let_go(self) -> None:
        (self.site.home / "let-go").touch()

    def run(self, ref: str) -> dict[str, Any]:
        return dict(self.site.call("GET", f"/runs/{ref}").json())

    def why(self, ref: str) -> dict[str, Any]:
        return dict(self.site.call("GET", f"/runs/{ref}/why").json())

    def attempts(self, ref: str) -> list[dict[str, Any]]:
        return list(self.site.call("GET", f"/runs/{ref}/attempts").json())

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {view["cluster"]["name"]: node for view in self.site.call("GET", "/clusters").json() for node in view["nodes"]}

    def trouble(self, side: str, what: Trouble | None = None) -> None:
        trouble(self.site.home / "clusters" / side, what)

    def said(self, what: str = "alive") -> dict[str, list[float]]:
        """Return when each attempt said so."""
        found: dict[str, list[float]] = {}
        for line in self.ledger.read_text().splitlines() if self.ledger.exists() else []:
            who, said, at = line.split()
            if said == what:
                found.setdefault(who, []).append(float(at))
        return found

    def begun(self, ref: str, number: int = 1, timeout_s: float = 150) -> dict[str, Any]:
        """Wait until user code of attempt `number` lives; return the attempt."""
        self.poll(
            lambda: len(self.attempts(ref)) >= number and self.attempts(ref)[number - 1]["id"] in self.said(),
            timeout_s,
            "the begin",
        )
        return self.attempts(ref)[number - 1]

    def ends(self, ref: str, state: str = "succeeded") -> dict[str, Any]:
        self.poll(lambda: self.run(ref)["state"] in ("succeeded", "failed", "cancelled"), 90, "the end")
        assert self.run(ref)["state"] == state, self.run(ref)
        return self.run(ref)

    def is_at_rest(self) -> bool:
        """Say whether every node takes runs and holds nothing, and no runner is left."""
        free = all(node["state"] == "ready" and node["used_cpu_milli"] == 0 for node in self.nodes().values())
        return free and not self.site.runners()


@pytest.fixture
def sides(installation: Any, poll: Callable[..., None], tmp_path: Path) -> Iterator[Sides]:
    register(tmp_path / "plugins")
    store = Store.open(f"sqlite:///{installation.home / 'mainspring.db'}", clock=SystemClock(), ids=SystemIds())
    for name in SIDES:
        store.clusters.add(Cluster(id=name, name=name, backend="flaky", config={"pool": "far", "cpus": 2}))
    store.close()
    paths = os.pathsep.join(filter(None, [str(tmp_path / "plugins"), os.environ.get("PYTHONPATH")]))  # the code under test stays
    installation.env = {"PYTHONPATH": paths, "MAINSPRING_LOST_AFTER_S": str(LOST_AFTER_S)}
    installation.start()
    made = Sides(installation, poll)
    poll(lambda: set(SIDES) <= set(made.nodes()), 90, "the inventory")
    yield made
    for name in SIDES:
        made.trouble(name)


@pytest.mark.parametrize("what", [Trouble(is_cut=True), Trouble(is_blind=True)], ids=["cut", "blind"])
def test_a_run_out_of_reach_is_tried_elsewhere_and_committed_once(sides: Sides, what: Trouble) -> None:
    run = sides.submit()
    first = sides.begun(run)
    side = first["cluster"]
    sides.trouble(side, what)
    seen: list[Any] = []

    def is_told() -> bool:  # all of it holds for some seconds: what is told after that is another story
        seen[:] = [sides.why(run), sides.run(run), sides.nodes()]
        return all((one["reason"] or {}).get("code") == "node_unreachable" for one in seen[:2]) and len(sides.attempts(run)) == 1

    sides.poll(is_told, 90, "the reason, of the run in lists too")
    told = seen[0]["sentence"]
    assert told.startswith(f"No word from node {first['replicas'][0]['node']} for "), told
    assert "a new attempt starts in " in told
    assert seen[2][side]["state"] == "unreachable"
    second = sides.begun(run, 2)
    assert second["cluster"] != side
    assert sides.run(run)["reason"] is None
    before = len(sides.said()[first["id"]])
    sides.poll(lambda: len(sides.said()[first["id"]]) > before, 90, "a sign that the first one goes on unseen")
    assert sides.nodes()[side]["state"] == "unreachable", "its node takes nothing while the first one may live there"
    sides.trouble(side)
    sides.poll(lambda: first["id"] in sides.said("stopped"), 90, "the end of the superseded attempt")
    sides.let_go()
    done = sides.ends(run)
    assert [one["outcome"]["cause"] for one in sides.attempts(run)] == ["node_lost", "succeeded"]
    log = f"/runs/{run}/logs?attempt=1"
    sides.poll(lambda: f"begun by {first['id']}" in sides.site.call("GET", log).text, 90, "the log of the superseded attempt")
    assert f"ended by {second['id']}" in sides.site.call("GET", f"/runs/{run}/logs?attempt=2").text
    digest = next(value["digest"] for name, value in done["outputs"].items() if "who" in name)
    assert sides.site.call("GET", f"/blobs/{digest}").text == second["id"], "the outputs are the second one's"
    sides.poll(sides.is_at_rest, 90, "rest")


def test_a_run_that_comes_back_in_time_goes_on(sides: Sides) -> None:
    run = sides.submit(is_exclusive=True)
    first = sides.begun(run)
    sides.trouble(first["cluster"], Trouble(is_cut=True))
    sides.poll(lambda: "exclusive" in sides.why(run)["sentence"], 90, "the reason")
    time.sleep(LOST_AFTER_S + 2.0)  # what must not happen in this time is a second attempt
    assert len(sides.attempts(run)) == 1
    sides.trouble(first["cluster"])
    sides.poll(lambda: sides.run(run)["reason"] is None, 90, "the reason's end")
    sides.let_go()
    sides.ends(run)
    assert len(sides.attempts(run)) == 1
    sides.poll(sides.is_at_rest, 90, "rest")


def test_an_exclusive_run_is_tried_again_when_an_admin_says_that_its_node_is_off(sides: Sides) -> None:
    run = sides.submit(is_exclusive=True)
    first = sides.begun(run)
    sides.trouble(first["cluster"], Trouble(is_cut=True))
    sides.poll(lambda: "mainspring node dead" in sides.why(run)["sentence"], 90, "the reason")
    answer = sides.site.call("POST", f"/nodes/{first['replicas'][0]['node']}/dead")
    assert answer.status_code == 200, answer.text
    assert sides.begun(run, 2)["cluster"] != first["cluster"]
    sides.trouble(first["cluster"])
    sides.poll(lambda: first["id"] in sides.said("stopped"), 90, "the end of the superseded attempt")
    sides.let_go()
    sides.ends(run)


def test_a_runner_that_is_cut_off_ends_its_run_before_the_next_begins(sides: Sides) -> None:
    # longer than the server takes to see the silence, so that both have to count
    run = sides.submit(is_exclusive=True, disconnect_limit_s=12.0, grace_s=3.0)
    first = sides.begun(run)
    sides.trouble(first["cluster"], Trouble(is_cut=True))
    second = sides.begun(run, 2, timeout_s=150)
    assert first["id"] in sides.said("checkpoint"), "it was not asked for a checkpoint first"
    assert sides.said("checkpoint")[first["id"]][0] < sides.said("stopped")[first["id"]][0]
    assert sides.said("stopped")[first["id"]][0] < sides.said()[second["id"]][0], "two of an exclusive run lived at once"
    sides.trouble(first["cluster"])
    sides.let_go()
    sides.ends(run)
    sides.poll(sides.is_at_rest, 90, "rest")


def test_a_slow_engine_holds_up_nobody_else(sides: Sides) -> None:
    for name in SIDES:
        sides.trouble(name, Trouble(slow_s=20.0))
    more_than_a_lane_takes = 12
    asked = {"command": ["true"], "resources": {"cpu_milli": 100, "pool": "far"}}
    slow = [sides.submit(**asked) for _ in range(more_than_a_lane_takes)]
    sides.poll(lambda: all(len(sides.attempts(one)) == 1 for one in slow), 90, "their places")
    for number in range(3):
        began = time.monotonic()
        quick = sides.submit(command=["true"], name=f"quick-{number}", resources={"cpu_milli": 100, "pool": "default"})
        sides.ends(quick)
        assert time.monotonic() - began < 15.0, "it waited for an engine that is not its own"
    for name in SIDES:
        sides.trouble(name)
    for one in slow:
        sides.poll(lambda one=one: sides.run(one)["state"] == "succeeded", 90, "the end of a slow one")


def test_engines_that_are_slow_or_down_cost_others_no_time(sides: Sides) -> None:
    """A bound relative to the same runs while all is well: launch, start and end of runs on another engine."""

    def took(number: int) -> float:
        began = time.monotonic()
        for one in range(3):
            asked = {"command": ["true"], "name": f"quick-{number}-{one}", "resources": {"cpu_milli": 100, "pool": "default"}}
            sides.ends(sides.submit(**asked))
        return time.monotonic() - began

    took(0)  # what comes first loads things
    undisturbed = [took(1)]
    slow, down = SIDES
    sides.trouble(slow, Trouble(slow_s=10.0))
    sides.trouble(down, Trouble(is_cut=True))
    far = [sides.submit(command=["true"], resources={"cpu_milli": 100, "pool": "far"}) for _ in range(12)]
    sides.poll(lambda: all(sides.attempts(one) for one in far[:4]), 90, "their places")
    disturbed = min(took(2), took(3))
    for name in SIDES:
        sides.trouble(name)
    for one in far:
        sides.poll(lambda one=one: sides.run(one)["state"] == "succeeded", 90, "the end of a slow one")
    undisturbed.append(took(4))  # the machine may have got busy meanwhile
    assert disturbed < 2 * max(undisturbed) + 3.0, (undisturbed, disturbed)


def test_a_node_that_vanishes_is_forgotten_when_nothing_is_held_there(sides: Sides) -> None:
    run = sides.submit(is_exclusive=True)
    first = sides.begun(run)
    side = first["cluster"]
    other = next(name for name in SIDES if name != side)
    for name in SIDES:
        sides.trouble(name, Trouble(has_no_nodes=True))
    sides.site.kill()
    sides.site.start()  # its engines are asked at once
    sides.poll(lambda: other not in sides.nodes(), 90, "the removal of an empty node")
    assert sides.nodes()[side]["state"] == "unreachable", "a node was removed that holds something"
    kinds = [event["kind"] for event in sides.site.call("GET", "/events?limit=1000").json()["items"]]
    assert kinds.count("node.vanished") == 2
    assert kinds.count("node.removed") == 1
    sides.let_go()
    sides.ends(run)
    sides.poll(lambda: side not in sides.nodes(), 90, "the removal of the other one")
    sides.trouble(side)
    sides.poll(lambda: side in sides.nodes(), 90, "its return")
