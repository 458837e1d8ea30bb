"""The simulator keeps the books: nothing runs twice at once, nothing is lost, and the same seed gives the same history."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mainspring.core.errors import PlannerError
from mainspring.core.policy import BurstMode, BurstPolicy, OrderPolicy, Policy
from mainspring.core.records import Node
from mainspring.core.resources import Device, DeviceShare, Granted, Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import Decision, DecisionKind, Place, Plan, ShareState, Site, Snapshot
from mainspring.simulator import Done, Faults, Job, Setting, figures, simulate, waits, with_noise, worse_than_alone

AT_HOME = Policy(burst=BurstPolicy(mode=BurstMode.NEVER))


def node(number: int, gpus: int = 4) -> Node:
    devices = tuple(Device(index=index) for index in range(gpus))
    return Node(id=f"n{number}", cluster="c", name=f"n{number}", cpu_milli=64_000, memory_bytes=2**40, devices=devices)


def job(number: int, submit_s: float, duration_s: float, *, share: str = "a", gpus: int = 1, replicas: int = 1) -> Job:
    asked = Resources(gpu_milli=1000 * gpus)
    return Job(
        id=f"j{number:03}",
        share=share,
        submit_s=submit_s,
        duration_s=duration_s,
        estimate_s=duration_s,
        resources=asked,
        replicas=replicas,
    )


def by_id(done: tuple[Done, ...]) -> dict[str, Done]:
    return {one.job.id: one for one in done}


def crowd(seed: int, count: int = 60) -> list[Job]:
    dice = random.Random(seed)
    jobs = [
        job(
            number,
            dice.uniform(0, 20_000),
            dice.uniform(10, 8_000),
            share=dice.choice("abc"),
            gpus=dice.choice((1, 1, 2, 4)),
            replicas=dice.choice((1, 1, 1, 2)),
        )
        for number in range(count)
    ]
    return with_noise(jobs, seed)


def test_a_job_waits_for_exactly_what_stands_before_it() -> None:
    jobs = [job(0, 0, 100, gpus=4), job(1, 10, 50, gpus=4), job(2, 20, 5, gpus=4)]
    done = by_id(simulate(jobs, Setting(nodes=[node(0)], policy=AT_HOME)).done)
    assert (done["j000"].wait_s, done["j002"].wait_s, done["j001"].wait_s) == (0, 80, 95)  # the shortest first
    assert waits(list(done.values())).mean_s == pytest.approx(175 / 3)


def test_the_same_seed_gives_the_same_history_and_another_does_not() -> None:
    faults = Faults(node_losses=1.0, refused=0.1, clock_jumps=1.0)
    setting = Setting(nodes=[node(0), node(1)], policy=AT_HOME, faults=faults, seed=3)
    first, again = simulate(crowd(1), setting), simulate(crowd(1), setting)
    assert first == again
    assert simulate(crowd(1), replace(setting, seed=4)) != first


@pytest.mark.parametrize("seed", range(6))
def test_under_faults_every_job_ends_once_and_does_all_its_work(seed: int) -> None:
    faults = Faults(node_losses=2.0, refused=0.1, clock_jumps=2.0)
    guaranteed = tuple(ShareState(share=Share(name=name, guarantee={"gpu": 2000})) for name in "abc")
    setting = Setting(nodes=[node(0), node(1)], policy=AT_HOME, shares=guaranteed, faults=faults, seed=seed)
    jobs = crowd(seed)
    history = simulate(jobs, setting)
    assert sorted(one.job.id for one in history.done) == [one.id for one in jobs]
    assert history.refused
    assert history.lost_nodes
    for one in history.done:
        held = sum(ended - began for began, ended in one.spans)
        assert held == pytest.approx(one.job.duration_s + one.lost_s)
        assert all(before[1] <= after[0] for before, after in zip(one.spans, one.spans[1:], strict=False))
        assert one.job.submit_s <= one.spans[0][0] == one.started_s


def test_a_share_gets_its_guarantee_back_and_the_work_that_is_lost_is_measured() -> None:
    guaranteed = tuple(ShareState(share=Share(name=name, guarantee={"gpu": 2000})) for name in "ab")
    jobs = [*(job(number, 0, 50_000, share="a") for number in range(4)), job(4, 10_000, 100, share="b", gpus=2)]
    history = simulate(jobs, Setting(nodes=[node(0)], policy=AT_HOME, shares=guaranteed, checkpoint_s=3600))
    done = by_id(history.done)
    assert done["j004"].started_s == pytest.approx(10_030)  # after the grace of those who were stopped
    assert sum(one.evictions for one in history.done) == 2
    assert sum(one.lost_s for one in history.done) == pytest.approx(2 * (10_030 - 7200))
    assert figures(history, gpus=4).lost == pytest.approx(2 * 2830 / 200_200)


def test_a_plan_that_gives_more_than_there_is_stops_the_simulation() -> None:
    def wrong(snapshot: Snapshot) -> Plan:
        granted = Granted(cpu_milli=1, memory_bytes=0, devices=(DeviceShare(index=0, milli=1000),))
        place = Place(replica=0, node="n0", granted=granted)
        starts = (Decision(run=run.id, kind=DecisionKind.START, version=1, places=(place,)) for run in snapshot.waiting)
        return Plan(fingerprint="", decisions=tuple(starts))

    with pytest.raises(PlannerError, match="more than it has"):
        simulate([job(0, 0, 10), job(1, 0, 10)], Setting(nodes=[node(0)], policy=AT_HOME), wrong)


def test_a_job_that_can_never_start_ends_the_simulation() -> None:
    with pytest.raises(PlannerError, match="wait on an empty fleet"):
        simulate([job(0, 0, 10, gpus=8)], Setting(nodes=[node(0)], policy=AT_HOME, tick_s=86_400))


@pytest.mark.parametrize(("budget", "rented"), [("", 6), ("20", 2), ("1", 0)])
def test_no_budget_is_exceeded_by_what_is_rented_in_time(budget: str, rented: int) -> None:
    """Ten jobs of an hour on one GPU; each machine is reserved for twice that and costs 8 USD at most, 4 in the end."""
    machine = replace(node(9, gpus=1), cluster="cloud", pool="cloud", price_usd_per_hour="3.6")
    rule = BurstPolicy(min_wait_s=0, min_gain_s=0, min_life_s=0, idle_s=60)
    shares = (ShareState(share=Share(name="a", budget_usd=budget)),)
    site = Site(name="cloud", machine=machine, max_machines=8, ready_s=60)
    setting = Setting(nodes=[node(0, gpus=1)], policy=Policy(burst=rule), shares=shares, sites=(site,))
    history = simulate([job(number, 0, 3600) for number in range(10)], setting)
    assert (history.most_rented >= rented) if rented else history.most_rented == 0
    if budget:
        assert history.rented_usd <= float(budget)
        assert history.most_rented == rented
    assert (history.rented_usd > 0) == (rented > 0)


def test_alternatives_and_one_machine_for_all_replicas_are_kept_to() -> None:
    either = replace(job(0, 0, 10), resources=Resources(gpu_milli=9000), alternatives=(Resources(gpu_milli=2000),))
    together = replace(job(1, 0, 10, replicas=4), same="node")
    done = by_id(simulate([either, together], Setting(nodes=[node(0), node(1, gpus=2)], policy=AT_HOME)).done)
    assert [done[name].wait_s for name in ("j000", "j001")] == [0, 0]
    with pytest.raises(PlannerError, match="wait on an empty fleet"):
        simulate([together], Setting(nodes=[node(0, gpus=2), node(1, gpus=2)], policy=AT_HOME))


def test_the_watch_sees_every_snapshot_with_its_plan() -> None:
    seen: list[int] = []
    history = simulate(
        crowd(2), Setting(nodes=[node(0), node(1)], policy=AT_HOME), watch=lambda snapshot, _: seen.append(len(snapshot.waiting))
    )
    assert len(seen) == history.plans > 60


def test_estimates_of_a_second_are_believed_no_longer_once_they_have_shown_to_say_nothing() -> None:
    liars = [replace(job(number, 1000 * number, 1000, gpus=4), estimate_s=1.0) for number in range(30)]
    honest = replace(job(99, 25_500, 10, gpus=4), estimate_s=10.0)
    last = replace(job(98, 25_400, 1000, gpus=4), estimate_s=1.0)
    jobs = [*liars[:25], replace(liars[25], submit_s=24_900), last, honest]
    for learns, first in ((True, "j099"), (False, "j098")):
        policy = replace(AT_HOME, order=OrderPolicy(learns=learns))
        done = by_id(simulate(jobs, Setting(nodes=[node(0)], policy=policy)).done)
        assert min(("j098", "j099"), key=lambda id: done[id].started_s) == first


def test_noise_is_as_wide_as_published() -> None:
    jobs = with_noise([job(number, 0, 1000.0) for number in range(999)], 5)
    errors = [abs(one.estimate_s - 1000) / 1000 for one in jobs]
    assert 0.06 < sum(error <= 0.1 for error in errors) / 999 < 0.14
    assert 0.12 < sum(error > 1 for error in errors) / 999 < 0.19  # the half of them that is not cut at a second
    assert min(one.estimate_s for one in jobs) == 1.0


def test_who_waits_longer_than_alone_is_named() -> None:
    def waited(share: str, wait_s: float) -> Done:
        one = job(0, 0, 10, share=share)
        return Done(job=one, started_s=wait_s, ended_s=10 + wait_s, spans=((wait_s, 10 + wait_s),))

    alone = {"a": waits([waited("a", 5)]), "b": waits([waited("b", 5)])}
    assert worse_than_alone({"a": waits([waited("a", 6)]), "b": waits([waited("b", 4)])}, alone) == ["a"]
