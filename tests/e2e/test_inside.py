"""Inside running runs: shells on terminals and pipes, ports, what happens when server, run or rights go away meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mainspring.client.client import Client
from mainspring.core.errors import AccessDeniedError, NotFoundError, ServerUnreachableError, StateError, UnreachableError
from mainspring.sdk.inside import run_inside
from mainspring.sdk.runs import Run

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e

# answers a line with its capitals, an HTTP Upgrade with 101 and an echo, and BULK with as many bytes as it is asked for
LISTENS = """
import os, socket, threading
door = socket.create_server(("127.0.0.1", 0), backlog=256)
print("port", door.getsockname()[1], flush=True)
def serve(one):
    file = one.makefile("rwb")
    line = file.readline()
    if line.startswith(b"BULK"):
        size = int(line.split()[1])
        got = 0
        while got < size:
            data = one.recv(min(65536, size - got)) if got or not file.peek() else file.read1(65536)
            if not data: break
            got += len(data)
            one.sendall(data)
        one.shutdown(socket.SHUT_WR)
    elif line.startswith(b"GET"):
        while file.readline().strip(): pass
        one.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: echo\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while data := one.recv(4096): one.sendall(data)
    else:
        one.sendall(line.upper())
    one.close()
while True:
    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
"""


class Terminal:
    """A command of ours in a terminal of its own, as a person has it."""

    def __init__(self, site: Site, *words: str, rows: int = 30, columns: int = 100) -> None:
        self.descriptor, theirs = pty.openpty()
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mainspring.cli.main", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env=site.environ(TERM="xterm-256color"), cwd=site.home,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def read(self) -> bool:
        if not select.select([self.descriptor], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def expect(self, pattern: bytes, timeout_s: float = 90.0) -> re.Match[bytes]:
        """Read until `pattern` has come, and forget what was up to there."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end() :]
                return found
            assert self.read(), f"{pattern!r} did not come before the end: {self.seen[-2000:]!r}"
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.seen[-2000:]!r}"

    def end(self, timeout_s: float = 90.0) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, self.seen[-2000:]
        while self.read() and select.select([self.descriptor], [], [], 0)[0]:
            pass
        os.close(self.descriptor)
        return self.process.returncode


@contextmanager
def sleeper(site: Site, code: str = "print('begun', flush=True); import time; time.sleep(300)", **spec: Any) -> Iterator[str]:
    ref = site.python(code, **spec)
    site.running(ref)
    yield ref
    site.call("POST", f"/runs/{ref}/cancel", json={"grace_s": 0})
    site.wait(ref)


@contextmanager
def listener(site: Site) -> Iterator[tuple[str, int]]:
    with sleeper(site, LISTENS) as ref:
        site.running(ref, b"port ")
        found = re.search(rb"port (\d+)\n", site.log(ref))
        assert found
        yield ref, int(found[1])


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    made = client_of(site)
    yield made
    made.close()


def client_of(site: Site, token: str = "") -> Client:
    return Client.open(site.url, token or (site.home / "token").read_text().strip())


def events_of(site: Site, ref: str) -> list[dict[str, Any]]:
    found = site.call("GET", "/audit", params={"limit": 1000}).json()["items"]
    return [one for one in found if one["subject"] == ref]


def test_a_shell_on_a_terminal(site: Site) -> None:
    with sleeper(site, env={"MINE": "of the run"}) as ref:
        terminal = Terminal(site, "shell", ref, "--", "/bin/sh")
        terminal.type("test -t 0 && test -t 1 && test -t 2 && echo a-$((40+2))-terminal\n")
        terminal.expect(rb"a-42-terminal")
        terminal.type("stty size; echo $TERM; echo $MINE; echo ${MAINSPRING_RUN}; pwd; tty\n")
        terminal.expect(rb"30 100\r\n")
        terminal.expect(rb"xterm-256color\r\nof the run\r\n")
        assert terminal.expect(rb"(run[-_]\S+)\r\n")[1].decode() == ref
        terminal.expect(rb"attempts/\S+/work\r\n")
        terminal.expect(rb"/dev/pts/\d+")
        fcntl.ioctl(terminal.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 133, 0, 0))
        os.killpg(os.tcgetpgrp(terminal.descriptor), signal.SIGWINCH)
        terminal.type("sleep 0.3; stty size\n")
        terminal.expect(rb"41 133\r\n")
        terminal.type("sh -c 'echo sleeps-$((40+2)); exec sleep 100'\n")
        terminal.expect(rb"sleeps-42")  # said from the foreground: before that, who types ^C means the shell
        terminal.type("\x03")  # to the foreground there, not to our own command
        terminal.type("echo still-$((1+1))\n")
        terminal.expect(rb"still-2")
        terminal.type("exit 7\n")
        assert terminal.end() == 7
        assert site.run(ref)["state"] == "running"
        kinds = [one["kind"] for one in events_of(site, ref)]
        assert "run.shell_opened" in kinds


def test_a_command_on_pipes(site: Site, tmp_path: Path) -> None:
    with sleeper(site) as ref:
        done = site.cli("shell", ref, "--", "sh", "-c", "test -t 0 || echo plain; cat; echo wrong >&2; exit 3", data="given\n")
        assert (done.code, done.out, done.err) == (3, "plain\ngiven\n", "wrong\n")
        assert site.cli("shell", ref, "--", "sh", "-c", "kill -TERM $$").code == 143
        missing = site.cli("shell", ref, "--", "no-such-program")
        assert missing.code == 4
        assert "no-such-program" in missing.err
        data = os.urandom(30_000_000)
        (tmp_path / "sent").write_bytes(data)
        with (tmp_path / "sent").open("rb") as sent, (tmp_path / "got").open("wb") as got:
            command = [sys.executable, "-m", "mainspring.cli.main", "shell", ref, "--", "cat"]
            assert subprocess.run(command, env=site.environ(), stdin=sent, stdout=got, timeout=120, check=False).returncode == 0
        assert hashlib.sha256((tmp_path / "got").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_ports_many_at_once_and_30_megabytes(site: Site, client: Client) -> None:
    with listener(site) as (ref, port), client.runs.forward(ref, port) as there:

        def ask(number: int) -> bytes:
            with socket.create_connection(("127.0.0.1", there.local), timeout=60) as one:
                one.sendall(b"hello %d\n" % number)
                return one.makefile("rb").read()

        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(ask, range(100))) == [b"HELLO %d\n" % number for number in range(100)]
        data = os.urandom(30_000_000)
        with socket.create_connection(("127.0.0.1", there.local), timeout=60) as one:
            one.sendall(b"BULK %d\n" % len(data))
            sending = threading.Thread(target=one.sendall, args=(data,))
            sending.start()
            got = one.makefile("rb").read()
            sending.join()
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_fifty_connections_are_open_together(site: Site, client: Client) -> None:
    with listener(site) as (ref, port), client.runs.forward(ref, port) as there:
        opened = [socket.create_connection(("127.0.0.1", there.local), timeout=60) for _ in range(50)]
        for number, one in enumerate(opened):
            one.sendall(b"GET / HTTP/1.1\r\nUpgrade: echo\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 101"), number
        for number, one in reversed(list(enumerate(opened))):
            one.sendall(b"word %d" % number)
            assert one.recv(100) == b"word %d" % number
            one.close()


def test_the_command_port_tells_its_address_and_ends_with_the_run(site: Site, until: Callable[..., Any]) -> None:
    with listener(site) as (ref, port):
        out = site.home / "port.out"
        with out.open("wb") as file:
            command = [sys.executable, "-m", "mainspring.cli.main", "port", ref, str(port)]
            forward = subprocess.Popen(command, env=site.environ(PYTHONUNBUFFERED="1"), stdout=file, stderr=file)
        until(lambda: out.read_bytes().endswith(b"ends it.\n"), "the address")
        found = re.search(rb"http://127.0.0.1:(\d+)", out.read_bytes())
        assert found, out.read_bytes()
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=20) as one:
            one.sendall(b"hi\n")
            assert one.makefile("rb").read() == b"HI\n"
        site.call("POST", f"/runs/{ref}/cancel", json={"grace_s": 0})
        assert forward.wait(30) == 0
        assert b"has ended" in out.read_bytes()


def test_nobody_listens_there(site: Site, client: Client) -> None:
    with sleeper(site) as ref:
        said: list[Exception] = []
        forward = client.runs.forward(ref, 1)
        forward.on_failure = said.append
        with forward as there, socket.create_connection(("127.0.0.1", there.local), timeout=20) as one:
            assert one.recv(10) == b""
        assert isinstance(said[0], UnreachableError)
        assert "Nobody listens at port 1" in str(said[0])


def test_from_python(site: Site, client: Client) -> None:
    with listener(site) as (ref, port):
        run: Run[Any] = Run(client, client.runs.get(ref))
        done = run.shell(["sh", "-c", "cat; echo bad >&2; exit 5"], data=b"in")
        assert (done.code, done.output, done.errors, done.text) == (5, b"in", b"bad\n", "in")
        with pytest.raises(TimeoutError):
            run.shell(["sleep", "100"], timeout=0.5)
        with run.port(port) as there:
            assert there.url == f"http://{there.address}"
            with socket.create_connection(("127.0.0.1", there.local), timeout=20) as one:
                one.sendall(b"x\n")
                assert one.makefile("rb").read() == b"X\n"

        async def both() -> None:
            assert (await run.shell_async(["echo", "hi"])).text == "hi\n"
            async with run.port(port) as there:
                reader, writer = await asyncio.open_connection("127.0.0.1", there.local)
                writer.write(b"y\n")
                assert await reader.read() == b"Y\n"
                writer.close()

        asyncio.run(both())


def test_what_is_wrong_is_told_by_name(site: Site, client: Client) -> None:
    done = site.submit(["true"])
    site.wait(done)
    with pytest.raises(StateError, match="succeeded"):
        run_inside(client, done, ["true"])
    with sleeper(site) as ref:
        waiting = site.submit(["true"], resources={"cpu_milli": 64_000})
        with pytest.raises(StateError, match="queued"):
            run_inside(client, waiting, ["true"])
        site.call("POST", f"/runs/{waiting}/cancel")
        with pytest.raises(NotFoundError, match="no replica 3; it has replica 0 only"):
            run_inside(client, ref, ["true"], replica=3)
        with pytest.raises(NotFoundError, match="no run"):
            run_inside(client, "run-that-never-was", ["true"])
        site.cli("user", "add", "vera")
        assert site.cli("project", "grant", "default", "vera", "viewer").code == 0
        token = re.search(r"\S{40,}", site.cli("token", "add", "vera", "--user", "vera").out)
        if token is None:
            token = re.search(r"ms\S+", site.cli("token", "add", "laptop", "--user", "vera").out)
        assert token is not None
        viewer = client_of(site, token[0])
        for act in (lambda: run_inside(viewer, ref, ["true"]), lambda: viewer.runs.forward(ref, 80).start()):
            with pytest.raises(AccessDeniedError, match="editor"):
                act()
        shown = site.cli("shell", ref, "--replica", "9")
        assert (shown.code, "replica 9" in shown.err) == (4, True)


def test_a_run_that_ends_ends_its_shells(site: Site, client: Client) -> None:
    with sleeper(site) as ref:
        opened = client.runs.shell(ref, ["sh", "-c", "trap '' HUP TERM; echo up; while :; do sleep 1; done"])
        parts = opened.outputs()
        assert next(parts).data == b"up\n"
        site.call("POST", f"/runs/{ref}/cancel", json={"grace_s": 0})
        with pytest.raises(StateError, match="run has ended"):
            next(parts)
        assert site.wait(ref)["state"] == "cancelled"
        assert not [one for one in site.carriers() if b"trap" in _words(one)]


def test_a_shell_keeps_no_run_alive(site: Site, client: Client) -> None:
    ref = site.python("print('begun', flush=True); import sys; sys.stdout.flush(); input_ = open('go', 'a'); import time, os\n"
                      "while not os.path.exists('stop'): time.sleep(0.05)")  # fmt: skip
    site.running(ref)
    opened = client.runs.shell(ref, ["sh", "-c", "setsid sleep 300 & touch stop; sleep 300"])
    with pytest.raises(StateError, match="run has ended"):
        list(opened.outputs())
    assert site.wait(ref)["state"] == "succeeded"


def test_a_shell_that_is_hung_up_ends(site: Site, client: Client, until: Callable[..., Any]) -> None:
    with sleeper(site) as ref:
        opened = client.runs.shell(ref, ["sh", "-c", "trap '' HUP; echo up; sleep 299"], terminal=(24, 80))
        assert next(opened.outputs()).data.startswith(b"up")
        until(lambda: [one for one in site.carriers() if b"sleep\x00299" in _words(one)], "what it runs")
        opened.close()
        until(lambda: not [one for one in site.carriers() if b"sleep\x00299" in _words(one)], "the end of the shell")


def test_a_server_that_dies_and_comes_back(fresh: Site, until: Callable[..., Any]) -> None:
    fresh.start("--gpus", "0")
    ref = fresh.python("import time; time.sleep(300)")
    fresh.running(ref)
    terminal = Terminal(fresh, "shell", ref, "--", "sh")
    terminal.type("echo in-$((1+1))\n")
    terminal.expect(rb"in-2")
    fresh.stop(signal.SIGKILL)
    terminal.expect(rb"the run goes on")
    assert terminal.end() == 7
    fresh.start("--gpus", "0")
    assert fresh.run(ref)["state"] == "running"
    again = fresh.cli("shell", ref, "--", "echo", "again")
    assert (again.code, again.out) == (0, "again\n"), again
    assert fresh.stop() == 0


def test_a_server_that_is_stopped_tells_who_is_inside(fresh: Site) -> None:
    fresh.start("--gpus", "0")
    ref = fresh.python("import time; time.sleep(300)")
    fresh.running(ref)
    opened = client_of(fresh).runs.shell(ref, ["sh", "-c", "echo up; sleep 200"])
    parts = opened.outputs()
    assert next(parts).data == b"up\n"
    began = time.monotonic()
    assert fresh.stop() == 0
    with pytest.raises(ServerUnreachableError, match="run goes on"):
        next(parts)
    assert time.monotonic() - began < 60


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
