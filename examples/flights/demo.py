"""The main job, from raw flights to an endpoint whose predictions have a value in dollars. Run it by `make demo`.

Every number printed here is computed in this run.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import source
from flights import FEATURES, evaluate, features, prepare, train, value_usd
from rich.console import Console
from rich.table import Table

import mainspring as ms
from mainspring.client.connection import connect

TRIALS, SCORED, CLIENTS = 16, 2000, 4
GOAL = ms.Objective("flight-delays", kpi="value_usd", at_least=15_000, owner="operations", ticket="OPS-17")
console = Console(highlight=False)


def main(work: Path) -> None:
    """Tell the story; `work` is an empty folder for the raw files."""
    began = time.perf_counter()
    client = connect()
    with step("flights@v1: January to April, versioned by content"):
        flights, weather = source.load_flights(), source.load_weather()
        folder = source.write_months(work / "flights", flights, weather, range(1, 5))
        data = ms.Dataset.from_path(folder).register("flights")
    with step("prepare: join the weather, on one CPU"):
        prepared = prepare.submit(flights=data).result()
    with step(f"sweep: {TRIALS} trials of gradient boosting over two declared GPUs"):
        study = ms.sweep(
            train,
            trials=TRIALS,
            maximize="roc_auc",
            data=prepared,
            rows=40_000,
            learning_rate=ms.loguniform(0.02, 0.3),
            leaves=ms.integers(7, 127),
            trees=ms.integers(40, 200),
            seed=7,
            wait=False,
        )
        reasons = waiting_reasons(study, prepared)
        study.wait()
    best = study.best
    with step("register the best model, converted to ONNX and verified on sample rows"):
        model = best.result().register("delays", aliases=["candidate"])
    with step("gate: the objective judges a poor candidate and the best one"):
        poor = train.submit(data=prepared, trees=2, leaves=2, learning_rate=0.3)
        judged_poor = ms.gate(evaluate.submit(model=poor.result(), data=prepared).result(), objective=GOAL, raises=False)
        figures = evaluate.submit(model=model, data=prepared).result()
        judged = ms.gate(figures, objective=GOAL, model=model)
        model.alias("champion")
    with step("deploy: delays@champion goes live"):
        endpoint = ms.deploy(model, name="delays")
    with step(f"score {SCORED:,} flights of May over HTTP"):
        scored = score(endpoint, prepared, flights, weather)
    report(
        [
            ("Trials", f"{len(study.trials)}; best AUC {best.metrics['roc_auc']:.4f} with {_shown(best.params)}"),
            ("Model", f"delays v{model.version}, {model.format}; {_verified(model)}"),
            ("Gate, poor one", judged_poor.sentence),
            ("Gate, best one", judged.sentence),
            ("Held-out days", f"AUC {figures['roc_auc']:.4f}, worth {figures['value_usd']:,.0f} USD"),
            ("May, live", f"{SCORED:,} flights: AUC {scored['roc_auc']:.4f}, worth {scored['value_usd']:,.0f} USD"),
            ("Latency", f"p50 {scored['p50_ms']:.1f} ms, p99 {scored['p99_ms']:.1f} ms with {CLIENTS} clients"),
            *((f"Why {name} waited", sentence) for name, sentence in reasons),
            ("Lineage (sha256)", "\n".join(lineage_lines(endpoint.lineage()))),
            ("Web page", client.url),
            ("Took", f"{time.perf_counter() - began:.1f} s"),
        ]
    )
    check(judged_poor.is_passed is False and judged.is_passed, "the gate")
    check(model.is_verified or model.format == "native", "the verification")


def waiting_reasons(study: ms.Study, prepared: ms.Dataset) -> list[tuple[str, str]]:
    """Ask for more than is free while trials hold both GPUs, and return what the planner says about it."""
    poll(lambda: sum(trial.state == "running" for trial in study.trials) >= 2)
    crowd = [
        train.with_options(name="both-gpus", gpus=2).submit(data=prepared, trees=5),
        train.with_options(name="after-the-sweep", priority=-5).submit(data=prepared, trees=5),
    ]
    poll(lambda: not any(_is_unplanned(run) for run in crowd))
    told = [(run.name, str(run.why()["sentence"])) for run in crowd]
    for run in crowd:
        with suppress(ms.StateError):  # on a crowded machine its turn may have come meanwhile
            run.cancel()
    return told


def poll(check: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until `check` holds, or for `timeout_s` at most."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not check():
        time.sleep(0.05)


def _is_unplanned(run: ms.Run) -> bool:
    told = run.why()
    return told["state"] == "queued" and (told["reason"] is None or told["reason"]["code"] == "not_planned_yet")


def score(endpoint: ms.Endpoint, prepared: ms.Dataset, flights, weather) -> dict[str, float]:
    """Send May flights one by one from a few clients; return value, AUC and latency."""
    from sklearn.metrics import roc_auc_score

    may = flights[(flights["month"] == 5) & flights["arr_delay"].notna()].sample(SCORED, random_state=5)
    codes = json.loads((Path(prepared.path) / "codes.json").read_text())
    rows = features(may, weather[weather["month"] == 5], codes)
    records = [dict(zip(FEATURES, (float(value) for value in row), strict=True)) for row in rows]
    answers = asyncio.run(_ask(endpoint, records))
    probability = np.array([late for late, _ in answers])
    late = (may["arr_delay"].to_numpy() > 15).astype(int)
    milliseconds = [took * 1000 for _, took in answers]
    return {
        "value_usd": value_usd(probability, late),
        "roc_auc": float(roc_auc_score(late, probability)),
        "p50_ms": statistics.median(milliseconds),
        "p99_ms": statistics.quantiles(milliseconds, n=100)[98],
    }


async def _ask(endpoint: ms.Endpoint, records: list[dict[str, float]]) -> list[tuple[float, float]]:
    answers: list[tuple[float, float]] = [(0.0, 0.0)] * len(records)
    todo = iter(range(len(records)))

    async def one_client() -> None:
        for n in todo:
            began = time.perf_counter()
            prediction = (await endpoint.predict_async([records[n]]))[0]
            answers[n] = (float(prediction["probability"]), time.perf_counter() - began)

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return answers


def lineage_lines(graph: dict[str, list]) -> list[str]:
    """Return the lineage as an indented tree, from the endpoint down to digests."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    children: dict[str, list[str]] = {}
    for parent, child in graph["edges"]:
        children.setdefault(parent, []).append(child)
    lines: list[str] = []

    def walk(node: str, depth: int) -> None:
        one = nodes[node]
        detail = one["detail"][:12] if one["kind"] in ("file", "code", "dataset", "model") else one["detail"][:60]
        lines.append(f"{'  ' * depth}{one['kind']} {one['label']}  {detail}")
        for child in children.get(node, []):
            walk(child, depth + 1)

    walk(graph["nodes"][0]["id"], 0)
    return lines


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done and how long it took."""
    began = time.perf_counter()
    console.print(f"[bold]»[/] {what}")
    yield
    console.print(f"  [dim]{time.perf_counter() - began:.1f} s[/]")


def report(rows: list[tuple[str, str]]) -> None:
    """Print the summary."""
    table = Table(title="Flight delays, from raw data to a live endpoint", show_header=False, title_justify="left", box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)


def check(holds: bool, what: str) -> None:
    """End with an error if the story did not go as it must."""
    if not holds:
        raise SystemExit(f"demo: {what} did not come out as it must; see the summary above")


def _shown(params: dict[str, object]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in params.items() if isinstance(value, int | float) and name != "rows")


def _verified(model: ms.Model) -> str:
    if not model.is_verified:
        return "kept native: " + str(model.verification.get("note", "not convertible"))
    told = model.verification
    return f"verified on {told['rows']} rows, largest difference {told['max_abs_difference']:.1e}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
