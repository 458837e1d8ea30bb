"""What tests of several rooms share: a whole context below the doors, without loops, engines or a network."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import engines.accounts
import engines.docker
import engines.kubernetes.cluster
import engines.podman
import engines.postgres
import engines.registry
import engines.seaweedfs
import engines.slurm
import engines.ssh
import pytest
from engines import warm
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadGroupScheduling

from mainspring import scheduler
from mainspring.blobs.store import BlobStore
from mainspring.client import connection
from mainspring.core.actors import SYSTEM
from mainspring.core.manifests import FileEntry, pack_manifest
from mainspring.core.records import Attempt, Cause, Cluster, Node, Outcome, Run
from mainspring.core.resources import Device
from mainspring.core.specs import Value, ValueKind
from mainspring.services import attempts, projects
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.store.store import Store
from mainspring.testing.clock import FakeClock
from mainspring.testing.ids import FakeIds

# A test that forgets to name its home must fail, not start a server in the home of whoever runs it.
os.environ["MAINSPRING_HOME"] = "/dev/null/the-test-names-no-home"
# Generated examples may touch a disk, and a disk may stand still for a while.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
KUBERNETES = pytest.StashKey[Any]()
WAITING = ("project", "chaos", "e2e", "backends")  # folders whose tests wait for engines and servers most of their time
LONG = 100


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that failed beside a Kubernetes show what that knows: a pod that waits says nothing itself."""
    report = yield
    used = {"kubernetes", "add_engine"} & set(getattr(item, "fixturenames", ()))
    if report.failed and used and KUBERNETES in item.config.stash:
        report.sections.append(("Kubernetes", item.config.stash[KUBERNETES].told()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what failed once and passed when it was tried again (CI), whole: nobody would look for it otherwise."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"failed at first: {report.nodeid}", sep="_", yellow=True)
        terminalreporter.line(report.longreprtext)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long value by its size: the name of a test travels between workers and into the log, again and again."""
    return f"{argname}-of-{len(val)}" if isinstance(val, str | bytes) and len(val) > LONG else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that wait first, and among them those on Kubernetes last: on a new machine its program is still being built."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        room = item.nodeid.removeprefix("tests/").partition("/")[0]
        return room not in WAITING, not {"kubernetes", "team", "fleet"}.isdisjoint(getattr(item, "fixturenames", ()))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let nobody look for garbage among thousands of tests, which stay to the end: each look would take a fifth of a second."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let every fourth worker begin at the end, where tests compute: else the cores idle at first and are short later."""
    return FromBothEnds(config, log) if config.getoption("dist") == "loadgroup" else None


class FromBothEnds(LoadGroupScheduling):
    """Groups and tests in their order, and for some workers in the opposite one: what a module shares stays together."""

    def _assign_work_unit(self, node: Any) -> None:
        if int(node.gateway.id.removeprefix("gw")) % 4 == 1:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


@dataclass
class House:
    """A context with one node of 8 CPUs and 2 GPUs, and hands that play scheduler and runner."""

    ctx: Context
    clock: FakeClock

    def plan(self) -> list[str]:
        """Plan and apply once; return the ids of the runs that were started."""
        plan = scheduler.plan(self.ctx.store.snapshot(self.clock.now()))
        return [str(run) for run in self.ctx.store.apply(plan, now=self.clock.now()).started]

    def attempt_of(self, run: Run | str) -> Attempt:
        """Return the newest attempt of a run."""
        return self.ctx.store.attempts.of_run(run if isinstance(run, str) else run.id)[-1]

    def begin(self, attempt: Attempt, address: str = "") -> Attempt:
        """Launch an attempt and let its runner report that user code runs."""
        store = self.ctx.store
        lease = store.attempts.lease(attempt.id, owner="hand", ttl_s=60)
        assert lease is not None
        token = attempts.make_token(self.ctx, attempt.id)
        store.attempts.launching(lease, token_hash=attempts.token_hash(token), now=self.clock.now())
        store.attempts.record_handle(lease, 0, {"pid": 1}, now=self.clock.now())
        store.attempts.release(lease)
        return store.attempts.beat(attempt.id, 0, state="running", address=address, now=self.clock.now())

    def end(
        self, run: Run | str, cause: Cause = Cause.SUCCEEDED, outputs: Mapping[str, Value] | None = None, **metrics: float
    ) -> Run:
        """End the newest attempt of a run as its runner would, after it logged `metrics`."""
        attempt = self.attempt_of(run)
        lines = b"".join(b'["%s", %f, 1, 1.0]\n' % (name.encode(), value) for name, value in metrics.items())
        if lines:
            self.ctx.store.attempts.append(attempt.id, 0, [("metrics", 0, lines)], now=self.clock.now())
        attempts.finish(self.ctx, attempt, 0, Outcome(cause=cause, exit_code=0), dict(outputs or {}))
        found = self.ctx.store.runs.get(attempt.run)
        assert found is not None
        return found

    def folder(self, **files: str) -> str:
        """Store files and their manifest; return its digest."""
        entries = [
            FileEntry(path=name, digest=self.ctx.blobs.put_bytes(text.encode()), size=len(text.encode()))
            for name, text in files.items()
        ]
        data, _ = pack_manifest(entries)
        return self.ctx.blobs.put_bytes(data)

    def model_value(self, text: str = "weights") -> Value:
        """Return what a run that made a model returns."""
        return Value(kind=ValueKind.MODEL, digest=self.folder(**{"model.onnx": text}), meta={"format": "onnx"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a real server with two declared GPUs, for the tests of a module."""
    home = tmp_path_factory.mktemp("served") / "home"
    home.mkdir(mode=0o700)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
    words = ("server", "--home", str(home), "--gpus", "2", "--cpus", "4")
    with (home / "server.log").open("ab") as log:
        made = warm.start(words, env=environ, cwd=home, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 60
    while connection.find(home) is None:
        assert made.poll() is None, (home / "server.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield home
    connection.forget()
    client = connection.connect(home, may_start=False)
    for run in client.runs.page(states=("queued", "running")).items:
        client.runs.cancel(run.id, grace_s=0)
    for run in client.runs.page(states=("running",)).items:
        client.runs.wait(run.id, 10)
    client.clusters.shut_down()
    connection.forget()
    made.wait(20)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file of the first day, to be copied: making one takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "mainspring.db"
    Store.open(str(path), clock=FakeClock(), ids=FakeIds()).close()
    return path


@pytest.fixture
def new_database(migrated_file: Path) -> Callable[[Path], str]:
    """Return a function that puts a SQLite file of the first day at a path, and returns its address."""

    def make(path: Path) -> str:
        path.touch(0o600)
        shutil.copyfile(migrated_file, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def house(tmp_path: Path, new_database: Callable[[Path], str]) -> Iterator[House]:
    clock, ids, signals = FakeClock(), FakeIds(), Signals()
    store = Store.open(new_database(tmp_path / "house.db"), clock=clock, ids=ids)
    store.on_commit(signals.hint_all)
    ctx = Context(
        store=store,
        blobs=BlobStore.open(str(tmp_path / "blobs"), folder=tmp_path / "blobs"),
        clock=clock,
        ids=ids,
        signals=signals,
        settings=Settings(home=tmp_path),
        started_at=clock.now(),
    )
    projects.add(ctx, SYSTEM, "default")
    store.clusters.add(Cluster(id="local", name="local", backend="local", created_at=clock.now()))
    node = Node(
        id="local.one",
        cluster="local",
        name="one",
        cpu_milli=8000,
        memory_bytes=16 << 30,
        devices=(Device(index=0), Device(index=1)),
    )
    store.nodes.upsert("local", [node], now=clock.now())
    yield House(ctx, clock)
    store.close()


@contextmanager
def _engine(
    module: Any, name: str, how: str, sessions: pytest.TempPathFactory, share: str = "share", is_own: bool = False
) -> Iterator[Any]:
    """Share a real engine with the other workers of this session, unless each has its own, by this function of its module."""
    if module.find() is None:
        _missing(name, how)
    base = sessions.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ and not is_own else base) / name.casefold().replace(" ", "-")
    with getattr(module, share)(folder) as engine:
        yield engine


def _missing(name: str, how: str) -> NoReturn:
    """Skip the test for what is missing; in CI that is an error."""
    if os.environ.get("CI") == "true":
        raise RuntimeError(f"{name} is missing: {how}")
    pytest.skip(f"{name} is missing: {how}")


@pytest.fixture(scope="session")
def need() -> Callable[[bool, str, str], None]:
    """Return `need(is_here, name, how)`: a test without it is skipped, in CI an error."""
    return lambda is_here, name, how: None if is_here else _missing(name, how)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL shared by all workers of this session."""
    with _engine(engines.postgres, "PostgreSQL", "scripts/engines/install", tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A SeaweedFS shared by all workers of this session."""
    with _engine(engines.seaweedfs, "SeaweedFS", "uv sync --group engines", tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Slurm of two nodes with four declared GPUs each, shared by all workers of this session."""
    with _engine(engines.slurm, "Slurm", "scripts/engines/install", tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Another Slurm, with accounting: it takes jobs for known accounts alone, within their limits."""
    if not engines.accounts.find():
        _missing("slurmdbd with MariaDB", "scripts/engines/install")
    with _engine(engines.slurm, "Slurm with accounts", "scripts/engines/install", tmp_path_factory, "share_accounted") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def podman_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A podman with two images, shared by all workers of this session."""
    with _engine(engines.podman, "podman", "scripts/engines/install", tmp_path_factory) as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Docker with two images, shared by all workers of this session."""
    with _engine(engines.docker, "Docker", "scripts/engines/install", tmp_path_factory) as engine:
        yield engine


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, docker_engine: Any) -> Iterator[Any]:
    """A registry of images with a login, shared by all workers of this session; `private/python:1` is in it."""
    with _engine(engines.registry, "docker-registry", "scripts/engines/install", tmp_path_factory) as made:
        made.push(docker_engine.run, engines.docker.IMAGE, "private/python:1")
        yield made


@pytest.fixture(scope="session")
def ssh_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three hosts with an sshd each. Each worker has its own: one test cuts links that another needs."""
    with _engine(engines.ssh, "sshd", "scripts/engines/install", tmp_path_factory, is_own=True) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Any]:
    """A Kubernetes of one node with eight declared GPUs, shared by all workers of this session."""
    with _engine(
        engines.kubernetes.cluster, "Kubernetes", "scripts/engines/install, and Go 1.24 or newer", tmp_path_factory
    ) as cluster:
        pytestconfig.stash[KUBERNETES] = cluster
        yield cluster
        del pytestconfig.stash[KUBERNETES]
