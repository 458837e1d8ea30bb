"""What `why` says of runs that wait while a node drains, and that it is taken back when the node is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import ConflictError
from mainspring.core.records import Cluster, Node, NodeState
from mainspring.core.resources import Device, Resources
from mainspring.core.specs import RunSpec
from mainspring.services import clusters, runs


@pytest.fixture
def submit(house):
    def make(**resources: int) -> str:
        run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",), resources=Resources(**resources)))
        return str(run.id)

    return make


@pytest.fixture
def small(house) -> str:
    """A second node, of two CPUs and one GPU."""
    node = replace(house.ctx.store.nodes.get("local.one"), id="local.small", name="small", cpu_milli=2000)
    listed = [house.ctx.store.nodes.get("local.one"), replace(node, devices=(Device(index=0),))]
    house.ctx.store.nodes.upsert("local", listed, now=house.clock.now())
    return "local.small"


def told(house, run: str) -> tuple[str, str]:
    found = runs.why(house.ctx, SYSTEM, run)
    return str(found["reason"].code), str(found["sentence"])


def test_the_only_node_drains(house, submit) -> None:
    before = submit(cpu_milli=1000)
    assert house.plan() == [before]
    assert clusters.drain(house.ctx, SYSTEM, "one").state is NodeState.DRAINING
    run = submit(cpu_milli=1000)
    assert house.plan() == []
    assert told(house, run) == (
        "no_cluster",
        "Waits for a node: none of the 1 registered is ready (draining or unreachable).",
    )
    house.end(before)
    assert house.plan() == [], "what has ended there makes no room for others"
    clusters.resume(house.ctx, SYSTEM, "one")
    assert house.plan() == [run]
    assert runs.get(house.ctx, SYSTEM, run).reason is None


def test_the_only_node_that_is_large_enough_drains(house, submit, small: str) -> None:
    clusters.drain(house.ctx, SYSTEM, "local.one")
    large, fits = submit(cpu_milli=4000), submit(cpu_milli=1000)
    assert house.plan() == [fits]
    code, sentence = told(house, large)
    assert code == "node_unreachable"
    assert sentence == "Waits for nodes that take no runs now and could hold 4 CPUs: one (draining). " + (
        "one: drained by system (since 01 Mar 00:00 UTC)."
    )
    clusters.resume(house.ctx, SYSTEM, "local.one")
    assert house.plan() == [large]


def test_what_is_free_on_a_node_that_drains_is_not_counted_as_free(house, submit, small: str) -> None:
    clusters.drain(house.ctx, SYSTEM, "local.one")
    first, second = submit(gpu_milli=1000), submit(gpu_milli=1000)
    assert house.plan() == [first]
    code, sentence = told(house, second)
    assert code == "no_free_gpu"
    assert "all 1" in sentence, sentence
    clusters.resume(house.ctx, SYSTEM, "local.one")
    assert house.plan() == [second]


def test_a_name_that_is_a_node_of_two_clusters_drains_neither(house) -> None:
    house.ctx.store.clusters.add(Cluster(id="box", name="box", backend="docker", created_at=house.clock.now()))
    house.ctx.store.nodes.upsert(
        "box", [Node(id="box.one", cluster="box", name="one", cpu_milli=1000, memory_bytes=1)], now=house.clock.now()
    )
    for act in (clusters.drain, clusters.resume, clusters.declare_dead):
        with pytest.raises(ConflictError, match="of several clusters") as refused:
            act(house.ctx, SYSTEM, "one")
        assert refused.value.hint == "Write which one: box.one, local.one"
    assert clusters.drain(house.ctx, SYSTEM, "box.one").cluster == "box"
