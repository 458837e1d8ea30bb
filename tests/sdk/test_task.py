"""Tasks and pipelines before anything reaches a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import mainspring as ms
from mainspring.core.errors import SpecError, UnsupportedError, UsageError
from mainspring.core.specs import RunSpec
from mainspring.sdk.calls import module_of
from mainspring.sdk.recording import Recorder, StepResult, active
from mainspring.sdk.templates import bind


@ms.task(cpus=2, memory="4GiB", gpus=1, gpu_memory="8GiB", retries=2, timeout="2h", tags=["a"])
def train(data, learning_rate=0.1, *, epochs=3):
    """Train."""
    return (data, learning_rate, epochs)


def test_a_direct_call_is_a_plain_call():
    assert train("d", epochs=1) == ("d", 0.1, 1)
    assert (train.__name__, train.__doc__) == ("train", "Train.")


def test_options_are_checked_where_they_are_written():
    with pytest.raises(UsageError, match="no option 'gpu'"):
        ms.task(gpu=1)(lambda: 1)
    with pytest.raises(UsageError, match="memory"):
        ms.task(memory="4")(lambda: 1)
    with pytest.raises(SpecError, match="GPUs"):
        ms.task(gpus=1.5)(lambda: 1)
    with pytest.raises(UsageError, match="no option"):
        train.with_options(colour="red")


def test_with_options_changes_a_copy():
    large = train.with_options(gpus=4, name="large")
    assert (large.options.gpus, large.options.name, large.options.memory) == (4, "large", "4GiB")
    assert train.options.gpus == 1


def test_wrong_arguments_are_refused_before_anything_is_sent():
    with pytest.raises(UsageError, match="rate"):
        train.submit("d", rate=1)
    with pytest.raises(UsageError, match="list"):
        bind(lambda *rows: rows, (1, 2), {})
    assert bind(lambda a, **more: a, (1,), {"b": 2}) == {"a": 1, "b": 2}


def test_functions_are_found_by_module_or_travel_by_value(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    (tmp_path / "pack/jobs_of_test.py").write_text(
        "def f(): pass\ng = lambda: 1\ndef outer():\n    def inner(): pass\n    return inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from pack import jobs_of_test as jobs  # type: ignore[import-not-found]

    assert module_of(jobs.f) == ("pack.jobs_of_test", tmp_path.resolve())
    assert module_of(jobs.g) is None
    assert module_of(jobs.outer()) is None
    for name in ("pack", "pack.jobs_of_test"):
        sys.modules.pop(name)


def test_what_is_not_part_of_this_version_says_so():
    for call in (
        lambda: ms.cron("0 3 * * 1"),
        lambda: ms.on_push("main"),
        lambda: ms.pipeline(triggers=[1]),
        lambda: ms.deploy("m@1", name="m", canary=[5, 100]),
        lambda: ms.deploy("m@1", name="m", replicas=(1, 4)),
    ):
        with pytest.raises(UnsupportedError, match="not part of this version"):
            call()


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    token = active.set(recorder)
    try:
        yield
    finally:
        active.reset(token)


def test_a_recorder_chains_steps_and_refuses_branches():
    recorder = Recorder("default", ms.Objective("goal", kpi="value", at_least=0))
    data = recorder.add_task(RunSpec(name="prepare"), {})
    model = recorder.add_task(RunSpec(name="train"), {"data": data})
    figures = recorder.add_task(RunSpec(name="evaluate"), {"model": model, "data": data})
    recorder.add_gate(figures, None, model)
    recorder.add_deploy(model, "live", 1, "")
    steps = recorder.graph().steps
    assert [(step.key, dict(step.refs), step.after) for step in steps] == [
        ("prepare", {}, ()),
        ("train", {"data": "prepare"}, ()),
        ("evaluate", {"model": "train", "data": "prepare"}, ()),
        ("gate", {"figures": "evaluate", "model": "train"}, ()),
        ("deploy-live", {"model": "train"}, ("gate",)),
    ]
    with recording(recorder), pytest.raises(UsageError, match="takes no pool"):
        ms.deploy(model, name="live", pool="lab")
    branching = Recorder("default")
    branching.add_task(RunSpec(name="a"), {})
    with pytest.raises(UnsupportedError, match="parallel"):
        branching.add_task(RunSpec(name="b"), {})


def test_a_recorded_result_has_no_value_yet():
    step = StepResult("train", "train")
    for look in (bool, list, lambda one: one["x"]):
        with pytest.raises(UsageError, match="does not exist yet"):
            look(step)


def test_an_objective_must_ask_for_something():
    assert ms.Objective("goal", kpi="usd", at_least=0).kpi == "usd"
    with pytest.raises(UsageError, match="asks for nothing"):
        ms.Objective("goal", kpi="usd")
    with pytest.raises(UsageError, match="cannot name"):
        ms.Objective("../x", kpi="usd", at_least=0)
