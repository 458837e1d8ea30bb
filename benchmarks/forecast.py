"""Do forecasts hold? Philly replayed in one pool with guarantees: what runs are told when they begin to wait, and what happens.

python -m benchmarks.forecast [--months 11] [--count 2000] [--waiting 1000] [--seed 1]

Estimates are noisy (Helios' error bands), the planner is the product's, and the sampler learns from the past of the replay
only: how long runs lasted against their estimates, who came in the last hours, which intervals held. Runs that start in
their first plan are told nothing and do not count. Beside it: how long one answer takes while `--waiting` runs wait; `--count 0`
measures that alone.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter

from benchmarks import philly
from benchmarks.queueing import OURS
from benchmarks.report import percentile, report
from mainspring import scheduler
from mainspring.core.forecasts import CONFIDENCE, Forecast
from mainspring.core.ids import RunId
from mainspring.core.resources import Resources
from mainspring.core.snapshot import DecisionKind, Plan, Snapshot, WaitingRun
from mainspring.scheduler.forecast import Past, by_run, error_of, recalibrated, sampled
from mainspring.scheduler.forecast import Record as Hindsight
from mainspring.simulator import Job, Setting, simulate, with_noise

LATELY = timedelta(hours=6)
LEARNED = 500
SLACK_S = 1.0


@dataclass(slots=True)
class Record:
    """Tells runs, watches when they start, and learns. `asked` is the confidence that the sampler is asked for."""

    jobs: dict[str, Job]
    chosen: set[str]
    seed: int
    asked: float = CONFIDENCE
    seen: set[RunId] = field(default_factory=set)
    running: dict[RunId, tuple[datetime, float]] = field(default_factory=dict)
    told: dict[RunId, tuple[datetime, Forecast]] = field(default_factory=dict)
    inside: list[bool] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    lengths: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LEARNED))
    wrong: deque[float] = field(default_factory=lambda: deque(maxlen=LEARNED))
    arrivals: deque[WaitingRun] = field(default_factory=deque)

    def watch(self, snapshot: Snapshot, plan: Plan) -> None:
        """Look at one plan of the replay."""
        starts = {one.run for one in plan.decisions if one.kind is DecisionKind.START}
        placed = {run.id for run in snapshot.placed}
        believed = {run.id: run.estimate_s for run in snapshot.waiting if run.id in starts}
        for run in [run for run in self.running if run not in placed]:  # it ended, or was stopped: then it waits again
            began, believed_s = self.running.pop(run)
            job = self.jobs[run]
            if (snapshot.now - began).total_seconds() >= job.duration_s - 1:
                self.lengths.append((believed_s, job.duration_s))
        fresh = [run for run in snapshot.waiting if run.id not in self.seen]
        self.seen.update(run.id for run in fresh)
        self.arrivals.extend(fresh)
        while self.arrivals and self.arrivals[0].submitted_at < snapshot.now - LATELY:
            self.arrivals.popleft()
        targets = [run.id for run in fresh if run.id in self.chosen and run.id not in starts]
        if targets:
            self._tell(snapshot, targets)
        for run in starts:
            self.running[run] = (snapshot.now, believed[run])
            if run in self.told:
                self._settle(run, snapshot.now)

    def _tell(self, snapshot: Snapshot, targets: Sequence[RunId]) -> None:
        past = Past(
            lengths=tuple(self.lengths),
            arrivals=tuple(((snapshot.now - run.submitted_at).total_seconds(), run) for run in self.arrivals),
        )
        began = perf_counter()
        found = by_run(sampled(snapshot, past, seed=self.seed), Hindsight(asked=self.asked, errors=tuple(self.wrong)))
        self.took_s.append(perf_counter() - began)
        for run in targets:
            if found[run].is_bounded:
                self.told[run] = (snapshot.now, found[run])

    def _settle(self, run: RunId, now: datetime) -> None:
        at, said = self.told.pop(run)
        slack = timedelta(seconds=SLACK_S)
        self.inside.append(said.earliest - slack <= now <= said.latest + slack)
        self.asked = recalibrated(self.asked, self.inside[-1:])
        wait_s = (now - at).total_seconds()
        self.waits_s.append(wait_s)
        self.wrong.append(error_of((said.median - at).total_seconds(), wait_s))
        self.errors.append(abs((said.median - now).total_seconds()) / max(1.0, wait_s))


def main() -> None:
    """Report how long answers take, and how many hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", default="11")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--waiting", type=int, default=1000)
    given = parser.parse_args()
    time_answers(given.waiting, given.seed)
    if given.count:
        replay(given)


def time_answers(waiting: int, seed: int) -> None:
    """Report how long the answer for one run takes, sample and all, and one for a run that nobody has submitted."""
    draw = random.Random(seed)
    nodes = tuple(philly.machines(sum(philly.machines_by_share().values())))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    asked = [Resources(gpu_milli=1000 * draw.choice((1, 1, 1, 2, 4, 8))) for _ in range(waiting)]
    runs = tuple(
        WaitingRun(
            id=RunId(f"run-{number}"),
            seq=number,
            owner=f"user-{number % 40}",
            project="default",
            priority=0,
            submitted_at=now - timedelta(seconds=waiting - number),
            share=f"team-{draw.randrange(11)}",
            resources=one,
            estimate_s=draw.lognormvariate(7.0, 1.5),
        )
        for number, one in enumerate(asked)
    )
    world = Snapshot(now=now, nodes=nodes, waiting=runs, policy=OURS)
    world = scheduler.apply_plan(world, scheduler.plan(world))
    lengths = tuple((draw.lognormvariate(7.0, 1.5), draw.lognormvariate(7.0, 1.5)) for _ in range(LEARNED))
    more = replace(world, waiting=(*world.waiting, *(replace(run, id=RunId(f"more-{run.id}")) for run in runs))[:waiting])
    past = Past(lengths=lengths, arrivals=tuple((600.0 + number, run) for number, run in enumerate(runs[:100])))
    took: dict[str, list[float]] = {"one answer": [], "one more question": []}
    for number in range(30):
        began = perf_counter()
        sample = sampled(more, past, seed=number)
        sample.forecast(more.waiting[number].id)
        took["one answer"].append(perf_counter() - began)
        began = perf_counter()
        sample.ask(replace(runs[0], id=RunId("asked")))
        took["one more question"].append(perf_counter() - began)
    conditions: dict[str, object] = {"waiting": len(more.waiting), "placed": len(more.placed), "nodes": len(nodes)}
    for metric, times in took.items():
        report("forecast", f"{metric}, p99", 1000 * percentile(times, 0.99), "ms", conditions=conditions)


def replay(given: argparse.Namespace) -> None:
    """Report how many intervals held, and how far off the middle was, in a replay of Philly."""
    jobs = with_noise(philly.read_jobs([int(month) for month in given.months.split(",")]), given.seed)
    # about a tenth of all have to wait: so many are chosen that enough of those are among them
    chosen = random.Random(given.seed).sample([job.id for job in jobs], min(len(jobs), given.count * 8))
    record = Record({job.id: job for job in jobs}, set(chosen), given.seed)
    pool = philly.machines(sum(philly.machines_by_share().values()))
    began = perf_counter()
    simulate(jobs, Setting(nodes=pool, policy=OURS, shares=philly.guarantees(), seed=given.seed), watch=record.watch)
    told = record.inside[: given.count]
    conditions: dict[str, object] = {
        "months": given.months,
        "told": len(told),
        "median_wait_s": round(median(record.waits_s)) if record.waits_s else 0,
        "asked_at_the_end": round(record.asked, 3),
        "seconds": round(perf_counter() - began),
    }
    report("forecast", "intervals that held", 100 * sum(told) / max(1, len(told)), "%", conditions=conditions)
    report("forecast", "error of the median", 100 * median(record.errors or [0.0]), "% of the wait", conditions=conditions)
    report("forecast", "time of one sample", 1000 * median(record.took_s or [0.0]), "ms", conditions=conditions)


if __name__ == "__main__":
    main()
