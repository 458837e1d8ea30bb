"""Runs: submitted once, found, paged, changed by compare-and-set."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select

from mainspring.core.errors import NotFoundError, StateError, UsageError
from mainspring.core.ids import RunId
from mainspring.core.queries import RunFilter
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Cause, Desired, RunState
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Decision, DecisionKind, Plan
from mainspring.core.specs import Code, Entry, Link, Value, ValueKind
from mainspring.store import NewEvent, tables
from mainspring.store.runs import Submission, submit_all


def test_a_run_comes_back_as_it_was_written(world):
    run = world.make(
        "full",
        params={"lr": 0.1, "layers": [1, 2], "deep": {"a": None}},
        args={"x": Value(kind=ValueKind.DATASET, digest="a" * 64, meta={"rows": 3})},
        code=Code(manifest="b" * 64, is_dirty=True),
        entry=Entry(module="m", function="f"),
        resources=Resources(cpu_milli=500, gpu_milli=250, gpu_models=("A100",), labels={"zone": "x"}),
        env={"A": "ü\u0001"},
        tags=("one", "two"),
        link=Link(kind="sweep", id="sweep-1", key="7"),
        timeout_s=1.5,
    )
    written, is_new = world.store.runs.submit(run)
    assert is_new
    assert world.store.runs.get(run.id) == written == replace(run, seq=written.seq)


def test_the_same_key_gives_the_same_run(world):
    first, second = world.make(), world.make()
    event = NewEvent("ada", "run.submitted", first.id, "default")
    assert world.store.runs.submit(first, key="k", event=event)[1] is True
    again, is_new = world.store.runs.submit(second, key="k", event=event)
    assert (again.id, is_new) == (first.id, False)
    assert world.store.runs.submit(world.make(project="other"), key="k")[1] is True
    assert world.store.runs.submit(world.make())[1] is True
    assert world.store.runs.submit(world.make())[1] is True
    assert [e.subject for e in world.store.events.since(0)] == [first.id]


def test_runs_that_are_submitted_together_are_numbered_in_order_and_one_key_makes_one_run(world):
    first, second, third, other = (world.make(name) for name in ("first", "second", "third", "other"))
    known, _ = world.store.runs.submit(world.make("known"), key="old")
    wanted = [Submission(first, "k"), Submission(second, "k"), Submission(third), Submission(other, "old")]
    found = world.store._db.write(lambda tx: submit_all(tx, wanted))
    assert [(run.id, is_new) for run, is_new in found] == [
        (first.id, True),
        (first.id, False),
        (third.id, True),
        (known.id, False),
    ]
    assert [run.seq for run, _ in found] == [2, 2, 3, 1]
    assert world.store.runs.get(second.id) is None


def test_one_key_from_twenty_threads_makes_one_run(world):
    barrier = threading.Barrier(20)
    asked = [world.make() for _ in range(20)]

    def submit(run):
        barrier.wait()
        return world.store.runs.submit(run, key="same")

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(submit, asked))
    assert len({run.id for run, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1


def test_order_of_submission_and_events_has_no_gap_and_no_twin(world):
    def submit(_):
        run = world.make()
        return world.store.runs.submit(run, event=NewEvent("ada", "run.submitted", run.id, "default"))[0].seq

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(submit, range(60)))
    assert sorted(numbers) == list(range(1, 61))
    assert [e.seq for e in world.store.events.since(0)] == list(range(1, 61))
    assert world.store.events.last_seq() == 60


def test_a_run_is_found_by_id_name_and_part(world):
    old, new, other = world.run("alpha"), world.run("alpha"), world.run("beta", project="p2")
    find = world.store.runs.find
    assert [r.id for r in find(old.id)] == [old.id]
    assert [r.id for r in find("alpha")] == [new.id, old.id]
    assert find("alpha", project="p2") == []
    assert [r.id for r in find(other.id[-6:])] == [other.id]
    assert {r.id for r in find(old.id[:8])} == {old.id, new.id, other.id}
    assert {r.id for r in find(old.id[4:12])} == {old.id, new.id, other.id}
    assert find(old.id[-3:]) == []
    assert find("%%%%") == find("____") == find("") == find("nothing") == []


@pytest.mark.parametrize("order", ["newest", "oldest", "name", "state", "duration", "metric:loss", "metric:-loss"])
def test_pages_give_every_run_once_in_order(world, order):
    node = world.node(cpu_milli=100_000)
    made = []
    for number in range(13):
        run = world.run(f"r{number % 4}")
        if number % 3:
            attempt = world.launch(world.start(run, node))
            if number % 2:
                line = f'["loss", {number % 5}, null, 1.0]\n'.encode()
                world.store.attempts.append(attempt.id, 0, [("metrics", 0, line)], now=world.clock.now())
            world.clock.move(number % 5)
            world.end(attempt)
        made.append(run.id)
    seen, cursor = [], ""
    while True:
        page = world.store.runs.page(RunFilter(order=order), cursor=cursor, limit=4)
        assert page.total == 13
        seen.extend(page.items)
        cursor = page.cursor
        if not cursor:
            break
    assert sorted(r.id for r in seen) == sorted(made)
    runs = [world.store.runs.get(run.id) for run in seen]
    match order:
        case "newest":
            assert [r.seq for r in runs] == sorted((r.seq for r in runs), reverse=True)
        case "oldest":
            assert [r.seq for r in runs] == sorted(r.seq for r in runs)
        case "name":
            assert [r.name for r in runs] == sorted(r.name for r in runs)
        case "state":
            assert [r.state for r in runs] == sorted(r.state for r in runs)
        case "duration":
            spent = [(r.ended_at - r.started_at).total_seconds() if r.ended_at else -1 for r in runs]
            assert spent == sorted(spent, reverse=True)
            assert spent[0] > spent[-1]
        case "metric:loss" | "metric:-loss":
            values = [r.metrics.get("loss") for r in runs]
            known = [v for v in values if v is not None]
            assert known == sorted(known, reverse=order == "metric:loss")
            assert values[len(known) :] == [None] * (13 - len(known))
            assert len(set(known)) > 2


def test_pages_stay_true_while_runs_are_added(world):
    for _ in range(6):
        world.run()
    first = world.store.runs.page(RunFilter(), limit=3)
    world.run()
    second = world.store.runs.page(RunFilter(), cursor=first.cursor, limit=3)
    assert len({r.id for r in (*first.items, *second.items)}) == 6


def test_a_bad_cursor_is_a_usage_error(world):
    for cursor in ("?", "x", "bm90anNvbg", "WzFd", "WyJuZXdlc3QiLCAiYSIsIDFd", "é"):
        with pytest.raises(UsageError):
            world.store.runs.page(RunFilter(), cursor=cursor)


def test_text_that_no_database_holds_is_asked_for_in_vain(world):
    world.run()
    for text in ("\x00", "a\x00b", "\ud800", "run-\x00\x00\x00\x00"):
        assert world.store.runs.find(text) == []
        assert world.store.runs.get(text) is None
        assert world.store.runs.page(RunFilter(project=text, owner=text, tag="t", link_id=text)).items == ()
    world.store.clusters.set_message(world.cluster.id, "bad\x00\ud800")
    assert world.store.clusters.get(world.cluster.id).message == "bad\ufffd?"


def test_numbers_that_no_database_holds_are_usage_errors(world):
    with pytest.raises(UsageError):
        world.store.datasets.get("p", "d", 2**64)
    with pytest.raises(UsageError):
        world.store.runs.edit(world.run().id, priority=2**64)


def test_a_cursor_of_another_order_is_refused(world):
    for _ in range(3):
        world.run()
    cursor = world.store.runs.page(RunFilter(order="name"), limit=1).cursor
    with pytest.raises(UsageError):
        world.store.runs.page(RunFilter(), cursor=cursor)
    with pytest.raises(UsageError):
        world.store.runs.page(RunFilter(order="size"))


def test_filters_restrict(world):
    a = world.run("Alpha_1", tags=("x_y", "gpu"))
    b = world.run("beta", owner="bob", tags=("xzy",))
    c = world.run("gamma", project="p2", link=Link(kind="sweep", id="sweep-9", key="1"))
    world.store.runs.set_desired(b.id, Desired.CANCELLED)

    def ids(**wanted):
        return {r.id for r in world.store.runs.page(RunFilter(**wanted)).items}

    assert ids(project="p2") == {c.id}
    assert ids(states=("cancelled",)) == {b.id}
    assert ids(states=("cancelled", "queued")) == {a.id, b.id, c.id}
    assert ids(owner="bob") == {b.id}
    assert ids(tag="x_y") == {a.id}
    assert ids(tag="x") == set()
    assert ids(link_id="sweep-9") == {c.id}
    assert ids(text="alpha_1") == ids(text="ALPHA PYTHON") == {a.id}
    assert ids(text="alpha%1") == ids(text="a_pha") == ids(text="\x00nothing") == set()
    assert ids(text="bob") == {b.id}
    assert world.store.runs.by_link("sweep", "sweep-9") == [world.store.runs.get(c.id)]
    assert world.store.runs.by_link("endpoint", "sweep-9") == []


def test_archived_runs_are_shown_alone(world):
    run, other = world.done(), world.run()
    world.store.runs.edit(run.id, archived_at=world.clock.now())
    assert [r.id for r in world.store.runs.page(RunFilter()).items] == [other.id]
    assert [r.id for r in world.store.runs.page(RunFilter(is_archived=True)).items] == [run.id]
    assert world.store.runs.counts() == {"queued": 1}
    world.store.runs.edit(run.id, archived_at=None)
    assert world.store.runs.counts("default") == {"queued": 1, "succeeded": 1}
    assert world.store.runs.counts("other") == {}


def test_tags_and_priority_are_edited_and_found(world):
    run = world.run(tags=("a", "b"))
    edited = world.store.runs.edit(run.id, priority=5, add_tags=("c", "a"), remove_tags=("b",))
    assert (edited.tags, edited.priority, edited.version) == (("a", "c"), 5, 2)
    assert [r.id for r in world.store.runs.page(RunFilter(text="c")).items] == [run.id]
    assert world.store.runs.edit(run.id, add_tags=("a",)).version == 2
    assert world.store.runs.get(run.id) == edited
    with pytest.raises(NotFoundError):
        world.store.runs.edit("run-0", priority=1)


def test_a_queued_run_is_cancelled_at_once(world):
    run = world.run()
    event = NewEvent("ada", "run.cancelled", run.id, "default")
    gone = world.store.runs.set_desired(run.id, Desired.CANCELLED, event=event)
    assert (gone.state, gone.outcome.cause, gone.ended_at) == (RunState.CANCELLED, Cause.CANCELLED, world.clock.now())
    assert world.store.runs.get(run.id) == gone
    with pytest.raises(StateError):
        world.store.runs.set_desired(run.id, Desired.RUN)
    assert len(world.store.events.since(0)) == 1


def test_a_running_run_is_cancelled_by_its_end(world):
    run = world.run()
    attempt = world.start(run, world.node())
    wanted = world.store.runs.set_desired(run.id, Desired.CANCELLED)
    assert (wanted.state, wanted.desired) == (RunState.RUNNING, Desired.CANCELLED)
    with pytest.raises(StateError):
        world.store.runs.set_desired(run.id, Desired.RUN)
    _, ended = world.end(attempt, Cause.USER_ERROR)
    assert (ended.state, ended.outcome.cause) == (RunState.CANCELLED, Cause.CANCELLED)


def test_pause_and_resume(world):
    run = world.run()
    world.store.runs.set_desired(run.id, Desired.PAUSED)
    assert world.store.snapshot(world.clock.now()).waiting[0].is_held
    world.store.runs.set_desired(run.id, Desired.RUN)
    assert not world.store.snapshot(world.clock.now()).waiting[0].is_held


def test_reasons_are_recorded_for_queued_runs_only_and_leave_the_version(world):
    queued, running = world.run(), world.run()
    world.start(running, world.node())
    reason = Reason(code=ReasonCode.NO_FREE_CPU, sentence="All CPUs are in use.", facts={"free": 0})
    waits = [
        Decision(run=id, kind=DecisionKind.WAIT, version=1, reason=reason) for id in (queued.id, running.id, RunId("run-unknown"))
    ]
    world.store.apply(Plan(fingerprint="", decisions=tuple(waits)), now=world.clock.now())
    assert world.store.runs.get(queued.id) == replace(queued, reason=reason)
    assert world.store.runs.get(running.id).reason is None
    woken = []
    world.store.on_commit(woken.append)
    world.store.apply(Plan(fingerprint="", decisions=tuple(waits[:1])), now=world.clock.now())
    assert woken == []
    assert [r.run for r in world.store.runs.waiting()] == [queued.id]


def test_only_ended_runs_are_removed_with_all_they_have(world):
    run = world.run()
    attempt = world.launch(world.start(run, world.node()))
    with pytest.raises(StateError):
        world.store.runs.delete(run.id)
    world.store.attempts.append(attempt.id, 0, [("log", 0, b"hello"), ("metrics", 0, b'["a",1,0,0]\n')], now=world.clock.now())
    world.end(attempt)
    world.store.runs.delete(run.id, event=NewEvent("ada", "run.removed", run.id))
    assert world.store.runs.get(run.id) is None
    assert world.store.attempts.get(attempt.id) is None
    assert world.store.logs.read(attempt.id, 0, "log") == b""
    assert world.store.metrics.summary(run.id) == {}
    with pytest.raises(NotFoundError):
        world.store.runs.delete(run.id)


def test_producers_are_found_by_digest(world):
    run = world.run()
    digest = "c" * 64
    world.end(world.start(run, world.node()), outputs={"model": Value(kind=ValueKind.MODEL, digest=digest)})
    assert [r.id for r in world.store.runs.producers(digest, project="default")] == [run.id]
    assert world.store.runs.producers("d" * 64, project="default") == []
    assert world.store.runs.producers(digest, project="p2") == []


def test_edits_from_many_threads_are_all_kept(world):
    run = world.run()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: world.store.runs.edit(run.id, add_tags=(f"t{n}",)), range(24)))
    found = world.store.runs.get(run.id)
    assert set(found.tags) == {f"t{n}" for n in range(24)}
    assert found.version == 25


def test_a_page_of_ten_thousand_runs_is_read_at_once(sqlite_home, world_of):
    world = world_of(sqlite_home.open())
    first = world.run("first", params={"lr": 0.1})

    def work(tx):
        row = dict(tx.conn.execute(select(tables.runs)).mappings().one())
        rows = [row | {"id": f"run-{n:016d}", "seq": n, "name": f"n{n % 97}", "search": f"n{n % 97}"} for n in range(2, 10_001)]
        tx.conn.execute(tables.runs.insert(), rows)

    world.store._db.write(work)
    for wanted in (RunFilter(), RunFilter(project="default", order="name"), RunFilter(order="metric:loss"), RunFilter(text="n9")):
        spent = []
        for _ in range(5):
            began = time.thread_time()
            page = world.store.runs.page(wanted)
            spent.append(time.thread_time() - began)
        assert len(page.items) == 100
        assert min(spent) < 0.05, wanted  # of processor time: others may use the machine too
    assert world.store.runs.page(RunFilter(order="oldest"), limit=1).items == (first,)
    assert page.total > 100


def test_the_queue_is_listed_by_priority_then_submission(world):
    wanted = (("slow", -1), ("first", 0), ("second", 0), ("urgent", 5))
    slow, first, second, urgent = (world.run(name=name, priority=priority) for name, priority in wanted)
    gone = world.run(name="gone")
    world.store.runs.set_desired(gone.id, Desired.CANCELLED)
    assert [one.run for one in world.store.runs.waiting()] == [urgent.id, first.id, second.id, slow.id]
    assert [one.run for one in world.store.runs.waiting(limit=2)] == [urgent.id, first.id]


def test_the_queue_of_some_projects_is_not_hidden_behind_the_crowd_of_others(world):
    for _ in range(5):
        world.run()
    mine, _ = world.store.runs.submit(world.make(project="p2", owner="bob"))
    assert [one.run for one in world.store.runs.waiting(projects=["p2"], limit=3)] == [mine.id]
    assert world.store.runs.waiting(projects=[]) == []
    assert world.store.runs.crowd() == {("default", "ada"): 5, ("p2", "bob"): 1}
