"""How long each web page takes until it can be used: a real Chromium, 10,000 runs and a sweep of 500 trials in the store."""

from __future__ import annotations

import argparse
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.installation import PREFIX, installation
from benchmarks.report import percentile, report
from mainspring import app
from mainspring.core.actors import Actor
from mainspring.core.records import Dimension, RunState, SweepSpec, Trial
from mainspring.core.resources import Resources
from mainspring.core.specs import Link, RunSpec
from mainspring.services import runs, sweeps
from mainspring.settings import load_settings

ROUNDS, WAITING, WRITERS = 5, 1000, 16
PAGES = (
    "/",
    "/runs",
    "/sweeps",
    "/pipelines",
    "/queue",
    "/shares",
    "/clusters",
    "/datasets",
    "/models",
    "/endpoints",
    "/settings",
)
READY = "(window.did_handshake === true || window.socket?.connected === true) && document.querySelector('.ms-main')"


def main() -> None:
    """Fill a store, start the server over it, and open each page several times."""
    parser = argparse.ArgumentParser(prog="scripts/bench pages")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=500)
    given = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise SystemExit("there is no Chromium; scripts/engines/install brings one")
    with installation(gpus=1, prepare=partial(fill, runs_wanted=given.runs, trials=given.trials)) as server:
        newest = server.get("/runs", limit=1, state="queued")["items"][0]["id"]
        sweep = server.get("/sweeps")["items"][0]["id"]
        conditions: dict[str, object] = {
            "runs": given.runs,
            "trials": given.trials,
            "rounds": ROUNDS,
            "browser": "Chromium, headless",
        }
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=browser_path, args=["--headless", "--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.set_default_timeout(120_000)  # a machine that is busy with something else
            page.goto(server.http.post(f"{PREFIX}/login-link").json()["url"])
            for path in (*PAGES, f"/runs/{newest}", f"/sweeps/{sweep}"):
                times = [usable_after(page, server.url + path) for _ in range(ROUNDS + 1)][1:]
                report(
                    "pages",
                    path.replace(newest, "RUN").replace(sweep, "SWEEP"),
                    percentile(times, 0.5),
                    "ms",
                    conditions=conditions,
                )
            browser.close()


def usable_after(page: Page, address: str) -> float:
    """Return the milliseconds from asking for a page until it is drawn and answers to clicks."""
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(READY)
    return 1000 * (time.perf_counter() - began)


def fill(home: Path, *, runs_wanted: int, trials: int) -> None:
    """Write runs that have ended, runs that wait, and a sweep whose trials are all told, as a server of before would have."""
    ctx = app.build_context(load_settings(home=home))
    actor = Actor(name=app.prepare(ctx), is_admin=True)
    gpu = Resources(cpu_milli=100, gpu_milli=1000)

    def one_run(number: int) -> None:
        run, _ = runs.submit(ctx, actor, RunSpec(command=("sleep", "3600"), name=f"run-{number:05}", resources=gpu))
        if number < runs_wanted - WAITING:
            runs.cancel(ctx, actor, run.id)

    with ThreadPoolExecutor(WRITERS) as writers:  # those that write at the same time share the disk's answer
        list(writers.map(one_run, range(runs_wanted)))
    space = tuple(Dimension(name=f"x{n}", kind="float", low=0.0, high=1.0) for n in range(4))
    template = RunSpec(command=("true",), name="search")
    sweep = sweeps.start(ctx, actor, SweepSpec(template=template, space=space, metric="auc", trials=trials, name="search"))
    for number in range(1, trials + 1):
        params: dict[str, object] = {one.name: (number * 7919 * (place + 1) % 1000) / 1000 for place, one in enumerate(space)}
        spec = sweeps.trial_spec(sweep, number, params)
        run = runs.make_run(ctx, actor.name, spec, Link(kind="sweep", id=sweep.id, key=str(number)))
        ctx.store.sweeps.add_trial(Trial(sweep=sweep.id, number=number, params=params, run=run.id), run)
        runs.cancel(ctx, actor, run.id)
        ctx.store.sweeps.tell(sweep.id, number, RunState.SUCCEEDED, 0.5 + number % 97 / 200)
    ctx.store.close()


if __name__ == "__main__":
    main()
