"""Calls for an event loop: they leave it free, end in time, and stop what they began when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import mainspring as ms
from mainspring.client.client import Client
from mainspring.sdk import awaiting, datasets
from mainspring.sdk.progress import Progress, check_wanted

MIB = 1 << 20
# every public call that may take long, and its twin for a coroutine
TWINS = [
    (ms.Task, "submit"), (ms.Pipeline, "submit"), (ms.Pipeline, "run"), (ms.PipelineRun, "wait"), (ms.Study, "wait"),
    (ms.Run, "wait"), (ms.Run, "result"), (ms.Run, "logs"), (ms.Run, "pull"), (ms.Run, "shell"), (ms.Dataset, "register"),
    (ms.Model, "register"), (ms.Endpoint, "wait"), (ms.Endpoint, "predict"), (ms, "deploy"), (ms, "sweep"), (ms, "wait_all"),
]  # fmt: skip


@pytest.mark.parametrize(("home", "name"), TWINS, ids=lambda value: getattr(value, "__name__", value))
def test_what_may_take_long_has_a_twin_that_takes_the_same(home: Any, name: str) -> None:
    blocking, twin = getattr(home, name), getattr(home, f"{name}_async")
    assert inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin)
    there = inspect.signature(twin).parameters
    left_out = {"follow", "attempt"} if name == "logs" else set()  # a coroutine always follows, and from the beginning
    for key, one in inspect.signature(blocking).parameters.items():
        if key not in left_out:
            assert (there[key].kind, there[key].default) == (one.kind, one.default), key
    assert set(there) - set(inspect.signature(blocking).parameters) <= {"timeout"}
    assert inspect.getdoc(twin)


def test_the_loop_is_free_meanwhile_and_results_and_mistakes_come_back() -> None:
    async def both() -> tuple[int, int]:
        turns = 0
        working = asyncio.ensure_future(awaiting.in_thread(lambda number, by=1: (time.sleep(0.2), number + by)[1], 2, by=3))
        while not working.done():
            turns += 1
            await asyncio.sleep(0.001)
        return await working, turns

    result, turns = asyncio.run(both())
    assert result == 5
    assert turns > 20
    with pytest.raises(ms.NotFoundError, match="not here"):
        asyncio.run(awaiting.in_thread(_refuse))


def _refuse() -> None:
    raise ms.NotFoundError("It is not here.")


def test_a_call_that_was_given_up_ends_at_its_next_step() -> None:
    began, ended, steps = threading.Event(), threading.Event(), []

    def work() -> None:
        try:
            with Progress("a long way", 1000) as progress:
                for number in range(1000):
                    began.set()
                    progress.update(number)
                    steps.append(number)
                    time.sleep(0.01)
        finally:
            ended.set()

    async def give_up() -> None:
        working = asyncio.ensure_future(awaiting.in_thread(work))
        await asyncio.to_thread(began.wait, 30)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(give_up())
    assert ended.wait(30)
    assert len(steps) < 900
    check_wanted()  # what is called outside goes on as ever


def test_a_time_limit_says_what_it_was_for() -> None:
    with pytest.raises(TimeoutError, match=r"Registering x took longer than 0\.05 s and was given up"):
        asyncio.run(awaiting.within(0.05, "Registering x", asyncio.sleep(30)))
    with pytest.raises(TimeoutError, match="the socket"):
        asyncio.run(awaiting.within(30, "Registering x", awaiting.in_thread(_late)))
    assert asyncio.run(awaiting.within(None, "x", awaiting.in_thread(int, "3"))) == 3


def _late() -> None:
    raise TimeoutError("the socket was silent")


class Slow(httpx2.BaseTransport):
    """Blob routes that are slow with every part of a large file, and count what has come of it."""

    def __init__(self) -> None:
        self.parts = 0
        self.registered = 0
        self.is_cut = threading.Event()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/api/v1")
        if path == "/blobs/missing":
            asked = httpx2.Response(200, content=request.read()).json()["digests"]
            return httpx2.Response(200, json={"missing": asked})
        if request.method == "PUT":
            try:
                for _ in request.stream:  # type: ignore[union-attr]
                    self.parts += 1
                    time.sleep(0.2)
            except BaseException:
                self.is_cut.set()
                raise
            return httpx2.Response(201, json={})
        self.registered += path.startswith("/datasets")
        return httpx2.Response(500, json={})


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow()
    client = Client.open("http://server", "secret", home=tmp_path / "home", inner=made)
    monkeypatch.setattr(datasets, "connect", lambda: client)
    monkeypatch.setenv("MAINSPRING_HOME", str(tmp_path / "home"))
    yield made
    client.close()


@pytest.fixture
def large(tmp_path: Path) -> ms.Dataset:
    """A data set that takes seconds to send."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_bytes(b"x" * (30 * MIB))  # read in no time: what takes long is to send it
    return ms.Dataset.from_path(tmp_path / "data")


def test_an_upload_that_takes_too_long_is_given_up_and_registers_nothing(slow: Slow, large: ms.Dataset) -> None:
    with pytest.raises(TimeoutError, match=r"Registering flights took longer than 1\.5 s"):
        asyncio.run(large.register_async("flights", timeout=1.5))
    assert slow.is_cut.wait(30), "the upload went on though nobody waited for it"
    assert slow.parts < 29
    assert slow.registered == 0


def test_an_upload_that_is_cancelled_ends(slow: Slow, large: ms.Dataset, until: Callable[..., None]) -> None:
    async def cancelled() -> None:
        working = asyncio.ensure_future(large.register_async("flights"))
        await asyncio.to_thread(until, lambda: slow.parts > 3)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(cancelled())
    assert slow.is_cut.wait(30)
    assert slow.registered == 0


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Poll until something is so; a limit only ends what hangs."""

    def wait(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait
