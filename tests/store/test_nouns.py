"""The smaller nouns: people, assets, endpoints, sweeps, pipelines, leases, decisions, what blobs are named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from mainspring.core.codec import encode
from mainspring.core.errors import ConflictError, NotFoundError, StaleWriteError, StateError
from mainspring.core.graphs import Graph, PipelineRun, PipelineState, Step, StepKind, StepRun, StepState
from mainspring.core.objectives import Objective
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import (
    Cluster,
    Dimension,
    EndpointState,
    GateResult,
    Project,
    Role,
    RunState,
    Secret,
    Sweep,
    SweepSpec,
    SweepState,
    Token,
    Trial,
    User,
)
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Snapshot
from mainspring.core.specs import Code, Environment, RunSpec, Value, ValueKind
from mainspring.store import NewEvent, tables


@pytest.fixture
def ada(world):
    return world.store.users.add(User(name="ada", created_at=world.clock.now()))


def test_users_are_added_once_and_edited(world, ada):
    assert world.store.users.get("ada") == ada
    assert world.store.users.get("bob") is None
    with pytest.raises(ConflictError):
        world.store.users.add(ada)
    edited = world.store.users.edit("ada", is_admin=True, disabled_at=world.clock.now())
    assert world.store.users.all() == [edited] == [replace(ada, is_admin=True, disabled_at=world.clock.now())]
    assert world.store.users.edit("ada", disabled_at=None) == replace(ada, is_admin=True)
    with pytest.raises(NotFoundError):
        world.store.users.edit("bob", is_admin=True)


def test_rights_are_granted_replaced_and_revoked(world, ada):
    projects = world.store.projects
    one = projects.add(Project(name="one", created_at=world.clock.now(), description="first"))
    projects.add(Project(name="two", created_at=world.clock.now()))
    with pytest.raises(ConflictError):
        projects.add(one)
    assert [p.name for p in projects.all()] == ["one", "two"]
    assert projects.get("one") == one
    projects.grant("one", "ada", Role.VIEWER, event=NewEvent("root", "project.granted", "one", "one"))
    projects.grant("one", "ada", Role.OWNER)
    projects.grant("two", "ada", Role.EDITOR)
    assert projects.roles_of("ada") == {"one": Role.OWNER, "two": Role.EDITOR}
    assert projects.members("one") == {"ada": Role.OWNER}
    assert projects.revoke("one", "ada") is True
    assert projects.revoke("one", "ada") is False
    assert projects.roles_of("ada") == {"two": Role.EDITOR}
    with pytest.raises(NotFoundError):
        projects.grant("three", "ada", Role.VIEWER)
    with pytest.raises(NotFoundError):
        projects.grant("one", "bob", Role.VIEWER)
    assert [e.kind for e in world.store.events.since(0, project="one")] == ["project.granted"]


def test_tokens_are_used_up_once_and_touched_once_a_minute(world, ada):
    tokens = world.store.tokens
    token = tokens.add(Token(id="tok-1", user="ada", name="laptop", hash="h1", created_at=world.clock.now()))
    assert tokens.by_hash("h1") == token
    assert tokens.by_hash("h2") is None
    tokens.touch("tok-1", world.clock.now())
    first = world.clock.now()
    world.clock.move(59)
    tokens.touch("tok-1", world.clock.now())
    assert tokens.by_hash("h1").used_at == first
    world.clock.move(1)
    tokens.touch("tok-1", world.clock.now())
    assert tokens.by_hash("h1").used_at == world.clock.now()
    with ThreadPoolExecutor(4) as pool:
        revoked = list(pool.map(lambda _: tokens.revoke("tok-1", now=first), range(4)))
    assert sorted(revoked) == [False, False, False, True]
    assert [t.revoked_at for t in tokens.all("ada")] == [first]
    assert tokens.all("bob") == []
    with pytest.raises(ConflictError):
        tokens.add(replace(token, id="tok-2"))


def test_secrets_are_replaced_and_removed(world):
    secrets = world.store.secrets
    secret = Secret(project="p", name="KEY", created_by="ada", created_at=world.clock.now())
    secrets.put(secret, b"\x00one")
    secrets.put(secret, b"\x00two")
    assert secrets.get_ciphertext("p", "KEY") == b"\x00two"
    assert secrets.get_ciphertext("q", "KEY") is None
    assert secrets.all("p") == [secret]
    assert secrets.remove("p", "KEY") is True
    assert secrets.remove("p", "KEY") is False


def test_keys_and_installation_are_made_once(world, home):
    key = world.store.key("secrets")
    assert len(key) == 32
    assert world.store.key("secrets") == key != world.store.key("tokens")
    installation = world.store.installation
    world.store.close()
    again = home.open()
    assert (again.key("secrets"), again.installation) == (key, installation)


def add_version(world, manifest, name="flights", **more):
    return world.store.datasets.add_version("p", name, manifest, size_bytes=5, files=2, created_by="ada", **more)


def test_data_set_versions_are_numbered_and_not_repeated(world):
    datasets = world.store.datasets
    first, is_new = add_version(world, "a" * 64, message="one", producer="run-1")
    assert (first.number, is_new, first.created_at) == (1, True, world.clock.now())
    assert add_version(world, "a" * 64) == (first, False)
    second, _ = add_version(world, "b" * 64)
    third, is_new = add_version(world, "a" * 64)
    assert (second.number, third.number, is_new) == (2, 3, True)
    assert datasets.versions("p", "flights") == [first, second, third]
    assert datasets.get("p", "flights") == third
    assert datasets.get("p", "flights", 2) == second
    assert datasets.get("p", "flights", 9) is None
    add_version(world, "c" * 64, name="birds")
    assert [(d.name, v.number) for d, v in datasets.all("p")] == [("birds", 1), ("flights", 3)]
    assert datasets.by_manifest("p", "b" * 64) == second
    assert datasets.by_manifest("p", "f" * 64) is None


def test_versions_from_many_threads_have_no_gap(world):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: add_version(world, f"{n:064x}")[0].number, range(16)))
    assert sorted(made) == list(range(1, 17))


def test_models_have_versions_and_moving_aliases(world):
    models = world.store.models

    def add(manifest, name="delays", **more):
        return models.add_version("p", name, manifest, format="onnx", created_by="ada", **more)

    one, is_new = add("a" * 64, run="run-1", signature={"inputs": ["x"]}, metrics={"auc": 0.5}, verification={"rows": 3})
    assert (one.number, is_new) == (1, True)
    assert add("a" * 64) == (one, False)
    two, _ = add("b" * 64)
    assert models.resolve("p", "delays", "latest") == models.resolve("p", "delays", "") == two == models.get("p", "delays")
    assert models.resolve("p", "delays", "1") == one
    for missing in ("3", "champion", "9" * 30, "²"):
        assert models.resolve("p", "delays", missing) is None
    assert models.set_alias("p", "delays", "champion", 1).aliases == ("champion",)
    assert models.set_alias("p", "delays", "best", 1).aliases == ("best", "champion")
    assert models.resolve("p", "delays", "champion").number == 1
    assert models.set_alias("p", "delays", "champion", 2).number == 2
    assert models.resolve("p", "delays", "champion") == replace(two, aliases=("champion",))
    assert models.set_alias("p", "delays", "champion", 7) is None
    assert [v.aliases for v in models.versions("p", "delays")] == [("best",), ("champion",)]
    add("c" * 64, name="arrivals")
    assert [(v.model, v.number, v.aliases) for v in models.all("p")] == [("arrivals", 1, ()), ("delays", 2, ("champion",))]
    assert models.remove_alias("p", "delays", "champion") is True
    assert models.remove_alias("p", "delays", "champion") is False
    assert models.resolve("p", "delays", "champion") is None


def test_gates_keep_every_judgement_and_the_newest_objective(world):
    gates = world.store.gates
    for number, passed in enumerate((False, True)):
        result = GateResult(
            id=f"gate-{number}",
            project="p",
            objective="value",
            kpi="usd",
            value=number * 10.0,
            is_passed=passed,
            sentence="said",
            created_at=world.clock.now(),
            model="delays",
            run=f"run-{number}",
        )
        gates.add(result, Objective(name="value", kpi="usd", at_least=float(number)))
        world.clock.move(1)
    assert [g.id for g in gates.all("p")] == ["gate-1", "gate-0"]
    assert [g.id for g in gates.all("p", objective="value", model="delays", run="run-0")] == ["gate-0"]
    assert gates.all("q") == gates.all("p", model="other") == []
    assert gates.objectives("p") == [Objective(name="value", kpi="usd", at_least=1.0)]


def test_endpoints_have_revisions_and_counts(world):
    endpoints = world.store.endpoints
    woken = []
    world.store.on_commit(woken.append)
    first = endpoints.deploy("p", "delays", "m", 1, replicas=2, created_by="ada", endpoint_id="endpoint-1")
    assert (first.id, first.revision, first.replicas, first.state) == ("endpoint-1", 1, 2, EndpointState.STARTING)
    assert woken == [{"endpoints"}]
    ready = endpoints.set_state(first.id, EndpointState.READY, message="up")
    assert (ready.state, ready.message) == (EndpointState.READY, "up")
    assert endpoints.set_state(first.id, EndpointState.READY, message="up") == ready
    endpoints.count(first.id, 10, 2)
    second = endpoints.deploy("p", "delays", "m", 2, replicas=1, pool="lab", created_by="bob")
    assert (second.id, second.revision, second.state, second.requests) == (first.id, 2, EndpointState.STARTING, 10)
    endpoints.count(first.id, 5, 0)
    history = [(one.number, one.model_version, one.pool, one.created_by) for one in endpoints.revisions(first.id)]
    assert history == [(1, 1, "", "ada"), (2, 2, "lab", "bob")]
    back = endpoints.rollback(first.id)
    assert (back.revision, back.requests, back.errors) == (1, 15, 2)
    with pytest.raises(StateError):
        endpoints.rollback(first.id)
    with pytest.raises(NotFoundError):
        endpoints.rollback(first.id, to=9)
    assert endpoints.rollback(first.id, to=2).revision == 2
    stopped = endpoints.stop(first.id, now=world.clock.now())
    assert stopped.stopped_at == world.clock.now()
    assert endpoints.get("p", "delays") == endpoints.by_id(first.id) == stopped
    woke = endpoints.deploy("p", "delays", "m", 3, created_by="ada")
    assert (woke.revision, woke.stopped_at) == (3, None)
    assert endpoints.all("p") == endpoints.every() == [woke]
    assert endpoints.get("p", "none") is None
    with pytest.raises(NotFoundError):
        endpoints.stop("endpoint-9")


@pytest.fixture
def sweep(world):
    spec = SweepSpec(
        template=RunSpec(command=("a",), code=Code(manifest="5" * 64)),
        space=(Dimension(name="lr", kind="log", low=0.1, high=1.0), Dimension(name="k", kind="choice", choices=(1, "a"))),
        metric="loss",
        is_maximized=False,
    )
    return world.store.sweeps.add(
        Sweep(id=world.ids.new("sweep"), project="p", name="s", owner="ada", spec=spec, created_at=world.clock.now()), key="k1"
    )


def test_a_suggestion_and_its_run_are_one_write(world, sweep):
    sweeps = world.store.sweeps
    run, other = world.make(), world.make()
    trial = Trial(sweep=sweep.id, number=1, params={"lr": 0.5}, run=run.id)
    submitted = sweeps.add_trial(trial, run, event=NewEvent("system", "run.submitted", run.id))
    assert world.store.runs.get(run.id) == submitted
    with pytest.raises(ConflictError):
        sweeps.add_trial(replace(trial, run=other.id), other)
    assert world.store.runs.get(other.id) is None
    assert sweeps.trials(sweep.id) == [trial]
    world.end(world.start(submitted, world.node()))
    assert sweeps.trials(sweep.id) == [replace(trial, state=RunState.SUCCEEDED)]


def test_a_trial_is_told_once_and_the_best_follows(world, sweep):
    sweeps = world.store.sweeps
    for number in (1, 2, 3):
        run = world.make()
        sweeps.add_trial(Trial(sweep=sweep.id, number=number, params={}, run=run.id), run)
    assert sweeps.tell(sweep.id, 1, RunState.SUCCEEDED, 0.5, now=world.clock.now()) is True
    assert sweeps.tell(sweep.id, 1, RunState.SUCCEEDED, 0.1, now=world.clock.now()) is False
    sweeps.tell(sweep.id, 2, RunState.SUCCEEDED, 0.7)
    sweeps.tell(sweep.id, 3, RunState.FAILED, None)
    assert [(t.state, t.value) for t in sweeps.trials(sweep.id)] == [
        (RunState.SUCCEEDED, 0.5),
        (RunState.SUCCEEDED, 0.7),
        (RunState.FAILED, None),
    ]
    best = sweeps.get("s")
    assert (best.best_trial, best.best_value) == (1, 0.5)
    assert sweeps.active() == [best]
    done = sweeps.finish(sweep.id, SweepState.DONE, now=world.clock.now())
    assert (done.state, done.ended_at) == (SweepState.DONE, world.clock.now())
    assert sweeps.finish(sweep.id, SweepState.STOPPED) == done == sweeps.get(sweep.id)
    assert sweeps.active() == []
    run = world.make()
    with pytest.raises(ConflictError):
        sweeps.add_trial(Trial(sweep=sweep.id, number=4, params={}, run=run.id), run)
    assert world.store.runs.get(run.id) is None


def test_the_same_key_gives_the_same_sweep(world, sweep):
    again = world.store.sweeps.add(replace(sweep, id=world.ids.new("sweep")), key="k1")
    assert again == sweep
    other = world.store.sweeps.add(replace(sweep, id=world.ids.new("sweep")), key="k2")
    assert {s.id for s in world.store.sweeps.all("p")} == {sweep.id, other.id}
    assert world.store.sweeps.get("s").id in {sweep.id, other.id}
    with pytest.raises(NotFoundError):
        world.store.sweeps.finish("sweep-0", SweepState.DONE)


@pytest.fixture
def pipeline(world):
    template = RunSpec(command=("a",), args={"x": Value(kind=ValueKind.PARQUET, digest="6" * 64)})
    graph = Graph(steps=(Step(key="a", kind=StepKind.TASK, template=template),))
    made = PipelineRun(
        id=world.ids.new("pipe"),
        project="p",
        name="n",
        owner="ada",
        graph=graph,
        created_at=world.clock.now(),
        steps=(StepRun(key="a"),),
    )
    return world.store.pipelines.add(made, key="k")


def test_pipelines_are_compared_and_set(world, pipeline):
    pipelines = world.store.pipelines
    assert pipelines.add(replace(pipeline, id="pipe-2"), key="k") == pipeline
    moved = pipelines.update(replace(pipeline, steps=(StepRun(key="a", state=StepState.RUNNING, run="run-1"),)))
    assert moved.version == 2
    assert pipelines.get(pipeline.id) == moved
    with pytest.raises(StaleWriteError):
        pipelines.update(pipeline)
    assert pipelines.active() == pipelines.all("p") == [moved]
    ended = pipelines.end(pipeline.id, PipelineState.FAILED, now=world.clock.now())
    assert (ended.state, ended.ended_at) == (PipelineState.FAILED, world.clock.now())
    assert pipelines.end(pipeline.id, PipelineState.SUCCEEDED) == ended
    assert pipelines.active() == []
    assert pipelines.get("pipe-0") is None


def test_a_step_is_submitted_once(world, pipeline):
    runs = [world.make() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda run: world.store.pipelines.submit_step(pipeline.id, "a", run), runs))
    assert len({run.id for run in found}) == 1
    assert len(world.store.runs.waiting()) == 1
    assert world.store.pipelines.submit_step(pipeline.id, "b", world.make()).id != found[0].id
    with pytest.raises(NotFoundError):
        world.store.pipelines.submit_step("pipe-0", "a", world.make())


def test_clusters_are_unique_and_not_removed_while_used(world):
    clusters = world.store.clusters
    with pytest.raises(ConflictError):
        clusters.add(replace(world.cluster, id="cluster-2"))
    clusters.set_message(world.cluster.id, "no cgroup")
    stored = clusters.get(world.cluster.id)
    assert (stored.message, stored.config) == ("no cgroup", {"a": 1})
    assert clusters.get(world.cluster.name) == stored
    attempt = world.start(world.run(), world.node())
    with pytest.raises(StateError):
        clusters.remove(world.cluster.id)
    world.end(attempt)
    assert clusters.remove(world.cluster.id) is True
    assert clusters.remove(world.cluster.id) is False
    assert (clusters.all(), world.store.nodes.all()) == ([], [])
    added = clusters.add(Cluster(id="cluster-3", name="b", backend="ssh"))
    assert clusters.configure("cluster-3", {"host": "h"}) == replace(added, config={"host": "h"}, version=2)


def test_the_planner_lease_is_held_by_one_and_counts_its_holders(world):
    take = world.store.leases.take
    assert take("planner", "a", 60) == 1
    assert take("planner", "a", 60) == 1
    assert take("planner", "b", 60) is None
    assert take("other", "b", 60) == 1
    world.store.leases.release("planner", "b")
    assert take("planner", "b", 60) is None
    world.store.leases.release("planner", "a")
    assert take("planner", "b", 0) == 2
    assert take("planner", "a", 60) == 3
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda n: take("race", f"o{n}", 60), range(6)))
    assert sorted(taken, key=str) == [1, *[None] * 5]


def test_a_lease_on_sqlite_runs_out_by_the_monotonic_clock_alone(sqlite_home):
    store = sqlite_home.open()
    assert store.leases.take("planner", "a", 10) == 1
    sqlite_home.clock.wall += timedelta(days=400)
    assert store.leases.take("planner", "b", 10) is None
    sqlite_home.clock.mono += 10
    assert store.leases.take("planner", "b", 10) == 2


def test_leases_of_a_dead_owner_are_void(sqlite_home):
    store = sqlite_home.open()
    assert store.leases.take("planner", "a", 1e9) == 1
    store.close()
    assert sqlite_home.open().leases.take("planner", "b", 10) == 2


def test_a_plan_is_recorded_in_the_commit_that_carries_it_out_if_it_does_something(world):
    decisions = world.store.decisions
    run = world.run()
    waits = Decision(run=run.id, kind=DecisionKind.WAIT, version=1, reason=Reason(code=ReasonCode.NO_CLUSTER, sentence="…"))

    def carry_out(number, *taken):
        seen = Snapshot(now=world.clock.now(), version=number)
        plan = Plan(fingerprint=str(number), decisions=taken)
        world.store.apply(plan, now=world.clock.now(), seen=seen)
        return plan, encode(seen), world.clock.now()

    carry_out(1, waits)
    assert decisions.latest() is None, "nothing came of it"
    start = world.decision(run, (world.node(), 1))
    told = carry_out(2, start)
    assert world.store.runs.get(run.id).state is RunState.RUNNING
    latest = decisions.latest()
    assert (latest.plan, latest.snapshot, latest.at) == told
    carry_out(3, start)  # refused, as it runs; the next one to ask why finds it
    world.clock.move(8 * 86400)
    carry_out(4, start)
    kept = world.store._db.read(lambda conn: conn.execute(select(tables.decisions.c.at)).scalars().all())
    assert kept == [world.clock.now()]


def test_every_digest_that_a_record_names_is_named(world, sweep, pipeline):
    digests = {letter: letter * 64 for letter in "0123456789abc"}
    run = world.run(
        code=Code(manifest=digests["0"], git_diff=digests["1"]),
        environment=Environment(lock=digests["2"]),
        args={"x": Value(kind=ValueKind.NPY, digest=digests["3"])},
    )
    attempt = world.start(run, world.node())
    checkpoint = b'{"kind": "checkpoint", "manifest": "%s"}\n' % digests["4"].encode()
    world.store.attempts.append(attempt.id, 0, [("events", 0, checkpoint)], now=world.clock.now())
    assert digests["4"] in set(world.store.blobs.named())
    world.end(attempt, outputs={"out": Value(kind=ValueKind.FILE, digest=digests["7"])})
    add_version(world, digests["8"])
    world.store.models.add_version("p", "m", digests["9"], format="onnx", created_by="a", verification={"proof": digests["a"]})
    named = set(world.store.blobs.named())
    assert named == {digests[letter] for letter in "012356789a"}  # a run that succeeded needs no checkpoint any more
    world.store.runs.delete(run.id)
    assert digests["0"] not in set(world.store.blobs.named())
