"""The bench command: it lists, measures in processes of their own, and prints one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable
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
