"""Put the HTTP door together: the routers under `/api/v1`, the door in front of everything, the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from mainspring.api import (
    admin,
    attempts,
    blobs,
    clusters,
    datasets,
    endpoints,
    events,
    gates,
    logs,
    metrics,
    models,
    pipelines,
    projects,
    runs,
    secrets,
    sweeps,
    tokens,
    users,
)
from mainspring.api.door import PREFIX, Door
from mainspring.api.errors import install_errors
from mainspring.api.openapi import install_openapi
from mainspring.services.context import Context
from mainspring.settings import VERSION

NOUNS = (
    admin,
    attempts,
    blobs,
    clusters,
    datasets,
    endpoints,
    events,
    gates,
    logs,
    metrics,
    models,
    pipelines,
    projects,
    runs,
    secrets,
    sweeps,
    tokens,
    users,
)


def build_api(ctx: Context, *, url: str = "", shutdown: Callable[[], None] | None = None) -> FastAPI:
    """Return the application over `ctx`; starts nothing.

    `url` is where people reach it, `shutdown` is called once after `POST /shutdown` was answered.
    """
    app = FastAPI(
        title="Mainspring",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours are in the documentation
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.ctx = ctx
    app.state.url = url
    app.state.shutdown = shutdown
    app.state.is_draining = False
    for noun in NOUNS:
        app.include_router(noun.router, prefix=PREFIX)
    app.include_router(tokens.browser)
    app.include_router(admin.health)
    install_errors(app)
    install_openapi(app)
    app.add_middleware(Door, ctx=ctx)
    return app
