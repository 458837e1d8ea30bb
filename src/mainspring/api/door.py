"""The first thing a request meets, whatever it asks for: who may knock (Host, Origin), in which version, and who it is.

Hands a request on with `state.actor` (a user; `state.ask_again` tells the user with the rights of later), or
`state.attempt_token` (a runner, for the two places it may go). Nothing passes unauthenticated but `OPEN`. A failure that
nobody foresaw ends here as a plain 500 with a request id, and its story in the log.
"""

from __future__ import annotations

import ipaddress
import logging
from functools import partial
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainspring.api.answers import PREFIX
from mainspring.api.errors import answer_error
from mainspring.api.prometheus import Measured
from mainspring.core.actors import Actor
from mainspring.core.beats import PROTOCOL
from mainspring.core.errors import (
    AccessDeniedError,
    AuthError,
    MainspringError,
    ServerError,
    StoreError,
    UsageError,
    VersionMismatchError,
)
from mainspring.services import tokens
from mainspring.services.context import Context

log = logging.getLogger(__name__)
OPEN = ("/healthz", "/login/")
RUNNER_PLACES = (f"{PREFIX}/attempts/", f"{PREFIX}/blobs/")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOGIN_PAGE = (
    "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Mainspring</title>"
    "<body style='font:16px/1.6 system-ui;max-width:32rem;margin:15vh auto;padding:0 1rem'>"
    "<h1>Who is there?</h1><p>Type <code>mainspring ui</code> in a terminal: it opens this page with a link that lets you in.</p>"
)


class Door:
    """ASGI middleware around everything that the server serves, websockets included."""

    def __init__(self, app: ASGIApp, *, ctx: Context, measured: Measured) -> None:
        self._app = app
        self._ctx = ctx
        self._measured = measured
        self._hosts = allowed_hosts(ctx)
        self._cookie = cookie_name(ctx)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, authenticate and hand on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            if message["type"] == "http.response.start":
                self._measured.answered(scope["method"], message["status"])
            await send(message)

        try:
            await self._admit(scope)
        except MainspringError as refused:
            await _refuse(scope, receive, watched, refused)
            return
        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.info("client went away", extra={"path": scope["path"]})
        except Exception as wrong:  # the top of a request: nobody above could answer better
            if scope["type"] == "websocket" or is_started:
                raise
            await _answer_unforeseen(self._ctx, scope, wrong)(scope, receive, watched)

    async def _admit(self, scope: Scope) -> None:
        headers = _headers(scope)
        path: str = scope["path"]
        host = headers.get("host", "")
        if host_name(host) not in self._hosts and not is_loopback(host_name(host)):
            raise AccessDeniedError(
                f"This server does not answer for {host[:100]!r}.", hint="Name the host in the setting allowed_hosts."
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise AccessDeniedError(f"A page of {origin[:100]!r} may not call this server.", hint="Open the server's own page.")
        if any(ord(char) < 32 or ord(char) == 127 for char in path) or _has_control(scope["query_string"]):
            raise UsageError("The address holds control characters.", hint="Check how the URL is put together.")
        _check_protocol(headers.get("mainspring-protocol"))
        state = scope.setdefault("state", {})
        state["actor"], state["ask_again"] = None, None
        state["attempt_token"] = ""
        if path.startswith(OPEN):
            return
        bearer = _bearer(headers.get("authorization", ""))
        if bearer:
            if bearer.startswith(tokens.API):
                state["actor"] = await self._who(bearer, tokens.API)
                state["ask_again"] = partial(tokens.authenticate, self._ctx, bearer, kind=tokens.API)
                return
            if path.startswith(RUNNER_PLACES):
                state["attempt_token"] = bearer
                return
            raise AuthError("Nobody knows this token.", hint="mainspring login URL")
        session = read_cookie(headers.get("cookie", ""), self._cookie)
        if not session:
            raise AuthError("This needs a token.", hint="Send the header Authorization: Bearer TOKEN; mainspring token add NAME")
        is_unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if is_unsafe and origin is None:
            raise AccessDeniedError("A browser's request must say from which page it comes.", hint="Use a token instead.")
        state["actor"] = await self._who(session, tokens.BROWSER)
        state["ask_again"] = partial(tokens.authenticate, self._ctx, session, kind=tokens.BROWSER)

    async def _who(self, plain: str, kind: str) -> Actor:
        seen = tokens.peek(self._ctx, plain, kind=kind)
        return seen if seen is not None else await run_in_threadpool(tokens.authenticate, self._ctx, plain, kind=kind)


def allowed_hosts(ctx: Context) -> frozenset[str]:
    """Return the host names that this server answers for, beside loopback ones, in lower case."""
    settings = ctx.settings
    advertised = urlsplit(settings.advertise_url).hostname if settings.advertise_url else None
    names = {*settings.allowed_hosts, advertised or "localhost"}
    if settings.bind not in ("", "0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        names.add(settings.bind)
    return frozenset(name.lower() for name in names)


def cookie_name(ctx: Context) -> str:
    """Return the name of the browser's cookie: of this installation alone, as cookies are shared by all ports of a host."""
    return "mainspring-" + "".join(char for char in ctx.store.installation if char.isalnum() or char == "-")


def read_cookie(header: str, name: str) -> str:
    """Return the value of cookie `name`, or an empty string."""
    if name not in header:
        return ""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port, in lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def is_loopback(name: str) -> bool:
    """Say whether a host name means this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _has_control(query: bytes) -> bool:
    lowered = query.lower()
    return any(byte < 32 or byte == 127 for byte in query) or b"%0" in lowered or b"%1" in lowered or b"%7f" in lowered


def _bearer(header: str) -> str:
    scheme, _, value = header.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _check_protocol(said: str | None) -> None:
    if said is not None and said.strip().partition(".")[0] != str(PROTOCOL):
        older = (
            "newer"
            if said.strip().partition(".")[0].isdigit() and int(said.strip().partition(".")[0][:9]) > PROTOCOL
            else "other"
        )
        raise VersionMismatchError(
            f"The client speaks protocol {said.strip()[:20]!r}, this server {PROTOCOL}.",
            hint="Update the server: pip install -U mainspring"
            if older == "newer"
            else "Update the client: pip install -U mainspring",
            details={"server": PROTOCOL},
        )


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: MainspringError) -> None:
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            told = answer_error(refused)
            head = {"type": "websocket.http.response.start", "status": told.status_code, "headers": told.raw_headers}
            await send(head)
            await send({"type": "websocket.http.response.body", "body": told.body})
            return
        await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
        return
    is_page = not scope["path"].startswith(PREFIX) and "text/html" in _headers(scope).get("accept", "")
    page: Response = (
        HTMLResponse(_LOGIN_PAGE, status_code=401) if is_page and isinstance(refused, AuthError) else answer_error(refused)
    )
    await page(scope, receive, send)


def _answer_unforeseen(ctx: Context, scope: Scope, wrong: Exception) -> Response:
    request = ctx.ids.new("request")
    log.exception("request failed", exc_info=wrong, extra={"request": request, "method": scope["method"], "path": scope["path"]})
    if isinstance(wrong, OSError) and wrong.errno == 28:
        return answer_error(
            StoreError("The server's disk is full.", hint="Free space, then repeat.", details={"request": request})
        )
    return answer_error(
        ServerError(
            "The server failed at this request.", hint=f"Its log tells the story of {request}.", details={"request": request}
        )
    )
