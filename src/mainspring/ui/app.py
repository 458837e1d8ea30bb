"""Hang the pages on the server's web application. The door before it has already asked who is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from nicegui import app as site
from nicegui import run as threads
from nicegui import ui
from nicegui.client import Client
from nicegui.page import page as make_page
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainspring.core.actors import Actor
from mainspring.core.errors import AuthError, MainspringError, NotFoundError
from mainspring.services import projects
from mainspring.services.context import Context
from mainspring.ui import (
    clusters,
    compare,
    datasets,
    endpoints,
    models,
    overview,
    pipelines,
    queue,
    rehearsal,
    run,
    runs,
    settings,
    shares,
    sweeps,
)
from mainspring.ui.theme import FAVICON, page_frame
from mainspring.ui.view import MAIN_PROJECT, View

PAGES: tuple[tuple[str, Callable[[View], Awaitable[None]]], ...] = (
    ("/", overview.page),
    ("/runs", runs.page),
    ("/runs/{ref}", run.page),
    ("/compare", compare.page),
    ("/sweeps", sweeps.page),
    ("/sweeps/{ref}", sweeps.one_page),
    ("/pipelines", pipelines.page),
    ("/pipelines/{ref}", pipelines.one_page),
    ("/queue", queue.page),
    ("/shares", shares.page),
    ("/rehearsal", rehearsal.page),
    ("/clusters", clusters.page),
    ("/datasets", datasets.page),
    ("/datasets/{ref}", datasets.one_page),
    ("/models", models.page),
    ("/models/{ref}", models.one_page),
    ("/endpoints", endpoints.page),
    ("/endpoints/{ref}", endpoints.one_page),
    ("/settings", settings.page),
)
GZIP_LEVEL = 1  # the usual 9 takes as long as drawing the page, and makes it smaller by a tenth
DRAWN_S = 30.0  # a page that takes longer is told as an error; it takes some tens of milliseconds
BACK_S = 10.0  # a tab that was silent for so long is drawn anew
# NiceGUI compiles templates in the browser, hence 'unsafe-eval'; nothing may come from, or go to, another host
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def attach_ui(api: FastAPI, ctx: Context) -> None:
    """Add every page to `api`; the actor is the one that the door put into `request.state.actor`."""
    hang_pages(ctx)
    site.add_middleware(_Policy)
    ui.run_with(
        api,
        title="Mainspring",
        language="en-US",
        favicon=FAVICON,
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,  # nothing is bound
        show_welcome_message=False,
        gzip_middleware_factory=partial(GZipMiddleware, compresslevel=GZIP_LEVEL),
        storage_secret=None,
        reconnect_timeout=BACK_S,
    )


def hang_pages(ctx: Context) -> None:
    """Register the pages, and what is said where there is none."""
    for path, draw in PAGES:
        _hang(ctx, path, draw)

    async def lost(request: Request, _: Exception) -> Response:
        wrong = NotFoundError(f"There is nothing at {request.url.path[:200]}.", hint="See the pages named above.")
        with Client(make_page(""), request=request) as client:
            _sorry(await _view(ctx, request), wrong)
            return client.build_response(request, 404)

    site.add_exception_handler(404, lost)


def actor_of(request: Request) -> Actor:
    """Return who looks. Raises AuthError."""
    actor = getattr(request.state, "actor", None)
    if not isinstance(actor, Actor):
        raise AuthError("This page needs a session.", hint="Open it with: mainspring ui")
    return actor


def _hang(ctx: Context, path: str, draw: Callable[[View], Awaitable[None]]) -> None:
    @ui.page(path, response_timeout=DRAWN_S)
    async def _page(request: Request) -> None:
        view = await _view(ctx, request)
        client = ui.context.client
        try:
            await draw(view)
        except MainspringError as wrong:
            client.content.clear()
            client.status_code = wrong.http_status
            _sorry(view, wrong)


async def _view(ctx: Context, request: Request) -> View:
    actor = actor_of(request)
    seen = [one.name for one in await threads.io_bound(projects.all, ctx, actor) or ()]
    usual = MAIN_PROJECT if MAIN_PROJECT in seen or not seen else seen[0]
    query = dict(request.query_params)
    return View(
        ctx=ctx,
        who=_asked_again(request, actor),
        path=request.url.path,
        project=query.get("project", "") or usual,
        projects=tuple(seen),
        ref=str(request.path_params.get("ref", "")),
        query=query,
    )


def _asked_again(request: Request, actor: Actor) -> Callable[[], Actor]:
    """Return what tells who looks: a page stays open for long, and rights end at once.

    On the event loop, where nothing may wait for the store, it is whom the last thread was told.
    """
    ask: Callable[[], Actor] | None = getattr(request.state, "ask_again", None)
    last = [actor]

    def who() -> Actor:
        if ask is not None and not _is_on_loop():
            last[0] = ask()
        return last[0]

    return who


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _sorry(view: View, wrong: MainspringError) -> None:
    """Say what is wrong and what to do next."""
    with page_frame("Not here", view), ui.element("section"):
        ui.label(wrong.message).classes("ms-sentence")
        ui.label(wrong.hint).classes("ms-soft")


class _Policy:
    """Put the content policy on every answer of the pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; add headers to what is answered."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"same-origin"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._app(scope, receive, with_policy)
