"""The composition root: builds the object graph, serves it, takes it down. Nothing else knows how the parts fit together."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import getpass
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI

from mainspring import plugins
from mainspring.api.app import build_api
from mainspring.api.listening import Listening, listen
from mainspring.api.listening import serve as serve_http
from mainspring.api.streams import drain
from mainspring.blobs.store import BlobStore
from mainspring.controllers.attempts import Attempts
from mainspring.controllers.endpoints import Endpoints
from mainspring.controllers.fleet import SHARED_S, Fleet, Reach
from mainspring.controllers.forecasts import Forecasts
from mainspring.controllers.garbage import Garbage
from mainspring.controllers.health import Health
from mainspring.controllers.leader import Leader
from mainspring.controllers.loop import Loop, Loops
from mainspring.controllers.machines import Machines
from mainspring.controllers.observations import note_strangers
from mainspring.controllers.operations import Operations
from mainspring.controllers.outbox import Outbox
from mainspring.controllers.pipelines import Pipelines
from mainspring.controllers.schedule import REST, Schedule
from mainspring.controllers.sweeps import Sweeps
from mainspring.core.actors import SYSTEM
from mainspring.core.errors import AuthError, PlannerError, ServerError, StoreError
from mainspring.core.ids import make_id
from mainspring.core.records import Cluster
from mainspring.scheduler.scorers import Scorer, add_scorer
from mainspring.services import adoption, projects, tokens, users
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import VERSION, Settings, load_settings
from mainspring.store.backup import restore as restore_database
from mainspring.store.store import Store
from mainspring.ui.waking import attach_waking_ui

log = logging.getLogger(__name__)
GIVE_BACK_S = 60.0
_HEAPS = ((-8, 2), (-3, 256 << 10), (-1, 1 << 20))  # glibc's M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


class SystemClock:
    """The real clock."""

    def now(self) -> datetime:
        """Return the wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


@dataclass(slots=True)
class SystemIds:
    """Real ids: the time in milliseconds, never going back within a process, and 35 random bits."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last_ms: int = 0

    def new(self, kind: str) -> str:
        """Return a fresh id of `kind`."""
        with self._lock:
            self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
            return make_id(kind, self._last_ms, secrets.randbits(35))


@dataclass(slots=True, kw_only=True)
class Running:
    """A built server: its context, loops and web application."""

    ctx: Context
    fleet: Fleet
    loops: Loops
    leader: Leader
    api: FastAPI
    user: str


def build_context(settings: Settings) -> Context:
    """Open the stores and return what every use case needs. Raises StoreError when another process owns the database."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    add_scorers()
    clock = SystemClock()
    database = settings.database_url or f"sqlite:///{settings.home / 'mainspring.db'}"
    store = Store.open(database, clock=clock, ids=SystemIds())
    blobs = BlobStore.open(
        settings.blob_url or str(settings.home / "blobs"), folder=settings.home / "blobs", config=settings.blob_config
    )
    signals = Signals()
    store.on_commit(signals.hint_all)
    return Context(
        store=store,
        blobs=blobs,
        clock=clock,
        ids=SystemIds(),
        signals=signals,
        settings=settings,
        started_at=clock.now(),
    )


def add_scorers() -> None:
    """Let policies name the scorers of plug-ins. One that is broken is left out, and said in the log."""
    for name in plugins.names("scorers"):
        try:
            add_scorer(name, cast(Scorer, plugins.load("scorers", name)))
        except (PlannerError, ServerError) as wrong:
            log.warning(wrong.message, extra={"scorer": name})


def prepare(ctx: Context) -> str:
    """Make what a new installation lacks: the first user, the default project, this machine as the first cluster. Idempotent.

    Returns the name of the embedded user, whose token lies in HOME/token (0600).
    """
    name = _user_name()
    if ctx.store.users.get(name) is None:
        users.add(ctx, SYSTEM, name, is_admin=True)
    if ctx.store.projects.get("default") is None:
        projects.add(ctx, SYSTEM, "default", description="Where runs go when no project is named.")
    _write_token(ctx, name)
    config: dict[str, object] = {
        "gpus": ctx.settings.gpus,
        "gpu_model": ctx.settings.gpu_model,
        "gpu_memory_bytes": ctx.settings.gpu_memory_bytes,
        "cpus": ctx.settings.cpus,
    }
    known = ctx.store.clusters.get("local")
    if known is None:
        ctx.store.clusters.add(Cluster(id="local", name="local", backend="local", config=config, created_at=ctx.clock.now()))
    elif dict(known.config) != config:
        ctx.store.clusters.configure("local", config)
    return name


def build(settings: Settings, *, url: str, shutdown: threading.Event) -> Running:
    """Build everything for a server that is reached at `url`; starts no loop."""
    ctx = build_context(settings)
    name = prepare(ctx)
    ctx.store.key(adoption.KEY)  # from the first backup on: runners that outlive it are known by it
    fleet = Fleet(ctx, settings.home / "clusters")
    loops = Loops(ctx.signals)
    api = build_api(ctx, url=url, shutdown=shutdown.set)
    if settings.has_ui:
        attach_waking_ui(api, ctx)
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    leader = Leader(ctx, owner, is_alone=not ctx.store.is_postgres)
    return Running(ctx=ctx, fleet=fleet, loops=loops, leader=leader, api=api, user=name)


def rest_garbage() -> None:
    """Look for cycles of garbage seldom: rows make none, and each look walks over all that is kept between plans."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def keep_memory_small() -> None:
    """Let the C library keep two heaps instead of sixteen, and give large pieces back to the system as soon as they are free.

    Each of dozens of threads that ask engines would have filled one with the peaks of its answers. Elsewhere than on glibc
    nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in _HEAPS:
            library.mallopt(option, value)


def give_back() -> float:
    """Give what the C library holds free back to the system; return the seconds until the next time."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return GIVE_BACK_S


def loops_of(running: Running, *, reach: Reach) -> list[Loop]:
    """Return the background loops of a server. Only those of the one that leads act."""
    ctx, fleet, leader = running.ctx, running.fleet, running.leader
    owner, led = leader.owner, leader.led
    ask_all, ask_shared = partial(fleet.ask_all, running.loops), partial(fleet.ask_shared, running.loops)
    machines = led(lambda: Machines(ctx, fleet, running.loops).tick)
    operations = led(lambda: Operations(ctx, fleet, running.loops, reach).tick)
    attempts = led(lambda: Attempts(ctx, fleet, running.loops, owner, reach).tick)
    return [
        Loop(name="leader", topics=(), tick=leader.tick),
        Loop(
            name="schedule",
            topics=("runs", "nodes"),
            tick=led(lambda: Schedule(ctx).tick),
            begin=ctx.store.stay_near_writer,
            rest=REST,
        ),
        Loop(name="attempts", topics=("placed", "attempts", "nodes"), tick=attempts),
        Loop(name="fleet", topics=("clusters",), tick=led(lambda: ask_all)),
        Loop(name="shared", topics=("shared",), tick=led(lambda: ask_shared), gap_s=SHARED_S),
        Loop(name="operations", topics=("operations",), tick=operations),
        Loop(name="sweeps", topics=("runs", "sweeps"), tick=led(lambda: Sweeps(ctx).tick), gap_s=0.1),
        Loop(name="pipelines", topics=("runs", "pipelines", "endpoints"), tick=led(lambda: Pipelines(ctx).tick), gap_s=0.1),
        Loop(name="endpoints", topics=("runs", "attempts", "endpoints"), tick=led(lambda: Endpoints(ctx).tick), gap_s=0.1),
        Loop(name="forecasts", topics=("runs",), tick=led(lambda: Forecasts(ctx).tick), gap_s=10.0),
        Loop(name="outbox", topics=("events",), tick=led(lambda: Outbox(ctx).tick)),
        Loop(name="machines", topics=("machines", "nodes"), tick=machines, gap_s=0.2),
        Loop(name="health", topics=("health",), tick=led(lambda: Health(ctx).tick), gap_s=0.2),
        Loop(name="memory", topics=(), tick=give_back),
        Loop(name="garbage", topics=(), tick=led(lambda: Garbage(ctx, fleet, running.loops).tick)),
    ]


def serve(
    *,
    home: Path | None = None,
    port: int | None = None,
    bind: str | None = None,
    gpus: int | None = None,
    **more: object,
) -> None:
    """Run the server until SIGTERM, SIGINT or `POST /shutdown`; runs go on without it. Blocks.

    `HOME/server.json` tells where it is once it answers. Raises UsageError (bind, port), StoreError.
    """
    keep_memory_small()
    settings = load_settings(home=home, port=port, bind=bind, gpus=gpus, **more)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    listening = listen(settings, now=datetime.now(UTC))
    shutdown = threading.Event()
    running = build(settings, url=listening.network_url or listening.url, shutdown=shutdown)
    for cluster in running.ctx.store.clusters.all():
        if running.fleet.is_local(cluster.id):  # others are asked in the background: an engine may be slow, or away
            running.fleet.take_inventory(cluster)
            note_strangers(running.ctx, running.fleet, cluster.id)

    def begin(servers: list[uvicorn.Server]) -> None:
        threading.Thread(target=_watch, args=(servers, running.api, shutdown), daemon=True, name="shutdown").start()
        for server in servers:
            # uvicorn takes the signals over: its own handler would cut held polls off instead of letting them answer
            server.handle_exit = lambda *_: shutdown.set()  # type: ignore[method-assign]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, servers[0].handle_exit)

    rest_garbage()
    with _announced(settings, listening):
        running.leader.tick()
        reach = Reach(url=listening.url, network_url=listening.network_url, fingerprint=listening.fingerprint)
        running.loops.start(loops_of(running, reach=reach))
        try:
            serve_http(running.api, listening, begin=begin)
        finally:
            running.loops.stop()
            with contextlib.suppress(StoreError):  # without a database the lease runs out by itself
                running.leader.resign()
            running.ctx.store.close()


def restore(home: Path, archive: Path) -> None:
    """Put a backup in place of the database under `home`. Raises StoreError while a server owns it."""
    restore_database(archive, home / "mainspring.db")


def _watch(servers: list[uvicorn.Server], api: FastAPI, shutdown: threading.Event) -> None:
    shutdown.wait()
    drain(api)
    for server in servers:
        server.should_exit = True


@contextlib.contextmanager
def _announced(settings: Settings, listening: Listening) -> Iterator[None]:
    """Tell clients where the server is, for as long as it lives."""
    target = settings.home / "server.json"
    told = {
        "url": listening.url,
        "network_url": listening.network_url,
        "fingerprint": listening.fingerprint,
        "pid": os.getpid(),
        "version": VERSION,
        "start_time": _start_time(),
        "boot_id": _boot_id(),
        "home": str(settings.home),
    }
    fresh = target.with_suffix(".tmp")
    fresh.write_text(json.dumps(told))
    fresh.replace(target)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(target.read_text())["pid"] == os.getpid():
                target.unlink()


def _write_token(ctx: Context, name: str) -> None:
    """Keep HOME/token valid: a new one is issued when it is missing, revoked or not ours."""
    path = ctx.settings.home / "token"
    with contextlib.suppress(OSError, AuthError):
        tokens.authenticate(ctx, path.read_text().strip())
        return
    plain, _ = tokens.issue(ctx, SYSTEM, name, "embedded")
    descriptor = os.open(path.with_suffix(".tmp"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(plain)
    path.with_suffix(".tmp").replace(path)


def _user_name() -> str:
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "admin"


def _start_time() -> int:
    """Return the process's start in clock ticks since boot, 0 where /proc is missing."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
