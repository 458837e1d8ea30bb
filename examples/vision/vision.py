"""Train all the networks through one pool, two at a time; VGG16 is stopped in the middle and goes on from its checkpoint.

Run it by `make examples`, or where a server is up: .venv-examples/bin/python examples/vision/vision.py [--json] [vgg16 ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress

import inception_v3
import inception_v4
import resnet50
import vgg16
import yolo
from rich.console import Console
from rich.table import Table

import mainspring as ms

PROGRAMS = {  # the longest first
    "inception_v4": ("Inception V4", inception_v4.train),
    "yolo": ("YOLOv8n", yolo.train),
    "inception_v3": ("Inception V3", inception_v3.train),
    "resnet50": ("ResNet50", resnet50.train),
    "vgg16": ("VGG16", vgg16.train),
}
STOPPED = "vgg16"
console = Console(stderr=True, highlight=False)


def main() -> None:
    """Submit, wait, and print what came of it; end with an error if a network learned nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of a table")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(PROGRAMS)}; default all")
    given = parser.parse_args()
    chosen = given.networks or list(PROGRAMS)
    if unknown := sorted(set(chosen) - set(PROGRAMS)):
        parser.error(f"there is no network {unknown[0]}; choose from {', '.join(PROGRAMS)}")
    runs = {key: train.with_options(name=key).submit() for key, (_, train) in PROGRAMS.items() if key in chosen}
    console.print(f"Submitted {len(runs)} runs; each asks for one GPU.")
    if STOPPED in runs:
        stop_once(runs[STOPPED])
    rows = []
    for key, run in runs.items():
        run.wait()
        rows.append(row_of(PROGRAMS[key][0], run))
        console.print(f"{rows[-1]['model']}: {run.state} after {rows[-1]['seconds']:.0f} s")
    print(json.dumps(rows, indent=2)) if given.json else show(rows)
    poor = [
        row["model"] for row in rows if row["state"] != "succeeded" or not row["losses"] or row["loss_last"] >= row["loss_first"]
    ]
    if poor:
        sys.exit(f"did not end as it must: {', '.join(poor)}; see mainspring logs")


def stop_once(run: ms.Run[None]) -> None:
    """Pause a run after its first checkpoint, and let it go on: what a preemption does, when the owner wants it."""
    while not run.is_done and not any(one.checkpoint_at for one in run.attempts()):
        time.sleep(0.2)
    with suppress(ms.StateError):  # it may have ended meanwhile
        run.pause()
        console.print(f"{run.name} has a checkpoint and is stopped; it goes on from there.")
        run.resume()


def row_of(model: str, run: ms.Run[None]) -> dict[str, object]:
    """Return what the table says of a run that is over."""
    params, tries = run.params, run.attempts()
    losses = [(step, value) for step, value, _ in run.metric("loss")]
    spans = [(one.ended_at - one.started_at).total_seconds() for one in tries if one.started_at and one.ended_at]
    place = tries[-1].replicas[0]
    return {
        "model": model,
        "state": run.state,
        "parameters": params.get("parameters"),
        "steps": params.get("steps"),
        "loss_first": losses[0][1] if losses else None,
        "loss_last": losses[-1][1] if losses else None,
        "losses": losses,
        "seconds": round(sum(spans), 1),
        "tries": len(tries),
        "node": place.node,
        "gpu": ", ".join(str(one.index) for one in place.granted.devices),
        "run": run.id,
    }


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    table = Table("model", "parameters", "steps", "loss, first and last epoch", "seconds", "tries", "node", "GPU")
    for row in rows:
        loss = " -> ".join(f"{row[key]:.3f}" for key in ("loss_first", "loss_last") if row["losses"])
        size = f"{row['parameters']:,}" if row["parameters"] else ""
        cells = (row["steps"], loss, row["seconds"], row["tries"], row["node"], row["gpu"])
        table.add_row(str(row["model"]), size, *(str(cell) for cell in cells))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
