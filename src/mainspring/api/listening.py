"""Where the server listens: on loopback always, in the clear; beyond it with TLS, on an address that the operator names.

Commands and runners of this machine use loopback, and so do SSH tunnels; machines elsewhere use the address that is advertised.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from mainspring.core.errors import UsageError
from mainspring.services import certificates
from mainspring.services.certificates import Certificate
from mainspring.settings import Settings

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared, not bound)
DRAIN_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Open sockets, and the addresses by which they are reached.

    `network_url` is for machines elsewhere, empty when there is no way for them; `fingerprint` is the sha256 of the server's own
    certificate, empty where an authority vouches for it or there is no TLS.
    """

    url: str
    loopback: socket.socket
    network_url: str = ""
    network: socket.socket | None = None
    certificate: Certificate | None = None

    @property
    def fingerprint(self) -> str:
        """Return what a client checks instead of an authority."""
        return self.certificate.fingerprint if self.certificate is not None else ""


def listen(settings: Settings, *, now: datetime) -> Listening:
    """Open the sockets. Raises UsageError (an address that cannot be had, or that needs more to be said), StoreError."""
    if settings.bind in LOOPBACK:
        loopback = _bound(settings, settings.bind, settings.port, "port")
        url = f"http://{_shown(settings.bind)}:{loopback.getsockname()[1]}"
        return Listening(url=url, loopback=loopback, network_url=settings.advertise_url)
    advertised = urlsplit(settings.advertise_url)
    if settings.bind in EVERYWHERE and not advertised.hostname:
        raise UsageError(
            f"Listening on {settings.bind} tells nobody where the server is.",
            hint="Say by which address others reach it: --advertise https://HOST-OR-ADDRESS:PORT",
        )
    certificate = _certificate(settings, advertised.hostname or settings.bind, now)
    network = _bound(settings, settings.bind, settings.port or advertised.port or 0, "network-port")
    scheme = "http" if certificate is None else "https"
    reached = settings.advertise_url or f"{scheme}://{_shown(settings.bind)}:{network.getsockname()[1]}"
    loopback = _bound(settings, "127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{loopback.getsockname()[1]}"
    return Listening(url=url, loopback=loopback, network_url=reached, network=network, certificate=certificate)


def serve(api: FastAPI, listening: Listening, *, begin: Callable[[list[uvicorn.Server]], None]) -> None:
    """Serve the application on all sockets until each server's `should_exit` is set; `begin` gets the servers first. Blocks."""
    servers = [_server(api, None, has_lifespan=True)]
    sockets = [listening.loopback]
    if listening.network is not None:
        servers.append(_server(api, listening.certificate, has_lifespan=False))
        sockets.append(listening.network)
    begin(servers)
    if len(servers) == 1:
        servers[0].run(sockets=sockets)
        return
    loop_factory = servers[0].config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_together(servers, sockets))


async def _together(servers: list[uvicorn.Server], sockets: list[socket.socket]) -> None:
    """Serve with one event loop: streams and the gateway are bound to it."""
    await asyncio.gather(*(server.serve(sockets=[one]) for server, one in zip(servers, sockets, strict=True)))


def _server(api: FastAPI, certificate: Certificate | None, *, has_lifespan: bool) -> uvicorn.Server:
    config = uvicorn.Config(
        api,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        timeout_keep_alive=75,
        server_header=False,
        lifespan="auto" if has_lifespan else "off",
        ssl_certfile=str(certificate.path) if certificate is not None else None,
        ssl_keyfile=str(certificate.key_path) if certificate is not None else None,
    )
    return uvicorn.Server(config)


def _certificate(settings: Settings, host: str, now: datetime) -> Certificate | None:
    if settings.insecure_http:
        return None
    if urlsplit(settings.advertise_url).scheme == "http":
        raise UsageError(
            "An address that begins with http:// lets everybody on the way read tokens.",
            hint="Advertise https://…, or say --insecure-http too.",
        )
    if settings.tls_certificate is not None:
        return certificates.given(settings.tls_certificate, settings.tls_key)
    bound = "" if settings.bind in EVERYWHERE else settings.bind
    return certificates.own(settings.home / "keys", [host, bound, *settings.allowed_hosts], now=now)


def _bound(settings: Settings, address: str, port: int, kept: str) -> socket.socket:
    """Return a listening socket: on `port`, else on that of the last start, which `HOME/kept` tells, else on a free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port or _last_port(settings, kept)))
    except OSError as wrong:
        if wrong.errno == errno.EADDRNOTAVAIL:
            listening.close()
            raise UsageError(
                f"{address} is no address of this machine.", hint="`ip addr` lists them; 0.0.0.0 listens on all of them."
            ) from wrong
        if port or not _is_taken(wrong):
            listening.close()
            raise UsageError(
                f"Port {port} of {address} cannot be had: {wrong.strerror}.", hint="Name another --port or --bind, or none."
            ) from wrong
        listening.bind((address, 0))
    listening.listen(2048)
    (settings.home / kept).write_text(str(listening.getsockname()[1]))
    return listening


def _is_taken(wrong: OSError) -> bool:
    return wrong.errno in (errno.EADDRINUSE, errno.EACCES)  # taken, or a port that was another user's


def _last_port(settings: Settings, kept: str) -> int:
    """Return the port of the last start: runners that outlived a crash dial it (0: none)."""
    with contextlib.suppress(OSError, ValueError):
        return int((settings.home / kept).read_text())
    return 0


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
