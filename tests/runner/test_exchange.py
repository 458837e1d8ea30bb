"""What a runner speaks of HTTP: answers of every framing, kept connections, and whatever is no answer."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mainspring.runner.exchange import BrokenError, Connection, split
from mainspring.runner.wire import AwayError, RefusedError, Wire


@contextmanager
def serving(*scripts: bytes, path: str = "") -> Iterator[tuple[Callable[[], Connection], list[bytes]]]:
    """Answer each connection with a script, once a request has come; yield how to connect, and what came.

    A script of several answers has `|` between them: each is given to one request.
    """
    door = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    door.bind(path or ("127.0.0.1", 0))
    door.listen()
    heard: list[bytes] = []

    def work() -> None:
        with contextlib.suppress(OSError):  # whoever refused to ask has left
            for script in scripts:
                line, _ = door.accept()
                with line:
                    for answer in script.split(b"|"):
                        heard.append(_request(line))
                        line.sendall(answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    port = 0 if path else door.getsockname()[1]
    try:
        yield lambda: Connection("http", "127.0.0.1", port, 10.0, path), heard
    finally:
        with contextlib.suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)  # wakes whoever waits there
        thread.join(10.0)
        door.close()


def _request(line: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = line.recv(65536)
        if not piece:
            raise ConnectionResetError
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    size = next((int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length:")), 0)
    while len(body) < size:
        body += line.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("size", [-1, 1, 3])
def test_an_answer_of_any_framing_is_read_whole_and_in_pieces(answer: bytes, size: int) -> None:
    with serving(answer) as (connect, _):
        found = connect().request("GET", "/x", None, {})
        pieces = iter(lambda: found.read(size), b"")
        assert (found.status, b"".join(pieces)) == (200, b"hello")


def test_one_connection_carries_many_requests() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with serving(answer + b"|HTTP/1.1 204 No Content\r\n\r\n|" + answer) as (connect, heard):
        connection = connect()
        told = [
            connection.request("POST", "/a", b"body", {"X": "1"}).read(),
            connection.request("GET", "/b", None, {}).read(),
            connection.request("PUT", "/c", io.BytesIO(b"file"), {"Content-Length": "4"}).read(),
        ]
    assert told == [b"ok", b"", b"ok"]
    assert [one.split(b" HTTP")[0] for one in heard] == [b"POST /a", b"GET /b", b"PUT /c"]
    assert [one.partition(b"\r\n\r\n")[2] for one in heard] == [b"body", b"", b"file"]


def test_a_connection_that_the_server_ends_is_opened_again() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    with serving(last, last) as (connect, heard):
        connection = connect()
        assert [connection.request("GET", path, None, {}).read() for path in ("/1", "/2")] == [b"ok", b"ok"]
    assert len(heard) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_answer_or_half_of_one_is_told(answer: bytes) -> None:
    with serving(answer) as (connect, _), pytest.raises(BrokenError):
        connect().request("GET", "/", None, {}).read()


def test_a_header_cannot_smuggle_a_request() -> None:
    with serving(b"") as (connect, _), pytest.raises(ValueError, match="more than one line"):
        connect().request("GET", "/", None, {"Authorization": "Bearer x\r\nX: y"})


def test_a_socket_of_this_machine_leads_there_too(tmp_path: Path) -> None:
    path = str(tmp_path / "door")
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", path=path) as (connect, _):
        assert connect().request("GET", "/", None, {}).read() == b"ok"


def test_a_refusal_and_an_absence_are_told_apart() -> None:
    refused = b'HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\n"no"'
    away = b"HTTP/1.1 503 Later\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    with serving(refused, away, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{") as (connect, _):
        wire = Wire(f"http://{connect().name}", "token")
        with pytest.raises(RefusedError, match='409: "no"'):
            wire.ask("GET", "/")
        with pytest.raises(AwayError) as later:
            wire.ask("GET", "/")
        assert later.value.pause_s == 7.0
        with pytest.raises(AwayError, match="broke off"):
            wire.ask("GET", "/")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://box", ("http", "box", 80, "")),
        ("https://[::1]:8443/api/v1?x=1#y", ("https", "::1", 8443, "/api/v1?x=1")),
        ("HTTP://user:word@box:81?x", ("http", "box", 81, "/?x")),
        ("https://box/a@b", ("https", "box", 443, "/a@b")),
    ],
)
def test_an_address_is_taken_apart(url: str, parts: tuple[str, str, int, str]) -> None:
    assert split(url) == parts


@pytest.mark.parametrize(
    "url",
    ["http://h/a b", "http://h/a\r\nX: y", "http://h\n/a", "", "box:80", "ftp://box", "http://", "http://box:no", "http:///path"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"no address|invalid literal"):
        split(url)


def test_a_runner_begins_without_what_is_slow_to_load(bundle: Path) -> None:
    """These took more than half of the CPU time from the start of Python to user code."""
    words = "import sys; sys.path.insert(0, sys.argv[1]); import mainspring_runner.agent; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", words, str(bundle)], capture_output=True, text=True, check=True)
    slow = {"http.client", "email.parser", "urllib.parse", "ssl", "hashlib", "random", "typing", "subprocess", "shutil"}
    assert not slow & set(done.stdout.split())
