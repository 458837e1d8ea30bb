"""Kill -9 at each row of the crash table and at random moments; promises P1 to P10 of `docs/internals/protocol.md` hold."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Installation

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]
POINTS = (
    "before-W1",
    "after-W1",
    "before-W2",
    "inside-W2",
    "after-W2",
    "before-W3",
    "after-W3",
    "after-S1",
    "after-W4",
    "before-W6",
    "after-W6",
    "before-W7",
    "inside-W7",
    "after-W7",
)
RUNS = 6
RUNNER_POINTS = ("after-S2", "before-S3", "after-S3", "after-S4", "before-S6", "after-S6", "before-S7")


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize("point", POINTS)
def test_a_server_killed_at_a_named_point_loses_nothing(installation: Installation, point: str, nth: int) -> None:
    installation.start(fault=f"{point}:{nth}")
    submit_all(installation, RUNS)
    asked, deadline = RUNS, time.monotonic() + 60
    while time.monotonic() < deadline and not installation.is_dead():
        time.sleep(0.5)
        if not installation.is_dead():  # a plan starts as many as there are: for the next plan there has to be another run
            installation.submit(asked)
            asked += 1  # also without an answer: it may have been accepted
    assert installation.is_dead(), f"{point} was never reached"
    installation.kill()
    installation.start()
    submit_all(installation, asked)
    wait_all(installation, asked)
    installation.check(asked)


@pytest.mark.parametrize("point", RUNNER_POINTS)
def test_runners_killed_at_a_named_point_lose_nothing(installation: Installation, point: str) -> None:
    deaths = installation.home / "deaths"
    installation.start(runner_fault=f"{point}@{deaths}")
    submit_all(installation, RUNS)
    until = time.monotonic() + 60
    while time.monotonic() < until and (not deaths.exists() or len(deaths.read_text().splitlines()) < RUNS):
        time.sleep(0.02)
    assert len(deaths.read_text().splitlines()) >= RUNS, f"{point} was not reached by every runner"
    installation.kill()
    installation.start()
    wait_all(installation, RUNS)
    installation.check(RUNS, were_runners_killed=True)
    if point not in ("after-S3", "after-S4"):  # user code had not begun, or its end was on disk: nothing is to be repeated
        assert set(Counter(run for run, _ in installation.lines()).values()) == {1}


def test_fifty_runs_survive_random_deaths_of_the_server(installation: Installation) -> None:
    dice = random.Random(11)
    installation.start()
    submit_all(installation, 50)
    for _ in range(4):
        time.sleep(dice.uniform(0.1, 1.0))  # the moment of death is what is being varied
        installation.kill()
        installation.start()
        submit_all(installation, 50)
    wait_all(installation, 50, timeout_s=150)
    installation.check(50)


def kill(pids: list[int]) -> int:
    """Kill those that have not ended meanwhile; return how many."""
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.engine
def test_runs_on_postgres_survive_deaths_of_the_server_and_of_runners(on_postgres: Installation) -> None:
    dice = random.Random(5)
    on_postgres.start(fault="inside-W7:3")
    submit_all(on_postgres, 16, pause_s=0.05)
    for _ in range(2):
        time.sleep(dice.uniform(0.3, 1.0))  # the moment of death is what is being varied
        on_postgres.kill()
        assert any("leader" in lease for lease in on_postgres.leases()), "what the dead one held counts until its time"
        on_postgres.start()
        submit_all(on_postgres, 16, pause_s=0.05)
    kill(on_postgres.runner_pids()[:3])
    wait_all(on_postgres, 16, timeout_s=150)
    on_postgres.check(16, were_runners_killed=True)


def test_runs_whose_runners_are_killed_are_tried_again(installation: Installation) -> None:
    installation.start()
    submit_all(installation, 12, pause_s=0.1)
    wait_lines(installation, 4)
    victims = installation.runner_pids()[:4]
    assert kill(victims)
    wait_all(installation, 12, timeout_s=150)
    installation.check(12, were_runners_killed=True)


def test_a_server_that_comes_back_elsewhere_is_found(installation: Installation) -> None:
    installation.start()
    submit_all(installation, 2, pause_s=0.15)
    wait_lines(installation, 2)
    installation.kill()
    port = int((installation.home / "port").read_text())
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        installation.start()
        assert int((installation.home / "port").read_text()) != port
        wait_all(installation, 2)
        installation.check(2)


def test_a_run_outlives_a_server_that_is_away(installation: Installation) -> None:
    installation.start()
    submit_all(installation, 3, pause_s=0.05)
    wait_lines(installation, 3)
    installation.kill()
    time.sleep(2.0)  # user code ends while nobody is there to hear it
    installation.start()
    wait_all(installation, 3)
    installation.check(3)


def test_what_was_wanted_outlives_the_server_that_was_told(installation: Installation, poll: Callable[..., None]) -> None:
    installation.start()
    submit_all(installation, 3, pause_s=0.4)
    wait_lines(installation, 3)
    ids = {str(run["name"]): str(run["id"]) for run in installation.runs()}
    for act, name in (("cancel", "chaos-0"), ("pause", "chaos-1")):
        assert installation.call("POST", f"/runs/{ids[name]}/{act}", json={"grace_s": 1}).status_code == 200
    installation.kill()
    installation.start()

    def stands(name: str, state: str, desired: str) -> bool:
        run = installation.call("GET", f"/runs/{ids[name]}").json()
        return (run["state"], run["desired"]) == (state, desired)

    poll(lambda: stands("chaos-0", "cancelled", "cancelled"), 90, "the cancel")
    poll(lambda: stands("chaos-1", "queued", "paused"), 90, "the pause")
    installation.kill()
    installation.start()
    assert stands("chaos-1", "queued", "paused")
    assert installation.call("POST", f"/runs/{ids['chaos-1']}/resume").status_code == 200
    wait_all(installation, 3)
    assert stands("chaos-0", "cancelled", "cancelled")
    assert stands("chaos-1", "succeeded", "run")
    assert stands("chaos-2", "succeeded", "run")
    assert Counter(run for run, _ in installation.lines()) == {ids["chaos-0"]: 1, ids["chaos-1"]: 2, ids["chaos-2"]: 1}


def submit_all(installation: Installation, count: int, *, pause_s: float = 0.01) -> None:
    """Submit runs 0 to `count`, each under its own key, until the server dies."""
    for number in range(count):
        if installation.is_dead() or installation.submit(number, pause_s=pause_s) is None:
            return


def wait_all(installation: Installation, count: int, *, timeout_s: float = 150) -> None:
    """Wait until `count` runs are done."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = installation.runs()
        if len(found) >= count and all(run["state"] in ("succeeded", "failed", "cancelled") for run in found):
            return
        time.sleep(0.1)
    states = [(run["name"], run["state"], run.get("reason")) for run in installation.runs() if run["state"] != "succeeded"]
    pytest.fail(f"not done after {timeout_s:g} s: {states[:5]}")


def wait_lines(installation: Installation, count: int) -> None:
    """Wait until `count` user commands have begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(installation.lines()) < count:
        time.sleep(0.02)
