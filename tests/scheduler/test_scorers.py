"""Each scorer by name: what it prefers in a scene made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.errors import PlannerError
from mainspring.core.policy import Policy
from mainspring.core.records import Node
from mainspring.core.resources import Device, DeviceShare, Resources
from mainspring.core.snapshot import Snapshot, Typical
from mainspring.scheduler.scorers import SCORERS, find_scorer


def _used(make_node: Callable[..., Node], name: str, *free: int, **others: Any) -> Node:
    """Make a node with so many milli free on each of its devices."""
    shares = tuple(DeviceShare(index=index, milli=1000 - milli) for index, milli in enumerate(free) if milli < 1000)
    return make_node(name, gpus=len(free), used_devices=shares, **others)


def _chosen(snapshot: Snapshot) -> list[tuple[str, tuple[int, ...]]]:
    """Return (node, device indexes) of each start."""
    plan = scheduler.plan(snapshot)
    return [(place.node, tuple(share.index for share in place.granted.devices)) for one in plan.decisions for place in one.places]


@pytest.mark.parametrize(
    ("scorer", "where"),
    [
        ("best_fit", ("b-600", (0,))),  # the node with the least left
        ("first_fit", ("a-idle", (0,))),
        ("packing", ("b-600", (0,))),
        ("pack", ("b-600", (0,))),
        ("spread", ("a-idle", (0,))),
        ("dot_product", ("b-600", (0,))),
        ("clustering", ("b-600", (0,))),
    ],
)
def test_a_share_goes_where_the_rule_says(scorer: str, where: object, make_node: Any, make_waiting: Any, scene: Any) -> None:
    """Half a GPU: an idle node of two devices, a node with 600 left on one, a whole one that is less begun."""
    nodes = [_used(make_node, "a-idle", 1000, 1000), _used(make_node, "b-600", 600), _used(make_node, "c-800", 800)]
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=500)], policy=Policy(scorer=scorer))
    assert _chosen(snapshot) == [where]


@pytest.mark.parametrize("scorer", ["fgd", "fgd_float", "fill"])
def test_fragmentation_takes_the_device_that_leaves_what_is_usable(
    scorer: str, make_node: Any, make_waiting: Any, scene: Any
) -> None:
    """With 300 and 700 typical, 300 goes beside what leaves 700, not where it leaves 500."""
    nodes = [_used(make_node, "a", 800, 1000)]
    typical = tuple(Typical(resources=Resources(cpu_milli=500, gpu_milli=milli), count=1.0) for milli in (300, 700))
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=300)], policy=Policy(scorer=scorer), typical=typical)
    assert _chosen(snapshot) == [("a", (1,))]


def test_scarce_models_are_kept_for_those_who_need_them(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """A run that may go anywhere leaves the one T4 to those that may go nowhere else."""
    t4 = make_node("a", devices=(Device(index=0, model="T4"),))
    nodes = [t4, make_node("b", gpus=1), make_node("c", gpus=1)]
    picky, free = Resources(gpu_milli=1000, gpu_models=("T4",)), Resources(gpu_milli=1000)
    typical = (Typical(resources=picky, count=1.0), Typical(resources=free, count=1.0))
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=1000)], policy=Policy(scorer="fill"), typical=typical)
    assert _chosen(snapshot) == [("b", (0,))]


def test_random_is_drawn_from_the_snapshot_alone(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """Equal snapshots give equal places; runs of one kind do not all go to the first nodes."""
    nodes = [make_node(f"n{number}", gpus=1) for number in range(8)]
    waiting = [make_waiting(number, gpu_milli=1000, cpu_milli=100) for number in range(4)]
    snapshot = scene(nodes, waiting, policy=Policy(scorer="random"))
    assert _chosen(snapshot) == _chosen(snapshot)
    assert [node for node, _ in _chosen(snapshot)] != ["n0", "n1", "n2", "n3"]


def test_an_unknown_scorer_is_refused_with_those_known() -> None:
    """The hint lists every name."""
    with pytest.raises(PlannerError) as caught:
        find_scorer("fastest")
    assert all(name in caught.value.hint for name in SCORERS)
