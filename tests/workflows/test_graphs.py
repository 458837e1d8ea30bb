"""Pipelines step by step: what is due, what is skipped, how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mainspring.core.errors import SpecError
from mainspring.core.graphs import Graph, PipelineState, Step, StepKind, StepRun, StepState
from mainspring.core.objectives import Objective
from mainspring.core.specs import RunSpec
from mainspring.workflows.graphs import check_graph, next_steps, settle, skip_after_failure


def task(key: str, *needs: str, after: tuple[str, ...] = ()) -> Step:
    refs = {f"arg{place}": need for place, need in enumerate(needs)}
    return Step(key=key, kind=StepKind.TASK, template=RunSpec(command=("true",)), refs=refs, after=after)


DIAMOND = Graph(steps=(task("load"), task("left", "load"), task("right", after=("load",)), task("join", "left", "right")))


def standing(**states: StepState) -> list[StepRun]:
    return [StepRun(key=key, state=state) for key, state in states.items()]


def due(graph: Graph, steps: Sequence[StepRun]) -> list[str]:
    return [step.key for step in next_steps(graph, steps)]


def test_steps_are_due_when_all_they_need_succeeded() -> None:
    ok, running, waiting = StepState.SUCCEEDED, StepState.RUNNING, StepState.WAITING
    assert due(DIAMOND, []) == ["load"]
    assert due(DIAMOND, standing(load=running)) == []
    assert due(DIAMOND, standing(load=ok)) == ["left", "right"]
    assert due(DIAMOND, standing(load=ok, left=ok, right=running, join=waiting)) == []
    assert due(DIAMOND, standing(load=ok, left=ok, right=ok, join=waiting)) == ["join"]


def test_a_failure_skips_those_that_need_it_and_no_others() -> None:
    graph = Graph(steps=(*DIAMOND.steps, task("end", "join"), task("aside", "right")))
    before = standing(load=StepState.SUCCEEDED, left=StepState.FAILED, right=StepState.RUNNING)
    after = skip_after_failure(graph, before)
    assert {one.key: one.state.value for one in after} == {
        "load": "succeeded",
        "left": "failed",
        "right": "running",
        "join": "skipped",
        "end": "skipped",
        "aside": "waiting",
    }
    assert {one.key: one.message for one in after}["join"] == "Skipped: left failed."
    assert settle(graph, after) is PipelineState.ACTIVE
    over = [replace(one, state=StepState.SUCCEEDED) if one.key in ("right", "aside") else one for one in after]
    assert settle(graph, over) is PipelineState.FAILED


def test_success_needs_every_step() -> None:
    assert settle(DIAMOND, []) is PipelineState.ACTIVE
    assert settle(DIAMOND, standing(load=StepState.SUCCEEDED)) is PipelineState.ACTIVE
    every = [StepRun(key=step.key, state=StepState.SUCCEEDED) for step in DIAMOND.steps]
    assert settle(DIAMOND, every) is PipelineState.SUCCEEDED


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (task("a"), task("a")),
        (task("a", "b"), task("b")),
        (task("a", after=("a",)),),
        (task("a", "nobody"),),
        (task(""),),
        (task("a\x00"),),
        (Step(key="a", kind=StepKind.TASK),),
        (task("a"), Step(key="g", kind=StepKind.GATE, refs={"figures": "a"})),
        (task("a"), Step(key="g", kind=StepKind.GATE, objective=Objective(name="o", kpi="k"))),
        (task("a"), Step(key="d", kind=StepKind.DEPLOY, refs={"model": "a"})),
        (task("a"), Step(key="d", kind=StepKind.DEPLOY, endpoint="e")),
    ],
)
def test_graphs_that_cannot_be_carried_out_are_refused(steps: tuple[Step, ...]) -> None:
    with pytest.raises(SpecError):
        check_graph(Graph(steps=steps))


def test_gates_and_deployments_are_steps_like_others() -> None:
    gate = Step(key="gate", kind=StepKind.GATE, refs={"figures": "eval"}, objective=Objective(name="o", kpi="k", at_least=1))
    deploy = Step(key="deploy", kind=StepKind.DEPLOY, refs={"model": "train"}, after=("gate",), endpoint="e")
    graph = check_graph(Graph(steps=(task("train"), task("eval", "train"), gate, deploy)))
    assert due(graph, standing(train=StepState.SUCCEEDED, eval=StepState.SUCCEEDED)) == ["gate"]
    refused = skip_after_failure(graph, standing(train=StepState.SUCCEEDED, eval=StepState.SUCCEEDED, gate=StepState.FAILED))
    assert refused[-1].state is StepState.SKIPPED
    assert settle(graph, refused) is PipelineState.FAILED


@st.composite
def graphs(draw: DrawFn) -> Graph:
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 8))):
        earlier = [step.key for step in steps]
        needed = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        steps.append(task(f"s{number}", *needed[::2], after=tuple(needed[1::2])))
    return Graph(steps=tuple(steps))


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(graph=graphs(), data=st.data())
def test_every_pipeline_ends_and_no_step_runs_too_early(graph: Graph, data: Any) -> None:
    check_graph(graph)
    steps = {step.key: StepRun(key=step.key) for step in graph.steps}
    for _ in range(len(graph.steps) + 1):
        begun = next_steps(graph, list(steps.values()))
        for step in begun:
            needed = {*step.refs.values(), *step.after}
            assert all(steps[key].state is StepState.SUCCEEDED for key in needed)
            outcome = data.draw(st.sampled_from([StepState.SUCCEEDED, StepState.SUCCEEDED, StepState.FAILED]))
            steps[step.key] = StepRun(key=step.key, state=outcome)
        steps = {one.key: one for one in skip_after_failure(graph, list(steps.values()))}
        if settle(graph, list(steps.values())) is not PipelineState.ACTIVE:
            break
    is_clean = all(one.state is StepState.SUCCEEDED for one in steps.values())
    assert settle(graph, list(steps.values())) is (PipelineState.SUCCEEDED if is_clean else PipelineState.FAILED)
