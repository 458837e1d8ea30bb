"""What one request may say beyond amounts: alternatives, elastic gangs, one rack or machine, data near by."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring import scheduler
from mainspring.core.policy import Policy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Device, DeviceShare, Resources
from mainspring.core.snapshot import DecisionKind, Snapshot

GIB = 2**30


def _nodes_of(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return the nodes of each run that starts, one for each replica."""
    plan = scheduler.plan(snapshot)
    return {one.run: [place.node for place in one.places] for one in plan.decisions if one.kind is DecisionKind.START}


def _with(make_node: Any, name: str, model: str, count: int, **others: Any) -> Any:
    return make_node(
        name, devices=tuple(Device(index=index, model=model, memory_bytes=16 * GIB) for index in range(count)), **others
    )


def test_the_first_alternative_that_fits_is_taken(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """One A100 or two L4: the first run gets the A100, the second two L4, the third waits."""
    nodes = [_with(make_node, "a", "A100", 1), _with(make_node, "l", "L4", 3)]
    two = Resources(gpu_milli=2000, gpu_models=("L4",))
    waiting = [make_waiting(one, gpu_milli=1000, gpu_models=("A100",), alternatives=(two,)) for one in range(3)]
    plan = scheduler.plan(scene(nodes, waiting))
    starts = [one for one in plan.decisions if one.kind is DecisionKind.START]
    assert [(one.places[0].node, len(one.places[0].granted.devices)) for one in starts] == [("a", 1), ("l", 2)]


def test_an_elastic_gang_takes_what_is_there(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """2..8 replicas on five GPUs: five start; 6..8 wait."""
    nodes = [make_node("a", gpus=2), make_node("b", gpus=3)]
    fits = scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=8, min_replicas=2)])
    assert {run: len(places) for run, places in _nodes_of(fits).items()} == {"run_001": 5}
    assert _nodes_of(scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=8, min_replicas=6)])) == {}


def test_an_elastic_gang_goes_to_the_cluster_that_holds_most(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """Two places in the first cluster, three in the second: it gets three."""
    nodes = [make_node("a", gpus=2, cluster="east"), make_node("b", gpus=3, cluster="west")]
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=4, min_replicas=2)])
    assert _nodes_of(snapshot) == {"run_001": ["b", "b", "b"]}


def test_replicas_share_a_rack(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """Only the rack with three GPUs takes three replicas, though the nodes without a rack have more."""
    nodes = [
        make_node("a", gpus=2, labels={"rack": "r1"}),
        make_node("b", gpus=2, labels={"rack": "r2"}),
        make_node("c", gpus=1, labels={"rack": "r2"}),
        make_node("d", gpus=4),
    ]
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=3, same="rack")])
    assert sorted(_nodes_of(snapshot)["run_001"]) == ["b", "b", "c"]
    assert _nodes_of(scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=4, same="rack")])) == {}


def test_replicas_share_a_machine(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """`node` is one machine; a second such run waits rather than spread."""
    nodes = [make_node("a", gpus=2), make_node("b", gpus=3), make_node("c", gpus=2)]
    waiting = [make_waiting(one, gpu_milli=1000, replicas=3, same="node") for one in (1, 2)]
    assert _nodes_of(scene(nodes, waiting)) == {"run_001": ["b", "b", "b"]}


def test_a_run_that_may_spread_is_not_blocked_by_one_that_may_not(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """What failed for one machine is not held against the same request without that wish."""
    nodes = [make_node("a", gpus=2), make_node("b", gpus=2)]
    waiting = [make_waiting(1, gpu_milli=1000, replicas=3, same="node"), make_waiting(2, gpu_milli=1000, replicas=3)]
    found = _nodes_of(scene(nodes, waiting, policy=Policy(backfill=Policy().backfill.__class__(reserved=0))))
    assert list(found) == ["run_002"]


def test_data_draws_a_run_as_far_as_it_weighs(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """A terabyte draws the run to an idle node or pool; a megabyte does not outweigh a fuller device."""
    nodes = [make_node("a", gpus=1), make_node("b", gpus=2, pool="far"), make_node("c", gpus=4, cpus=16)]
    for near in ("c", "far"):
        big = scene(nodes, [make_waiting(1, gpu_milli=1000, data_on=(near,), data_bytes=2**40)])
        assert _nodes_of(big) == {"run_001": ["c" if near == "c" else "b"]}
    small = scene(nodes, [make_waiting(1, gpu_milli=1000, data_on=("c",), data_bytes=2**20)])
    assert _nodes_of(small) == {"run_001": ["a"]}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    gpus=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["r1", "r2", ""])), min_size=1, max_size=5),
    replicas=st.integers(1, 6),
    least=st.integers(0, 6),
    same=st.sampled_from(["", "node", "rack"]),
)
def test_a_gang_starts_exactly_where_a_domain_holds_it(
    gpus: list[tuple[int, str]], replicas: int, least: int, same: str, make_node: Any, make_waiting: Any, scene: Any
) -> None:
    """Against adding up by hand: all in one domain, never fewer than asked, never fewer than the best domain holds."""
    nodes = [
        make_node(f"n{place}", cpus=64, gpus=count, labels={"rack": rack} if rack else {})
        for place, (count, rack) in enumerate(gpus)
    ]
    least = min(least, replicas)
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=1000, replicas=replicas, min_replicas=least, same=same)])
    domain = {f"n{place}": {"": "c", "node": f"n{place}", "rack": rack}[same] for place, (_, rack) in enumerate(gpus)}
    room: dict[str, int] = {}
    for place, (count, _) in enumerate(gpus):
        room[domain[f"n{place}"]] = room.get(domain[f"n{place}"], 0) + count
    if replicas == 1:
        most = int(any(count for count, _ in gpus))
    else:
        most = min(replicas, max((count for name, count in room.items() if name), default=0))
    found = _nodes_of(snapshot).get("run_001", [])
    assert len(found) == (most if most >= (least or replicas) else 0)
    assert replicas == 1 or len({domain[name] for name in found}) <= 1


def test_reasons_speak_of_the_rack_and_of_the_least(make_node: Any, make_waiting: Any, scene: Any) -> None:
    """Three would fit the cluster but two one rack; 3..9 needs three; an alternative that may fit later is what counts."""
    nodes = [make_node("a", gpus=2, labels={"rack": "r1"}), make_node("b", gpus=1, labels={"rack": "r2"})]

    def why(**asked: Any) -> Any:
        (one,) = scheduler.plan(scene(nodes, [make_waiting(1, gpu_milli=1000, **asked)])).decisions
        return one.reason

    never = why(replicas=3, same="rack")
    assert never.code == ReasonCode.CANNOT_FIT
    assert "one rack" in never.sentence
    assert why(replicas=9, min_replicas=4).code == ReasonCode.CANNOT_FIT
    other = Resources(gpu_milli=1000, gpu_models=("H100",))
    assert why(gpu_models=("H100",), alternatives=(other,)).code == ReasonCode.CANNOT_FIT
    half = (DeviceShare(index=0, milli=1000),)
    racks = [make_node(name, gpus=2, labels={"rack": name}, used_devices=used) for name, used in (("a", half), ("b", half))]
    (one,) = scheduler.plan(scene(racks, [make_waiting(1, gpu_milli=1000, replicas=2, same="rack")])).decisions
    assert (one.reason.code, one.reason.facts) == (ReasonCode.TOPOLOGY, {"replicas": 2, "fit": 1, "apart": 2, "same": "rack"})
    assert one.reason.sentence.endswith("on one rack: 2 would fit now, but at most 1 of them on the same rack.")
    busy = [make_node("a", gpus=1, used_devices=(DeviceShare(index=0, milli=500),))]
    fleet = scene(busy, [make_waiting(1, gpu_milli=1000, gpu_models=("H100",), alternatives=(Resources(gpu_milli=1000),))])
    (one,) = scheduler.plan(fleet).decisions
    assert one.reason.code == ReasonCode.NO_FREE_GPU
