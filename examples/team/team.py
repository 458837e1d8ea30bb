"""Ten people, eight GPUs, one clear rule: a sweep of 500 trials and the others' small runs, through a real server.

Run it by `scripts/team` (it starts an installation of its own and takes it down again). The GPUs are declared ones and a
trial sleeps where a real one would train, so that everybody can watch the queue on a laptop. Every number is measured.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from trial import STEP_S, trial

import mainspring as ms
from mainspring.client.client import Client
from mainspring.client.connection import connect, forget
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Run
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.scheduler.fairness import Served, fairness

GPUS = 8
TRIALS = int(os.environ.get("TEAM_TRIALS", "500"))
WHOLE, MOST_S, LEAST_INDEX = 500, 180.0, 0.99  # so many trials make the whole scene; what it promises then
SWEEPER = "alice"
OTHERS = ("bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
RUSH = int(os.environ.get("TEAM_RUSH", "20"))  # runs that each of the others submits at once, in the middle
console = Console(highlight=False)


@dataclass
class Scene:
    """Who takes part, and what is remembered of the time while it runs."""

    admin: Client
    people: dict[str, Client]
    reasons: dict[str, str] = field(default_factory=dict)
    quick_waits: list[float] = field(default_factory=list)


def main() -> None:
    """Play the scene and print what came of it."""
    began = time.perf_counter()
    scene = invite()
    with_token(scene.people[SWEEPER])
    study = ms.sweep(trial, trials=TRIALS, maximize="score", learning_rate=ms.loguniform(1e-3, 0.3), sampler="random", wait=False)
    console.print(f"{SWEEPER} started a sweep of {TRIALS} trials with one line; the others come and go.")
    while not any(trial.state in TERMINAL_RUN for trial in study.trials):  # they come when it is in full swing
        time.sleep(0.2)
    visitors = [threading.Thread(target=visit, args=(scene, name, number)) for number, name in enumerate(OTHERS)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    study.wait()
    report(scene, study, time.perf_counter() - began)


def invite() -> Scene:
    """Make a user with a token for each of the ten."""
    here = connect()
    admin = Client.open(here.url, here.transport.token)
    people = {}
    for name in (SWEEPER, *OTHERS):
        admin.people.add_user(name)
        admin.people.grant("default", name, "editor")
        token, _ = admin.people.issue_token("team", user=name)
        people[name] = Client.open(admin.url, token)
    return Scene(admin, people)


def with_token(client: Client) -> None:
    """Let the SDK of this process speak as that person."""
    os.environ["MAINSPRING_URL"], os.environ["MAINSPRING_TOKEN"] = client.url, client.transport.token
    forget()


def visit(scene: Scene, name: str, number: int) -> None:
    """Work as a person does: a single run now and then, and in the middle many at once."""
    client = scene.people[name]
    time.sleep(2 + number * 0.7)
    for turn in range(3):
        asked_at = time.monotonic()
        run = submit(client, f"{name}-look-{turn}")
        note_reason(scene, client, run, "a single run")
        client.runs.wait(run.id)
        scene.quick_waits.append(max(0.0, time.monotonic() - asked_at - STEP_S))
        time.sleep(1.0)
    rush = [submit(client, f"{name}-rush-{turn}") for turn in range(RUSH)]
    note_reason(scene, client, rush[-1], "the last of a rush")
    for run in rush:
        client.runs.wait(run.id)


def submit(client: Client, name: str) -> Run:
    """Submit a run of one GPU that holds it for a moment."""
    command = (sys.executable, "-S", "-c", f"import time; time.sleep({STEP_S})")
    return client.runs.submit(RunSpec(name=name, command=command, resources=Resources(gpu_milli=1000)))


def note_reason(scene: Scene, client: Client, run: Run, what: str) -> None:
    """Remember what a run was told that waits, once for each kind of moment."""
    deadline = time.monotonic() + 10
    while what not in scene.reasons and time.monotonic() < deadline:
        told = client.runs.why(run.id)
        if told["state"] != "queued":
            return
        if told["reason"]["code"] != ReasonCode.NOT_PLANNED_YET:
            scene.reasons[what] = str(told["sentence"])
        else:
            time.sleep(0.05)


def all_runs(client: Client) -> Iterator[Run]:
    """Yield every run, page by page."""
    page = client.runs.page(limit=200)
    yield from page.items
    while page.cursor:
        page = client.runs.page(limit=200, cursor=page.cursor)
        yield from page.items


def report(scene: Scene, study: ms.Study, took_s: float) -> None:
    """Print shares, waits, reasons and the index; end with an error if the scene was not what it shows."""
    runs = list(all_runs(scene.admin))
    zero = min(run.created_at for run in runs)
    served = [
        Served(
            share=run.owner,
            gpus=run.spec.resources.gpu_milli / 1000,
            submitted_s=(run.created_at - zero).total_seconds(),
            started_s=None if run.started_at is None else (run.started_at - zero).total_seconds(),
            ended_s=None if run.ended_at is None else (run.ended_at - zero).total_seconds(),
        )
        for run in runs
    ]
    found = fairness(served, gpus=GPUS)
    table = Table("person", "runs", "wait p50", "wait p95", "GPU-seconds", "entitled", "received", title="Eight GPUs, ten people")
    for name in (SWEEPER, *OTHERS):
        mine = [one for one in served if one.share == name and one.started_s is not None and one.ended_s is not None]
        waits = sorted(one.started_s - one.submitted_s for one in mine)
        held = sum((one.ended_s - one.started_s) * one.gpus for one in mine)
        figures = (held, found.entitled.get(name, 0.0), found.received.get(name, 0.0))
        late = waits[int(len(waits) * 0.95)]
        table.add_row(
            name, str(len(mine)), f"{statistics.median(waits):.1f} s", f"{late:.1f} s", *(f"{one:.0f}" for one in figures)
        )
    console.print(table)
    for what, sentence in scene.reasons.items():
        console.print(f"[bold]Why {what} waited:[/] {sentence}")
    best = study.best_trial
    console.print(f"[bold]The sweep:[/] {len(study.trials)} trials, best score {best.value:.4f}")
    console.print(
        f"[bold]A single run of the others[/] had its answer {statistics.median(scene.quick_waits):.1f} s late (median)"
    )
    console.print(
        f"[bold]Jain's index[/] of received over entitled, in {found.contended_s:.0f} s of contention: "
        f"[bold]{found.index:.4f}[/] (1 is equal); took {took_s:.0f} s"
    )
    unfinished = [run for run in runs if run.state != "succeeded"]
    if unfinished or len(runs) != TRIALS + len(OTHERS) * (3 + RUSH):
        sys.exit(f"the scene is broken: {len(runs)} runs, {len(unfinished)} of them did not succeed")
    if TRIALS >= WHOLE and (took_s > MOST_S or found.index < LEAST_INDEX):
        sys.exit(f"the scene is not what it promises: at most {MOST_S:.0f} s, Jain's index at least {LEAST_INDEX}")


if __name__ == "__main__":
    main()
