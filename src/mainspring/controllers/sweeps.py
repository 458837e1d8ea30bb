"""The sweeps loop: tell what ended, ask for what is due, submit ordinary runs. No driver process that could die."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import cast

from mainspring import plugins
from mainspring.core.actors import SYSTEM
from mainspring.core.errors import ConflictError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import RunState, Sweep, SweepState, Trial
from mainspring.services import runs, sweeps
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.workflows import sweeps as decide

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sweeps:
    """Drives active sweeps from their rows."""

    ctx: Context
    _told_first: dict[str, list[Trial]] = field(default_factory=dict)  # of each sweep, up to the first that is not told yet

    def tick(self) -> float | None:
        """Drive each active sweep one step; woken by runs that start or end."""
        active = self.ctx.store.sweeps.active()
        for sweep in active:
            self._step(sweep)
        ids = {sweep.id for sweep in active}
        self._told_first = {sweep: told for sweep, told in self._told_first.items() if sweep in ids}
        return None

    def _step(self, sweep: Sweep) -> None:
        trials = self._trials(sweep)
        due = decide.how_many_more(sweep.spec, trials)
        factory = cast("decide.Factory", plugins.load("samplers", sweep.spec.sampler))
        for _ in range(due):
            number = len(trials) + 1
            params = decide.ask(sweep.spec, trials, number, factory)
            spec = sweeps.trial_spec(sweep, number, params)
            run = runs.make_run(self.ctx, sweep.owner, spec)
            trial = Trial(sweep=sweep.id, number=number, params=params, run=run.id)
            try:
                self.ctx.store.sweeps.add_trial(
                    trial, run, event=said(SYSTEM, "run.submitted", run.id, run.project, sweep=sweep.id, trial=number)
                )
            except ConflictError:
                return  # another controller asked first; its rows are seen at the next tick
            trials.append(trial)
        if decide.is_over(sweep.spec, trials):
            best = decide.best(sweep.spec, trials)
            event = said(SYSTEM, "sweep.done", sweep.id, sweep.project, best=best.number if best else None)
            self.ctx.store.sweeps.finish(sweep.id, SweepState.DONE, now=self.ctx.clock.now(), event=event)

    def _trials(self, sweep: Sweep) -> list[Trial]:
        """Return the trials, told as far as they can be. What was told never changes: it is read once."""
        done = self._told_first.setdefault(sweep.id, [])
        found = self.ctx.store.sweeps.trials(sweep.id, after=len(done))
        told = list(takewhile(lambda trial: trial.told_at is not None, found))
        done += told
        return [*done, *(self._told(sweep, trial) for trial in found[len(told) :])]

    def _told(self, sweep: Sweep, trial: Trial) -> Trial:
        """Return `trial` after its result, if there is one, was written down."""
        if trial.told_at is not None or trial.state not in TERMINAL_RUN:
            return trial
        run = self.ctx.store.runs.get(trial.run)
        is_good = run is not None and run.state is RunState.SUCCEEDED
        return self._tell(trial, trial.state, run.metrics.get(sweep.spec.metric) if run is not None and is_good else None)

    def _tell(self, trial: Trial, state: RunState, value: float | None) -> Trial:
        now = self.ctx.clock.now()
        self.ctx.store.sweeps.tell(trial.sweep, trial.number, state, value, now=now)
        return replace(trial, state=state, value=value, told_at=now)
