"""A real Docker behind somebody who lies: at any step the answer is an error, rubbish or half of what it should be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.test_docker import INSTALLATION, Containers, make

from mainspring.backends.docker.backend import DockerBackend
from mainspring.backends.docker.container import make_handle
from mainspring.core.backend import ObservedState
from mainspring.core.errors import BackendError, LaunchError, UnreachableError
from mainspring.testing.backend import SLEEP
from mainspring.testing.server import RunnerServer

pytestmark = pytest.mark.engine
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
LIES = {
    "error": b'HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{"message":"bad"}',
    "busy": b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwait",
    "page": JSON + b"Content-Length: 24\r\n\r\n<html>It works!</html>\r\n\r\n",
    "null": JSON + b"Content-Length: 4\r\n\r\nnull",
    "empty": JSON + b"Content-Length: 2\r\n\r\n{}",
    "list": JSON + b'Content-Length: 6\r\n\r\n["ab"]',
    "half": JSON + b'Content-Length: 4000\r\n\r\n{"Id": "',
    "noise": b"\x00\xff\xfe\r\n\r\n",
    "nothing": b"",
}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Liar:
    """A socket before an engine's own: each request is a connection of its own, and the `at`-th gets what `lie` says."""

    def __init__(self, path: Path, engine: str) -> None:
        self.lie, self.at, self.asked = b"", -1, 0
        self.effect = False  # whether the engine does what it was asked for, before the lie is told
        self.url = f"unix://{path}"
        self._engine = engine
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def tell(self, lie: bytes, at: int, *, effect: bool = False) -> None:
        """Count requests anew; the `at`-th is lied to, all of them if it is -2, none if it is -1."""
        self.lie, self.at, self.asked, self.effect = lie, at, 0, effect

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._door.accept()[0],), daemon=True).start()

    def _answer(self, ours: socket.socket) -> None:
        with contextlib.suppress(OSError), ours:
            told = b""
            while b"\r\n\r\n" not in told:
                more = ours.recv(1 << 16)
                if not more:
                    return
                told += more
            is_lied_to = self.at == -2 or self.asked == self.at
            self.asked += 1
            head, _, body = told.partition(b"\r\n\r\n")
            if b"upgrade: tcp" not in head.lower():
                head = re.sub(rb"\r\nconnection: [^\r]*", b"", head, flags=re.IGNORECASE) + b"\r\nConnection: close"
            if is_lied_to:
                length = int(found[1]) if (found := _LENGTH.search(head)) else 0
                while len(body) < length and (more := ours.recv(1 << 16)):
                    body += more
                if self.effect:
                    with self._reached(head + b"\r\n\r\n" + body) as theirs:
                        theirs.recv(1 << 16)
                ours.sendall(self.lie)
                return
            with self._reached(head + b"\r\n\r\n" + body) as theirs:
                sending = threading.Thread(target=_pump, args=(ours, theirs), daemon=True)
                sending.start()
                _pump(theirs, ours)

    @contextlib.contextmanager
    def _reached(self, data: bytes) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.connect(self._engine)
            theirs.sendall(data)
            yield theirs


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def liar(docker_engine: Any) -> Iterator[Liar]:
    with tempfile.TemporaryDirectory(prefix="liar-") as place:  # short: the kernel takes 108 bytes
        made = Liar(Path(place) / "s", docker_engine.url.removeprefix("unix://"))
        yield made
        made.close()


@pytest.fixture
def server() -> Iterator[RunnerServer]:
    made = RunnerServer()
    yield made
    made.close()


def anew(backend: DockerBackend, url: str) -> DockerBackend:
    """Return the backend that another server would make: it remembers nothing but where Python is in the image."""
    cluster = dataclasses.replace(backend.cluster, config={**backend.cluster.config, "host": url})
    made = DockerBackend(cluster, backend.folder, backend.installation, dataclasses.replace(backend.door, host=url, _client=None))
    made.images._pythons = backend.images._pythons
    return made


@pytest.mark.parametrize("lie", sorted(LIES))
def test_whatever_it_answers_no_run_is_taken_for_ended(
    docker_engine: Any, liar: Liar, server: RunnerServer, tmp_path: Path, lie: str
) -> None:
    """What lives is never told as gone; a stop that nobody heard is told as such; only errors of the contract come."""
    honest = make(docker_engine, tmp_path)
    suite = Containers()
    request = suite.request(honest, server, SLEEP, f"lie-{lie}")
    with suite.launched(honest, request) as handle:
        server.wait(request.attempt, "running")
        acts: dict[str, Callable[[DockerBackend], object]] = {
            "observe": lambda it: it.observe([handle]),
            "owned": lambda it: it.owned(),
            "inventory": lambda it: it.inventory(),
            "probe": lambda it: it.probe(),
            "native": lambda it: it.native(handle),
            "read_exit": lambda it: it.read_exit(handle),
            "stop": lambda it: it.stop(handle, 60.0),
            "launch": lambda it: it.launch(request),
        }
        for name, act in acts.items():
            liar.tell(b"", -1)
            twin = anew(honest, liar.url)
            twin.door.version()  # which it asks once
            liar.tell(LIES[lie], -2)
            with pytest.raises(BackendError) as caught:
                act(twin)
            assert not isinstance(caught.value, LaunchError), (name, caught.value)
            if lie in ("page", "null", "empty", "list", "half"):
                assert "answers with something else" in str(caught.value) or "does not answer" in str(caught.value), name
        assert honest.observe([handle])[0].state is ObservedState.RUNNING
        assert server.of(request.attempt).exit is None


@pytest.mark.parametrize(("lie", "effect"), [("error", False), ("page", False), ("half", True)])
def test_a_launch_that_is_lied_to_at_any_step_is_done_once_by_the_next(
    docker_engine: Any, liar: Liar, server: RunnerServer, tmp_path: Path, lie: str, effect: bool
) -> None:
    """`effect`: the engine has done what it was asked for, and what it says of that does not come through."""
    honest = make(docker_engine, tmp_path, host=liar.url)
    suite = Containers()
    honest.images.python_of(honest.images.find(str(honest.cluster.config["image"])) or {})
    step, was_lied_to = 0, True
    while was_lied_to:
        request = suite.request(honest, server, SLEEP, f"step{step}-{lie}-{os.urandom(2).hex()}")
        handle = make_handle(request.attempt, 0)
        liar.tell(LIES[lie], step, effect=effect)
        try:
            anew(honest, liar.url).launch(request)
        except UnreachableError:  # which is tried again, and costs no attempt; any other error fails this test
            pass
        was_lied_to = liar.asked > step
        liar.tell(b"", -1)
        after = anew(honest, liar.url)
        with suite.launched(after, request):
            server.wait(request.attempt, "running")
            assert [one for one in after.owned() if one.attempt == request.attempt] == [handle]
            assert server.of(request.attempt).was_started == 1, step
        step += 1
    assert step > 4, "a launch is more than a few questions"
    left = docker_engine.run("ps", "--all", "--quiet", "--filter", f"label=mainspring.installation={INSTALLATION}")
    assert not left.split()
