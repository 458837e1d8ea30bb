"""One suite over SQLite and a real PostgreSQL: `store` and `home` come in both kinds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from mainspring.core.ids import make_id
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, Cause, Cluster, Node, Outcome, Run
from mainspring.core.resources import Device, DeviceShare, Granted
from mainspring.core.snapshot import Decision, DecisionKind, Place, Plan
from mainspring.core.specs import RunSpec
from mainspring.store import Store, tables

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.wall, self.mono = START, 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def move(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.mono += seconds


class FakeIds:
    """Ids in order."""

    def __init__(self) -> None:
        self._numbers, self._lock = count(), threading.Lock()

    def new(self, kind: str) -> str:
        with self._lock:
            return make_id(kind, 1_700_000_000_000, next(self._numbers))


class Home:
    """Where a database lies: opens it as often as wanted."""

    def __init__(self, url: str) -> None:
        self.url, self.clock, self.ids = url, FakeClock(), FakeIds()
        self.is_postgres = url.startswith("postgresql")
        self.path = Path(url)
        self._opened: list[Store] = []

    def open(self, **options: Any) -> Store:
        store = Store.open(self.url, clock=self.clock, ids=self.ids, **options)
        self._opened.append(store)
        return store

    def close_all(self) -> None:
        for store in self._opened:
            store.close()


class World:
    """A store with what a test needs to say in one line."""

    def __init__(self, store: Store, clock: FakeClock, ids: FakeIds) -> None:
        self.store, self.clock, self.ids = store, clock, ids
        self.cluster = store.clusters.add(
            Cluster(id=ids.new("cluster"), name=ids.new("c"), backend="local", config={"a": 1}, created_at=clock.now())
        )

    def node(self, *, cpu_milli: int = 4000, memory_bytes: int = 8 << 30, gpus: int = 0) -> Node:
        id = self.ids.new("node")
        devices = tuple(Device(index=index, model="A100", memory_bytes=80 << 30) for index in range(gpus))
        node = Node(
            id=id,
            cluster=self.cluster.id,
            name=id,
            cpu_milli=cpu_milli,
            memory_bytes=memory_bytes,
            disk_bytes=10**12,
            devices=devices,
        )
        return self.store.nodes.upsert(self.cluster.id, [node], now=self.clock.now())[0]

    def make(self, name: str = "train", *, project: str = "default", owner: str = "ada", **spec: Any) -> Run:
        """Return a run that is not submitted yet."""
        asked = RunSpec(name=name, project=project, command=("python", f"{name}.py"), **spec)
        return Run(
            id=self.ids.new("run"),
            project=project,
            name=name,
            owner=owner,
            spec=asked,
            seq=0,
            created_at=self.clock.now(),
            tags=asked.tags,
            priority=asked.priority,
        )

    def run(self, name: str = "train", **spec: Any) -> Run:
        return self.store.runs.submit(self.make(name, **spec))[0]

    def decision(self, run: Run, *places: tuple[Node, int] | tuple[Node, int, tuple[DeviceShare, ...]]) -> Decision:
        """Return the START of `run`: replica by replica a node, milli-CPUs, device shares."""
        found = tuple(
            Place(
                replica=number,
                node=one[0].id,
                granted=Granted(cpu_milli=one[1], memory_bytes=0, devices=one[2] if len(one) > 2 else ()),
            )
            for number, one in enumerate(places)
        )
        return Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=found)

    def start(self, run: Run, *nodes: Node, cpu_milli: int = 1000) -> Attempt:
        """Place one replica on each of `nodes`."""
        decision = self.decision(run, *((node, cpu_milli) for node in nodes))
        applied = self.store.apply(Plan(fingerprint="", decisions=(decision,)), now=self.clock.now())
        assert applied.started == (run.id,)
        return self.store.attempts.of_run(run.id)[-1]

    def launch(self, attempt: Attempt) -> Attempt:
        lease = self.store.attempts.lease(attempt.id, owner="controller", ttl_s=30)
        assert lease is not None
        launched = self.store.attempts.launching(lease, token_hash=f"hash-{attempt.id}", now=self.clock.now())
        self.store.attempts.release(lease)
        assert launched is not None
        return launched

    def end(self, attempt: Attempt, cause: Cause = Cause.SUCCEEDED, replica: int = 0, **more: Any) -> tuple[Attempt, Run]:
        return self.store.attempts.finish(attempt.id, replica, Outcome(cause=cause), now=self.clock.now(), **more)

    def done(self, name: str = "train", cause: Cause = Cause.SUCCEEDED, **spec: Any) -> Run:
        """Return a run that went all the way."""
        run = self.run(name, **spec)
        node = next((node for node in self.store.nodes.all(self.cluster.id)), None) or self.node()
        _, run = self.end(self.start(run, node), cause)
        assert run.state in TERMINAL_RUN
        return run


@pytest.fixture
def sqlite_home(tmp_path: Path, new_database: Callable[[Path], str]) -> Iterator[Home]:
    """A SQLite file as an installation finds it on its first day."""
    home = Home(str(tmp_path / "mainspring.db"))
    new_database(home.path)
    yield home
    home.close_all()


@pytest.fixture
def empty_sqlite_home(tmp_path: Path) -> Iterator[Home]:
    """An empty place for a SQLite file."""
    home = Home(str(tmp_path / "mainspring.db"))
    yield home
    home.close_all()


@pytest.fixture(scope="session")
def worker_database(postgres: Any) -> Iterator[str]:
    """One migrated database for all tests of this worker: making one takes longer than most tests."""
    name = postgres.new_database()
    Home(postgres.url(name)).open().close()
    yield name
    postgres.drop_database(name)


@pytest.fixture
def postgres_home(postgres: Any, worker_database: str) -> Iterator[Home]:
    """A PostgreSQL database as an installation finds it on its first day."""
    with psycopg.connect(postgres.url(worker_database).replace("+psycopg", "")) as connection:
        connection.execute("SET session_replication_role = replica")  # in any order, whatever refers to it
        connection.execute("UPDATE counters SET value = 0")
        for table in tables.metadata.sorted_tables:
            if table.name != "counters":
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name)))
    home = Home(postgres.url(worker_database))
    yield home
    home.close_all()


@pytest.fixture
def empty_postgres_home(postgres: Any) -> Iterator[Home]:
    """An empty PostgreSQL database."""
    name = postgres.new_database()
    home = Home(postgres.url(name))
    yield home
    home.close_all()
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.engine)])
def empty_home(request: pytest.FixtureRequest) -> Home:
    """An empty database without any schema, once of each kind."""
    made: Home = request.getfixturevalue(f"empty_{request.param}_home")
    return made


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.engine)])
def home(request: pytest.FixtureRequest) -> Home:
    """An empty database, once of each kind."""
    made: Home = request.getfixturevalue(f"{request.param}_home")
    return made


@pytest.fixture
def store(home: Home) -> Store:
    """An open store, once of each kind."""
    return home.open()


@pytest.fixture
def world(store: Store, home: Home) -> World:
    """An open store and short words for what tests do with it."""
    return World(store, home.clock, home.ids)


@pytest.fixture
def world_of() -> Callable[[Store], World]:
    """Short words for a store that the test opened itself."""
    return lambda store: World(store, store._db.clock, store._db.ids)  # type: ignore[arg-type]


@pytest.fixture
def sqlite_source(tmp_path: Path) -> Iterator[Home]:
    """A second SQLite file, to copy from."""
    home = Home(str(tmp_path / "source.db"))
    yield home
    home.close_all()


@pytest.fixture
def home_at() -> Callable[[object], Home]:
    """A home at a place of the test's own choosing."""
    return lambda place: Home(str(place))


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll a condition with a deadline."""

    def wait(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not is_so():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.005)

    return wait
