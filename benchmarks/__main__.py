"""Run benches by name: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

BENCHES = {
    "import": ("imports", "import mainspring, mainspring --version"),
    "size": ("size", "the wheel, and what a base install takes"),
    "server": ("server", "start until ready, memory and CPU when idle"),
    "submit": ("submit", "from submitting to user code running"),
    "throughput": ("throughput", "runs that do nothing, through the whole path"),
    "tracking": ("tracking", "log_metric in the user's process, points stored"),
    "lists": ("lists", "the list of runs, and its page, at 10,000 runs"),
    "pages": ("pages", "each web page in a real Chromium, with 10,000 runs and a sweep of 500 trials"),
    "follow": ("follow", "from a printed line to the follower"),
    "logs": ("logs", "100,000 lines of a run: its own time, lines stored, answers meanwhile"),
    "demo": ("demo", "the demo, once installed"),
    "environments": ("environments", "what a run with a lock waits for when its environment is ready"),
    "serving": ("serving", "requests to a replica and through the gateway"),
    "placement": ("placement", "how full a cluster gets: 13 published task lists, our scorers and theirs"),
    "plan": ("plan", "one plan over growing fleets and queues"),
    "gangs": ("gangs", "gangs of 9 on 5,000 nodes: that part of `plan` by itself"),
    "queueing": ("queueing", "waits on the Philly trace: published policies, our planner alone and pooled"),
    "burst": ("burst", "how much wait how much cloud buys, on the Philly trace"),
    "kueue": ("kueue", "Kueue's own performance workloads, in real time with durable commits"),
    "team": ("team", "ten people, 8 GPUs, 500 trials: fairness, makespan, the gate of the cloud"),
    "forecast": ("forecast", "did runs start when they were told? Philly replayed"),
    "engines": ("engines", "each engine beside itself used bare: delay and throughput"),
    "kubernetes": ("pods", "5,000 pods of a real API server: list, memory, a server beside 1,000"),
    "invariants": (
        "invariants",
        "random schedules with faults through store and controllers; each numbered promise in ten times the worlds",
    ),
    "chaos": ("chaos", "rounds of killing at fault points"),
}
NO_PEER = {"peer": "", "peer_value": None, "ratio": None}
# half an hour each, or a part of another
NOT_IN_ALL = frozenset(
    {"chaos", "queueing", "burst", "team", "kueue", "engines", "kubernetes", "invariants", "forecast", "gangs"}
)


def main(words: Sequence[str]) -> int:
    """Run the named benches; return 1 where one of them failed."""
    own, rest = split(words)
    as_json = "--json" in own
    names = [word for word in own if word != "--json"]
    if not names:
        for name, (module, about) in BENCHES.items():
            print(f"{name:12}{about}" + ("" if is_there(module) else " (not written yet)"))
        return 0
    if names == ["all"]:
        names = [name for name, (module, _) in BENCHES.items() if name not in NOT_IN_ALL and is_there(module)]
    unknown = [name for name in names if name not in BENCHES or not is_there(BENCHES[name][0])]
    if unknown:
        print(f"bench: there is no bench {unknown[0]!r}; known: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        rows = []
        for row in measured(BENCHES[name][0], rest):
            if "exit_code" in row:
                failed = 1
                print(f"bench: {name} ended with {row['exit_code']}", file=sys.stderr)
            elif as_json:
                print(json.dumps(row), flush=True)
            else:
                rows.append(row)
        if rows:
            Console().print(table(name, rows))
    return failed


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return (our own words, those of the bench): what follows `--`, or the first flag that is not ours."""
    for position, word in enumerate(words):
        if word == "--":
            return words[:position], words[position + 1 :]
        if word.startswith("-") and word != "--json":
            rest = [one for one in words[position:] if one != "--json"]
            return [*words[:position], *(["--json"] if "--json" in words[position:] else [])], rest
    return words, []


def is_there(module: str) -> bool:
    """Say whether the bench's module exists."""
    return find_spec(f"benchmarks.{module}") is not None


def measured(module: str, rest: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what the bench reports, as it comes; a last `{"exit_code"}` where it failed."""
    command = [sys.executable, "-m", "benchmarks.one", module, *rest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it ends what it has started, and we with it
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                yield {**row, **{name: nothing for name, nothing in NO_PEER.items() if name not in row}}
            elif line.strip():
                print(line.rstrip(), file=sys.stderr)
    if process.returncode != 0:
        yield {"exit_code": process.returncode}


def table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows as people read them."""
    conditions = rows[0].get("conditions", {})
    drawn = Table(title=name, caption=", ".join(f"{key} {value}" for key, value in conditions.items()), title_justify="left")
    for heading in ("metric", "value", "unit", "peer", "peer's value", "ours / peer's"):
        drawn.add_column(heading, justify="right" if heading in ("value", "peer's value", "ours / peer's") else "left")
    for row in rows:
        metric = row["metric"] if row.get("bench") in (name, None) else f"{row['bench']}: {row['metric']}"
        drawn.add_row(
            metric,
            shown(row["value"]),
            row.get("unit", ""),
            row.get("peer") or "",
            shown(row.get("peer_value")),
            shown(row.get("ratio")),
        )
    return drawn


def shown(value: object) -> str:
    """Return a figure with three digits that matter."""
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case _:
            return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
