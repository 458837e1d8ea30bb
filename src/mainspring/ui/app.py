"""Hang the pages on the server's web application. The door before it has already asked who is there."""

from __future__ import annotations

from fastapi import FastAPI, Request
from nicegui import ui

from mainspring.core.actors import Actor
from mainspring.core.errors import AuthError
from mainspring.services.context import Context
from mainspring.ui import overview, run, runs


def attach_ui(api: FastAPI, ctx: Context) -> None:
    """Add every page to `api`; the actor is the one that the door put into `request.state.actor`."""

    @ui.page("/")
    async def _overview(request: Request) -> None:
        await overview.page(ctx, actor_of(request))

    @ui.page("/runs")
    async def _runs(request: Request) -> None:
        await runs.page(ctx, actor_of(request), dict(request.query_params))

    @ui.page("/runs/{ref}")
    async def _run(request: Request, ref: str) -> None:
        await run.page(ctx, actor_of(request), ref)

    ui.run_with(api, title="Mainspring", show_welcome_message=False, storage_secret=None)


def actor_of(request: Request) -> Actor:
    """Return who looks. Raises AuthError."""
    actor = getattr(request.state, "actor", None)
    if not isinstance(actor, Actor):
        raise AuthError("This page needs a session.", hint="Open it with: mainspring ui")
    return actor
