"""What comes through the door to Docker from an engine that answers in drops."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mainspring.backends.docker import door
from mainspring.backends.docker.door import Door
from mainspring.core.errors import UnreachableError

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\nX-Docker-Container-Path-Stat: eyJzaXplIjogOX0=\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Docker-Container-Path-Stat: eyJzaXplIjogOX0=\r\n\r\n"
VERSION = b'HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n{"ApiVersion": "1.44", "Version": "27"}'


class Engine:
    """An engine that tells its version at once, and all else in `drops` that never end."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/s"  # short: the kernel takes 108 bytes
        self.head, self.drop, self.greets = LENGTH, b" ", True
        self._is_over = threading.Event()
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(f"{folder}/s")
        self._door.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._is_over.set()
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._door.accept()[0],), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with suppress(OSError), line:
            while asked := line.recv(1 << 16):
                if b"/version" in asked and self.greets:
                    line.sendall(VERSION)
                    continue
                line.sendall(self.head)
                while not self._is_over.wait(0.02):
                    line.sendall(self.drop)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="drops-") as folder:
        made = Engine(Path(folder))
        yield made
        made.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("head", "drop"), [(LENGTH, b" "), (CHUNKS, b"1\r\n \r\n")], ids=["of a known length", "in chunks"])
@pytest.mark.parametrize(
    "ask",
    [
        Door.info,
        lambda it: it.containers("a"),
        lambda it: it.inspect("a"),
        lambda it: it.start("a"),
        lambda it: it.read("a", "/b"),
    ],
    ids=["info", "containers", "inspect", "start", "read"],
)
def test_an_answer_that_comes_in_drops_holds_nobody_for_good(
    ask: Callable[[Door], object], head: bytes, drop: bytes, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is there in time: it is the whole that never comes."""
    engine.head, engine.drop = head, drop
    monkeypatch.setattr(door, "WHOLE_S", 0.3)
    with pytest.raises(UnreachableError, match="does not answer: it gave no whole answer within"):
        ask(Door(engine.url, "docker"))


@pytest.mark.timeout(60)
def test_a_greeting_that_comes_in_drops_holds_nobody_for_good(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks for the version before anything else."""
    engine.greets = False
    monkeypatch.setattr(door, "WHOLE_S", 0.3)
    with pytest.raises(UnreachableError, match="it gave no whole answer within"):
        Door(engine.url, "docker").info()


@pytest.mark.timeout(60)
def test_a_pull_may_take_its_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.head, engine.drop = CHUNKS, b'12\r\n{"status": "Wait"}\r\n'
    monkeypatch.setattr(door, "WHOLE_S", 0.1)
    told = Door(engine.url, "docker").pull("a:1", None)
    assert [next(told)["status"] for _ in range(20)] == ["Wait"] * 20
