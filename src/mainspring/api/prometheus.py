"""Figures for Prometheus at `GET /metrics` (with a token, as everything): what this process did, and what the rows say."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from mainspring.api.auth import Ctx, Who
from mainspring.core.actors import Actor
from mainspring.core.records import Attempt, NodeState, Run
from mainspring.services import standings, status
from mainspring.services.context import Context
from mainspring.services.planned import BUCKETS_S, Planned

router = APIRouter(include_in_schema=False)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WAITS_S = (1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86_400.0, 7 * 86_400.0)
_KEPT = 10_000  # attempts that were counted: a runner whose answer was lost asks again
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
        self._begun: set[str] = set()
        self._waits = Histogram(
            "mainspring_wait_seconds",
            "From submission to the first place, of runs that began.",
            buckets=_WAITS_S,
            registry=self.registry,
        )
        self.runs = Gauge("mainspring_runs", "Runs by state.", ("state",), registry=self.registry)
        self.waiting = Gauge("mainspring_waiting", "Waiting runs by reason.", ("reason",), registry=self.registry)
        self.shares = Gauge(
            "mainspring_share",
            "GPUs, CPUs and bytes of each share: held, fair, guaranteed, asked for.",
            ("share", "resource", "kind"),
            registry=self.registry,
        )
        self.longest = Gauge(
            "mainspring_longest_wait_seconds", "How long the oldest waiting run has waited.", registry=self.registry
        )
        self.gpus = Gauge("mainspring_gpus", "GPUs, total, used and taken out.", ("kind",), registry=self.registry)
        self.nodes = Gauge("mainspring_nodes", "Nodes by state.", ("state",), registry=self.registry)

    def answered(self, method: str, code: int) -> None:
        """Count an answer."""
        self._answers.labels(method if method in _METHODS else "OTHER", code).inc()

    def predicted(self, endpoint: str, code: int, seconds: float) -> None:
        """Count an answer of an endpoint."""
        self._predictions.labels(endpoint, code).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def began(self, attempt: Attempt, run: Run, replica: int) -> None:
        """Count how long a run had waited, when the first member of its first attempt asks for its work; once."""
        if (attempt.number, replica) != (1, 0) or attempt.id in self._begun:
            return
        if len(self._begun) >= _KEPT:
            self._begun.clear()
        self._begun.add(attempt.id)
        self._waits.observe(max(0.0, (attempt.created_at - run.created_at).total_seconds()))


@router.get("/metrics")
def tell_figures(request: Request, ctx: Ctx, actor: Who) -> Response:
    """Return the figures in Prometheus' text format."""
    measured = measured_of(request)
    told = status.status(ctx, actor, url="")
    counts, gpus = told["counts"], told["gpus"]
    if isinstance(counts, dict):
        for state, number in counts.items():
            measured.runs.labels(state).set(number)
    if isinstance(gpus, dict):
        for kind, number in gpus.items():
            measured.gpus.labels(kind).set(number)
    nodes = told["nodes"]
    if isinstance(nodes, dict):
        for state in NodeState:
            measured.nodes.labels(state).set(nodes.get(state, 0))
    _tell_queue(measured, ctx, actor)
    text = generate_latest(measured.registry) + generate_latest(_Planner(ctx.planned))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def measured_of(request: Request) -> Measured:
    """Return the counters of the application that a request came to."""
    measured = request.app.state.measured
    if not isinstance(measured, Measured):
        raise TypeError("build_api did not set the counters")
    return measured


class _Planner(Collector):
    """The planner's counters as Prometheus reads them."""

    def __init__(self, planned: Planned) -> None:
        self._planned = planned

    def collect(self) -> Iterator[Metric]:
        """Give the histogram of plans and the count of decisions."""
        planned = self._planned
        total = 0
        buckets = []
        for bound, count in zip((*(str(one) for one in BUCKETS_S), "+Inf"), list(planned.counts), strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(
            "mainspring_plan_seconds", "From snapshot to decisions.", buckets=buckets, sum_value=planned.seconds
        )
        yield CounterMetricFamily("mainspring_decisions", "Decisions about waiting runs.", value=planned.decisions)


def _tell_queue(measured: Measured, ctx: Context, actor: Actor) -> None:
    """Set what the rows say of the queue and the shares: whole, since fairness is everybody's business."""
    measured.waiting.clear()
    reasons, oldest = ctx.store.runs.why_waiting()
    for reason, number in reasons.items():
        measured.waiting.labels(reason or "not_planned_yet").set(number)
    measured.longest.set(0.0 if oldest is None else max(0.0, (ctx.clock.now() - oldest).total_seconds()))
    measured.shares.clear()
    for one in standings.standings(ctx, actor):
        for kind, amounts in (("held", one.held), ("fair", one.fair), ("guarantee", one.guarantee), ("asked", one.asked)):
            for resource, amount in amounts.items():
                measured.shares.labels(one.name or "/", resource, kind).set(amount if resource == "memory" else amount / 1000)
