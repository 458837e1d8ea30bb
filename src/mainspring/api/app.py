"""Put the HTTP door together: the routers under `/api/v1`, the door in front of everything, the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from mainspring.api import (
    admin,
    attempts,
    blobs,
    clusters,
    datasets,
    endpoints,
    environments,
    events,
    forecasts,
    gates,
    inside,
    logs,
    machines,
    metrics,
    models,
    pipelines,
    plans,
    policies,
    projects,
    prometheus,
    rehearsals,
    runs,
    secrets,
    shares,
    sweeps,
    tokens,
    users,
)
from mainspring.api.answers import PREFIX
from mainspring.api.door import Door
from mainspring.api.errors import install_errors
from mainspring.api.gateway import Gateway
from mainspring.api.openapi import install_openapi
from mainspring.api.tunnels import Tunnels
from mainspring.services.context import Context
from mainspring.settings import VERSION

NOUNS = (
    admin,
    attempts,
    blobs,
    clusters,
    datasets,
    endpoints,
    environments,
    events,
    forecasts,
    gates,
    inside,
    logs,
    machines,
    metrics,
    models,
    pipelines,
    plans,
    policies,
    projects,
    rehearsals,
    runs,
    secrets,
    shares,
    sweeps,
    tokens,
    users,
)


def build_api(ctx: Context, *, url: str = "", shutdown: Callable[[], None] | None = None) -> FastAPI:
    """Return the application over `ctx`; starts nothing.

    `url` is where people reach it, `shutdown` is called once after `POST /shutdown` was answered.
    """
    measured = prometheus.Measured()
    tunnels = Tunnels(ctx)
    gateway = Gateway(ctx, measured, tunnels)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        del app
        await gateway.close()

    app = FastAPI(
        title="Mainspring",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours are in the documentation
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.ctx = ctx
    app.state.url = url
    app.state.shutdown = shutdown
    app.state.is_draining = False
    app.state.measured = measured
    app.state.tunnels = tunnels
    app.state.noted_ports = {}
    app.router.routes.extend(gateway.routes())  # first, as they are asked most
    for router in (*(noun.router for noun in NOUNS), prometheus.router, tokens.browser, admin.health):
        app.router.routes.extend(router.routes)  # flat, whatever the version of FastAPI makes of included routers
    app.router.routes.extend(inside.routes())
    install_errors(app)
    install_openapi(app)
    app.add_middleware(Door, ctx=ctx, measured=measured)
    return app
