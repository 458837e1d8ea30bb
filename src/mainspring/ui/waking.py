"""The pages as an application that loads when somebody first asks for one: a server without visitors starts and idles cheaper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mainspring.core import codec
from mainspring.core.errors import NotFoundError
from mainspring.core.loading import load_without
from mainspring.services.context import Context

PAGES = "mainspring.ui.app"  # by name: importing it loads NiceGUI, which is a third of a server's start and memory
UNUSED = ("aiohttp", "requests")  # NiceGUI's socket library has clients too, and loads these for them where it finds them: 10 MB


def attach_waking_ui(api: FastAPI, ctx: Context) -> None:
    """Put the pages behind every other route of `api`; what comes after `/api/` is told in JSON that it is not there."""
    waking = Waking(ctx)
    api.mount("/", waking)
    inner = api.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            yield
        await waking.close()

    api.router.lifespan_context = lifespan


class Waking:
    """ASGI application; belongs to one event loop."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._pages: ASGIApp | None = None
        self._waking = asyncio.Lock()
        self._awake = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on to the pages, after loading them if nobody has yet."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            wrong = NotFoundError(f"There is nothing at {scope['path'][:200]}.", hint="See /api/v1/openapi.json.")
            answer = Response(codec.encode(wrong.to_wire()), status_code=404, media_type="application/json")
            await answer(scope, receive, send)
            return
        if self._pages is None:
            async with self._waking:
                if self._pages is None:
                    self._pages = await self._wake()
        await self._pages(scope, receive, send)

    async def close(self) -> None:
        """Let the pages go, if they were loaded."""
        await self._awake.aclose()

    async def _wake(self) -> ASGIApp:
        module = await run_in_threadpool(load_pages)
        pages = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        module.attach_ui(pages, self._ctx)
        await self._awake.enter_async_context(pages.router.lifespan_context(pages))
        return pages


def load_pages() -> ModuleType:
    """Import the pages, and none of `UNUSED` with them."""
    return load_without(PAGES, UNUSED)
