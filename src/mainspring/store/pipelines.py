"""Pipeline runs: their standing by compare-and-set, each step's run submitted once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, select, update

from mainspring.core.errors import NotFoundError, StaleWriteError
from mainspring.core.graphs import PipelineRun, PipelineState
from mainspring.core.records import Run
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.keys import known_by_key, remember_key
from mainspring.store.runs import need_run, submit_run
from mainspring.store.statements import Statement
from mainspring.store.tables import pipeline_steps, pipelines

_ACTIVE = Statement(
    select(pipelines).where(pipelines.c.state == PipelineState.ACTIVE).order_by(pipelines.c.created_at, pipelines.c.id)
)


class Pipelines:
    """Reads and writes of pipeline runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, pipeline: PipelineRun, *, key: str = "", event: NewEvent | None = None) -> PipelineRun:
        """Write a new pipeline run; the same (project, key) gives the one that is there."""

        def work(tx: Transaction) -> PipelineRun:
            known = known_by_key(tx, "pipeline", pipeline.project, key)
            if known is not None:
                return _need(tx.conn, known)
            tx.conn.execute(pipelines.insert(), values_of(pipeline, pipelines))
            remember_key(tx, "pipeline", pipeline.project, key, pipeline.id)
            tx.tell(event, "pipelines")
            return pipeline

        return self._db.write(work)

    def get(self, id: str) -> PipelineRun | None:
        """Return the pipeline run with this id."""
        return self._db.read(lambda conn: _load(conn, id))

    def all(self, project: str) -> list[PipelineRun]:
        """Return the pipeline runs of a project, newest first."""
        asked = select(pipelines).where(pipelines.c.project == project)
        newest = asked.order_by(pipelines.c.created_at.desc(), pipelines.c.id.desc())
        return self._db.read(lambda conn: [record_of(PipelineRun, pipelines, row) for row in conn.execute(newest).mappings()])

    def active(self) -> list[PipelineRun]:
        """Return the pipeline runs that are not over, oldest first."""
        return [record_of(PipelineRun, pipelines, row) for row in self._db.ask(_ACTIVE)]

    def update(self, pipeline: PipelineRun, *, event: NewEvent | None = None) -> PipelineRun:
        """Write `pipeline` where the row still has its version; return it with the next one. Raises StaleWriteError."""

        def work(tx: Transaction) -> PipelineRun:
            new = replace(pipeline, version=pipeline.version + 1)
            row = values_of(new, pipelines)
            for fixed in ("id", "project", "graph", "created_at"):
                del row[fixed]
            seen = (pipelines.c.id == pipeline.id) & (pipelines.c.version == pipeline.version)
            if tx.conn.execute(update(pipelines).where(seen).values(**row)).rowcount != 1:
                raise StaleWriteError(f"Pipeline run {pipeline.id} was written by somebody else.", hint="Read it again.")
            tx.tell(event, "pipelines")
            return new

        return self._db.write(work)

    def end(self, id: str, state: PipelineState, *, now: datetime | None = None, event: NewEvent | None = None) -> PipelineRun:
        """End a pipeline run, once; a second end changes nothing. Raises NotFoundError."""

        def work(tx: Transaction) -> PipelineRun:
            active = (pipelines.c.id == id) & (pipelines.c.state == PipelineState.ACTIVE)
            ended = {"state": state, "ended_at": now or tx.clock.now(), "version": pipelines.c.version + 1}
            if tx.conn.execute(update(pipelines).where(active).values(**ended)).rowcount == 1:
                tx.tell(event, "pipelines")
            return _need(tx.conn, id)

        return self._db.write(work)

    def submit_step(self, pipeline_run_id: str, step_key: str, run: Run, *, event: NewEvent | None = None) -> Run:
        """Submit the run of a step; the step's first run stands, whoever asks again."""

        def work(tx: Transaction) -> Run:
            asked = select(pipeline_steps.c.run).where(
                pipeline_steps.c.pipeline_run == pipeline_run_id, pipeline_steps.c.key == step_key
            )
            known = tx.conn.execute(asked).scalar_one_or_none()
            if known is not None:
                return need_run(tx.conn, known)
            _need(tx.conn, pipeline_run_id)
            row = {"pipeline_run": pipeline_run_id, "key": step_key, "run": run.id}
            tx.conn.execute(pipeline_steps.insert(), row)
            submitted = submit_run(tx, run, event=event)
            tx.topics.add("pipelines")
            return submitted

        return self._db.write(work)


def _load(conn: Connection, id: str) -> PipelineRun | None:
    row = conn.execute(select(pipelines).where(pipelines.c.id == id)).mappings().one_or_none()
    return None if row is None else record_of(PipelineRun, pipelines, row)


def _need(conn: Connection, id: str) -> PipelineRun:
    found = _load(conn, id)
    if found is None:
        raise NotFoundError(f"There is no pipeline run {id}.")
    return found
