"""The tables of demand against the definition of fragmentation, one typical request and one device at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring.core.resources import DeviceShare, Resources
from mainspring.scheduler.cluster import build
from mainspring.scheduler.demand import make_demand
from mainspring.scheduler.requests import make_request
from mainspring.scheduler.scorers.fragmentation import gradient

TYPICAL = [
    (Resources(cpu_milli=1000), 2.0),
    (Resources(cpu_milli=2000, gpu_milli=300), 3.0),
    (Resources(cpu_milli=500, gpu_milli=810), 2.0),
    (Resources(cpu_milli=3000, gpu_milli=1000), 4.0),
    (Resources(cpu_milli=4000, gpu_milli=2000), 1.0),
    (Resources(cpu_milli=1000, gpu_milli=500, gpu_models=("H100",)), 1.0),
]


def _fragments(cpu: int, free: list[int]) -> float:
    """Return the expected idle milli that no typical request can use, by the definition of ATC'23."""
    expected = 0.0
    for asked, count in TYPICAL:
        devices, milli = max(1, asked.gpu_milli // 1000), min(asked.gpu_milli, 1000)
        runs = cpu >= asked.cpu_milli and not asked.gpu_models and sum(one >= milli for one in free) >= devices
        lost = sum(one for one in free if one < milli) if asked.gpu_milli and runs else sum(free)
        expected += lost * count / sum(count for _, count in TYPICAL)
    return expected


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cpu=st.integers(0, 6000),
    free=st.lists(st.sampled_from([0, 100, 190, 300, 500, 700, 810, 999, 1000]), min_size=1, max_size=4),
    asked=st.sampled_from([one for one, _ in TYPICAL if not one.gpu_models]),
)
def test_the_gradient_is_that_of_the_definition(cpu: int, free: list[int], asked: Resources, make_node: Any) -> None:
    """For each device that a share may take, and for whole devices and runs without any."""
    used = tuple(DeviceShare(index=index, milli=1000 - milli) for index, milli in enumerate(free))
    cluster = build([make_node("n", gpus=len(free), cpus=6, used_cpu_milli=6000 - cpu, used_devices=used)])
    demand = make_demand(cluster, [*TYPICAL])
    assert len(demand.requests) == len(TYPICAL)
    request = make_request(cluster, asked)
    if not request.fits(cluster).all():
        return
    found = gradient(cluster, demand, request, slice(None), demand.share_worth)
    before, milli = _fragments(cpu, free), min(asked.gpu_milli, 1000)
    if asked.gpu_milli >= 1000 or not asked.gpu_milli:
        left = list(free)
        for _ in range(asked.gpu_milli // 1000):
            left[left.index(1000)] = 0
        assert np.isclose(np.ravel(found).max(), before - _fragments(cpu - asked.cpu_milli, left))
        return
    for column, one in enumerate(free):
        if one >= milli:
            left = [*free[:column], one - milli, *free[column + 1 :]]
            assert np.isclose(found[0, column], before - _fragments(cpu - asked.cpu_milli, left))


def test_a_device_is_filled_in_thought_as_far_as_sizes_go(make_node: Any) -> None:
    """With halves alone a whole device fills, 700 fills to 500, 400 not at all."""
    cluster = build([make_node("n", gpus=1)])
    demand = make_demand(cluster, [(Resources(cpu_milli=1, gpu_milli=500), 1.0)])
    more = (demand.fill_worth - demand.share_worth)[0, -1]
    assert more[400] == 0
    assert np.isclose(more[1000], 2 * more[500])
    assert np.isclose(more[700], more[500])


def test_pressure_is_on_the_models_that_some_cannot_do_without(make_node: Any) -> None:
    """Those who may go anywhere press on nobody."""
    nodes = [make_node("a", gpus=1), make_node("b", gpus=3, pool="b")]
    picky = Resources(gpu_milli=1000, pool="b")
    cluster = build(nodes)
    assert make_demand(cluster, [(Resources(gpu_milli=1000), 1.0)]).pressure.tolist() == [0, 0]
    pressure = make_demand(cluster, [(picky, 1.0), (Resources(gpu_milli=1000), 1.0)]).pressure
    by_pool = dict(zip([node.pool for node in cluster.nodes], pressure.tolist(), strict=True))
    assert by_pool["default"] == 0
    assert np.isclose(by_pool["b"], 0.5 * 4 / 3)
