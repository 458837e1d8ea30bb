"""Pipelines as values: a graph of steps recorded by calling tasks, and the standing of one pipeline run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mainspring.core.objectives import Objective
from mainspring.core.specs import RunSpec


class StepKind(StrEnum):
    """A step runs a task, judges an evaluation, or deploys a model."""

    TASK = "task"
    GATE = "gate"
    DEPLOY = "deploy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of the graph. `refs` maps a parameter to the key of the step whose result it gets; `after` adds order alone.

    TASK uses `template` (constant arguments are in `template.args`). GATE reads ref `figures` and judges `objective`.
    DEPLOY takes ref `model` and serves it as `endpoint` with `replicas`; the version is registered under `model_name`.
    """

    key: str
    kind: StepKind
    template: RunSpec | None = None
    refs: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    objective: Objective | None = None
    endpoint: str = ""
    replicas: int = 1
    model_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Steps in the order in which they were recorded; refs point backwards only."""

    steps: tuple[Step, ...]


class StepState(StrEnum):
    """States of a step within one pipeline run."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """Where one step stands: its run (TASK), or the sentence of a gate or a deployment."""

    key: str
    state: StepState = StepState.WAITING
    run: str = ""
    message: str = ""


class PipelineState(StrEnum):
    """States of a pipeline run."""

    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRun:
    """One execution of a pipeline."""

    id: str
    project: str
    name: str
    owner: str
    graph: Graph
    created_at: datetime
    state: PipelineState = PipelineState.ACTIVE
    steps: tuple[StepRun, ...] = ()
    ended_at: datetime | None = None
    version: int = 1
