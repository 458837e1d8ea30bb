"""Inside an attempt: what the runner does with a tunnel's frames, also with those that nobody should send."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.core.tunnels import WINDOW_BYTES, Kind, pack
from mainspring.runner import tunnel
from mainspring.testing.inside import HalfStream, HalfTunnel
from mainspring.testing.server import RunnerServer

ATTEMPT = "att-inside"
LIMIT_S = 60.0
PYTHONS = [sys.executable, *map(str, sorted(Path.home().glob(".pyenv/versions/3.9*/bin/python"))[:1])]


class Place:
    """A runner in a folder of its own, and the server that it reports to."""

    def __init__(self, root: Path, bundle: Path, python: str) -> None:
        self.server = RunnerServer()
        self.root, self.bundle, self.python = root, bundle, python
        self.runner: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> None:
        self.server.jobs[ATTEMPT] = list(command)
        launch = {"installation": "i", "attempt": ATTEMPT, "run": "run-1", "replica": 0, "grace_s": 2.0, "cgroup": ""}
        launch |= {"server_url": self.server.url, "cache_dir": str(self.root.parent / "cache")}
        (self.root / "launch.json").write_text(json.dumps(launch))
        (self.root / "token").write_text("t0ken")
        with (self.root.parent / "runner.log").open("wb") as log:
            self.runner = subprocess.Popen(
                [self.python, "-S", "-E", str(self.bundle), str(self.root)], stdout=log, stderr=log, start_new_session=True
            )
        self.server.wait(ATTEMPT, "running")

    def inside(self) -> HalfTunnel:
        return self.server.inside(ATTEMPT)

    def finish(self) -> int:
        assert self.runner is not None
        return self.runner.wait(LIMIT_S)

    def close(self) -> None:
        if self.runner is not None and self.runner.poll() is None:
            self.server.stop(ATTEMPT, deadline_s=0.0)
            try:
                self.runner.wait(30)
            except subprocess.TimeoutExpired:
                self.runner.kill()
                self.runner.wait()
                with suppress(ProcessLookupError):
                    os.killpg(json.loads((self.root / "started").read_text())["pgid"], signal.SIGKILL)
        self.server.close()


@pytest.fixture(params=PYTHONS, ids=["here", "oldest"][: len(PYTHONS)])
def place(request: pytest.FixtureRequest, tmp_path: Path, bundle: Path) -> Iterator[Place]:
    (tmp_path / "attempt").mkdir()
    made = Place(tmp_path / "attempt", bundle, request.param)
    yield made
    made.close()


@pytest.fixture
def inside(place: Place) -> HalfTunnel:
    place.start("sleep", "300")
    return place.inside()


def ended(stream: HalfStream) -> tuple[bytes, int | None]:
    found = b""
    while data := stream.read():
        found += data
    return found, stream.code


def test_streams_of_all_kinds_side_by_side(inside: HalfTunnel) -> None:
    cat = inside.open(what="pipe", command=["cat"])
    terminal = inside.open(what="pty", command=["sh"], rows=10, columns=20, term="vt100")
    both = inside.open(what="pipe", command=["sh", "-c", "echo out; echo err >&2; kill -9 $$"])
    assert ended(both) in ((b"out\nerr\n", 137), (b"err\nout\n", 137))
    terminal.write(b"stty size; echo $TERM\n")
    terminal.read_until(b"10 20\r\nvt100\r\n")
    data = os.urandom(3_000_000)

    def feed() -> None:
        cat.write(data)
        cat.end()

    feeding = threading.Thread(target=feed)
    feeding.start()
    assert ended(cat) == (data, 0)
    feeding.join()
    terminal.end()
    assert ended(terminal)[1] == 0


def test_a_reader_that_takes_nothing_stops_the_writer_and_nobody_else(inside: HalfTunnel) -> None:
    flood = inside.open(what="pipe", command=["sh", "-c", "yes"])
    held = 0
    while held < WINDOW_BYTES:
        held += len(flood.frames.get(timeout=LIMIT_S).payload)
    assert held == WINDOW_BYTES
    with pytest.raises(queue.Empty):
        flood.frames.get(timeout=0.5)
    assert ended(inside.open(what="pipe", command=["echo", "quick"])) == (b"quick\n", 0)
    flood.close()


def test_what_cannot_be_opened_is_told(inside: HalfTunnel) -> None:
    with pytest.raises(ConnectionRefusedError, match="no-such-thing is not on the PATH"):
        inside.open(what="pipe", command=["no-such-thing"])
    with pytest.raises(ConnectionRefusedError, match="Nobody listens at port 1"):
        inside.open(what="tcp", port=1)
    with pytest.raises(ConnectionRefusedError, match="is no port"):
        inside.open(what="tcp", port=99999)
    with pytest.raises(ConnectionRefusedError, match="not executable"):
        inside.open(what="pipe", command=["/etc"])
    assert ended(inside.open(what="pipe", command=["true"])) == (b"", 0)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01\x00",
        pack(Kind.OPEN, 7, b"no json"),
        pack(Kind.OPEN, 7, b"[]"),
        pack(Kind.OPEN, 7, b'{"what": "tcp", "port": "x"}'),
        pack(Kind.DATA, 1, b"x" * 60_000),
    ],
)
def test_frames_that_break_the_rules_end_the_tunnel_and_not_the_attempt(place: Place, message: bytes) -> None:
    place.start("sleep", "300")
    tunnel = place.inside()
    held = tunnel.open(what="pipe", command=["sh", "-c", "trap '' PIPE; exec sleep 298"])
    with suppress(OSError):  # it ends while there is more to say
        for _ in range(10 if len(message) > 50_000 else 1):
            tunnel.say(message)
    assert held.frames.get(timeout=LIMIT_S).kind is Kind.CLOSE
    again = place.inside()
    assert again is not tunnel
    assert ended(again.open(what="pipe", command=["echo", "here"])) == (b"here\n", 0)


def test_frames_for_what_is_not_there_do_nothing(inside: HalfTunnel) -> None:
    for kind in (Kind.DATA, Kind.EOF, Kind.RESIZE, Kind.CLOSE, Kind.CREDIT):
        inside.say(pack(kind, 4711, b"\x00\x01\x00\x01"))
    inside.say(pack(Kind.EXIT, 1, b"1"))
    assert ended(inside.open(what="pipe", command=["echo", "still"])) == (b"still\n", 0)


def test_the_end_of_user_code_ends_what_is_inside(place: Place, tmp_path: Path) -> None:
    go = tmp_path / "go"
    place.start("sh", "-c", f"while ! test -e {go}; do sleep 0.05; done; exit 4")
    shell = place.inside().open(what="pty", command=["sh", "-c", "trap '' HUP TERM INT; echo up; while :; do sleep 1; done"])
    shell.read_until(b"up\r\n")
    go.touch()
    frame = shell.frames.get(timeout=LIMIT_S)
    assert (frame.kind, json.loads(frame.payload)["reason"]) == (Kind.CLOSE, "ended")
    assert place.finish() == 0
    told = place.server.of(ATTEMPT)
    assert told.exit is not None
    assert (told.exit["cause"], told.exit["exit_code"]) == ("user_error", 4)


def test_hanging_up_ends_what_heeds_no_signal(inside: HalfTunnel, until: Callable[[Callable[[], object], str], None]) -> None:
    shell = inside.open(what="pty", command=["sh", "-c", "trap '' HUP; echo pid $$; while :; do sleep 1; done"])
    pid = int(shell.read_until(b"\n").split()[1])
    assert Path(f"/proc/{pid}").exists()
    shell.close()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the shell")


def test_a_port_sees_the_end_of_what_is_sent(inside: HalfTunnel) -> None:
    code = "import socket\nd = socket.create_server(('127.0.0.1', 0))\nprint(d.getsockname()[1], flush=True)\n"
    code += "c, _ = d.accept()\nn = 0\nwhile True:\n  b = c.recv(65536)\n  if not b: break\n  n += len(b)\nc.sendall(b'%d' % n)\n"
    program = inside.open(what="pipe", command=["python3", "-c", code])
    port = inside.open(what="tcp", port=int(program.read_until(b"\n")))
    port.write(b"x" * 1_000_000)
    port.end()
    assert port.read(100) == b"1000000"


def test_a_bell_that_is_rung_while_the_tunnel_closes_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a shell is told by the thread that reaps: an error there ended the runner, and with it the run."""

    def gone(_: object) -> None:
        raise tunnel.BrokenError("the server is gone")

    ends, carried = os.pipe(), []
    monkeypatch.setattr(tunnel.Tunnel, "_listen", gone)
    carrier: Any = SimpleNamespace(fileno=lambda: ends[0], waiting=0, flush=lambda: None, close=lambda: None)
    inside: Any = SimpleNamespace(listen=lambda bell: None, is_over=threading.Event())
    made = tunnel.Tunnel(inside, carrier)
    close, wrong = os.close, []

    def ring() -> None:
        try:
            made.ring()
        except OSError as raised:
            wrong.append(raised)

    def closing(descriptor: int) -> None:
        close(descriptor)
        if threading.current_thread() is threading.main_thread() and not carried:
            carried.append(threading.Thread(target=ring))
            carried[0].start()
            carried[0].join(0.2)

    monkeypatch.setattr(tunnel.os, "close", closing)
    made.run()
    carried[0].join()
    assert wrong == []
    for one in ends:
        close(one)
