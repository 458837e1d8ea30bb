"""Environments over HTTP: what a run ran with, what is on nodes, and that some of it is to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.environments import NodeEnvironment, RunEnvironment
from mainspring.core.records import Run


@dataclass(frozen=True, slots=True)
class Environments:
    """What was built from locks, and what was seen of runs without one."""

    transport: Transport

    def all(self) -> list[NodeEnvironment]:
        """Return the environments on nodes, by node, the last used first."""
        return [to_record(one, NodeEnvironment) for one in self.transport.get("/environments").plain()["items"]]

    def of_run(self, ref: str) -> RunEnvironment:
        """Return what a run ran with, and the lock that builds it again."""
        return to_record(self.transport.get(f"/runs/{quote(ref, safe='')}/environment").plain(), RunEnvironment)

    def prune(self, *, keys: Sequence[str] = (), unused_s: float = 0.0, keep: int = 0, node: str = "") -> list[NodeEnvironment]:
        """Let environments go (administrators): those named, else those that no run used for so long, less the newest `keep`
        of each node. The next run on the node removes them, never one in use. Return those that were asked for.
        """
        body = {"keys": list(keys), "unused_s": unused_s, "keep": keep, "node": node}
        return [to_record(one, NodeEnvironment) for one in self.transport.post("/environments/prune", body).plain()["items"]]

    def remove_now(self) -> list[Run]:
        """Submit the runs that remove what is to go (administrators): a tiny one to each node that takes runs. Return them;
        they end by themselves.
        """
        return [to_record(one, Run) for one in self.transport.post("/environments/remove", {}).plain()["items"]]

    def left(self, pruned: Sequence[NodeEnvironment]) -> list[NodeEnvironment]:
        """Return those of `pruned` that are to go and are still there; one that was used since is kept."""
        asked = {(one.cluster, one.node, one.key) for one in pruned}
        return [one for one in self.all() if one.asked_to_go_at and (one.cluster, one.node, one.key) in asked]
