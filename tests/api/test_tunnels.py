"""The server's end of tunnels: who may, what a hostile runner and a hostile client can do, and what is told when nobody comes."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from mainspring.api import tunnels
from mainspring.client.client import Client
from mainspring.core.errors import AccessDeniedError, MainspringError, StateError, UnreachableError, from_wire
from mainspring.core.records import Role
from mainspring.core.tunnels import Kind, pack, pack_credit, unpack
from mainspring.sdk.inside import run_inside

if TYPE_CHECKING:
    from conftest import World


class Runner:
    """A runner of which a test decides what it says."""

    def __init__(self, world: World, served: str) -> None:
        run = world.submit(command=["sleep", "100"])
        self.run = str(run["id"])
        attempt, self.token = world.launch()
        self.attempt = attempt.id
        self.url = served.replace("http", "ws", 1) + f"/api/v1/attempts/{self.attempt}/tunnel?replica=0"
        for state in ("starting", "running"):
            beat = {"protocol": 1, "replica": 0, "no": 1, "state": state, "chunks": [], "host": "h", "pid": 1}
            assert world.client(self.token).post(f"/attempts/{self.attempt}/beat", json=beat).status_code == 200

    def dial(self, token: str = "") -> ClientConnection:
        return connect(self.url, additional_headers={"Authorization": f"Bearer {token or self.token}"}, compression=None)

    @contextmanager
    def serving(self, answer: Callable[[ClientConnection, int], None]) -> Iterator[ClientConnection]:
        """Dial, and answer each opening so."""
        opened = self.dial()

        def serve() -> None:
            try:
                while True:
                    frame = unpack(bytes(opened.recv()))
                    if frame.kind is Kind.OPEN:
                        answer(opened, frame.stream)
            except websockets.exceptions.ConnectionClosed:
                return

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield opened
        finally:
            opened.close()


@pytest.fixture
def runner(world: World, served: str) -> Runner:
    return Runner(world, served)


@pytest.fixture
def client(world: World, served: str) -> Iterator[Client]:
    made = Client.open(served, world.admin)
    yield made
    made.close()


def says(*messages: tuple[Kind, bytes]) -> Callable[[ClientConnection, int], None]:
    def answer(opened: ClientConnection, stream: int) -> None:
        for kind, payload in messages:
            opened.send(pack(kind, stream, payload))

    return answer


GOOD = says((Kind.OPENED, b""), (Kind.DATA, b"out"), (Kind.EXTRA, b"err"), (Kind.EXIT, (7).to_bytes(4, "big")))


def test_a_command_and_its_end(runner: Runner, client: Client) -> None:
    with runner.serving(GOOD):
        done = run_inside(client, runner.run, ["x"])
    assert (done.code, done.output, done.errors) == (7, b"out", b"err")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x03",
        pack(Kind.DATA, 4711, b"to nobody"),
        pack(Kind.DATA, 0, b"to nobody"),
        b"\xff\x00\x00\x00\x01",
        pack(Kind.OPEN, 1, b"{}"),
        pack(Kind.RESIZE, 1, b"\0\1\0\1"),
        pack(Kind.EXIT, 1, b"12345"),
        pack(Kind.CREDIT, 1, b"1"),
        pack_credit(1, 1),
        b"\x03\x00\x00\x00\x01" + b"x" * 70_000,
        "text",
    ],
)
def test_a_runner_that_breaks_the_rules_loses_its_tunnel_and_nothing_else(
    runner: Runner, client: Client, message: bytes | str
) -> None:
    def answer(opened: ClientConnection, stream: int) -> None:
        opened.send(pack(Kind.OPENED, stream))
        opened.send(message)

    with runner.serving(answer), pytest.raises(UnreachableError, match="lost"):
        run_inside(client, runner.run, ["x"])
    with runner.serving(GOOD):
        assert run_inside(client, runner.run, ["x"]).code == 7


def test_a_runner_that_floods_is_stopped_at_the_window(runner: Runner, client: Client) -> None:
    is_stopped = threading.Event()

    def answer(opened: ClientConnection, stream: int) -> None:
        opened.send(pack(Kind.OPENED, stream))
        try:
            for _ in range(2000):
                opened.send(pack(Kind.DATA, stream, b"x" * 50_000))
        except websockets.exceptions.ConnectionClosed:
            is_stopped.set()

    with runner.serving(answer):
        opened = client.runs.shell(runner.run, ["x"])
        assert is_stopped.wait(30), "100 MB were taken for a client that reads nothing"
        with pytest.raises(UnreachableError, match="lost"):
            deque(opened.outputs(), maxlen=0)


def test_words_of_a_runner_are_errors_by_name(runner: Runner, client: Client) -> None:
    for told, kind, sentence in (
        ({"reason": "ended", "message": "The run's code has ended."}, StateError, "ended"),
        ({"reason": "strange", "message": "words " * 1000}, UnreachableError, "words"),
    ):
        with runner.serving(says((Kind.CLOSE, json.dumps(told).encode()))), pytest.raises(kind, match=sentence) as seen:
            run_inside(client, runner.run, ["x"])
        assert len(str(seen.value)) < 600
    with runner.serving(says((Kind.CLOSE, b"\xff\xfe no json"))), pytest.raises(UnreachableError):
        run_inside(client, runner.run, ["x"])


def test_only_the_attempts_own_runner_dials(runner: Runner, world: World) -> None:
    for token, status in (("0" * 64, 401), (world.admin, 403)):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            runner.dial(token)
        assert refused.value.response.status_code == status


def test_a_runner_that_does_not_come_is_named(
    runner: Runner, client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "DIAL_S", 0.1)
    monkeypatch.setattr(tunnels, "SILENT_DIAL_S", 0.1)
    with pytest.raises(UnreachableError, match="reports, and does not open a way inside"):
        run_inside(client, runner.run, ["x"])
    world.clock.move(100)
    with pytest.raises(UnreachableError, match="has not been heard for 1 m 40 s"):
        run_inside(client, runner.run, ["x"])


def test_it_is_wanted_only_while_somebody_waits(runner: Runner, world: World, client: Client, soon: Any) -> None:
    def wanted() -> bool:
        return bool(world.client(runner.token).get(f"/attempts/{runner.attempt}/commands?hold_s=0").json()["is_tunnel_wanted"])

    assert not wanted()
    waiting = threading.Thread(target=run_inside, args=(client, runner.run, ["x"]), daemon=True)
    waiting.start()
    soon(wanted)
    with runner.serving(GOOD):
        waiting.join(60)
        assert not waiting.is_alive()
        assert not wanted()


def test_rights(runner: Runner, world: World, served: str) -> None:
    with runner.serving(GOOD):
        editor = Client.open(served, world.token("eve", Role.EDITOR))
        assert run_inside(editor, runner.run, ["x"]).code == 7
        viewer = Client.open(served, world.token("vera", Role.VIEWER))
        for act in (lambda: run_inside(viewer, runner.run, ["x"]), lambda: viewer.runs.forward(runner.run, 80).start()):
            with pytest.raises(AccessDeniedError, match="editor"):
                act()
    kinds = [(one.kind, one.actor) for one in world.ctx.store.events.since(0, subject=runner.run)]
    assert [who for kind, who in kinds if kind == "run.shell_opened"] == ["eve"]


@pytest.mark.parametrize(
    "message", ["", "[]", "no json", '{"command": "ls"}', '{"command": [1]}', '{"command": ["a\\u0000b"]}', '{"command": ["%s"]}']
)
def test_clients_that_say_nonsense_are_told(runner: Runner, world: World, served: str, message: str) -> None:
    if "%s" in message:
        message = message % ("x" * 100_000)
    url = served.replace("http", "ws", 1) + f"/api/v1/runs/{runner.run}/shell"
    with runner.serving(GOOD), connect(url, additional_headers={"Authorization": f"Bearer {world.admin}"}) as opened:
        opened.send(message)
        told = json.loads(opened.recv(timeout=10))
        wrong: MainspringError = from_wire(told)
        assert wrong.code in ("usage", "spec"), told
