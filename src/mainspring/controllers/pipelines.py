"""The pipelines loop: what is due next, as ordinary runs, verdicts and deployments."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import MainspringError, UsageError
from mainspring.core.graphs import PipelineRun, PipelineState, Step, StepKind, StepRun, StepState
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import EndpointState, RunState
from mainspring.core.specs import Link, Value, ValueKind
from mainspring.services import endpoints, gates, models, runs
from mainspring.services.context import Context
from mainspring.services.runs import said
from mainspring.workflows.graphs import next_steps, settle, skip_after_failure

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pipelines:
    """Drives active pipeline runs from their rows."""

    ctx: Context

    def tick(self) -> float | None:
        """Drive each active pipeline run one step; woken by ended runs and moved endpoints."""
        for pipeline in self.ctx.store.pipelines.active():
            self._step(pipeline)
        return None

    def _step(self, pipeline: PipelineRun) -> None:
        steps = {one.key: self._looked(pipeline, one) for one in pipeline.steps}
        for step in next_steps(pipeline.graph, list(steps.values())):
            try:
                steps[step.key] = self._begin(pipeline, step, steps)
            except MainspringError as wrong:  # named errors of the step itself: it fails, the pipeline says why
                steps[step.key] = StepRun(key=step.key, state=StepState.FAILED, message=str(wrong))
        standing = skip_after_failure(pipeline.graph, [steps[step.key] for step in pipeline.graph.steps])
        state = settle(pipeline.graph, standing)
        if tuple(standing) != pipeline.steps:
            pipeline = self.ctx.store.pipelines.update(replace(pipeline, steps=tuple(standing)))
        if state is not PipelineState.ACTIVE:
            event = said(SYSTEM, f"pipeline.{state}", pipeline.id, pipeline.project, name=pipeline.name)
            self.ctx.store.pipelines.end(pipeline.id, state, now=self.ctx.clock.now(), event=event)

    def _looked(self, pipeline: PipelineRun, standing: StepRun) -> StepRun:
        """Return where a running step stands now."""
        if standing.state is not StepState.RUNNING:
            return standing
        step = next(one for one in pipeline.graph.steps if one.key == standing.key)
        if step.kind is StepKind.DEPLOY:
            return self._deployed(pipeline, step, standing)
        run = self.ctx.store.runs.get(standing.run)
        if run is None or run.state not in TERMINAL_RUN:
            return standing if run is not None else replace(standing, state=StepState.FAILED, message="Its run was removed.")
        if run.state is RunState.SUCCEEDED:
            return replace(standing, state=StepState.SUCCEEDED, message=run.outcome.message if run.outcome else "")
        message = run.outcome.message if run.outcome else ""
        return replace(standing, state=StepState.FAILED, message=message or f"Its run {run.state}.")

    def _begin(self, pipeline: PipelineRun, step: Step, steps: dict[str, StepRun]) -> StepRun:
        if step.kind is StepKind.TASK:
            return self._task(pipeline, step, steps)
        if step.kind is StepKind.GATE:
            return self._gate(pipeline, step, steps)
        return self._deploy(pipeline, step, steps)

    def _task(self, pipeline: PipelineRun, step: Step, steps: dict[str, StepRun]) -> StepRun:
        if step.template is None:
            raise UsageError(f"Step {step.key} has nothing to run.")
        args = {**step.template.args, **{name: self._result(steps[key]) for name, key in step.refs.items()}}
        link = Link(kind="pipeline_run", id=pipeline.id, key=step.key)
        spec = replace(step.template, args=args, link=link, project=pipeline.project)
        run = runs.make_run(self.ctx, pipeline.owner, spec)
        event = said(SYSTEM, "run.submitted", run.id, run.project, pipeline=pipeline.id, step=step.key)
        submitted = self.ctx.store.pipelines.submit_step(pipeline.id, step.key, run, event=event)
        return StepRun(key=step.key, state=StepState.RUNNING, run=submitted.id)

    def _gate(self, pipeline: PipelineRun, step: Step, steps: dict[str, StepRun]) -> StepRun:
        value = self._result(steps[step.refs["figures"]])
        figures = value.json
        if isinstance(figures, int | float) and step.objective is not None:
            figures = {step.objective.kpi: figures}
        if step.objective is None or not isinstance(figures, dict):
            raise UsageError(f"Gate {step.key} needs a dictionary of figures.", hint="Return one from the evaluating task.")
        numbers = {str(name): float(one) for name, one in figures.items() if isinstance(one, int | float)}
        model_run = steps[step.refs["model"]].run if "model" in step.refs else ""
        verdict = gates.judge(self.ctx, SYSTEM, step.objective, numbers, project=pipeline.project, run=model_run)
        state = StepState.SUCCEEDED if verdict.is_passed else StepState.FAILED
        return StepRun(key=step.key, state=state, message=verdict.sentence)

    def _deploy(self, pipeline: PipelineRun, step: Step, steps: dict[str, StepRun]) -> StepRun:
        run = self.ctx.store.runs.get(steps[step.refs["model"]].run)
        if run is None:
            raise UsageError("The run that made the model was removed.")
        version = models.add_from_run(self.ctx, SYSTEM, step.model_name or step.endpoint, run)
        reference = f"{version.model}@{version.number}"
        endpoints.deploy(self.ctx, SYSTEM, step.endpoint, reference, project=pipeline.project, replicas=step.replicas)
        return StepRun(key=step.key, state=StepState.RUNNING, message=f"Deploying {reference} as {step.endpoint}.")

    def _deployed(self, pipeline: PipelineRun, step: Step, standing: StepRun) -> StepRun:
        endpoint = self.ctx.store.endpoints.get(pipeline.project, step.endpoint)
        if endpoint is None or endpoint.state is EndpointState.STOPPED:
            return replace(standing, state=StepState.FAILED, message=f"Endpoint {step.endpoint} was stopped.")
        if endpoint.state is EndpointState.READY:
            return replace(standing, state=StepState.SUCCEEDED, message=f"{step.endpoint} serves revision {endpoint.revision}.")
        if endpoint.state is EndpointState.FAILING:
            return replace(standing, state=StepState.FAILED, message=endpoint.message)
        return standing

    def _result(self, standing: StepRun) -> Value:
        run = self.ctx.store.runs.get(standing.run)
        if run is None:
            raise UsageError(f"The run of step {standing.key} was removed.")
        return run.outputs.get("result", Value(kind=ValueKind.JSON))
