"""What a pipeline function records while it runs: steps instead of work. Linear for now: each step needs the one before."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from mainspring.core.errors import UnsupportedError, UsageError
from mainspring.core.graphs import Graph, Step, StepKind
from mainspring.core.objectives import Objective
from mainspring.core.specs import RunSpec
from mainspring.sdk.active import recorder


@dataclass(frozen=True, slots=True)
class StepResult:
    """Stands for what a step will return; may be passed to later steps, and to nothing else."""

    key: str
    name: str

    def _refuse(self) -> UsageError:
        return UsageError(
            f"The result of step {self.key!r} does not exist yet: a pipeline function only records calls.",
            hint="Put what looks at values into a task of its own.",
        )

    def __bool__(self) -> bool:
        raise self._refuse()

    def __iter__(self) -> object:
        raise self._refuse()

    def __getitem__(self, key: object) -> object:
        raise self._refuse()


@dataclass(slots=True)
class Recorder:
    """The graph under construction. `objective` is what a gate judges by when it names none."""

    project: str
    objective: Objective | None = None
    steps: list[Step] = field(default_factory=list)

    def add_task(self, template: RunSpec, refs: dict[str, StepResult]) -> StepResult:
        """Record the call of a task. Raises UnsupportedError when it could run beside the step before it."""
        if self.steps:
            last = self.steps[-1]
            if last.kind is StepKind.TASK and last.key not in {ref.key for ref in refs.values()}:
                raise UnsupportedError(
                    f"Step {template.name!r} does not use the result of {last.key!r}, so the two could run in parallel: "
                    "parallel pipelines are not part of this version.",
                    hint="Pass the result on, or submit the tasks one by one: task.submit(...)",
                )
        return self._add(Step(key="", kind=StepKind.TASK, template=template, refs=_keys(refs)), template.name)

    def add_gate(self, figures: StepResult, objective: Objective | None, model: StepResult | None) -> StepResult:
        """Record a gate. Raises UsageError without an objective."""
        wanted = objective or self.objective
        if wanted is None:
            raise UsageError("The gate has no objective.", hint="ms.gate(figures, objective=GOAL)")
        refs = {"figures": figures} if model is None else {"figures": figures, "model": model}
        return self._add(Step(key="", kind=StepKind.GATE, refs=_keys(refs), objective=_plain(wanted)), "gate")

    def add_deploy(self, model: StepResult, endpoint: str, replicas: int, model_name: str) -> StepResult:
        """Record a deployment."""
        step = Step(
            key="", kind=StepKind.DEPLOY, refs={"model": model.key}, endpoint=endpoint, replicas=replicas, model_name=model_name
        )
        return self._add(step, f"deploy-{endpoint}")

    def graph(self) -> Graph:
        """Return what was recorded. Raises UsageError when that is nothing."""
        if not self.steps:
            raise UsageError("The pipeline has no steps.", hint="Call at least one task inside the pipeline function.")
        return Graph(steps=tuple(self.steps))

    def _add(self, step: Step, name: str) -> StepResult:
        taken = {one.key for one in self.steps}
        key = name if name not in taken else next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)
        after = (self.steps[-1].key,) if self.steps and self.steps[-1].key not in step.refs.values() else ()
        self.steps.append(replace(step, key=key, after=after))
        return StepResult(key, name)


active: ContextVar[Recorder | None] = recorder


def _keys(refs: dict[str, StepResult]) -> dict[str, str]:
    return {name: ref.key for name, ref in refs.items()}


def _plain(objective: Objective) -> Objective:
    return Objective(**{name: getattr(objective, name) for name in Objective.__dataclass_fields__})
