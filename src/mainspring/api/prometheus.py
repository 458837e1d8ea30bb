"""Figures for Prometheus at `GET /metrics` (with a token, as everything): what this process did, and what the rows say."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.auth import Ctx, Who
from mainspring.services import status

router = APIRouter(include_in_schema=False)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Measured:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._answers = Counter(
            "mainspring_http_requests_answered", "Requests by method and status.", ("method", "status"), registry=self.registry
        )
        self._predictions = Counter(
            "mainspring_endpoint_requests_answered", "Requests to endpoints.", ("endpoint", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "mainspring_endpoint_request_seconds",
            "Time from request to answer at the gateway.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.runs = Gauge("mainspring_runs", "Runs by state.", ("state",), registry=self.registry)
        self.gpus = Gauge("mainspring_gpus", "GPUs, total and used.", ("kind",), registry=self.registry)

    def answered(self, method: str, code: int) -> None:
        """Count an answer."""
        self._answers.labels(method if method in _METHODS else "OTHER", code).inc()

    def predicted(self, endpoint: str, code: int, seconds: float) -> None:
        """Count an answer of an endpoint."""
        self._predictions.labels(endpoint, code).inc()
        self._seconds.labels(endpoint).observe(seconds)


@router.get("/metrics")
def tell_figures(request: Request, ctx: Ctx, actor: Who) -> Response:
    """Return the figures in Prometheus' text format."""
    measured = request.app.state.measured
    if not isinstance(measured, Measured):
        raise TypeError("build_api did not set the counters")
    told = status.status(ctx, actor, url="")
    counts, gpus = told["counts"], told["gpus"]
    if isinstance(counts, dict):
        for state, number in counts.items():
            measured.runs.labels(state).set(number)
    if isinstance(gpus, dict):
        for kind, number in gpus.items():
            measured.gpus.labels(kind).set(number)
    return Response(generate_latest(measured.registry), media_type=CONTENT_TYPE_LATEST)
