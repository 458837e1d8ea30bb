"""Runs that take what there is, as people type them: a gang of as many as have room, and GPUs of another model. A real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
MEMBER = """
import os
print(*(os.environ[name] for name in ("RANK", "WORLD_SIZE", "MAINSPRING_WORLD_SIZE", "PET_NNODES", "CUDA_VISIBLE_DEVICES")))
"""
SEEN = "import os; print(os.uname().nodename, os.environ['CUDA_VISIBLE_DEVICES'])"


def submit(site: Site, *words: str) -> str:
    """Type `mainspring run`; return the run's id."""
    done = site.cli("run", "--detach", "--json", *words)
    assert done.code == 0, done
    return str(json.loads(done.out)["id"])


def reason(site: Site, run: str) -> tuple[str, dict[str, Any]]:
    """Return why a run waits: the code and its facts."""
    told = site.run(run)["reason"] or {}
    return str(told.get("code", "")), dict(told.get("facts", {}))


def test_an_elastic_gang_starts_with_fewer_members_and_each_knows_how_many(fresh: Site, until: Callable[..., Any]) -> None:
    fresh.start("--gpus", "4", "--cpus", "8")
    holds = [submit(fresh, "--gpus", gpus, "--", "sleep", "600") for gpus in ("2", "1")]
    until(lambda: all(fresh.run(one)["state"] == "running" for one in holds), "what holds three of four GPUs")
    gang = submit(fresh, "--gpus", "1", "--replicas", "2..8", "--", sys.executable, "-c", MEMBER)
    until(lambda: reason(fresh, gang) == ("gang_incomplete", {"fit": 1, "replicas": 2}), "its reason: one is too few")
    assert fresh.cli("cancel", holds[0]).code == 0
    assert fresh.wait(gang)["state"] == "succeeded", fresh.attempts(gang)
    (attempt,) = fresh.attempts(gang)
    assert len(attempt["replicas"]) == 3, "two to eight were asked for, three had room"
    lines = [fresh.log(gang, replica=number).decode().split() for number in range(3)]
    assert [line[:4] for line in lines] == [[str(rank), "3", "3", "3"] for rank in range(3)]
    granted = [str(one["granted"]["devices"][0]["index"]) for one in attempt["replicas"]]
    assert [line[4] for line in lines] == granted
    assert len(set(granted)) == 3
    assert fresh.run(gang)["spec"]["replicas"] == 8, "what was asked for stands"
    fresh.cli("cancel", holds[1])


@pytest.mark.engine
@pytest.mark.xdist_group("fleet")
def test_a_run_with_alternatives_starts_with_the_second_while_the_first_is_taken(
    fresh: Site, add_engine: Callable[..., None], until: Callable[..., Any]
) -> None:
    fresh.start("--gpus", "1", "--gpu-model", "A100", "--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    add_engine(fresh, "metal", "--gpus", "2", "--gpu-model", "L4")
    choice = ("--gpus", "A100:1 | L4:2", "--memory", "64MiB", "--", "python3", "-c", SEEN)
    holds = submit(fresh, "--gpus", "A100:1", "--", "sleep", "600")
    until(lambda: fresh.run(holds)["state"] == "running", "what holds the A100")
    other = submit(fresh, *choice)
    assert fresh.wait(other)["state"] == "succeeded", fresh.attempts(other)
    (attempt,) = fresh.attempts(other)
    (replica,) = attempt["replicas"]
    assert replica["node"].startswith("metal.")
    assert [one["index"] for one in replica["granted"]["devices"]] == [0, 1]
    assert fresh.log(other).split() == [b"bm3", b"0,1"]
    fresh.cli("cancel", holds)
    fresh.wait(holds)
    first = submit(fresh, *choice)
    assert fresh.wait(first)["state"] == "succeeded", fresh.attempts(first)
    (attempt,) = fresh.attempts(first)
    assert (attempt["cluster"], fresh.log(first).split()[1:]) == ("local", [b"0"])
