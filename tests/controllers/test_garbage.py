"""What runs without a row is ended after a grace; what an older backup does not know, after a day; nothing is listed for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from mainspring.controllers.garbage import COLLECT_S, Garbage
from mainspring.controllers.loop import Loops
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Handle
from mainspring.core.beats import Beat
from mainspring.core.errors import UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster
from mainspring.core.specs import RunSpec
from mainspring.services import adoption, attempts, runs

HOUR_S = 3600.0


@dataclass
class Engine:
    """Shows what lives until it ends, which takes as long as it takes."""

    alive: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    is_away: bool = False

    def backend(self, cluster: str) -> Engine:
        if self.is_away and cluster == "local":
            raise UnreachableError("The engine does not answer.")
        return self if cluster == "local" else Engine()

    def note(self, cluster: str, message: str) -> None:
        return None

    def owned(self) -> Sequence[Handle]:
        return [Handle(attempt=AttemptId(one), replica=0) for one in self.alive]

    def stop(self, handle: Handle, grace_s: float) -> None:
        self.stopped.append(handle.attempt)


@dataclass
class Yard:
    """A house with an engine and the loop that sweeps it, once a minute."""

    house: object
    engine: Engine
    garbage: Garbage

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds // 60)):
            self.house.clock.advance(60)
            self.garbage.tick()

    def listed(self) -> list[str]:
        return [one.attempt for one in adoption.all(self.house.ctx, SYSTEM)]

    def stranger(self) -> tuple[str, str]:
        """Return run and attempt of a living runner that told its claim, though the attempt's row is unknown here."""
        ctx = self.house.ctx
        run, _ = runs.submit(ctx, SYSTEM, RunSpec(command=("a",)))
        self.house.plan()
        known = self.house.attempt_of(run)
        self.house.end(run)
        waiting, _ = runs.submit(ctx, SYSTEM, RunSpec(command=("b",)))
        lost = replace(known, id=AttemptId("att-lost"), run=waiting.id)
        self.beat(adoption.seal(ctx, waiting, lost))
        self.engine.alive.append(lost.id)
        return waiting.id, lost.id

    def beat(self, claim: str) -> None:
        adoption.note(self.house.ctx, "att-lost", Beat(state="running", claim=claim))


@pytest.fixture
def yard(house) -> Iterator[Yard]:
    engine, loops = Engine(), Loops(house.ctx.signals)
    garbage = Garbage(house.ctx, engine, loops)  # type: ignore[arg-type]
    yield Yard(house, engine, garbage)
    loops.stop()


@pytest.fixture(params=[86400.0, -86400.0], ids=["forward", "back"])
def jump_s(request) -> float:
    return request.param


def test_what_is_not_adopted_is_ended_after_a_day_whatever_the_wall_clock_says(yard: Yard, jump_s: float) -> None:
    run, attempt = yard.stranger()
    yard.garbage.tick()
    yard.house.clock.jump(jump_s)
    yard.pass_time(24 * HOUR_S - 60)
    assert yard.engine.stopped == []
    assert yard.listed() == [attempt]
    yard.pass_time(60)
    assert yard.engine.stopped == [attempt]
    assert yard.listed() == [attempt], "it was told to stop, it has not stopped yet"
    assert yard.house.plan() == [], "its run would run twice"
    yard.engine.alive.clear()
    yard.pass_time(180)
    assert yard.listed() == []
    assert yard.house.plan() == [run]


def test_one_whose_runner_died_is_listed_no_longer_and_its_run_goes_on(yard: Yard) -> None:
    run, _ = yard.stranger()
    yard.pass_time(300)
    yard.engine.alive.clear()
    assert yard.house.plan() == []
    yard.pass_time(180)
    assert yard.listed() == []
    assert yard.house.plan() == [run]
    assert yard.engine.stopped == []
    kinds = [event.kind for event in yard.house.ctx.store.events.since(0)]
    assert kinds.count("attempt.vanished") == 1


def test_an_engine_that_does_not_answer_says_of_nothing_that_it_is_gone(yard: Yard) -> None:
    _, attempt = yard.stranger()
    yard.house.ctx.store.clusters.add(Cluster(id="far", name="far", backend="local"))
    yard.engine.is_away = True
    yard.pass_time(3 * HOUR_S)
    assert yard.listed() == [attempt]
    assert yard.house.plan() == []
    yard.engine.is_away = False
    yard.pass_time(600)
    assert yard.listed() == [attempt]


def test_a_runner_that_speaks_is_there_whatever_its_engine_shows(yard: Yard) -> None:
    _, attempt = yard.stranger()
    yard.engine.alive.clear()
    for _ in range(10):
        yard.pass_time(60)
        assert yard.listed() == [attempt]
        assert yard.house.plan() == []
        yard.beat("")


def test_what_an_ended_attempt_left_is_ended_after_the_grace_and_a_living_one_is_not(yard: Yard) -> None:
    ended, _ = runs.submit(yard.house.ctx, SYSTEM, RunSpec(command=("a",)))
    living, _ = runs.submit(yard.house.ctx, SYSTEM, RunSpec(command=("b",)))
    yard.house.plan()
    yard.house.begin(yard.house.attempt_of(living))
    yard.house.end(ended)
    left, kept = yard.house.attempt_of(ended).id, yard.house.attempt_of(living).id
    yard.engine.alive += [left, kept]
    yard.garbage.tick()
    assert yard.engine.stopped == []
    yard.pass_time(60)
    assert yard.engine.stopped == [left]
    yard.pass_time(48 * HOUR_S)
    assert kept not in yard.engine.stopped
    assert attempts.find(yard.house.ctx, kept)


def test_what_the_settings_no_longer_keep_is_gone_after_an_hour(yard: Yard) -> None:
    ctx, house = yard.garbage.ctx, yard.house
    house.clock.wall = datetime.now(UTC)  # the age of a blob is told by its disk
    kept = ctx.settings.model_copy(update={"logs_days": 1 / 48, "archived_days": 1 / 48, "blob_grace_s": 1800.0})
    yard.garbage.ctx = replace(ctx, settings=kept)
    archived, left = (runs.submit(ctx, SYSTEM, RunSpec(command=("a",)))[0] for _ in "12")
    house.plan()
    for run in (archived, left):
        ctx.store.attempts.append(house.attempt_of(run).id, 0, [("log", 0, b"text")], now=house.clock.now())
        house.end(run, outputs={"": house.model_value("a named one")} if run is left else None)
    runs.archive(ctx, SYSTEM, archived.id)
    stray = ctx.blobs.put_bytes(b"no record names it")
    named = house.model_value("a named one").digest
    attempt = house.attempt_of(left).id

    yard.garbage.tick()
    yard.pass_time(COLLECT_S - 60)
    assert ctx.store.logs.read(attempt, 0, "log") == b"text", "the store is not looked through each minute"
    yard.pass_time(60)
    assert ctx.store.runs.get(archived.id) is None
    assert ctx.store.runs.get(left.id) is not None
    assert ctx.store.logs.read(attempt, 0, "log") == b""
    assert (ctx.blobs.has(stray), ctx.blobs.has(named)) == (False, True)
    assert "run.archived" in {event.kind for event in ctx.store.events.since(0)}

    yard.garbage.ctx = replace(ctx, settings=kept.model_copy(update={"events_days": 1 / 48}))
    yard.pass_time(COLLECT_S)
    assert "run.archived" not in {event.kind for event in ctx.store.events.since(0)}


class Slow(Engine):
    """Answers when it is let; counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_answer = threading.Event()

    def owned(self) -> Sequence[Handle]:
        self.asked += 1
        self.may_answer.wait(60)
        return super().owned()


@dataclass
class Fleet:
    """Some engines by the name of their cluster."""

    engines: dict[str, Engine]

    def backend(self, cluster: str) -> Engine:
        return self.engines[cluster]

    def note(self, cluster: str, message: str) -> None:
        return None


def test_a_slow_engine_holds_up_no_other_and_is_asked_once(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring.controllers.garbage.ANSWER_S", 2.0)
    slow, quick, loops = Slow(), Engine(), Loops(house.ctx.signals)
    for name in ("a-slow", "b-quick"):
        house.ctx.store.clusters.add(Cluster(id=name, name=name, backend="local", created_at=house.clock.now()))
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    known = house.attempt_of(run)
    house.end(run)
    quick.alive.append(known.id)
    garbage = Garbage(house.ctx, Fleet({"a-slow": slow, "b-quick": quick, "local": Engine()}), loops)  # type: ignore[arg-type]
    try:
        garbage.tick()
        house.clock.advance(house.ctx.settings.sweep_grace_s + 1)
        garbage.tick()
        assert quick.stopped == [known.id]
        assert slow.asked == 1
    finally:
        slow.may_answer.set()
        loops.stop()
