"""The pieces of pages: what users wrote is text, times are whole, nothing that is long breaks out."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mainspring.core.records import Dimension, Run, Sweep, SweepSpec, Trial
from mainspring.core.specs import Entry, RunKind, RunSpec, Value, ValueKind
from mainspring.core.standings import History, Standing
from mainspring.services.lineage import LineageNode
from mainspring.ui import graph, parts, run, run_log, run_use, shares, sweeps
from mainspring.ui.models import verified_words

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
NASTY = "<script>alert('1')</script>&\""


@pytest.mark.parametrize("made", [parts.state(NASTY), parts.link(NASTY, NASTY), parts.tags([NASTY]), parts.why(NASTY)])
def test_what_users_wrote_is_text(made: str) -> None:
    assert "<script" not in made
    assert "alert(&#x27;1&#x27;)" in made


def test_ids_and_buttons_are_quoted() -> None:
    assert '"' not in parts.short_id('a"b' * 20).split('data-copy="')[1].split('"')[0]
    assert 'data-arg="x&quot;y"' in parts.button("Go", "act", 'x"y')


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "now"), (7.9, "7 s ago"), (61, "1 m ago"), (7300, "2 h ago"), (200_000, "2 d ago"), (-5, "now")],
)
def test_relative_times_are_whole(seconds: float, words: str) -> None:
    assert f">{words}</time>" in parts.moment(NOW - timedelta(seconds=seconds), NOW)


def test_a_span_without_an_end_grows_by_itself() -> None:
    assert "ms-since" in parts.span(NOW - timedelta(seconds=90), None, NOW)
    assert "1 m 30 s" in parts.span(NOW - timedelta(seconds=90), None, NOW)
    assert parts.span(NOW - timedelta(seconds=90), NOW) == "1 m 30 s"


@pytest.mark.parametrize(
    ("soon", "late", "words"),
    [
        (0.2, 0.3, "now"),
        (0, 52, "now to 50 s"),
        (42, 100, "in 40 s to 1 m"),
        (3900, 90_000, "in 1 h 5 m to 1 d 1 h"),
        (-5, 2, "now to 2 s"),
        (700, 701, "in 11 m"),
    ],
)
def test_stretches_ahead_are_told_as_people_plan(soon: float, late: float, words: str) -> None:
    assert parts.between(soon, late) == words


def _standing(name: str, **amounts: int) -> Standing:
    told = {field: {"gpu": value} for field, value in amounts.items()}
    return Standing(name=name, depth=1 if name else 0, total={"gpu": 8000}, **told)  # type: ignore[arg-type]


def test_the_sentence_of_shares_names_who_is_owed_and_who_borrows() -> None:
    found = [_standing("", held=8000), _standing("ann", held=6000, fair=4000), _standing("bob", held=2000, fair=4000, asked=3000)]
    assert shares.sentence(found, "gpu") == "bob is owed 2 GPUs more; ann holds 2 GPUs more than is fair."
    assert (
        shares.sentence([_standing(""), _standing("ann", held=1000, fair=1000)], "gpu")
        == "Everybody who asks holds what is fair."
    )
    assert shares.sentence([_standing("")], "gpu") == "Nobody holds or asks for anything."


def test_a_bar_stays_within_its_frame_and_tells_its_figures() -> None:
    one = _standing(NASTY, held=16_000, fair=3000, guarantee=2000, limit=99_000)
    drawn = shares.bar(one, "gpu", 8000)
    assert "holds 16 GPUs, fair 3 GPUs, promised 2 GPUs, limit 99 GPUs" in drawn
    assert all(float(x) <= shares.WIDTH for x in re.findall(r'(?:width|x1)="([\d.]+)"', drawn))
    assert "<script" not in "".join(shares.row(one, "gpu", 8000))


def test_the_past_has_a_band_for_each_who_held_most_and_one_for_all_others() -> None:
    held = {f"p{n}": (1000.0 * (9 - n), 500.0) for n in range(shares.MAX_BANDS + 2)}
    drawn = shares.past_chart(History(begin=NOW, stretch_s=60.0, unit="gpu", held=held))
    names = [one["name"] for one in drawn["series"]]  # type: ignore[attr-defined]
    assert names == [*[f"p{n}" for n in range(shares.MAX_BANDS)], "others"]
    begin = round(NOW.timestamp() * 1000)
    assert drawn["series"][0]["data"] == [[begin + 60_000, 9.0], [begin + 120_000, 0.5]]  # type: ignore[index]
    assert drawn["series"][-1]["data"] == [[begin + 60_000, 3.0], [begin + 120_000, 1.0]]  # type: ignore[index]
    assert drawn["yAxis"]["name"] == "GPUs"  # type: ignore[index]


def test_the_sums_of_the_past_are_the_charts_twin(full: Any) -> None:
    full.house.clock.advance(3600)
    assert "<td>alice</td><td class=ms-num>0.50</td><td class=ms-num>100.0%</td>" in shares.sums(full.view("/shares", hours="6"))


def test_an_empty_table_says_so() -> None:
    assert parts.table(("A",), [], empty="Nothing <yet>.") == '<p class="ms-soft">Nothing &lt;yet&gt;.</p>'


def test_sparks_pass_over_what_is_not_finite() -> None:
    assert parts.spark([float("nan")]) == ""
    assert "2 values from 1 to 3" in parts.spark([1.0, float("inf"), 3.0], line=2.0)


def test_colours_of_terminals_become_spans_and_the_rest_stays_text() -> None:
    shown = run_log.coloured("\x1b[1;32mok\x1b[0m <b>bold</b> \x1b[2J\x1b]0;title\x07end\n10%\r100%\x00")
    assert shown == '<span class="an-1 an-32">ok</span> &lt;b&gt;bold&lt;/b&gt; end\n100%'


def test_a_line_of_megabytes_is_cut() -> None:
    assert len(run_log.coloured("x" * 5_000_000)) == run_log.MAX_LINE


def test_what_was_sought_is_marked() -> None:
    assert run_log.marked("a <Loss> b loss", "loss") == "a &lt;<mark>Loss</mark>&gt; b <mark>loss</mark>"


def _run(spec: RunSpec) -> Run:
    return Run(id="run-1", project="default", name="x", owner="a", spec=spec, seq=1, created_at=NOW)  # type: ignore[arg-type]


def test_a_script_offers_the_flags_that_it_was_given() -> None:
    spec = RunSpec(command=("python", "train.py", "--rate", "0.1", "--deep", "--name=x y"))
    assert run.changeable(_run(spec)) == {"rate": "0.1", "name": "x y"}


def test_a_task_offers_its_plain_arguments() -> None:
    args = {"rate": Value(kind=ValueKind.JSON, json=0.1), "data": Value(kind=ValueKind.DATASET, digest="0" * 64)}
    spec = RunSpec(kind=RunKind.TASK, entry=Entry(module="m", function="f"), args=args, params={"rate": 0.1})
    assert run.changeable(_run(spec)) == {"rate": "0.1"}


def test_use_is_told_over_seconds_since_the_first_sample() -> None:
    samples = [{"at": 100.0, "cpu": 0.5, "memory_bytes": 2**20}, {"at": 105.2, "cpu": 1.0, "memory_bytes": 2**21}, {"odd": 1}]
    assert run_use.used(samples) == {
        "CPUs": {"CPUs": [[0.0, 0.5], [5.0, 1.0]]},
        "Memory, MiB": {"Memory, MiB": [[0.0, 1.0], [5.0, 2.0]]},
    }


def test_use_has_a_line_for_each_replica_and_device() -> None:
    def sample(at: float, replica: int, busy: float) -> dict[str, object]:
        return {"at": at, "replica": replica, "gpu": [{"index": 2.0, "utilization": busy, "memory_bytes": 2**30}, {"odd": 1}, 7]}

    assert run_use.used([sample(10.0, 0, 0.5), sample(15.0, 0, 1.0), sample(10.0, 1, 0.25)]) == {
        "GPU, %": {"replica 0, GPU 2": [[0.0, 50.0], [5.0, 100.0]], "replica 1, GPU 2": [[0.0, 25.0]]},
        "GPU memory, MiB": {"replica 0, GPU 2": [[0.0, 1024.0], [5.0, 1024.0]], "replica 1, GPU 2": [[0.0, 1024.0]]},
    }


def _sweep(is_maximized: bool) -> Sweep:
    space = (Dimension(name="rate", kind="log", low=0.01, high=1), Dimension(name="kind", kind="choice", choices=("a", "b")))
    spec = SweepSpec(template=RunSpec(command=("x",)), space=space, metric="loss", is_maximized=is_maximized)
    return Sweep(id="s", project="default", name="s", owner="a", spec=spec, created_at=NOW)


def _trial(number: int, value: float | None) -> Trial:
    return Trial(sweep="s", number=number, params={"rate": 0.1, "kind": "a"}, run="run-1", value=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("is_maximized", "expected"), [(True, [2, 0, 1]), (False, [0, 2, 1])])
def test_the_best_trial_comes_first_and_those_without_a_value_last(is_maximized: bool, expected: list[int]) -> None:
    found = [_trial(0, 0.1), _trial(1, None), _trial(2, 0.5)]
    assert [one.number for one in sweeps.ordered(_sweep(is_maximized), found, "best")] == expected
    assert [one.number for one in sweeps.ordered(_sweep(is_maximized), found, "number")] == [0, 1, 2]


def test_parallel_coordinates_leave_out_what_has_no_value() -> None:
    axes, lines = sweeps.axes_of(_sweep(True), [_trial(0, 0.1), _trial(1, None), _trial(2, float("nan"))])
    assert [one.name for one in axes] == ["rate", "kind", "loss"]
    assert lines == [[0.1, "a", 0.1]]


def test_a_lineage_that_turns_in_a_circle_is_drawn(full: Any) -> None:
    nodes = [LineageNode(id=f"run:{n}", kind="run", label=f"{NASTY}{n}", detail=f"run-{n}") for n in range(3)]
    found = {"nodes": nodes, "edges": [["run:0", "run:1"], ["run:1", "run:2"], ["run:2", "run:0"]]}
    drawn = graph.picture(full.view(), found)
    assert drawn.count("<rect") == 3
    assert "<script" not in drawn


def test_many_files_are_counted_rather_than_drawn(full: Any) -> None:
    nodes = [LineageNode(id="dataset:x", kind="dataset", label="flights v1", detail="x")]
    nodes += [LineageNode(id=f"file:{n}", kind="file", label=f"{n}.csv", detail="d") for n in range(50)]
    drawn = graph.picture(full.view(), {"nodes": nodes, "edges": [["dataset:x", f"file:{n}"] for n in range(50)]})
    assert drawn.count("<rect") == 1 + graph.MAX_FILES
    assert "46 more files" in drawn


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"is_verified": False, "max_abs_difference": None, "rows": 0, "note": "no sample was given"}, "no: no sample was given"),
        ({"is_verified": True, "max_abs_difference": 0.5e-7, "rows": 200, "note": ""}, "yes, on 200 rows, 5e-08 apart at most"),
    ],
)
def test_how_a_model_was_verified_is_told_in_words(told: dict[str, object], words: str) -> None:
    assert verified_words(told) == words
