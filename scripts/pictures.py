"""Take pictures of every page: ten people on eight declared GPUs, on a real server of its own that is ended afterwards.

.venv/bin/python scripts/pictures.py            the pictures of the documents, into docs/images
.venv/bin/python scripts/pictures.py FOLDER     each page, light and dark, on a telephone, a laptop and a wide screen, into FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from mainspring.client import connection
from mainspring.client.client import Client
from mainspring.core.errors import NotFoundError
from mainspring.core.records import Dimension, SweepSpec
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
WIDTHS = (400, 1280, 2560)
DOCUMENTS = ("overview", "queue", "run")
ARGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
LIMIT_S = 180.0
TRAIN = """
import math, random, sys, time
import mainspring as ms
ms.log_params({"lr": 0.0003, "batch_size": 256, "optimizer": "adam"})
draw = random.Random(4)
for step in range(400):
    loss = 0.35 + 1.25 * math.exp(-step / 40) + draw.gauss(0, 0.01)
    accuracy = 0.92 - 0.5 * math.exp(-step / 45) + draw.gauss(0, 0.008)
    for name, value in (("loss", loss), ("val_accuracy", accuracy), ("lr", 0.0003 * (1 - step / 400))):
        ms.log_metric(name, value, step=step)
    print(f"epoch {step}/400  loss {loss:.4f}  val_accuracy \\x1b[32m{accuracy:.4f}\\x1b[0m", flush=True)
    time.sleep(0.02 if step < 170 else 2)
"""
TRIAL = """
import sys, time
import mainspring as ms
rate, depth = float(sys.argv[2]), int(sys.argv[4])
time.sleep(1)
ms.log_metric("score", 1 / (1 + (rate - 0.1) ** 2) + depth / 100)
"""
MODEL = """
import numpy as np
import mainspring as ms
from sklearn.linear_model import LinearRegression
rows = np.array([[0.0], [1.0], [2.0]], np.float32)
signature = {"inputs": [{"name": "distance", "dtype": "float32"}], "outputs": [{"name": "delay", "dtype": "float32"}]}
ms.Model(LinearRegression().fit(rows, rows[:, 0] * 2), signature=signature).register("delays")
"""
# owner, name, GPUs, what it does: more than eight GPUs are asked for
QUEUE = (
    ("carol", "embed", 1.0, "sleep 600"),
    ("dave", "probe", 0.5, "sleep 600"),
    ("erin", "segment", 2.0, "sleep 600"),
    ("frank", "resnet50", 1.0, "sleep 600"),
    ("grace", "tokenise", 1.0, "echo 'no such column: delay' >&2; exit 1"),
    ("heidi", "distil", 4.0, "sleep 600"),
    ("ivan", "ablate", 0.5, "sleep 600"),
    ("judy", "bert-large", 2.0, "sleep 600"),
    ("erin", "segment-2", 2.0, "sleep 600"),
    ("carol", "embed-large", 2.0, "sleep 600"),
)


def main(words: list[str]) -> None:
    """Play the scene, take the pictures, and end everything."""
    into = Path(words[0]).absolute() if words else ROOT / "docs" / "images"
    into.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="mainspring-pictures-"))
    os.environ["MAINSPRING_HOME"] = str(home)
    connection.start(home, "--gpus", "8", "--cpus", "64")
    admin = connection.connect(home, may_start=False)
    try:
        found = play(admin, home)
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGS))
            if words:
                for theme in ("light", "dark"):
                    for width in WIDTHS:
                        take(browser, admin, found, into, theme=theme, width=width)
            else:
                take(browser, admin, {name: found[name] for name in DOCUMENTS}, into)
            browser.close()
    finally:
        end(admin, home)


def end(admin: Client, home: Path) -> None:
    """End the endpoint, which would be served anew, then every run, then the server."""
    for one in admin.endpoints.all():
        admin.endpoints.stop(one.name)
    for run in admin.runs.page(states=("queued", "running"), limit=200).items:
        admin.runs.cancel(run.id, grace_s=0)
    until(lambda: not admin.runs.page(states=("queued", "running")).items, "the end of all runs")
    admin.clusters.shut_down()
    until(lambda: connection.find(home) is None, "the end of the server")
    shutil.rmtree(home, ignore_errors=True)


def play(admin: Client, home: Path) -> dict[str, str]:
    """Let ten people work; return the address of each page."""
    people = {}
    for name in PEOPLE:
        admin.people.add_user(name)
        admin.people.grant("default", name, "editor")
        people[name] = Client.open(admin.url, admin.people.issue_token("pictures", user=name)[0])
    (home / "flights").mkdir()
    (home / "flights" / "january.csv").write_text("day,distance,delay\n1,1400,12\n")
    typed("data", "add", "flights", str(home / "flights"))
    program(sys.executable, "-c", MODEL)
    typed("deploy", "delays", "--name", "delays")
    for number in range(40):
        admin.endpoints.predict("delays", [{"distance": float(number)}])
    program(sys.executable, str(ROOT / "examples" / "pipeline" / "weather.py"))
    space = (Dimension(name="rate", kind="log", low=0.01, high=1.0), Dimension(name="depth", kind="choice", choices=(2, 4, 8)))
    template = RunSpec(command=(sys.executable, "-c", TRIAL), name="trial", resources=Resources(cpu_milli=500))
    sweep = people["alice"].sweeps.start(SweepSpec(template=template, space=space, metric="score", trials=24, name="rates"))
    until(lambda: admin.sweeps.get(sweep.id).state == "done", "the sweep")
    (home / "bert").mkdir()
    (home / "bert" / "train.py").write_text(TRAIN)
    as_bob = {"MAINSPRING_URL": admin.url, "MAINSPRING_TOKEN": people["bob"].transport.token}
    words = ("run", "--detach", "--gpus", "2", "--name", "bert-base", "train.py")
    bert = typed(*words, cwd=home / "bert", **as_bob).split()[-1]
    runs = {name: submit(people[owner], name, gpus, ["sh", "-c", does]) for owner, name, gpus, does in QUEUE}
    until(lambda: admin.runs.get(runs["tokenise"]).state == "failed", "the failed run")
    until(lambda: admin.runs.points(bert, "loss")[150:], "the curve")
    pipeline = admin.pipelines.all()[0].id
    best = next(one.run for one in admin.sweeps.trials(sweep.id))
    return {
        "overview": "/",
        "runs": "/runs",
        "run": f"/runs/{bert}",
        "run-waiting": f"/runs/{runs['embed-large']}",
        "run-failed": f"/runs/{runs['tokenise']}",
        "run-trial": f"/runs/{best}",
        "sweeps": "/sweeps",
        "sweep": f"/sweeps/{sweep.id}",
        "compare": f"/compare?runs={bert},{best}",
        "pipelines": "/pipelines",
        "pipeline": f"/pipelines/{pipeline}",
        "queue": "/queue",
        "shares": "/shares",
        "clusters": "/clusters",
        "datasets": "/datasets",
        "dataset": "/datasets/flights",
        "models": "/models",
        "model": "/models/delays",
        "endpoints": "/endpoints",
        "endpoint": "/endpoints/delays",
        "settings": "/settings",
    }


def take(browser: Browser, admin: Client, pages: dict[str, str], into: Path, *, theme: str = "light", width: int = 1280) -> None:
    """Take a picture of each page as it looks at rest: what is on the screen for the documents, elsewhere the whole page."""
    is_whole = into.name != "images"
    context = browser.new_context(color_scheme="dark" if theme == "dark" else "light", viewport={"width": width, "height": 860})
    page = context.new_page()
    page.goto(admin.people.login_link())
    for name, path in pages.items():
        page.goto(admin.url + path)
        page.wait_for_function("window.did_handshake === true || window.socket?.connected === true")
        page.wait_for_timeout(2000)  # charts grow, and the newest lines of a log come once a second
        file = into / (f"{name}-{theme}-{width}.png" if is_whole else f"{name}.png")
        page.screenshot(path=file, full_page=is_whole)
        wide = page.evaluate("document.documentElement.scrollWidth")
        sys.stdout.write(
            json.dumps({"picture": str(file), "bytes": file.stat().st_size, "too_wide_px": max(0, wide - width)}) + "\n"
        )
    context.close()


def submit(client: Client, name: str, gpus: float, command: list[str]) -> str:
    """Submit a run; return its id."""
    asked = Resources(cpu_milli=1000, gpu_milli=int(gpus * 1000))
    return str(client.runs.submit(RunSpec(name=name, command=tuple(command), resources=asked, grace_s=1)).id)


def typed(*words: str, cwd: Path = ROOT, **env: str) -> str:
    """Type a command; return what it printed."""
    return program(sys.executable, "-m", "mainspring.cli.main", *words, cwd=cwd, **env)


def program(*words: str, cwd: Path = ROOT, **env: str) -> str:
    """Run a program to its end; return what it printed. Raises with what it said when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **env})
    if done.returncode:
        raise RuntimeError(f"{words[:4]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def until(check: Callable[[], object], what: str) -> None:
    """Wait for what comes by itself."""
    deadline = time.monotonic() + LIMIT_S
    while not _is_there(check):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {LIMIT_S:g} s")
        time.sleep(0.2)


def _is_there(check: Callable[[], object]) -> bool:
    try:
        return bool(check())
    except NotFoundError:  # a metric that has no point yet
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
