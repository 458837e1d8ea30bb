"""Whom a client trusts: the system's authorities, read when they are needed, and never nobody."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mainspring.client import transport
from mainspring.client.transport import AsyncTransport, Later, Transport
from mainspring.core.errors import ServerUnreachableError
from mainspring.services import certificates


class Says(http.server.BaseHTTPRequestHandler):
    """Answers {} or, where its server has an `elsewhere`, sends people there."""

    def do_GET(self) -> None:
        elsewhere = getattr(self.server, "elsewhere", "")
        self.send_response(307 if elsewhere else 200)
        if elsewhere:
            self.send_header("Location", elsewhere)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A TLS server with a certificate of its own, and a plain one that sends people there; both addresses."""
    made = certificates.own(tmp_path, ["127.0.0.1"], now=datetime.datetime.now(datetime.UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.path, made.key_path)
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) for _ in range(2)]
    servers[0].socket = context.wrap_socket(servers[0].socket, server_side=True)
    secure, plain = f"https://127.0.0.1:{servers[0].server_port}", f"http://127.0.0.1:{servers[1].server_port}"
    servers[1].elsewhere = f"{secure}/api/v1/status"  # type: ignore[attr-defined]
    for one in servers:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield secure, plain
    for one in servers:
        one.shutdown()
        one.server_close()


def test_a_certificate_that_no_authority_vouches_for_is_refused(stranger: tuple[str, str]) -> None:
    for url in stranger:
        opened = Transport.open(url, "secret")
        opened.pause = lambda _: None
        with pytest.raises(ServerUnreachableError, match="certificate"):
            opened.get("/status")


def test_a_coroutine_refuses_it_too(stranger: tuple[str, str]) -> None:
    async def ask() -> None:
        opened = AsyncTransport.open(stranger[0], "secret")
        try:
            async with opened.stream("/status"):
                pass
        finally:
            await opened.close()

    with pytest.raises(ServerUnreachableError, match="certificate"):
        asyncio.run(ask())


def test_who_knows_the_servers_own_certificate_trusts_the_authorities_elsewhere(
    stranger: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a certificate of its own sends people to an object store that an authority vouches for."""
    (tmp_path / "store").mkdir()
    made = certificates.own(tmp_path / "store", ["127.0.0.1"], now=datetime.datetime.now(datetime.UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.path, made.key_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.elsewhere = f"{stranger[0]}/bucket/blob"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pinned = made.path.read_text()
    opened = Transport.open(f"https://127.0.0.1:{server.server_port}", "secret", certificate=pinned)
    opened.pause = lambda _: None
    try:
        with pytest.raises(ServerUnreachableError, match="certificate"):
            opened.get("/blobs/x")
        vouched = ssl.create_default_context(cadata=next(tmp_path.glob("*.crt")).read_text())
        monkeypatch.setattr(transport, "authorities", lambda: vouched)
        again = Transport.open(opened.url, "secret", certificate=pinned)
        assert again.get("/blobs/x").plain() == {}
        with again.stream("GET", "/blobs/x") as answer:
            assert answer.read() == b"{}"
    finally:
        server.shutdown()
        server.server_close()


def test_authorities_are_read_when_a_handshake_needs_them(stranger: tuple[str, str], tmp_path: Path) -> None:
    reads = []

    def read() -> ssl.SSLContext:
        reads.append(1)
        return ssl.create_default_context(cadata=next(tmp_path.glob("*.crt")).read_text())

    with httpx2.Client(verify=Later(read), trust_env=False) as client:
        assert (client.get(stranger[1]).status_code, reads) == (307, [])
        assert client.get(stranger[0]).json() == {}
        assert reads
