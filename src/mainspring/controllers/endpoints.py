"""The endpoints loop: as many living replicas of the live revision as the row says; the old stop when the new answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import MainspringError
from mainspring.core.ids import RunId
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Endpoint, EndpointState, Run, RunState
from mainspring.services import endpoints, runs
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.workflows.rollout import desired_replicas, revision_of

log = logging.getLogger(__name__)
MAX_QUICK_FAILURES = 3
RESTART_S = 1.0


@dataclass(slots=True)
class Endpoints:
    """Drives endpoints from their rows: a replica that died is a run that ended, and another is submitted."""

    ctx: Context
    _not_before: dict[str, float] = field(default_factory=dict)

    def tick(self) -> float | None:
        """Drive each endpoint one step; woken by runs and attempts that move."""
        pauses = [self._step(endpoint) for endpoint in self.ctx.store.endpoints.every()]
        return min((pause for pause in pauses if pause is not None), default=None)

    def _step(self, endpoint: Endpoint) -> float | None:
        linked = self.ctx.store.runs.by_link("endpoint", endpoint.id)
        ready = {run.id for run in linked if self._answers(run)}
        wanted = desired_replicas(endpoint, linked, ready)
        by_id = {run.id: run for run in linked}
        self._cancel([by_id[one] for one in wanted.stop])
        failures = self._tell(endpoint, linked, ready)
        if wanted.start <= 0:
            return None
        now = self.ctx.clock.monotonic()
        pause = self._not_before.get(endpoint.id, 0.0) - now
        if pause > 0:
            return pause
        self._not_before[endpoint.id] = now + min(60.0, RESTART_S * 2**failures)
        self._start(endpoint, wanted.start)
        return RESTART_S

    def _tell(self, endpoint: Endpoint, linked: list[Run], ready: set[RunId]) -> int:
        """Write down what the endpoint does for its callers; return how many replicas in a row never answered."""
        if endpoint.stopped_at is not None:
            self._set(endpoint, EndpointState.STOPPED, "")
            return 0
        answering = sum(run.id in ready and revision_of(run) == endpoint.revision for run in linked)
        if answering >= endpoint.replicas:
            self._set(endpoint, EndpointState.READY, "")
            return 0
        failures = self._failures(endpoint, linked)
        if failures >= MAX_QUICK_FAILURES:
            last = max((run for run in linked if run.state is RunState.FAILED), key=lambda run: run.seq)
            why = last.outcome.message if last.outcome else ""
            message = f"Replicas of revision {endpoint.revision} die: {why} mainspring logs {last.id}"
            self._set(endpoint, EndpointState.FAILING, message)
        elif not answering:
            self._set(endpoint, EndpointState.STARTING, "")
        return failures

    def _start(self, endpoint: Endpoint, missing: int) -> None:
        revision = next(one for one in self.ctx.store.endpoints.revisions(endpoint.id) if one.number == endpoint.revision)
        try:
            spec = endpoints.serving_spec(self.ctx, endpoint, revision)
        except MainspringError as wrong:
            self._set(endpoint, EndpointState.FAILING, str(wrong))
            return
        for _ in range(missing):
            run = runs.make_run(self.ctx, endpoint.created_by, spec)
            event = said(SYSTEM, "run.submitted", run.id, run.project, endpoint=endpoint.name)
            self.ctx.store.runs.submit(run, event=event)

    def _failures(self, endpoint: Endpoint, linked: list[Run]) -> int:
        """Return how many of this revision's newest replicas in a row ended without ever answering."""
        count = 0
        for run in sorted(linked, key=lambda one: -one.seq):
            if revision_of(run) != endpoint.revision or run.state not in TERMINAL_RUN:
                continue
            if run.state is not RunState.FAILED or self._ever_answered(run):
                break
            count += 1
        return count

    def _answers(self, run: Run) -> bool:
        return run.state is RunState.RUNNING and any(
            one.address and one.ended_at is None for try_ in self.ctx.store.attempts.of_run(run.id)[-1:] for one in try_.replicas
        )

    def _ever_answered(self, run: Run) -> bool:
        return any(one.address for try_ in self.ctx.store.attempts.of_run(run.id) for one in try_.replicas)

    def _cancel(self, surplus: list[Run]) -> None:
        for run in surplus:
            if run.desired != "cancelled":
                runs.cancel(self.ctx, SYSTEM, run.id)

    def _set(self, endpoint: Endpoint, state: EndpointState, message: str) -> None:
        if (endpoint.state, endpoint.message) != (state, message):
            event = said(SYSTEM, f"endpoint.{state}", endpoint.name, endpoint.project, revision=endpoint.revision)
            self.ctx.store.endpoints.set_state(endpoint.id, state, message=message, event=event)
