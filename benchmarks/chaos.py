"""The chaos test of `tests/chaos` for as long as one likes: each round kills something else, then every promise is checked.

A round's dice depend on the seed and its number alone, so that `--first N --rounds 1` repeats a round that failed. What is done
is kept in a state file: the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.report import percentile, report

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "chaos"
KINDS = ("server point", "runner point", "server deaths", "runner deaths", "both")
DONE_S, REACH_S = 120.0, 10.0


def main() -> None:
    """Play rounds and report; exits with 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/bench chaos")
    parser.add_argument("--rounds", type=int, default=20, help="so many rounds in all, those of earlier calls included")
    parser.add_argument("--runs", type=int, default=8, help="runs in flight in each round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--at-once", type=int, default=1, help="rounds beside each other, each with an installation of its own")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no round after this time")
    kept = Path(tempfile.gettempdir()) / "mainspring-chaos.json"
    parser.add_argument("--state", type=Path, default=kept, help=f"where it is kept what is done; default {kept}")
    asked = parser.parse_args()
    conftest, cases = load("conftest"), load("test_chaos")
    state = read_state(asked.state, asked.seed, asked.runs)
    until = time.monotonic() + asked.seconds if asked.seconds else math.inf
    turn = threading.Lock()

    def one(number: int) -> None:
        if time.monotonic() > until:
            return
        told = play(conftest, cases, random.Random(asked.seed * 1_000_003 + number), asked.runs)
        with turn:
            state["rounds"][str(number)] = told
            write_state(asked.state, state)
            print(f"round {number}: {json.dumps(told)}", file=sys.stderr, flush=True)

    left = [number for number in range(asked.first, asked.first + asked.rounds) if str(number) not in state["rounds"]]
    with ThreadPoolExecutor(asked.at_once) as pool:
        rounds = [pool.submit(one, number) for number in left]
        try:
            for each in rounds:
                each.result()
        except BaseException:  # and Ctrl-C: what is played comes to its end, nothing more is begun
            pool.shutdown(cancel_futures=True)
            raise
    tell(state, asked.runs)
    if any(one["broken"] for one in state["rounds"].values()):
        sys.exit(1)


def play(conftest: ModuleType, cases: ModuleType, dice: random.Random, runs: int) -> dict[str, Any]:
    """Play one round; return what was killed, how long it took, and the promise that was broken, if one was."""
    kind = dice.choice(KINDS)
    point = f"{dice.choice(cases.POINTS)}:{dice.randint(1, runs)}" if kind in ("server point", "both") else ""
    runner_point = dice.choice(cases.RUNNER_POINTS) if kind == "runner point" else ""
    home = Path(tempfile.mkdtemp(prefix="mainspring-chaos-")) / "home"
    home.mkdir(mode=0o700)
    site = conftest.Installation(home=home, begin=conftest.warm.cold)
    told: dict[str, Any] = {"kind": kind, "point": point or runner_point, "kills": 0, "seconds": 0.0, "broken": "", "home": ""}
    began = time.monotonic()
    try:
        told["kills"] = harm(site, cases, dice, kind, point, runner_point, runs)
        cases.submit_all(site, runs)
        cases.wait_all(site, runs, timeout_s=DONE_S)
        site.check(runs, were_runners_killed=kind in ("runner point", "runner deaths", "both"))
    except BaseException as broken:  # the loop's top: also pytest's own, which are no Exception; the next round goes on
        told["broken"] = f"{type(broken).__name__}: {str(broken)[:2000]}"
        told["home"] = str(home)
        told["server"] = None if site.process is None else site.process.poll()  # how it had ended by then; None: it lives
    finally:
        site.kill()
        for pid in site.runners():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    told["seconds"] = round(time.monotonic() - began, 2)
    if not told["broken"]:
        shutil.rmtree(home.parent, ignore_errors=True)
    return told


def harm(site: Any, cases: ModuleType, dice: random.Random, kind: str, point: str, runner_point: str, runs: int) -> int:
    """Start the server, submit, and kill as this kind of round does; return how often. A healthy server runs afterwards."""
    deaths = site.home / "deaths"
    site.start(fault=point, runner_fault=f"{runner_point}@{deaths}" if runner_point else "")
    cases.submit_all(site, runs, pause_s=dice.choice([0.0, 0.01, 0.05]))
    kills = 0
    if kind in ("runner deaths", "both"):
        time.sleep(dice.uniform(0.0, 1.5))  # the moment of death is what is being varied
        found = site.runner_pids()
        for pid in dice.sample(found, min(len(found), dice.randint(1, runs))):
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                continue
    if point:
        until = time.monotonic() + REACH_S  # a point may be asked for more often than it is reached: then nothing is killed
        while time.monotonic() < until and not site.is_dead() and not is_at_rest(site, runs):
            time.sleep(0.02)
        kills += site.is_dead()
    if runner_point:
        until = time.monotonic() + REACH_S
        while time.monotonic() < until and (not deaths.exists() or len(deaths.read_text().splitlines()) < runs):
            time.sleep(0.02)
        kills += len(deaths.read_text().splitlines()) if deaths.exists() else 0
    for _ in range(dice.randint(1, 4) if kind == "server deaths" else 0):
        time.sleep(dice.uniform(0.0, 1.2))
        site.kill()
        kills += 1
        site.start()
        cases.submit_all(site, runs)
    if point or runner_point:
        site.kill()
        site.start()
    return kills


def is_at_rest(site: Any, runs: int) -> bool:
    """Say whether all runs are done."""
    try:
        found = site.runs()
    except Exception:  # the server dies while it is asked, in whichever way a connection can break: not at rest
        return False
    return len(found) >= runs and all(run["state"] in ("succeeded", "failed", "cancelled") for run in found)


def tell(state: dict[str, Any], runs: int) -> None:
    """Report what all rounds of the state file came to."""
    rounds = list(state["rounds"].values())
    broken = [one for one in rounds if one["broken"]]
    conditions: dict[str, object] = {"seed": state["seed"], "runs_a_round": runs, "kinds": len(KINDS)}
    report("chaos", "rounds", len(rounds), "rounds", conditions=conditions)
    report("chaos", "kills", sum(one["kills"] for one in rounds), "processes", conditions=conditions)
    report("chaos", "rounds with a broken promise", len(broken), "rounds", conditions=conditions)
    if rounds:
        report("chaos", "a round, p50", percentile([one["seconds"] for one in rounds], 0.5), "s", conditions=conditions)
        report("chaos", "a round, longest", max(one["seconds"] for one in rounds), "s", conditions=conditions)
    for one in broken:
        print(f"broken: {one['kind']} {one['point']}: {one['broken']} (kept: {one['home']})", file=sys.stderr)


def read_state(path: Path, seed: int, runs: int) -> dict[str, Any]:
    """Return what earlier calls did with the same dice, else a fresh state."""
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        state = {}
    return state if (state.get("seed"), state.get("runs")) == (seed, runs) else {"seed": seed, "runs": runs, "rounds": {}}


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep the state, whole at every moment."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(state))
    fresh.replace(path)


def load(name: str) -> ModuleType:
    """Load a module of the chaos tests: the promises are written down once."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(f"chaos_{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
