"""A house full of data, and its pages: for NiceGUI's simulated user, and served on loopback for a real Chromium."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from nicegui import app as nicegui_app
from nicegui import ui
from nicegui.testing import User
from nicegui.testing.general import nicegui_reset_globals
from nicegui.testing.user_simulation import user_simulation
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from starlette.types import ASGIApp, Receive, Scope, Send

from mainspring.api.app import build_api
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.backend import Notice, Probe
from mainspring.core.graphs import Graph, PipelineState, Step, StepKind, StepRun, StepState
from mainspring.core.objectives import Objective
from mainspring.core.records import Cause, Cluster, Dimension, Role, Run, RunState, SweepSpec, Trial
from mainspring.core.resources import Resources
from mainspring.core.specs import Link, RunSpec, Value, ValueKind
from mainspring.services import datasets, endpoints, gates, models, pipelines, runs, secrets, sweeps, tokens, users
from mainspring.services.context import Context
from mainspring.ui.app import hang_pages
from mainspring.ui.view import View
from mainspring.ui.waking import attach_waking_ui

LIMIT_MS = 30_000  # only to end what hangs: a disk may stand still for a while
expect.set_options(timeout=LIMIT_MS)

ALICE = Actor(name="alice", is_admin=True)
BOB = Actor(name="bob", roles={"theirs": Role.VIEWER})
CUT = "ERR_NETWORK_CHANGED"
ARGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
NASTY = "<img src=x onerror=alert(1)>"


@dataclass
class Full:
    """A context in which one of everything has happened; `ids` names the things."""

    house: Any
    actor: Actor = ALICE
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def ctx(self) -> Context:
        ctx: Context = self.house.ctx
        return ctx

    def submit(self, name: str, gpus: float = 1, *, args: dict[str, Value] | None = None, **params: object) -> Run:
        words = tuple(word for key, value in params.items() for word in (f"--{key}", str(value)))
        command = ("python", "train.py", *words)
        asked = Resources(cpu_milli=1000, gpu_milli=int(gpus * 1000))
        run, _ = runs.submit(
            self.ctx, self.actor, RunSpec(command=command, name=name, params=params, args=args or {}, resources=asked)
        )
        return run

    def write(self, run: Run | str, stream: str, data: bytes) -> None:
        attempt = self.house.attempt_of(run)
        offset = self.ctx.store.logs.size(attempt.id, 0, stream)
        self.ctx.store.attempts.append(attempt.id, 0, [(stream, offset, data)], now=self.house.clock.now())

    def view(self, path: str = "/", ref: str = "", **query: str) -> View:
        return View(ctx=self.ctx, who=lambda: self.actor, path=path, ref=ref, query=query)

    def pages(self) -> dict[str, str]:
        """Return the address of each page."""
        return {
            "overview": "/",
            "runs": "/runs",
            "run": f"/runs/{self.ids['running']}",
            "run-ended": f"/runs/{self.ids['good']}",
            "run-failed": f"/runs/{self.ids['bad']}",
            "sweeps": "/sweeps",
            "sweep": f"/sweeps/{self.ids['sweep']}",
            "compare": f"/compare?runs={self.ids['good']},{self.ids['running']},{self.ids['bad']}",
            "pipelines": "/pipelines",
            "pipeline": f"/pipelines/{self.ids['pipeline']}",
            "queue": "/queue",
            "shares": "/shares",
            "rehearsal": "/rehearsal?go=1&fair=1&shortest=1",
            "clusters": "/clusters",
            "datasets": "/datasets",
            "dataset": "/datasets/flights",
            "models": "/models",
            "model": "/models/delays",
            "endpoints": "/endpoints",
            "endpoint": "/endpoints/delays",
            "settings": "/settings",
        }


@pytest.fixture
def full(house: Any) -> Full:
    house.clock.wall = datetime.now(UTC)
    found = Full(house=house)
    users.add(found.ctx, SYSTEM, "alice", is_admin=True)
    for name, digest in (("v1", house.folder(**{"a.csv": "1"})), ("v2", house.folder(**{"a.csv": "2", "b.csv": "3"}))):
        datasets.add_version(found.ctx, ALICE, "flights", digest, message=name)
    good = found.submit("good", args={"data": Value(kind=ValueKind.DATASET, digest=digest)}, rate=0.1)
    house.plan()
    house.begin(house.attempt_of(good))
    found.write(good, "log", b"\x1b[32mgreen\x1b[0m " + NASTY.encode() + b"\n")
    model = house.model_value()
    ended = house.end(good, outputs={"result": model, "score": Value(kind=ValueKind.JSON, json=0.7)}, auc=0.7, loss=0.3)
    bad = found.submit("bad")
    house.plan()
    house.begin(house.attempt_of(bad))
    found.write(bad, "log", b"Traceback:\n\x1b[31mValueError\x1b[0m: no such column\n\n")
    house.end(bad, Cause.USER_ERROR)
    version = models.add_from_run(found.ctx, ALICE, "delays", ended, aliases=["champion"])
    goal = Objective(name="flight-delays", kpi="value_usd", at_least=15_000, owner="operations")
    for value in (7_000.0, 18_240.0):
        gates.judge(found.ctx, ALICE, goal, {"value_usd": value}, run=good.id, model="delays", model_version=version.number)
    endpoints.deploy(found.ctx, ALICE, "delays", "delays@champion")
    space = (Dimension(name="rate", kind="log", low=0.01, high=1.0), Dimension(name="depth", kind="choice", choices=(2, 4)))
    template = RunSpec(command=("python", "train.py"), name="search", resources=Resources(cpu_milli=500))
    sweep = sweeps.start(found.ctx, ALICE, SweepSpec(template=template, space=space, metric="auc", trials=6, name="search"))
    found.ids |= {"good": good.id, "bad": bad.id, "sweep": sweep.id, "model": str(version.number)}
    _tell_trials(found, sweep.id)
    tokens.issue(found.ctx, ALICE, "alice", "laptop")
    secrets.put(found.ctx, ALICE, "HF_TOKEN", "x")
    found.ids["pipeline"] = _tell_pipeline(found, good.id)
    running = found.submit("steady", gpus=0.5, rate=0.2)
    house.plan()
    house.begin(house.attempt_of(running))
    found.write(running, "log", b"".join(b"epoch %d loss 0.%02d\n" % (n, 90 - n) for n in range(40)))
    found.write(running, "metrics", b"".join(b'["loss",%f,%d,%d.0]\n' % (1 / (n + 1), n, n) for n in range(40)))
    waiting = found.submit("patient", gpus=2)
    house.plan()
    found.ids |= {"running": running.id, "waiting": waiting.id}
    _tell_cluster(found)
    return found


def _tell_cluster(found: Full) -> None:
    """Register a cluster whose hosts are not there yet; its engine has told what it has and what would mend it."""
    store = found.ctx.store.clusters
    store.add(Cluster(id="lab", name="lab", backend="ssh", config={"targets": ["gpu01", "gpu02"], "port": 22}))
    notice = Notice(text="gpu02: the driver does not answer.", command="ssh gpu02 sudo modprobe nvidia")
    facts = {"driver": "550.54", "free disk": "312 GiB"}
    store.set_probe("lab", Probe(is_ready=True, version="OpenSSH", notices=(notice,), facts=facts, latency_s=0.087))


def _tell_trials(found: Full, sweep: str) -> None:
    one = found.ctx.store.sweeps.get(sweep)
    assert one is not None
    for number in range(1, 5):
        params: dict[str, object] = {"rate": 0.02 * number, "depth": 4 - 2 * (number % 2)}
        spec = sweeps.trial_spec(one, number, params)
        run = runs.make_run(found.ctx, "alice", spec, Link(kind="sweep", id=sweep, key=str(number)))
        found.ctx.store.sweeps.add_trial(Trial(sweep=sweep, number=number, params=params, run=run.id), run)
        if number < 4:
            runs.cancel(found.ctx, ALICE, run.id)
            found.ctx.store.sweeps.tell(sweep, number, RunState.SUCCEEDED, 0.59 + number / 100)
        else:
            runs.pause(found.ctx, ALICE, run.id)


def _tell_pipeline(found: Full, run: str) -> str:
    """Record a pipeline whose first step is the run `run`, whose gate refused, and whose rest was left out."""
    template = RunSpec(command=("python", "train.py"), name="prepare", resources=Resources(cpu_milli=500))
    goal = Objective(name="flight-delays", kpi="value_usd", at_least=15_000, owner="operations")
    graph = Graph(
        steps=(
            Step(key="prepare", kind=StepKind.TASK, template=template),
            Step(key="train", kind=StepKind.TASK, template=template, refs={"data": "prepare"}),
            Step(key="evaluate", kind=StepKind.TASK, template=template, refs={"data": "prepare", "model": "train"}),
            Step(key="gate", kind=StepKind.GATE, refs={"figures": "evaluate"}, objective=goal),
            Step(key="serve", kind=StepKind.DEPLOY, refs={"model": "train"}, after=("gate",), endpoint="nightly"),
        )
    )
    one = pipelines.start(found.ctx, ALICE, "nightly", graph)
    told = "refused: value_usd is 7,000; flight-delays wants at least 15,000."
    steps = (
        *(StepRun(key=key, state=StepState.SUCCEEDED, run=run) for key in ("prepare", "train", "evaluate")),
        StepRun(key="gate", state=StepState.FAILED, message=told),
        StepRun(key="serve", state=StepState.SKIPPED),
    )
    found.ctx.store.pipelines.update(replace(one, steps=steps))
    found.ctx.store.pipelines.end(one.id, PipelineState.FAILED, now=found.ctx.clock.now())
    return one.id


class _LetIn:
    """What the door does, for pages that are opened without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_bob = (b"as", b"bob") in scope.get("headers", ())
        scope.setdefault("state", {})["actor"] = BOB if is_bob else ALICE
        await self._app(scope, receive, send)


@contextmanager
def modules_kept() -> Iterator[None]:
    """Keep our modules where they are: NiceGUI forgets those that have pages, and a test after it would load them anew."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mainspring"}
    try:
        yield
    finally:
        sys.modules.update(kept)


@pytest.fixture
def simulated(full: Full) -> Callable[[], Any]:
    """Open the pages to NiceGUI's simulated user."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[User]:
        with modules_kept():
            async with user_simulation() as user:
                nicegui_app.add_middleware(_LetIn)
                hang_pages(full.ctx)
                yield user
            # Whoever touches it hangs its functions into NiceGUI, also later: pages that wake look through all objects.
            user.navigate, user.notify, user.download = ui.navigate, ui.notify, ui.download

    return opened


@dataclass
class Site:
    """The pages as served: `url`, and a link that lets a browser in, once."""

    full: Full
    url: str

    def login(self) -> str:
        return f"{self.url}/login/{tokens.issue_link(self.full.ctx, ALICE)}"


@pytest.fixture
def site(full: Full) -> Iterator[Site]:
    with modules_kept(), nicegui_reset_globals():
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        api = build_api(full.ctx, url=url)
        attach_waking_ui(api, full.ctx)
        server = uvicorn.Server(uvicorn.Config(api, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        yield Site(full=full, url=url)
        server.should_exit = True
        thread.join(5)


@pytest.fixture(scope="session")
def chromium_path(need: Callable[[bool, str, str], None]) -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
    need(bool(found), "Chromium", "scripts/engines/install")
    return found


class Watched:
    """One tab, and whatever it complained about or fetched from elsewhere."""

    def __init__(self, browser: Browser, site: Any, *, theme: str = "light", width: int = 1280) -> None:
        self.site = site
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self._context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})  # type: ignore[arg-type]
        self._context.set_default_timeout(LIMIT_MS)
        self.page: Page = self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda wrong: self.complaints.append(str(wrong)))
        self.page.on("request", lambda asked: self._asked(asked.url))
        self._cuts = 0
        self.page.on("requestfailed", lambda asked: self._failed(str(asked.failure)))
        self.go(lambda: _aside(site.login))

    def go(self, url: str | Callable[[], str]) -> Response | None:
        """Load a page, again when the machine's links changed meanwhile: other tests make hosts and containers.

        What opens a page only once is a function: the server may have seen a try that the browser has lost.
        """
        while True:
            cuts = self._cuts
            try:
                answer = self.page.goto(url if isinstance(url, str) else url())
                if self._cuts == cuts:
                    return answer
            except PlaywrightError as wrong:
                if CUT not in str(wrong):
                    raise

    def open(self, path: str) -> Page:
        self.go(self.site.url + path)
        self.page.wait_for_function("window.did_handshake === true || window.socket?.connected === true")
        return self.page

    def close(self) -> None:
        self._context.close()
        assert self.complaints == []
        assert self.strangers == []

    def _failed(self, why: str) -> None:
        self._cuts += CUT in why

    def _heard(self, message: ConsoleMessage) -> None:
        if CUT not in message.text and message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.strangers.append(url)


@pytest.fixture
def tab(site: Any, chromium_path: str) -> Iterator[Callable[..., Watched]]:
    """Open tabs; closing tells what was wrong with them. Playwright's loop runs in this thread meanwhile: see `aside`."""
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium_path, args=list(ARGS))
        yield lambda **how: Watched(browser, site, **how)
        browser.close()


@pytest.fixture
def aside() -> Callable[[Callable[[], Any]], Any]:
    """Return what `act` gives in a thread without an event loop, as the store wants it."""
    return _aside


def _aside(act: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()
