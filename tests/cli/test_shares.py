"""`share`, `usage` and `reservation` as they are typed, against a real server with two GPUs."""

from __future__ import annotations

import csv
import json
import time
from datetime import UTC, datetime

import pytest

from mainspring.core.usage import month_of

pytestmark = pytest.mark.e2e


@pytest.fixture
def share_of(typed):
    """Return one share as it is configured."""

    def find(name):
        found = [one for one in json.loads(typed("share", "--json").stdout) if one["name"] == name]
        return found[0] if found else None

    return find


def cells(line: str) -> list[str]:
    """Return the cells of a row of a table: two spaces lie between them."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_tree_is_typed_and_shown(typed, share_of) -> None:
    said = typed("share", "team-a", "--guarantee", "8gpu", "--weight", "2", "--limit", "16gpu", "--parent", "research")
    assert (said.returncode, said.stdout) == (0, "research/team-a: weight 2, guarantee 8gpu, limit 16gpu.\n")
    assert "8gpu guaranteed; the fleet has 2gpu: guarantees are scaled down" in said.stderr.replace("\n", " ")
    said = typed("share", "team-a/alice", "--limit", "4gpu")
    assert said.stdout == "research/team-a/alice: weight 1, limit 4gpu.\n"
    found = share_of("research/team-a")
    assert (found["depth"], found["weight"], found["guarantee"], found["limit"]) == (2, 2.0, {"gpu": 2000}, {"gpu": 16000})
    lines = typed("share").stdout.splitlines()
    assert cells(lines[0])[:2] == ["share", "GPUs held"]
    tree = {line.split()[0]: (len(line) - len(line.lstrip()), line) for line in lines[1:]}
    assert [tree[name][0] for name in ("all", "research", "team-a", "alice")] == [0, 2, 4, 6]
    assert cells(tree["alice"][1])[-2:] == ["4gpu", "1"]
    below = [line.split()[0] for line in typed("share", "team-a").stdout.splitlines()[1:]]
    assert below == ["team-a", "alice"], "a share is shown with those below it, by the last part of its name too"


def test_a_budget_is_typed_and_taken_away(typed) -> None:
    assert typed("share", "team-b", "--budget", "500usd/month").stdout == "team-b: weight 1, budget 500 usd/month.\n"
    made = json.loads(typed("share", "team-b", "--budget", "12.50", "--json").stdout)["share"]
    assert made["budget_usd"] == "12.50"
    assert typed("share", "team-b", "--budget", "").stdout == "team-b: weight 1.\n"


def test_a_share_is_held_released_and_forgotten(typed, share_of) -> None:
    assert typed("share", "team-c", "--hold", "--limit", "0gpu").stdout == "team-c: weight 1, limit 0gpu, held.\n"
    (line,) = typed("share", "team-c").stdout.splitlines()[1:]
    assert "team-c (held)" in line
    assert "0gpu" in cells(line), "a limit of nothing is shown"
    assert typed("share", "team-c", "--release", "--limit", "").stdout == "team-c: weight 1.\n"
    assert not share_of("team-c")["is_held"]
    assert json.loads(typed("share", "team-c", "--rm", "--json").stdout) == {"removed": "team-c"}
    assert share_of("team-c") is None
    gone = typed("share", "team-c")
    assert (gone.returncode, gone.stdout) == (0, "")
    assert "Nobody holds, waits for or configured anything in 'team-c'." in gone.stderr
    assert json.loads(typed("share", "team-c", "--json").stdout) == []


def test_a_model_may_be_limited_and_one_that_nobody_has_is_noticed(typed, share_of) -> None:
    said = typed("share", "team-d", "--limit", "4gpu:A100, 64cpu, 1GiB")
    assert said.stdout == "team-d: weight 1, limit 4gpu:a100, 64cpu, 1 GiB.\n"
    assert "No node has a GPU of model a100; known models: gpu." in said.stderr
    typed("share", "team-d", "--limit", "1gpu:GPU")
    assert share_of("team-d")["limit"] == {"gpu:gpu": 1000}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("share", "--weight", "2"), 2, "Which share?"),
        (("share", "x", "--hold", "--release"), 2, "held or released, not both"),
        (("share", "x", "--weight", "-1"), 2, "A weight is above 0"),
        (("share", "x", "--guarantee", "8gnu"), 2, "'8gnu' is no amount"),
        (("share", "x", "--guarantee", "2gpu", "--limit", "1gpu"), 2, "may hold less gpu than it has guaranteed"),
        (("share", "x", "--budget", "500eur"), 2, "500usd/month"),
        (("share", "x/y", "--parent", "x/y/z"), 5, "cycle"),
        (("share", "x", "--rm"), 4, "There is no share 'x'"),
        (("usage", "--month", "2026-13"), 2, "'2026-13' is no month"),
        (("usage", "--month", "2026-01", "2026-02"), 2, "--month has 2 values"),
        (("usage", "--by", "moon"), 2, "moon"),
        (("reservation", "add", "lab", "0gpu", "--begin", "in 1h", "--end", "in 2h"), 2, "'0gpu' cannot be reserved"),
        (("reservation", "add", "lab", "1gpu", "--begin", "in 2h", "--end", "in 1h"), 2, "over before it begins"),
        (("reservation", "rm", "rsv-none"), 4, "There is no reservation 'rsv-none'"),
    ],
)
def test_mistakes_are_told(typed, words, code, said) -> None:
    told = typed(*words)
    assert (told.returncode, told.stdout) == (code, "")
    assert said in told.stderr
    assert "hint:" in told.stderr


def test_a_window_is_kept_listed_and_given_up(typed) -> None:
    window = ("--begin", "2099-03-01T09:00+00:00", "--end", "2099-03-01T18:00+00:00")
    made = typed("reservation", "add", "lab", "2gpu", *window)
    assert made.returncode == 0, made.stderr
    id, _, rest = made.stdout.partition(": ")
    assert rest.startswith("2gpu for lab from 2099-03-01 ")
    more = typed("reservation", "add", "lab", "4gpu:A100", *window, "--json")
    kept = json.loads(more.stdout)["reservation"]
    assert (kept["replicas"], kept["resources"]["gpu_milli"], kept["resources"]["gpu_models"]) == (4, 1000, ["A100"])
    assert "Nothing can be kept as the fleet is." in json.loads(more.stdout)["notices"][0]
    third = json.loads(typed("reservation", "add", "lab", "2cpu, 1GiB", *window, "--json").stdout)["reservation"]
    assert (third["resources"]["cpu_milli"], third["resources"]["memory_bytes"]) == (2000, 1 << 30)
    listed = typed("reservation", "ls").stdout
    assert "2 x 1 CPU, 1 GPU" in listed
    assert "4 x 1 CPU, 1 GPU, of model A100" in listed
    assert {one["id"] for one in json.loads(typed("reservation", "ls", "--json").stdout)} == {id, kept["id"], third["id"]}
    for one in (id, kept["id"], third["id"]):
        assert typed("reservation", "rm", one).stdout == f"{one} is given up.\n"
    assert typed("reservation", "ls").stderr == "No reservations.\n"


def test_what_was_held_is_a_bar_and_a_bill(typed, share_of) -> None:
    """A run holds one of two GPUs: half a bar now, and lines of the bill that are the same in all forms."""
    typed("share", "team-e", "--weight", "3")
    assert typed("project", "edit", "default", "--share", "team-e").returncode == 0
    try:
        assert typed("run", "--detach", "--name", "holds", "--gpus", "1", "--", "sleep", "600").returncode == 0
        until = time.monotonic() + 30
        while not share_of("team-e")["held"].get("gpu"):
            assert time.monotonic() < until
            time.sleep(0.02)
        (line,) = [line for line in typed("share").stdout.splitlines() if line.strip().startswith("team-e")]
        assert line.count("█") == 10, line
        assert cells(line)[1] == "1"
    finally:
        typed("cancel", "holds", "--grace", "0s")
    assert typed("logs", "-f", "holds").returncode == 1
    assert typed("project", "edit", "default", "--share", "").returncode == 0
    month = month_of(datetime.now(UTC))
    shown = typed("usage", "--by", "share", "--month")
    assert cells(shown.stdout.splitlines()[0]) == ["share", "GPU hours", "CPU hours", "GiB hours", "USD"]
    names = [line.split()[0] for line in shown.stdout.splitlines()[1:]]
    assert {"all", "team-e"} <= set(names)
    bill = list(csv.DictReader(typed("usage", "--csv", "--month", month).stdout.splitlines()))
    told = {row["key"]: row for row in json.loads(typed("usage", "--json").stdout)}
    assert [row["share"] for row in bill] == sorted(told)
    assert [row["share"] or "all" for row in bill] == names
    for row in bill:
        assert (float(row["gpu_hours"]), row["cost_usd"]) == (told[row["share"]]["gpu_hours"], told[row["share"]]["cost_usd"])
    by_share = {row["share"]: float(row["gpu_hours"]) for row in bill}
    assert 0 < by_share["team-e"] == by_share[""], "the whole counts what is below it"
    users = list(csv.DictReader(typed("usage", "--by", "user", "--csv").stdout.splitlines()))
    assert sum(float(row["gpu_hours"]) for row in users) == by_share[""]
    assert typed("usage", "--month", "1999-01").stderr == "Nothing was used.\n"
