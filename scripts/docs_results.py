"""Write the page of recorded benchmarks from benchmarks/results.jsonl, which `scripts/bench all --json` printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parent.parent / "benchmarks" / "results.jsonl"
EVERYWHERE = ("cores", "python", "machine", "load", "commit")


def results_page() -> str:
    """Return the page: one table for each bench, with the conditions it was measured under."""
    lines = ["# Recorded results", "", "What each bench measures, and its goal, is on [the page before](benchmarks.md).", ""]
    rows = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()] if RECORD.is_file() else []
    if not rows:
        return "\n".join([*lines, "Nothing is recorded yet."]) + "\n"
    lines += [
        "`load` is the machine's load average when the figure was printed: above the number of cores, others were at work too,",
        "and times are longer than on a quiet machine.",
        "",
    ]
    benches: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        benches.setdefault(row["bench"], []).append(row)
    for bench, figures in benches.items():
        lines += [f"## {bench}", "", *_table(figures), "", *_conditions(figures), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(figures: list[Mapping[str, Any]]) -> Iterator[str]:
    has_peer = any(row.get("peer") for row in figures)
    yield "| metric | value |" + (" peer | peer's value | ours / peer's |" if has_peer else "")
    yield "|---|---:|" + ("---|---:|---:|" if has_peer else "")
    for row in figures:
        unit = f" {row['unit']}" if row["unit"] else ""
        cells = f"| {row['metric'].replace('_', ' ')} | {_shown(row['value'])}{unit} |"
        if has_peer:
            peer = row.get("peer_value")
            cells += (
                f" {row.get('peer') or ''} | {_shown(peer) + unit if peer is not None else ''} | {_shown(row.get('ratio'))} |"
            )
        yield cells


def _conditions(figures: list[Mapping[str, Any]]) -> Iterator[str]:
    told: dict[str, str] = {}
    for row in figures:
        for name, value in row["conditions"].items():
            told.setdefault(name, f"{value}" if not isinstance(value, Mapping) else json.dumps(value))
    special = [f"{name} {value}" for name, value in told.items() if name not in EVERYWHERE]
    general = [f"{name} {told[name]}" for name in EVERYWHERE if name in told]
    yield f"*{'; '.join([', '.join(special)] * bool(special) + [', '.join(general)])}.*"


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case _:
            return str(value)
