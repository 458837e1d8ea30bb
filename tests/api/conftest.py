"""A whole server without loops: real store, real blobs, the real application; clock and ids are ours."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from mainspring.api.app import build_api
from mainspring.blobs.store import BlobStore
from mainspring.core.actors import SYSTEM
from mainspring.core.ids import make_id
from mainspring.core.records import Attempt, Cluster, Node, Role
from mainspring.scheduler.plan import plan
from mainspring.services import attempts, projects, tokens, users
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.store.store import Store

LIMIT_S = 60.0  # only to end what hangs: a disk may stand still for a while
START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Stands still until it is moved."""

    wall: datetime = START
    ticks: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    def move(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.ticks += seconds


@dataclass
class Ids:
    """Counts."""

    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, kind: str) -> str:
        with self.lock:
            return make_id(kind, 1_700_000_000_000, next(self.numbers))


@dataclass
class World:
    """The server of one test, and what tests do with it."""

    ctx: Context
    clock: Clock
    app: FastAPI
    admin: str
    urls: list[str] = field(default_factory=list)

    def token(self, name: str, role: Role | None = None, *, project: str = "default", expires_in_s: float | None = None) -> str:
        users.ensure(self.ctx, name)
        if role is not None:
            projects.grant(self.ctx, SYSTEM, project, name, role)
        return tokens.issue(self.ctx, SYSTEM, name, "test", expires_in_s)[0]

    def client(self, token: str | None = None, **headers: str) -> TestClient:
        given = {"Authorization": f"Bearer {self.admin if token is None else token}"} if token != "" else {}
        return TestClient(self.app, base_url="http://127.0.0.1:8765/api/v1", headers={**given, **headers}, follow_redirects=False)

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.client().post("/runs", json={"command": ["true"], **fields})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def launch(self) -> tuple[Attempt, str]:
        """Plan once and lease the newest attempt as a controller would; return it with its runner's token."""
        store = self.ctx.store
        store.apply(plan(store.snapshot(self.clock.now())), now=self.clock.now())
        newest = max(store.attempts.open(), key=lambda one: one.id)
        lease = store.attempts.lease(newest.id, owner="test", ttl_s=60)
        assert lease is not None
        token = attempts.make_token(self.ctx, newest.id)
        launched = store.attempts.launching(lease, token_hash=attempts.token_hash(token), now=self.clock.now())
        assert launched is not None
        return launched, token


@pytest.fixture
def world(tmp_path: Path, new_database: Callable[[Path], str]) -> Iterator[World]:
    clock, ids = Clock(), Ids()
    settings = Settings(home=tmp_path, allowed_hosts=("lab.example",))
    store = Store.open(new_database(tmp_path / "mainspring.db"), clock=clock, ids=ids)
    signals = Signals()
    store.on_commit(signals.hint_all)
    ctx = Context(
        store=store,
        blobs=BlobStore.open(str(tmp_path / "blobs"), folder=tmp_path / "blobs"),
        clock=clock,
        ids=ids,
        signals=signals,
        settings=settings,
        started_at=clock.now(),
    )
    users.add(ctx, SYSTEM, "ada", is_admin=True)
    projects.add(ctx, SYSTEM, "default")
    store.clusters.add(Cluster(id="local", name="local", backend="local", created_at=clock.now()))
    node = Node(id="local-here", cluster="local", name="here", cpu_milli=8000, memory_bytes=2**33, seen_at=clock.now())
    store.nodes.upsert("local", [node], now=clock.now())
    admin, _ = tokens.issue(ctx, SYSTEM, "ada", "test")
    yield World(ctx=ctx, clock=clock, app=build_api(ctx), admin=admin)
    store.close()


@pytest.fixture
def served(world: World) -> Iterator[str]:
    """Serve the world's application on a real socket; give its address."""
    config = uvicorn.Config(world.app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + LIMIT_S
    while not server.started:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(LIMIT_S)


@pytest.fixture
def soon() -> Callable[[Callable[[], bool]], None]:
    """Poll until something is so; a limit only ends what hangs."""

    def wait(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            assert time.monotonic() < deadline, f"it did not happen within {LIMIT_S:g} s"
            time.sleep(0.01)

    return wait
