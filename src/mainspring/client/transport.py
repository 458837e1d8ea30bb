"""The one door to httpx2: base address, token, retries, errors mapped back to our own, streams.

A request is repeated only when that cannot do it twice: reads, deletes, puts, and posts that carry an Idempotency-Key
(or are harmless to repeat, which the caller says by `is_repeatable`).
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from mainspring.core import codec
from mainspring.core.errors import MainspringError, ServerError, ServerUnreachableError, SpecError, from_wire

T = TypeVar("T")
PROTOCOL = "1"
PREFIX = "/api/v1"
TRIES = 6
BUSY = frozenset({429, 502, 503})
MAX_PAUSE_S = 10.0
_TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
_REPEATABLE = frozenset({"GET", "PUT", "DELETE", "HEAD"})

Query = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, read to its end."""

    status: int
    data: bytes
    headers: Mapping[str, str]

    def plain(self) -> Any:
        """Return the body as plain JSON values (None for an empty one). Raises ServerError when it is not JSON."""
        try:
            return codec.decode_any(self.data) if self.data else None
        except SpecError as wrong:
            raise ServerError("The server answered with something that is not JSON.", hint="Is this a Mainspring?") from wrong

    def record(self, cls: type[T]) -> T:
        """Return the body as a `cls`; fields that a newer server adds are passed over."""
        return to_record(self.plain(), cls)


def to_record(plain: Any, cls: type[T]) -> T:
    """Return the `cls` that an answer's JSON describes. Raises ServerError when the server speaks another language."""
    try:
        return codec.from_newer(plain, cls)
    except SpecError as wrong:
        raise ServerError(
            f"The server's answer is not what this client expects: {wrong.message}", hint="Use the same version on both sides."
        ) from wrong


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Mainspring-Protocol": PROTOCOL, "Accept-Encoding": "gzip"}


@dataclass(slots=True)
class Transport:
    """Requests to one server. Thread safe. `pause` is `time.sleep`, unless a test brings its own."""

    url: str
    token: str
    http: httpx2.Client
    pause: Callable[[float], None] = time.sleep
    certificate: str = ""

    @classmethod
    def open(cls, url: str, token: str, *, inner: httpx2.BaseTransport | None = None, certificate: str = "") -> Transport:
        """Return a transport; `inner` replaces the network (tests). Opens no connection yet.

        `certificate` (PEM) is the server's own: no authority is asked then.
        """
        own = {url.rstrip("/"): httpx2.HTTPTransport(verify=verified(certificate), trust_env=False)} if certificate else {}
        http = httpx2.Client(
            base_url=url.rstrip("/"),
            headers=_headers(token),
            timeout=_TIMEOUT,
            transport=inner,
            trust_env=False,
            verify=verified(""),  # an object store that we are sent to has no certificate of this server
            mounts=own,
        )
        return cls(url.rstrip("/"), token, http, certificate=certificate)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def get(self, path: str, query: Query | None = None) -> Answer:
        """GET `path`."""
        return self.send("GET", path, query=query)

    def post(
        self, path: str, body: object = None, *, query: Query | None = None, key: str = "", is_repeatable: bool = False
    ) -> Answer:
        """POST a record; `key` is the Idempotency-Key (see `new_key`)."""
        return self.send("POST", path, body=body, query=query, key=key, is_repeatable=is_repeatable)

    def send(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content: bytes | Callable[[], Iterable[bytes]] | None = None,
        query: Query | None = None,
        key: str = "",
        is_repeatable: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request and return its answer; a `content` function is called anew for each try.

        Raises the server's own error, ServerUnreachableError, VersionMismatchError.
        """
        may_repeat = is_repeatable or bool(key) or method in _REPEATABLE
        for number in range(1, TRIES + 1):
            is_last = number == TRIES or not may_repeat
            try:
                request = self._request(method, path, body, content, query, key, timeout_s)
                response = self.http.send(request, follow_redirects=True)
            except httpx2.TransportError as wrong:
                if is_last and not isinstance(wrong, httpx2.ConnectError):
                    raise unreachable(self.url, wrong) from wrong
                if number == TRIES:  # a refused connection carried nothing: any request may be repeated
                    raise unreachable(self.url, wrong) from wrong
                self.pause(pause_s(number))
                continue
            if response.status_code in BUSY and not is_last:
                self.pause(pause_s(number, response.headers.get("retry-after", "")))
                continue
            return _answered(response.status_code, response.content, response.headers)
        raise AssertionError("unreachable")

    @contextmanager
    def stream(
        self, method: str, path: str, *, query: Query | None = None, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Give an open answer whose body is still to be read; one try. Raises as `send`."""
        request = self._request(method, path, body, None, query, "", None)
        request.headers.update(headers or {})
        try:
            response = self.http.send(request, stream=True, follow_redirects=True)
            try:
                if response.status_code >= 400:
                    response.read()
                    raise wrong_of(response.status_code, response.content)
                yield response
            finally:
                response.close()
        except httpx2.TransportError as wrong:
            raise unreachable(self.url, wrong) from wrong

    def _request(
        self,
        method: str,
        path: str,
        body: object,
        content: bytes | Callable[[], Iterable[bytes]] | None,
        query: Query | None,
        key: str,
        timeout_s: float | None,
    ) -> httpx2.Request:
        headers = {"Idempotency-Key": key} if key else {}
        data: bytes | Iterable[bytes] | None = content() if callable(content) else content
        if body is not None:
            data = codec.encode(body)
            headers["Content-Type"] = "application/json"
        timeout = _TIMEOUT if timeout_s is None else httpx2.Timeout(timeout_s, connect=5.0)
        return self.http.build_request(
            method, PREFIX + path, content=data, params=_params(query), headers=headers, timeout=timeout
        )


@dataclass(slots=True)
class AsyncTransport:
    """What a coroutine needs of `Transport`. Belongs to the event loop on which it was first used."""

    url: str
    http: httpx2.AsyncClient = field(repr=False)

    @classmethod
    def open(
        cls, url: str, token: str, *, inner: httpx2.AsyncBaseTransport | None = None, certificate: str = ""
    ) -> AsyncTransport:
        """Return a transport; `inner` replaces the network (tests), `certificate` (PEM) is the server's own."""
        limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
        mine = url.rstrip("/")
        own = (
            {mine: httpx2.AsyncHTTPTransport(verify=verified(certificate), trust_env=False, limits=limits)} if certificate else {}
        )
        http = httpx2.AsyncClient(
            base_url=mine,
            headers=_headers(token),
            timeout=_TIMEOUT,
            transport=inner,
            trust_env=False,
            limits=limits,
            verify=verified(""),
            mounts=own,
        )
        return cls(url.rstrip("/"), http)

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def send(
        self, method: str, path: str, *, body: object = None, query: Query | None = None, is_repeatable: bool = False
    ) -> Answer:
        """Send one request and return its answer. Raises as `Transport.send`."""
        may_repeat = is_repeatable or method in _REPEATABLE
        data = codec.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        for number in range(1, TRIES + 1):
            try:
                response = await self.http.request(
                    method, PREFIX + path, content=data, params=_params(query), headers=headers, follow_redirects=True
                )
            except httpx2.TransportError as wrong:
                if number == TRIES or not (may_repeat or isinstance(wrong, httpx2.ConnectError)):
                    raise unreachable(self.url, wrong) from wrong
                await asyncio.sleep(pause_s(number))
                continue
            if response.status_code in BUSY and may_repeat and number < TRIES:
                await asyncio.sleep(pause_s(number, response.headers.get("retry-after", "")))
                continue
            return _answered(response.status_code, response.content, response.headers)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """Give an open answer to a GET whose body is still to be read; one try. Raises as `Transport.send`."""
        try:
            async with self.http.stream("GET", PREFIX + path, params=_params(query), headers=dict(headers or {})) as response:
                if response.status_code >= 400:
                    raise wrong_of(response.status_code, await response.aread())
                yield response
        except httpx2.TransportError as wrong:
            raise unreachable(self.url, wrong) from wrong


def new_key() -> str:
    """Return a fresh Idempotency-Key."""
    return secrets.token_hex(16)


def pause_s(number: int, said: str = "") -> float:
    """Return how long to wait after try `number`: what the server said, else growing, with jitter; at most 10 s."""
    if said.strip().isdigit():
        return min(MAX_PAUSE_S, float(said) + random.random() * 0.1)  # noqa: S311 - jitter, not a secret
    return min(MAX_PAUSE_S, 0.1 * 2.0 ** (number - 1)) * (0.5 + random.random())  # noqa: S311


def unreachable(url: str, wrong: Exception) -> ServerUnreachableError:
    """Return the error for a server that does not answer."""
    said = str(wrong) or type(wrong).__name__
    return ServerUnreachableError(f"No server answers at {url}: {said}.", hint="mainspring status; mainspring up")


class Later(ssl.SSLContext):
    """What `read` returns, read when the first handshake needs it: plain HTTP to this machine never does."""

    _read: Callable[[], ssl.SSLContext]

    def __new__(cls, read: Callable[[], ssl.SSLContext]) -> Later:
        """Return one that has read nothing yet; trusts nobody by itself."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made._read = read
        return made

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Pass on what is asked for before each handshake."""
        self._read().set_alpn_protocols(alpn_protocols)

    def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
        """Begin a handshake."""
        return self._read().wrap_socket(*args, **named)

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake of a coroutine."""
        return self._read().wrap_bio(*args, **named)


@functools.cache
def authorities() -> ssl.SSLContext:
    """Return what trusts the system's authorities. Reads them once: that takes 50 ms, a tenth of a short command."""
    return httpx2.create_ssl_context(trust_env=False)


def verified(certificate: str) -> ssl.SSLContext:
    """Return how the server is verified: by its own certificate (PEM), by the system's authorities without one."""
    return ssl.create_default_context(cadata=certificate) if certificate else Later(authorities)


def wrong_of(status: int, data: bytes) -> MainspringError:
    """Return the error that an answer of `status` tells."""
    try:
        plain = codec.decode_any(data)
    except SpecError:
        plain = None
    if isinstance(plain, Mapping) and "error" in plain:
        return from_wire(plain)
    return ServerError(f"The server answered {status} and no explanation.", hint="See HOME/server.log, or its operator.")


def _answered(status: int, data: bytes, headers: Mapping[str, str]) -> Answer:
    if status >= 400:
        raise wrong_of(status, data)
    return Answer(status, data, headers)


def _params(query: Query | None) -> dict[str, str]:
    """Return what goes behind the `?`: nothing for None and empty texts."""
    found: dict[str, str] = {}
    for name, value in (query or {}).items():
        if value is None or value == "":
            continue
        found[name] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return found
