"""The health loop: what was counted becomes closures, a tiny run tries what was closed, and drains end when they are to.

All of it is read from rows: a server that was killed between a sign and its row, or between two steps of a probe, goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import MainspringError
from mainspring.core.health import Rules, after_probe, due_probe, judged, next_look, probed, with_closures
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import WHOLE, Attempt, AttemptState, Cause, Closure, ClosureState, Node, Run
from mainspring.core.resources import Granted
from mainspring.core.snapshot import Decision, DecisionKind, Place
from mainspring.plugins import reach
from mainspring.services import runs
from mainspring.services.clusters import CHECK_S, check_spec
from mainspring.services.context import Context

log = logging.getLogger(__name__)
PROBE_LOOK_S = 1.0


@dataclass(slots=True)
class Health:
    """Keeps what is ill from getting work. Nothing is remembered from one tick to the next."""

    ctx: Context

    def tick(self) -> float | None:
        """Judge every node, go on with probes and drains; return the pause until time alone changes something."""
        now, rules = self.ctx.clock.now(), rules_of(self.ctx)
        nodes = self._judge(rules, now)
        is_probing = [self._probe(node, rules, now) for node in nodes]
        self._drain(nodes, now)
        pause = next_look(nodes, now, self.ctx.settings.drain_checkpoint_s)
        if any(is_probing):
            return PROBE_LOOK_S
        return None if pause is None else max(0.05, pause)

    def _judge(self, rules: Rules, now: datetime) -> list[Node]:
        failures = self.ctx.store.health.failures()
        found = []
        for node in self.ctx.store.nodes.all():
            change = partial(judged, failures=failures, rules=rules, now=now)
            if change(node) is node:
                found.append(node)
                continue
            reach("before-quarantine")
            found.append(self.ctx.store.nodes.settle(node.id, change))
            log.warning("node health changed", extra={"node": node.id, "state": found[-1].state})
        return found

    # --- probes ---------------------------------------------------------------------------------------------------------

    def _probe(self, node: Node, rules: Rules, now: datetime) -> bool:
        """Begin a probe that is due, or go on with one; say whether one is under way."""
        due = due_probe(node, now)
        if due is not None:
            run = self._submit(node, due)
            if run is None:
                self._conclude(node, None, has_begun=False, rules=rules, now=now)
                return False
            reach("before-probe")
            node = self.ctx.store.nodes.settle(node.id, partial(probed, run=run.id))
        probe = next((one.probe for one in node.closures if one.state is ClosureState.PROBED), "")
        if not probe:
            return False
        run = self.ctx.store.runs.get(probe)
        tries = self.ctx.store.attempts.of_run(probe) if run is not None else []
        if any(one.started_at is not None for one in tries):
            self._conclude(node, run, has_begun=True, rules=rules, now=now)
            return False
        is_over = run is None or run.state in TERMINAL_RUN or (now - run.created_at).total_seconds() > CHECK_S
        if is_over or any(one.state is AttemptState.ENDED for one in tries):
            self._conclude(node, run, has_begun=False, rules=rules, now=now)
            return False
        if run is not None and not tries:
            self._start(node, run, now)
        return True

    def _submit(self, node: Node, closure: Closure) -> Run | None:
        """Submit the tiny run, the same one however often this is repeated; None where it may not be."""
        key = f"probe:{node.id}:{closure.since.isoformat()}:{closure.tries}"
        try:
            return runs.submit(self.ctx, SYSTEM, check_spec(node), key=key, is_fresh=True)[0]
        except MainspringError as wrong:
            log.warning("probe refused", extra={"node": node.id, "error": wrong.message})
            return None

    def _start(self, node: Node, run: Run, now: datetime) -> None:
        """Start the probe there, past the planner, which places nothing on such a node."""
        asked = run.spec.resources
        granted = Granted(cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes)
        place = Place(replica=0, node=node.id, granted=granted)
        reach("before-probe-start")
        decision = Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=(place,), rule="probe")
        self.ctx.store.start_probe(decision, now=now, actor=SYSTEM.name)

    def _conclude(self, node: Node, run: Run | None, *, has_begun: bool, rules: Rules, now: datetime) -> None:
        change = partial(after_probe, has_begun=has_begun, rules=rules, now=now)
        self.ctx.store.nodes.settle(node.id, change, is_anew=has_begun)
        log.info("node probed", extra={"node": node.id, "has_begun": has_begun})
        if run is not None and not has_begun and run.state not in TERMINAL_RUN:
            runs.cancel(self.ctx, SYSTEM, run.id, grace_s=0.0)

    # --- drains ---------------------------------------------------------------------------------------------------------

    def _drain(self, nodes: Iterable[Node], now: datetime) -> None:
        """Ask for checkpoints ahead of a drain's time, and stop at that time what still runs."""
        lead = timedelta(seconds=self.ctx.settings.drain_checkpoint_s)
        due = [
            (node, one)
            for node in nodes
            for one in node.closures
            if one.ends_at is not None and one.state is ClosureState.CLOSED and one.ends_at - lead <= now
        ]
        if not due:
            return
        living = self.ctx.store.attempts.open()
        for node, closure in due:
            there = [one for one in living if one.stop_cause is None and _is_on(one, node, closure.device)]
            if closure.ends_at is not None and closure.ends_at <= now:
                for attempt in there:
                    self._stop(attempt)
            elif closure.asked_at is None:
                self._ask(there)
                self.ctx.store.nodes.settle(node.id, partial(_asked, closure=closure, now=now))

    def _ask(self, there: Sequence[Attempt]) -> None:
        for attempt in there:
            event = runs.said(SYSTEM, "attempt.checkpoint_asked", attempt.id, "", run=attempt.run)
            self.ctx.store.attempts.ask_checkpoint(attempt.id, event=event)
            self.ctx.signals.hint(f"attempt:{attempt.id}")

    def _stop(self, attempt: Attempt) -> None:
        run = self.ctx.store.runs.get(attempt.run)
        if run is not None:
            runs.stop_attempt(self.ctx, SYSTEM, attempt, Cause.PREEMPTED, run.spec.grace_s)


def rules_of(ctx: Context) -> Rules:
    """Return the rules that the settings say."""
    given = ctx.settings
    return Rules(
        launch_failures=given.health_launch_failures,
        lone_launch_failures=given.health_lone_launch_failures,
        ecc_errors=given.health_ecc_errors,
        fatal_xids=given.health_xids,
        retry_s=given.health_retry_s,
        retry_max_s=given.health_retry_max_s,
    )


def _asked(node: Node, *, closure: Closure, now: datetime) -> Node:
    """Return the node with note that checkpoints were asked for, unless the drain was changed meanwhile."""
    return with_closures(node, [replace(one, asked_at=now) if one == closure else one for one in node.closures])


def _is_on(attempt: Attempt, node: Node, device: int) -> bool:
    """Say whether a replica that has not ended is on the node, or on that device of it."""
    here = [one for one in attempt.replicas if one.node == node.id and one.ended_at is None]
    return any(device == WHOLE or device in {share.index for share in one.granted.devices} for one in here)
