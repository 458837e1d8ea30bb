"""Rented machines: money is reserved before anything is asked for, and is free again when the machine is gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from mainspring.core.errors import CapacityError, ConflictError, StateError
from mainspring.core.machines import MachineOffer, MachineState, cost_micros, empty_machine
from mainspring.core.policy import BurstPolicy, Policy
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Cause, Cluster, NodeState, RunState
from mainspring.core.resources import Device
from mainspring.core.shares import Share
from mainspring.core.snapshot import Decision, DecisionKind, Place, Plan
from mainspring.core.specs import Value, ValueKind

REASON = Reason(code=ReasonCode.BURSTING, sentence="Waits for a machine.")
OFFER = MachineOffer(cpu_milli=8000, devices=(Device(index=0),), price_usd_per_hour="3", limit=1000, ready_s=60.0)


@pytest.fixture
def cloud(world):
    """A cluster `cloud` that rents machines of one GPU for 3 USD an hour."""
    made = world.store.clusters.add(Cluster(id="c9", name="cloud", backend="simulated-cloud", config={}))
    world.store.machines.offer(made, [OFFER])
    return made


def asked(run, cost="3.75", machines=1, site="cloud"):
    return Decision(
        run=run.id, kind=DecisionKind.BURST, version=run.version, reason=REASON, site=site, cost_usd=cost, machines=machines
    )


def budget(world, name, usd):
    return world.store.shares.put(Share(name=name, budget_usd=usd, version=0))


def ask(world, run, **others):
    world.store.machines.ask(asked(run, **others), now=world.clock.now())
    return world.store.machines.open()[-1]


def come(world, machine):
    """Let a machine that was asked for come, and be a node."""
    store, now = world.store, world.clock.now()
    assert store.machines.rented(machine, now=now)
    store.nodes.upsert("c9", [empty_machine(machine.id, store.clusters.get("c9"), OFFER)], now=now)
    return next(one for one in store.machines.open() if one.id == machine.id)


def left(world, name):
    (state,) = [one for one in world.store.snapshot(world.clock.now()).shares if one.share.name == name]
    return Decimal(state.share.budget_usd) - Decimal(state.spent_usd) - Decimal(state.reserved_usd)


def test_an_intent_is_one_row_a_machine_with_its_money_and_its_end(world, cloud):
    run, now = world.run(), world.clock.now()
    world.store.machines.ask(asked(run, cost="7.50", machines=2), now=now)
    first, second = world.store.machines.open()
    assert (first.state, first.run, first.share, first.reserved_micros) == (MachineState.ASKED, run.id, "ada", 3_750_000)
    assert first.ends_at == second.ends_at == now + timedelta(minutes=75)
    assert world.store.runs.get(run.id).reason == REASON
    snapshot = world.store.snapshot(now)
    assert [(one.name, one.running) for one in snapshot.sites] == [("cloud", 2)]
    assert [one.is_bursting for one in snapshot.waiting] == [True]
    assert {one.share.name: one.reserved_usd for one in snapshot.shares} == {"": "7.5", "ada": "7.5"}


def test_one_request_a_run(world, cloud):
    run = world.run()
    ask(world, run)
    with pytest.raises(StateError):  # by the version that was planned
        ask(world, run)
    with pytest.raises(StateError, match="already"):  # and by a newer one
        ask(world, world.store.runs.get(run.id))
    assert len(world.store.machines.open()) == 1


def test_what_is_used_up_is_refused_and_nothing_is_written(world, cloud):
    store = world.store
    store.machines.offer(cloud, [replace(OFFER, limit=2)])
    ask(world, world.run())
    with pytest.raises(CapacityError, match="no more than 2"):
        ask(world, world.run(), machines=2)
    store.policies.set(Policy(burst=BurstPolicy(max_gpus=1)), "", actor="ada")
    with pytest.raises(CapacityError, match="1 GPUs"):
        ask(world, world.run())
    store.policies.set(Policy(burst=BurstPolicy(budget_usd="5")), "", actor="ada")
    with pytest.raises(CapacityError, match="to share all"):
        ask(world, world.run())
    with pytest.raises(CapacityError, match="no site"):
        ask(world, world.run(), site="moon")
    assert len(store.machines.open()) == 1


def test_a_hundred_decisions_at_once_stay_within_every_budget(world, cloud):
    budget(world, "ada", "40")
    budget(world, "bob", "10")
    world.store.policies.set(Policy(burst=BurstPolicy(budget_usd="45", max_gpus=1000)), "", actor="ada")
    runs = [world.run(owner="ada" if number % 3 else "bob") for number in range(100)]

    def attempt(run):
        try:
            world.store.machines.ask(asked(run, cost="3.75"), now=world.clock.now())
        except (CapacityError, ConflictError):
            return 0
        return 1

    with ThreadPoolExecutor(16) as pool:
        done = sum(pool.map(attempt, runs))
    found = world.store.machines.open()
    reserved = {name: sum(one.reserved_micros for one in found if one.share == name) for name in ("ada", "bob")}
    assert done == len(found) == 12  # 45 USD at 3.75 each
    assert reserved["ada"] <= 40_000_000
    assert reserved["bob"] <= 10_000_000
    assert left(world, "ada") >= 0
    assert left(world, "bob") >= 0


def test_a_machine_is_no_place_before_it_is_opened_and_then_first_for_its_run(world, cloud):
    run = world.run(resources=replace(world.make().spec.resources, gpu_milli=1000))
    machine = come(world, ask(world, run))
    assert world.store.snapshot(world.clock.now()).nodes == ()
    place = Place(
        replica=0, node=machine.id, granted=world.decision(run, (world.store.nodes.get(machine.id), 100)).places[0].granted
    )
    assert world.store.machines.ready([machine], [place], now=world.clock.now())
    snapshot = world.store.snapshot(world.clock.now())
    assert [node.id for node in snapshot.nodes] == [machine.id]
    assert [(one.nominated, one.is_bursting) for one in snapshot.waiting] == [((place,), False)]
    assert [(one.node, one.site) for one in snapshot.rented] == [(machine.id, "cloud")]
    assert not world.store.machines.ready([machine], [place], now=world.clock.now())


def test_who_asked_pays_for_all_of_it_and_what_was_not_used_is_free_again(world, cloud):
    budget(world, "ada", "10")
    run = world.run()
    machine = come(world, ask(world, run))
    world.store.machines.ready([machine], [], now=world.clock.now())
    node = world.store.nodes.get(machine.id)
    rider = world.run(owner="bob")
    attempt = world.start(rider, node)
    world.clock.move(1200)
    assert left(world, "ada") == Decimal("6.25")  # spent or reserved, it is the same money
    (machine,) = world.store.machines.open()
    assert not world.store.machines.give_back(machine)  # somebody is there
    world.end(attempt, Cause.SUCCEEDED)
    assert world.store.machines.give_back(machine)
    assert world.store.nodes.get(machine.id).state is NodeState.DRAINING
    (machine,) = world.store.machines.open()
    world.clock.move(600)
    assert world.store.machines.ended(machine, now=world.clock.now())
    assert world.store.machines.open() == []
    assert world.store.nodes.get(machine.id) is None
    assert left(world, "ada") == Decimal("8.5")
    world.store.usage.book(world.clock.now(), 604_800.0)
    bill = {line[3]: used.cost_micros for line, used in world.store.usage.of_month("2026-01", world.clock.now()).items()}
    assert bill == {"ada": 1_500_000, "bob": 0}
    (gone,) = world.store.machines.page()
    assert cost_micros(gone, world.clock.now()) == 1_500_000


def test_what_a_site_never_gave_costs_nothing_and_lets_it_rest(world, cloud):
    for failures, rests_s in enumerate((60, 120, 240)):
        machine = ask(world, world.run())
        assert world.store.machines.give_back(machine, "Nothing left.", is_failed=True)
        (machine,) = world.store.machines.open()
        world.clock.move(3600)
        assert world.store.machines.ended(machine, now=world.clock.now()), failures
        (site,) = world.store.snapshot(world.clock.now()).sites
        assert (site.running, site.cooldown_until) == (0, world.clock.now() - timedelta(seconds=3600 - rests_s))
    assert {one.spent_usd for one in world.store.snapshot(world.clock.now()).shares} <= {"0"}


def test_an_idle_machine_is_released_by_a_plan_and_a_used_one_is_not(world, cloud):
    machine = come(world, ask(world, world.run()))
    world.store.machines.ready([machine], [], now=world.clock.now())
    rider = world.run(owner="bob")
    attempt = world.start(rider, world.store.nodes.get(machine.id))
    home = Plan(fingerprint="", release=(machine.id, "no-machine"))
    world.store.apply(home, now=world.clock.now())
    assert [one.state for one in world.store.machines.open()] == [MachineState.READY]
    world.end(attempt)
    world.store.apply(home, now=world.clock.now())
    assert [one.state for one in world.store.machines.open()] == [MachineState.ENDING]
    late = world.run(owner="bob")
    plan = Plan(fingerprint="", decisions=(world.decision(late, (world.store.nodes.get(machine.id), 100)),))
    assert world.store.apply(plan, now=world.clock.now()).refused == (late.id,)
    assert world.store.runs.get(late.id).state is RunState.QUEUED


def test_the_plan_that_asked_tells_more_than_those_after_it(world, cloud):
    run = world.run()
    assert world.store.apply(Plan(fingerprint="", decisions=(asked(run),)), now=world.clock.now()).rented == (run.id,)

    def told(code):
        version = world.store.runs.get(run.id).version
        reason = Reason(code=code, sentence="Said by a later plan.")
        waits = Decision(run=run.id, kind=DecisionKind.WAIT, version=version, reason=reason)
        world.store.apply(Plan(fingerprint="", decisions=(waits,)), now=world.clock.now())
        return world.store.runs.get(run.id).reason

    assert told(ReasonCode.BURSTING) == REASON
    assert told(ReasonCode.PAUSED).code is ReasonCode.PAUSED
    assert told(ReasonCode.BURSTING).code is ReasonCode.BURSTING


def test_a_run_that_comes_home_is_first_tried_at_its_places_there(world, cloud):
    home = world.node(gpus=1)
    machine = come(world, ask(world, world.run()))
    world.store.machines.ready([machine], [], now=world.clock.now())
    run = world.run("away", owner="bob")
    attempt = world.launch(world.start(run, world.store.nodes.get(machine.id)))
    run = world.store.runs.get(run.id)
    places = world.decision(run, (home, 1000)).places
    leaves = Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version, places=places, beneficiary=run.id, rule="home")
    stale = replace(leaves, version=run.version - 1)
    world.store.apply(Plan(fingerprint="", decisions=(stale,)), now=world.clock.now())
    assert world.store.attempts.get(attempt.id).stop_cause is None
    world.store.apply(Plan(fingerprint="", decisions=(leaves,)), now=world.clock.now())
    assert world.store.attempts.get(attempt.id).stop_cause is Cause.PREEMPTED
    world.end(attempt, Cause.PREEMPTED)
    (waits,) = [one for one in world.store.snapshot(world.clock.now()).waiting if one.id == run.id]
    assert waits.nominated == places


def test_a_run_that_is_overdue_goes_to_no_paid_site_again(world, cloud):
    machine = come(world, ask(world, world.run()))
    world.store.machines.ready([machine], [], now=world.clock.now())
    run = world.run("away", owner="bob")
    attempt = world.launch(world.start(run, world.store.nodes.get(machine.id)))
    run = world.store.runs.get(run.id)
    leaves = Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version, beneficiary=run.id, rule="overdue")
    world.store.apply(Plan(fingerprint="", decisions=(leaves,)), now=world.clock.now())
    assert world.store.attempts.get(attempt.id).stop_for == run.id
    world.end(attempt, Cause.PREEMPTED)
    seen = {one.id: one.sites for one in world.store.snapshot(world.clock.now()).waiting}
    assert seen[run.id] == ()
    assert [sites for id, sites in seen.items() if id != run.id] == [None]


def test_how_much_data_a_run_needs_and_where_it_may_go_is_known_before_it_starts(world, cloud):
    store = world.store
    store.datasets.add_version("default", "patients", "a" * 64, size_bytes=10**9, files=3, created_by="ada")
    store.datasets.add_version("hr", "pay", "b" * 64, size_bytes=7, files=1, created_by="ada")
    node = world.node()
    away = world.run("away", args={"x": Value(kind=ValueKind.DATASET, digest="b" * 64)})
    world.start(away, node)
    world.run("big", args={"x": Value(kind=ValueKind.DATASET, digest="a" * 64), "y": Value(kind=ValueKind.NPY, size_bytes=5)})
    world.run("free")

    def seen():
        snapshot = store.snapshot(world.clock.now())
        (placed,) = snapshot.placed
        return [(run.data_bytes, run.sites) for run in snapshot.waiting], placed.sites

    assert seen() == ([(10**9 + 5, None), (0, None)], None)
    for names, big, pay in (("patients", (), None), ("hr/patients, hr/pay", None, ()), (" default/patients,pay", (), ())):
        store.policies.set(Policy(burst=BurstPolicy(home_data=names)), "", actor="ada")
        assert seen() == ([(10**9 + 5, big), (0, None)], pay)
