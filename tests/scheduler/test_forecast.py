"""When a waiting run will start: exact where nothing is uncertain, honest where it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from mainspring.core.ids import RunId
from mainspring.core.resources import Device, DeviceShare, Granted, Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import Place, PlacedRun, ShareState, Snapshot
from mainspring.scheduler.forecast import Past, Record, by_run, error_of, recalibrated, sampled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SURE = Past(lengths=((1000.0, 1000.0),) * 20)  # runs last as long as they are estimated to


@pytest.fixture
def placed() -> Any:
    """Give a maker of running runs: so many whole GPUs of node n, for so many seconds more."""

    def make(number: int, devices: range, left_s: float, *, estimate_s: float = 3600) -> PlacedRun:
        shares = tuple(DeviceShare(index=index, milli=1000) for index in devices)
        return PlacedRun(
            id=RunId(f"run_placed{number}"),
            owner="eve",
            project="p",
            priority=0,
            seq=-number,
            since=NOW - timedelta(seconds=estimate_s - left_s),
            is_preemptible=True,
            estimate_s=estimate_s,
            places=(Place(replica=0, node="n", granted=Granted(cpu_milli=1000, memory_bytes=0, devices=shares)),),
        )

    return make


def seconds(moment: datetime) -> float:
    return (moment - NOW).total_seconds()


def test_starts_when_what_it_needs_comes_free(make_node: Any, make_waiting: Any, placed: Any) -> None:
    snapshot = Snapshot(
        now=NOW,
        nodes=(make_node("n", cpus=64, gpus=4),),
        placed=(placed(1, range(2), 600), placed(2, range(2, 4), 1800)),
        waiting=(
            make_waiting(1, gpu_milli=2000, estimate_s=100.0),
            make_waiting(2, gpu_milli=4000, estimate_s=300.0),
            make_waiting(3, gpu_milli=1000, estimate_s=10_000.0),
        ),
    )
    found = by_run(sampled(snapshot, SURE, seed=1))
    assert seconds(found[RunId("run_001")].earliest) == pytest.approx(600)
    assert seconds(found[RunId("run_001")].latest) == pytest.approx(600)
    assert seconds(found[RunId("run_002")].median) == pytest.approx(1800)
    assert seconds(found[RunId("run_003")].median) == pytest.approx(2100)


def test_one_who_does_not_wait_yet_is_told_what_less_would_give(make_node: Any, make_waiting: Any, placed: Any) -> None:
    snapshot = Snapshot(now=NOW, nodes=(make_node("n", cpus=64, gpus=4),), placed=(placed(1, range(3), 900),))
    sample = sampled(snapshot, SURE, seed=1)
    assert seconds(sample.ask(make_waiting(9, gpu_milli=1000)).latest) == 0
    assert seconds(sample.ask(make_waiting(9, gpu_milli=2000)).earliest) == pytest.approx(900)


def test_the_least_served_share_goes_first(make_node: Any, make_waiting: Any, placed: Any) -> None:
    mine = tuple(make_waiting(number, owner="eve", gpu_milli=4000, estimate_s=100.0) for number in range(1, 4))
    snapshot = Snapshot(
        now=NOW,
        nodes=(make_node("n", cpus=64, gpus=4),),
        placed=(placed(1, range(4), 500),),
        waiting=(*mine, make_waiting(4, owner="bob", gpu_milli=4000, estimate_s=3000.0)),
    )
    found = by_run(sampled(snapshot, SURE, seed=1))
    assert seconds(found[RunId("run_004")].median) < seconds(found[RunId("run_002")].median)


def test_of_shares_that_hold_equally_much_the_one_served_longest_ago_is_next(
    make_node: Any, make_waiting: Any, placed: Any
) -> None:
    """As in the plan; not by their names."""
    waiting = [
        make_waiting(number, owner=owner, gpu_milli=4000, estimate_s=100.0) for number, owner in enumerate(("amy", "bob", "zoe"))
    ]
    served = {"amy": NOW - timedelta(seconds=10), "bob": NOW - timedelta(seconds=20)}
    snapshot = Snapshot(
        now=NOW,
        nodes=(make_node("n", cpus=64, gpus=4),),
        placed=(placed(1, range(4), 500),),
        waiting=tuple(waiting),
        shares=tuple(ShareState(share=Share(name=name), served_at=at) for name, at in served.items()),
    )
    found = by_run(sampled(snapshot, SURE, seed=1))
    assert [round(seconds(found[RunId(f"run_{number:03}")].median)) for number in range(3)] == [700, 600, 500]


def test_nothing_is_claimed_of_runs_without_an_estimate(make_node: Any, make_waiting: Any, placed: Any) -> None:
    """Short runs that had an estimate say nothing about one of which nobody knows anything."""
    past = Past(lengths=((0.6, 1.6),) * 30)
    snapshot = Snapshot(
        now=NOW,
        nodes=(make_node("n", cpus=64, gpus=4),),
        placed=(replace(placed(1, range(4), 1.0), estimate_s=0.0, since=NOW),),
        waiting=(make_waiting(1, gpu_milli=4000), make_waiting(2, gpu_milli=4000)),
    )
    found = by_run(sampled(snapshot, past, seed=1))
    for run in ("run_001", "run_002"):
        assert seconds(found[RunId(run)].latest) > 3 * seconds(found[RunId(run)].earliest)


def test_what_never_fits_has_no_bound(make_node: Any, make_waiting: Any) -> None:
    snapshot = Snapshot(now=NOW, nodes=(make_node("n", gpus=1),), waiting=(make_waiting(1, gpu_milli=2000),))
    found = by_run(sampled(snapshot, SURE, seed=1))[RunId("run_001")]
    assert not found.is_bounded


def test_gangs_over_nodes_and_shares_of_a_gpu_and_cpus(make_node: Any, make_waiting: Any) -> None:
    nodes = tuple(make_node(f"n{number}", cpus=16, gpus=2) for number in range(3))
    waiting = (
        make_waiting(1, gpu_milli=2000, replicas=3, estimate_s=100.0),
        make_waiting(2, gpu_milli=500, estimate_s=200.0),
        make_waiting(3, cpu_milli=8000, estimate_s=50.0),
        make_waiting(4, gpu_milli=2000, replicas=4, estimate_s=100.0),
    )
    found = by_run(sampled(Snapshot(now=NOW, nodes=nodes, waiting=waiting), SURE, seed=1))
    starts = {run: seconds(one.median) for run, one in found.items()}
    assert starts[RunId("run_003")] == 0
    assert {starts[RunId("run_001")], starts[RunId("run_002")]} <= {0.0, 100.0}
    assert not found[RunId("run_004")].is_bounded


def test_of_several_choices_the_one_that_is_met_first_is_foretold(make_node: Any, make_waiting: Any, placed: Any) -> None:
    """`A100:2 | L4:1` beside busy A100s; then nothing of the first kind is there at all."""
    devices = tuple(Device(index=index, model="L4", memory_bytes=1) for index in range(1))
    small = make_node("small", devices=devices)
    either = (Resources(gpu_milli=1000, gpu_models=("L4",)),)
    run = make_waiting(1, gpu_milli=2000, gpu_models=("A100",), alternatives=either, estimate_s=100.0)
    both = Snapshot(now=NOW, nodes=(make_node("n", gpus=2), small), placed=(placed(1, range(2), 600),), waiting=(run,))
    assert seconds(by_run(sampled(both, SURE, seed=1))[run.id].latest) == 0
    later = make_waiting(2, gpu_milli=2000, gpu_models=("A100",), alternatives=either, estimate_s=1000.0)
    second = by_run(sampled(replace(both, waiting=(run, later)), SURE, seed=1))[later.id]
    assert seconds(second.median) == pytest.approx(100)  # the L4 comes free before the A100s
    alone = by_run(sampled(replace(both, nodes=(small,), placed=()), SURE, seed=1))[run.id]
    assert alone.is_bounded


def test_a_gang_of_several_sizes_starts_with_the_least(make_node: Any, make_waiting: Any, placed: Any) -> None:
    nodes, held = (make_node("n", gpus=4),), (placed(1, range(2), 600),)
    run = make_waiting(1, gpu_milli=1000, replicas=8, min_replicas=2, estimate_s=100.0)
    found = by_run(sampled(Snapshot(now=NOW, nodes=nodes, placed=held, waiting=(run,)), SURE, seed=1))[run.id]
    assert (seconds(found.latest), found.is_bounded) == (0, True)
    rigid = replace(run, min_replicas=0)
    assert not by_run(sampled(Snapshot(now=NOW, nodes=nodes, placed=held, waiting=(rigid,)), SURE, seed=1))[run.id].is_bounded


@pytest.mark.parametrize(("same", "starts"), [("", 0), ("node", 600), ("rack", 300)])
def test_replicas_that_stay_together_wait_for_one_place(
    make_node: Any, make_waiting: Any, placed: Any, same: str, starts: float
) -> None:
    """Two GPUs are free on two racks now, two of one rack in five minutes, two of one machine in ten."""
    racks = {"n": "a", "m": "b", "k": "b"}
    nodes = tuple(make_node(name, gpus=2 if name == "n" else 1, labels={"rack": rack}) for name, rack in racks.items())
    on_k = replace(placed(2, range(1), 300), places=(replace(placed(2, range(1), 300).places[0], node="k"),))
    run = make_waiting(1, gpu_milli=1000, replicas=2, same=same, estimate_s=10.0)
    snapshot = Snapshot(now=NOW, nodes=nodes, placed=(placed(1, range(1), 600), on_k), waiting=(run,))
    assert seconds(by_run(sampled(snapshot, SURE, seed=1))[run.id].median) == pytest.approx(starts)


def test_a_gang_stays_in_one_cluster(make_node: Any, make_waiting: Any, placed: Any) -> None:
    nodes = (make_node("n", gpus=2), make_node("m", gpus=1, cluster="other"))
    run = make_waiting(1, gpu_milli=1000, replicas=2, estimate_s=10.0)
    snapshot = Snapshot(now=NOW, nodes=nodes, placed=(placed(1, range(1), 600),), waiting=(run,))
    assert seconds(by_run(sampled(snapshot, SURE, seed=1))[run.id].median) == pytest.approx(600)


def test_runs_that_outlast_their_estimate_are_not_believed_to_end_at_once(make_node: Any, make_waiting: Any, placed: Any) -> None:
    over = placed(1, range(1), 5.0, estimate_s=3600)
    late = PlacedRun(**{field: getattr(over, field) for field in PlacedRun.__dataclass_fields__} | {"estimate_s": 60.0})
    snapshot = Snapshot(now=NOW, nodes=(make_node("n", gpus=1),), placed=(late,), waiting=(make_waiting(1, gpu_milli=1000),))
    found = by_run(sampled(snapshot, SURE, seed=1))[RunId("run_001")]
    assert seconds(found.latest) > 600  # it ran for an hour where a minute was believed


def test_same_seed_same_forecast_and_another_seed_another(make_node: Any, make_waiting: Any, placed: Any) -> None:
    waiting = tuple(make_waiting(number, gpu_milli=1000, estimate_s=500.0) for number in range(1, 6))
    snapshot = Snapshot(now=NOW, nodes=(make_node("n", gpus=2),), placed=(placed(1, range(2), 500),), waiting=waiting)
    first, again, other = (by_run(sampled(snapshot, Past(), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_intervals_hold_as_often_as_they_say(make_node: Any, make_waiting: Any) -> None:
    """Five runs one after the other on one GPU, lengths drawn anew: the last starts when four lengths are over."""
    ratios = tuple(np.exp(np.random.default_rng(7).normal(0, 0.7, 300)).tolist())
    waiting = tuple(make_waiting(number, gpu_milli=1000, estimate_s=1000.0 + number) for number in range(1, 6))
    snapshot = Snapshot(now=NOW, nodes=(make_node("n", gpus=1),), waiting=waiting)
    past = Past(lengths=tuple((1000.0, 1000.0 * one) for one in ratios))
    found = by_run(sampled(snapshot, past, seed=3, samples=400))[RunId("run_005")]
    rng = np.random.default_rng(11)
    truth = (rng.choice(ratios, (2000, 4)) * np.array([1001, 1002, 1003, 1004])).sum(axis=1)
    inside = ((truth >= seconds(found.earliest)) & (truth <= seconds(found.latest))).mean()
    assert 0.74 <= inside <= 0.86


def test_a_low_estimate_is_believed_as_those_like_it_were(make_node: Any, make_waiting: Any) -> None:
    """Whoever was told a second took an hour, and whoever was told an hour did: who goes first is not gone at once."""
    past = Past(lengths=((1.0, 3600.0),) * 30 + ((3600.0, 3600.0),) * 30)
    waiting = (make_waiting(1, gpu_milli=1000, estimate_s=1.0), make_waiting(2, gpu_milli=1000, estimate_s=3600.0))
    found = by_run(sampled(Snapshot(now=NOW, nodes=(make_node("n", gpus=1),), waiting=waiting), past, seed=1))
    assert seconds(found[RunId("run_002")].earliest) == pytest.approx(3600)


def test_runs_that_go_on_tell_that_the_others_will(make_node: Any, make_waiting: Any, placed: Any) -> None:
    """Of sixty alike twenty took ten minutes, and forty have run for an hour: the next is not gone in ten minutes."""
    past = Past(lengths=((3600.0, 600.0),) * 20)
    nodes = (make_node("n", cpus=64, gpus=40), make_node("m", cpus=4, gpus=1, pool="other"))
    running = tuple(placed(number, range(number, number + 1), 1.0) for number in range(40))
    ask = {"pool": "other", "gpu_milli": 1000, "estimate_s": 3600.0}
    snapshot = Snapshot(now=NOW, nodes=nodes, placed=running, waiting=(make_waiting(1, **ask), make_waiting(2, **ask)))
    second = by_run(sampled(snapshot, past, seed=1))[RunId("run_002")]
    assert seconds(second.earliest) == pytest.approx(600)
    assert seconds(second.median) > 3500


def test_what_all_samples_miss_is_learned_from_the_record(make_node: Any, make_waiting: Any, placed: Any) -> None:
    """Waits were up to three times what their medians said: so far the next intervals go, and "now" stays now."""
    nodes = (make_node("n", cpus=64, gpus=4),)
    snapshot = Snapshot(now=NOW, nodes=nodes, placed=(placed(1, range(4), 990),), waiting=(make_waiting(1, gpu_milli=1000),))
    errors = tuple(error_of(990, 990 * factor) for factor in np.linspace(1, 3, 200))
    sample = sampled(snapshot, SURE, seed=1)
    told = by_run(sample, Record(errors=errors))[RunId("run_001")]
    assert [round(seconds(one) / 990, 1) for one in (told.earliest, told.median, told.latest)] == [1.0, 1.0, 2.8]
    few = by_run(sample, Record(errors=errors[:1]))[RunId("run_001")]
    assert seconds(few.latest) > 3 * 990  # one that was right proves little
    assert seconds(by_run(sample)[RunId("run_001")].latest) == pytest.approx(990)
    free = sampled(Snapshot(now=NOW, nodes=nodes), SURE, seed=1)
    assert seconds(free.ask(make_waiting(9, gpu_milli=1000), Record(errors=errors)).latest) == 0


def test_the_record_widens_and_narrows() -> None:
    assert recalibrated(0.8, [False] * 5) > 0.8
    assert recalibrated(0.8, [True] * 20) < 0.8
    assert recalibrated(0.8, [True] * 80 + [False] * 20) == pytest.approx(0.8, abs=0.02)
    assert recalibrated(0.9, [False] * 1000) <= 0.96
