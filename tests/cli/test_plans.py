"""Plans made again from a file: no server is needed, and a damaged one is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mainspring import scheduler
from mainspring.cli.main import run_cli
from mainspring.core.codec import encode
from mainspring.core.ids import RunId
from mainspring.core.replays import PlanRecord
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Snapshot, WaitingRun

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def record(tmp_path):
    run = WaitingRun(
        id=RunId("run-1"), owner="ada", project="default", seq=1, priority=0, submitted_at=NOW, resources=Resources()
    )
    snapshot = Snapshot(now=NOW, waiting=(run,))
    file = tmp_path / "plan.json"
    file.write_bytes(encode(PlanRecord(number=7, at=NOW, plan=scheduler.plan(snapshot), snapshot=snapshot)))
    return file


def test_a_saved_plan_is_made_again(record, capsys):
    assert run_cli(["plan", "replay", str(record)]) == 0
    assert "Plan 7 is made again, byte for byte: 1 decision." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("was", "becomes", "code", "said"),
    [
        ('"seq":1', '"seq":2', 5, "not the one"),
        ("no_cluster", "cannot_fit", 5, "another one"),
        ('"number":7', '"numbre":7', 2, "damaged"),
        ('{"at"', "{at", 2, "damaged"),
    ],
)
def test_a_changed_file_is_told(record, capsys, was, becomes, code, said):
    text = record.read_text()
    assert was in text
    record.write_text(text.replace(was, becomes))
    assert run_cli(["plan", "replay", str(record)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["plan", "show", "--at", "some day"], "--at"),
        (["reservation", "add", "lab", "1gpu", "--begin", "some day", "--end", "14:00"], "--begin"),
        (["reservation", "add", "lab", "1gpu", "--begin", "14:00", "--end", "some day"], "--end"),
        (["policy", "rehearse", "/dev/null", "--last", "7y"], "--last=90s"),
    ],
)
def test_what_is_no_time_is_told_by_its_flag(words, flag, capsys):
    assert run_cli(words) == 2
    said = capsys.readouterr().err
    assert flag in said
    assert "JSON" not in said
