"""Pipelines: which steps are due, which can no longer run, how the whole stands. Pure functions over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mainspring.core.errors import SpecError
from mainspring.core.graphs import Graph, PipelineState, Step, StepKind, StepRun, StepState

MAX_STEPS = 10_000
MAX_KEY = 200
OVER = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED})
BROKEN = frozenset({StepState.FAILED, StepState.SKIPPED})


def needs(step: Step) -> tuple[str, ...]:
    """Return the keys of the steps that must succeed first, in order, each once."""
    return tuple(dict.fromkeys((*step.refs.values(), *step.after)))


def check_graph(graph: Graph) -> Graph:
    """Return `graph` if it can be carried out. Raises SpecError: no steps, a key twice, a ref that points forwards.

    Refs that point backwards only make a graph without circles.
    """
    if not graph.steps:
        raise _wrong("steps", "The pipeline has no steps.", "Call at least one task inside the pipeline function.")
    if len(graph.steps) > MAX_STEPS:
        raise _wrong("steps", f"The pipeline has {len(graph.steps):,} steps; the limit is {MAX_STEPS:,}.", "Use a sweep.")
    keys = {step.key for step in graph.steps}
    seen: set[str] = set()
    for position, step in enumerate(graph.steps):
        path = f"steps[{position}]"
        if not step.key or len(step.key) > MAX_KEY or not step.key.isprintable():
            raise _wrong(path, f"Step {position} has no key that can be shown.", f"Name it with 1 to {MAX_KEY} characters.")
        if step.key in seen:
            raise _wrong(path, f"Two steps have the key {step.key!r}.", "Give one of them another key.")
        for needed in needs(step):
            if needed in seen:
                continue
            if needed in keys:
                raise _wrong(path, f"Step {step.key!r} needs {needed!r}, which does not come before it.", "Steps go in order.")
            raise _wrong(path, f"Step {step.key!r} needs {needed!r}, which is no step.", "Known: " + _some(seen) + ".")
        _check_kind(step, path)
        seen.add(step.key)
    return graph


def next_steps(graph: Graph, steps: Sequence[StepRun]) -> list[Step]:
    """Return the waiting steps whose needs have all succeeded, in the order of the graph."""
    standing = _by_key(steps)
    return [
        step
        for step in graph.steps
        if standing.get(step.key, StepState.WAITING) is StepState.WAITING
        and all(standing.get(key) is StepState.SUCCEEDED for key in needs(step))
    ]


def skip_after_failure(graph: Graph, steps: Sequence[StepRun]) -> list[StepRun]:
    """Return the standing of every step, in the order of the graph; those that need a failed step are skipped.

    Branches that do not need the failed step go on.
    """
    known = {one.key: one for one in steps}
    result: dict[str, StepRun] = {}
    for step in graph.steps:
        one = known.get(step.key, StepRun(key=step.key))
        broken = [key for key in needs(step) if key in result and result[key].state in BROKEN]
        if one.state is StepState.WAITING and broken:
            one = replace(one, state=StepState.SKIPPED, message=f"Skipped: {broken[0]} {result[broken[0]].state}.")
        result[step.key] = one
    return list(result.values())


def settle(graph: Graph, steps: Sequence[StepRun]) -> PipelineState:
    """Return how the pipeline stands: ACTIVE until every step is over, FAILED if any failed or was skipped."""
    standing = _by_key(steps)
    states = [standing.get(step.key, StepState.WAITING) for step in graph.steps]
    if any(state not in OVER for state in states):
        return PipelineState.ACTIVE
    return PipelineState.FAILED if any(state in BROKEN for state in states) else PipelineState.SUCCEEDED


def _by_key(steps: Sequence[StepRun]) -> Mapping[str, StepState]:
    return {one.key: one.state for one in steps}


def _check_kind(step: Step, path: str) -> None:
    """Check that a step has what its kind needs. Raises SpecError."""
    if step.kind is StepKind.TASK and step.template is None:
        raise _wrong(path, f"Step {step.key!r} has nothing to run.", "Call a task.")
    if step.kind is StepKind.GATE and (step.objective is None or "figures" not in step.refs):
        raise _wrong(
            path, f"Gate {step.key!r} needs an objective and the figures of an evaluation.", "ms.gate(figures, objective)"
        )
    if step.kind is StepKind.DEPLOY and (not step.endpoint or "model" not in step.refs or step.replicas < 1):
        raise _wrong(path, f"Step {step.key!r} needs a model, the name of an endpoint, and a replica.", "ms.deploy(model, name)")


def _some(keys: set[str]) -> str:
    return ", ".join(sorted(keys)[:8]) or "none yet"


def _wrong(path: str, message: str, hint: str) -> SpecError:
    return SpecError(message, hint=hint, details={"path": path})
