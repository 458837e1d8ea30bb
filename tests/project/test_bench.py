"""The bench command: it lists, measures in processes of their own, and prints one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = ("--", "--nodes", "20", "--runs", "40", "--distinct", "5")
FIELDS = {"bench", "metric", "value", "unit", "peer", "peer_value", "ratio", "conditions"}


def test_without_a_name_it_lists_every_bench(project_command: Callable[..., Any]) -> None:
    listed = project_command("scripts/bench")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"import", "server", "submit", "throughput", "tracking", "lists", "follow", "serving", "plan", "chaos"} <= set(names)


def test_json_is_one_object_a_line(project_command: Callable[..., Any]) -> None:
    told = project_command("scripts/bench", "plan", "--json", *SMALL)
    assert told.returncode == 0, told.stderr
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert rows
    assert all(set(row) >= FIELDS and row["value"] > 0 for row in rows)


def test_a_table_for_people_has_the_same_figures(project_command: Callable[..., Any]) -> None:
    told = project_command("scripts/bench", "plan", *SMALL, env={"COLUMNS": "160"})
    assert told.returncode == 0, told.stderr
    assert "whole plan" in told.stdout


def test_an_unknown_bench_is_refused_by_name(project_command: Callable[..., Any]) -> None:
    refused = project_command("scripts/bench", "speed")
    assert refused.returncode == 2
    assert "'speed'" in refused.stderr


def test_a_bench_that_fails_says_so(project_command: Callable[..., Any]) -> None:
    failed = project_command("scripts/bench", "plan", "--json", "--", "--nodes", "many")
    assert failed.returncode == 1
    assert "plan ended with" in failed.stderr


def test_kueues_workloads_play_to_their_end(project_command: Callable[..., Any]) -> None:
    told = project_command("scripts/bench", "kueue", "--json", "--", "--part", "0.001")
    assert told.returncode == 0, told.stderr
    rows = {row["metric"]: row for row in map(json.loads, told.stdout.splitlines())}
    assert rows["wall"]["conditions"]["workloads"] == 90  # 30 queues, three classes
    assert 0 < rows["use of the quota"]["value"] <= 100
    assert rows["wall"]["value"] > 1  # a large one alone runs for a second
    assert {"time to admission, large", "time to admission, medium", "time to admission, small"} <= set(rows)


def test_a_bench_that_is_told_to_end_leaves_nothing_behind(project: Path, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAINSPRING_", "PYTEST_"))}
    words = ["scripts/bench", "engines", "--engines", "local", "--starts", "5000", "--runs", "0", "--pods", "0"]
    bench = subprocess.Popen(words, cwd=project, env={**env, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 90
        while not any(tmp_path.glob("mainspring-bench-*/server.json")):
            assert bench.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        assert len(_of(tmp_path)) > 1
        bench.terminate()
        assert bench.wait(90) == 1
    finally:
        bench.kill()
        _, told = bench.communicate()
    assert "engines ended with 143" in told
    assert _of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def _of(folder: Path) -> list[str]:
    """Return the processes that were started with their files in that folder."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                if os.fsencode(folder) in words:
                    found.append(words.decode(errors="replace")[:200])
    return found
