"""Pipelines over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, new_key, to_record
from mainspring.core.graphs import Graph, PipelineRun


@dataclass(frozen=True, slots=True)
class Pipelines:
    """What can be asked about pipelines."""

    transport: Transport

    def start(self, name: str, graph: Graph, *, project: str = "default", key: str = "") -> PipelineRun:
        """Start a pipeline run; the same `key` never makes a second one."""
        body = {"name": name, "project": project, "graph": graph}
        return self.transport.post("/pipelines", body, key=key or new_key()).record(PipelineRun)

    def all(self, *, project: str = "default") -> list[PipelineRun]:
        """Return the pipeline runs, newest first."""
        plain = self.transport.get("/pipelines", {"project": project}).plain()
        return [to_record(one, PipelineRun) for one in plain["items"]]

    def get(self, ref: str) -> PipelineRun:
        """Return the pipeline run."""
        return self.transport.get(f"/pipelines/{quote(ref, safe='')}").record(PipelineRun)

    def retry(self, ref: str) -> PipelineRun:
        """Start a new run of the same graph after its last good steps."""
        return self.transport.post(f"/pipelines/{quote(ref, safe='')}/retry", key=new_key()).record(PipelineRun)

    def cancel(self, ref: str) -> PipelineRun:
        """End the pipeline run."""
        return self.transport.post(f"/pipelines/{quote(ref, safe='')}/cancel", is_repeatable=True).record(PipelineRun)
