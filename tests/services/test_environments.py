"""What is to go from nodes, and the runs that are there to remove it at once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import AccessDeniedError
from mainspring.core.records import Role
from mainspring.core.specs import Environment, RunSpec
from mainspring.services import clusters, environments, projects, runs

EDITOR = Actor(name="ed", roles={"default": Role.EDITOR})
LOCK = "a" * 64


@pytest.fixture
def used(house):
    """Return what lets a run of a project use an environment on the node, to its end or not; gives the run's id."""

    node = house.ctx.store.nodes.get("local.one")
    house.ctx.store.nodes.upsert("local", [replace(node, labels={"containers": "yes"})], now=house.clock.now())

    def use(key: str, project: str = "default", *, image: str = "", ends: bool = True) -> str:
        run, _ = runs.submit(
            house.ctx,
            SYSTEM,
            RunSpec(command=("a",), project=project, environment=Environment(image=image), overrides={"d": {"x": 1}}),
        )
        house.plan()
        attempt = house.attempt_of(run)
        told = {"kind": "environment_used", "key": key, "lock": LOCK, "version": "3.11", "platform": "linux", "tool": "uv"}
        line = json.dumps({**told, "size_bytes": 1000, "built_at": 1.0, "took_s": 0.1, "is_kept": True}).encode() + b"\n"
        house.ctx.store.attempts.append(attempt.id, 0, [("events", 0, line)], now=house.clock.now())
        if ends:
            house.end(run)
        return str(run.id)

    return use


def test_one_run_for_each_project_removes_what_is_to_go_as_its_last_user_ran(house, used) -> None:
    projects.add(house.ctx, SYSTEM, "other")
    for key, project, image in (("a", "default", ""), ("b", "default", ""), ("c", "other", ""), ("d", "other", "of/ours:1")):
        used(key * 32, project, image=image)
    assert environments.remove_now(house.ctx, SYSTEM) == [], "nothing is to go"
    assert {one.node for one in environments.prune(house.ctx, SYSTEM)} == {"one"}
    found = environments.remove_now(house.ctx, SYSTEM)
    told = sorted((one.project, one.spec.environment.image, one.spec.resources.labels["node"], one.name) for one in found)
    node = "local.one"
    assert told == [
        ("default", "", node, "env-prune"),
        ("other", "", node, "env-prune"),
        ("other", "of/ours:1", node, "env-prune"),
    ]
    assert all(one.spec.overrides == {"d": {"x": 1}} for one in found)


def test_nothing_is_submitted_to_a_node_that_takes_no_runs_or_for_what_is_in_use(house, used) -> None:
    used("a" * 32)
    used("b" * 32, ends=False)
    environments.prune(house.ctx, SYSTEM, keys=["a", "b"])
    assert len(environments.remove_now(house.ctx, SYSTEM)) == 1
    clusters.drain(house.ctx, SYSTEM, "one")
    assert environments.remove_now(house.ctx, SYSTEM) == []


def test_who_is_no_administrator_removes_nothing(house) -> None:
    with pytest.raises(AccessDeniedError):
        environments.remove_now(house.ctx, EDITOR)
