"""Live progress: on a terminal and after a second, on stderr alone; nowhere else, and never for a program."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

import mainspring as ms
from mainspring.client.client import Client
from mainspring.core.codec import decode_any, encode
from mainspring.core.records import Endpoint as Record
from mainspring.core.records import EndpointState
from mainspring.sdk import datasets, progress
from mainspring.sdk.deploy import Endpoint
from mainspring.sdk.progress import Progress, quiet

COUNTING = """
import sys, time
from mainspring.sdk.progress import Progress, quiet
with quiet(is_quiet={quiet}), Progress("Sending flights", 12) as shown:
    for number in range({steps}):
        shown.update(number, "three running")
        print("line", number, flush=True)
        time.sleep(0.25)
"""


def on_terminal(code: str) -> tuple[str, str]:
    """Run Python with a real terminal as stderr; return what it printed on stdout and there."""
    near, far = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=far, env=env, text=True)
    os.close(far)
    told = bytearray()

    def listen() -> None:
        try:
            while part := os.read(near, 1 << 16):
                told.extend(part)
        except OSError:
            pass  # the other end is closed

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    out, _ = done.communicate(timeout=60)
    thread.join(10)
    os.close(near)
    assert done.returncode == 0, told
    return out, told.decode(errors="replace")


def test_a_bar_is_drawn_on_the_terminal_and_output_stays_where_it_goes() -> None:
    out, shown = on_terminal(COUNTING.format(quiet=False, steps=12))
    assert out.splitlines() == [f"line {number}" for number in range(12)]
    for part in ("Sending flights", "three running", "/12"):
        assert part in shown
    assert "line" not in shown


@pytest.mark.parametrize(("is_quiet", "steps"), [(True, 8), (False, 2)], ids=["for-a-program", "soon-done"])
def test_nothing_is_drawn_for_a_program_nor_for_what_is_soon_done(is_quiet: bool, steps: int) -> None:
    assert on_terminal(COUNTING.format(quiet=is_quiet, steps=steps))[1] == ""


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    code = COUNTING.format(quiet=False, steps=8)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """Return a function that makes a terminal stderr (only in the test itself: pytest has its own before), with bars at once."""

    def make() -> Terminal:
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        return made

    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    yield make
    assert not progress._screen.locked(), "a bar was left on the terminal"


class Shelf(httpx2.BaseTransport):
    """A server without any blob, which takes its time over each part of a large one."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/api/v1")
        if path == "/blobs/missing":
            asked = httpx2.Response(200, content=request.read()).json()["digests"]
            return httpx2.Response(200, json={"missing": asked})
        if request.method == "PUT":
            for _ in request.stream:  # type: ignore[union-attr]
                time.sleep(0.02)
            return httpx2.Response(201, json={})
        request.read()
        if not path.startswith("/datasets"):
            return httpx2.Response(200, json={})
        made = {"project": "default", "dataset": "flights", "number": 1, "manifest": "0" * 64, "size_bytes": 1, "files": 1}
        return httpx2.Response(201, json={**made, "created_by": "ada", "created_at": "2026-03-01T00:00:00Z"})


@pytest.fixture
def flights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.Dataset]:
    """A data set of 30 MB, and a server that lacks it."""
    client = Client.open("http://server", "secret", home=tmp_path / "home", inner=Shelf())
    monkeypatch.setattr(datasets, "connect", lambda: client)
    monkeypatch.setenv("MAINSPRING_HOME", str(tmp_path / "home"))
    (tmp_path / "flights").mkdir()
    (tmp_path / "flights" / "large.bin").write_bytes(b"x" * 30_000_000)
    yield ms.Dataset.from_path(tmp_path / "flights")
    client.close()


def test_registering_tells_what_is_read_and_sent(flights: ms.Dataset, attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    assert flights.register("flights").version == 1
    told = terminal.getvalue()
    assert "Sending flights" in told
    assert "/30.0 MB" in told


def test_what_is_read_is_told_part_by_part(
    flights: ms.Dataset, attach: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = attach()
    told: list[int] = []
    before = Progress.update

    def slowly(self: Progress, done: int, note: str = "", *, total: int | None = None) -> None:
        told.append(done)
        time.sleep(0.01)
        before(self, done, note, total=total)

    monkeypatch.setattr(Progress, "update", slowly)
    assert len(flights.digest) == 64
    assert told[0] == 1 << 20
    assert told[-1] == 30_000_000
    assert told == sorted(told)
    assert "Reading flights" in terminal.getvalue()


def test_a_coroutine_draws_nothing(flights: ms.Dataset, attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    asyncio.run(flights.register_async("flights"))
    assert terminal.getvalue() == ""


def test_waiting_for_an_endpoint_tells_how_it_stands(tmp_path: Path, attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    left = [("starting", ())] * 6 + [("ready", ("127.0.0.1:4000",))]

    def answer(_: httpx2.Request) -> httpx2.Response:
        state, addresses = left.pop(0) if len(left) > 1 else left[0]
        record = Record(
            id="endpoint-1", project="default", name="delays", created_by="ada", created_at=datetime(2026, 3, 1, tzinfo=UTC),
            state=EndpointState(state), message="1 of 2 replicas",
        )  # fmt: skip
        return httpx2.Response(200, json={**decode_any(encode(record)), "revisions": [], "addresses": addresses})

    client = Client.open("http://server", "secret", home=tmp_path / "home", inner=httpx2.MockTransport(answer))
    Endpoint(client, "delays", "default").wait()
    assert "Deploying delays" in terminal.getvalue()
    assert "starting: 1 of 2 replicas" in terminal.getvalue()


def test_two_bars_at_once_are_one(attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    with Progress("the first", 3) as first:
        _until(lambda: "the first" in terminal.getvalue())
        with Progress("the second", 3) as second:
            for number in range(3):
                time.sleep(0.1)
                first.update(number)
                second.update(number)
    assert "the second" not in terminal.getvalue()
    with Progress("the third", 3), quiet():
        _until(lambda: "the third" in terminal.getvalue())


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
