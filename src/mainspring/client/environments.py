"""Environments over HTTP: what a run ran with, what is on nodes, and that some of it is to go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.environments import NodeEnvironment, RunEnvironment

REMOVED_S = 120.0
LOOK_S = 0.5


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

    def prune(
        self, *, keys: Sequence[str] = (), unused_s: float = 0.0, keep: int = 0, node: str = "", is_now: bool = False
    ) -> list[NodeEnvironment]:
        """Let environments go (administrators): those named, else those that no run used for so long, less the newest `keep`
        of each node. The next run on the node removes them, never one in use; `is_now` submits a tiny one to each (`left`).
        Return those that were asked for.
        """
        body = {"keys": list(keys), "unused_s": unused_s, "keep": keep, "node": node, "is_now": is_now}
        return [to_record(one, NodeEnvironment) for one in self.transport.post("/environments/prune", body).plain()["items"]]

    def left(self, pruned: Sequence[NodeEnvironment], wait_s: float = REMOVED_S) -> list[NodeEnvironment]:
        """Return those that are still on their nodes; blocks until none is, for `wait_s` at most."""
        asked = {(one.cluster, one.node, one.key) for one in pruned}
        deadline = time.monotonic() + wait_s
        while True:
            there = [one for one in self.all() if (one.cluster, one.node, one.key) in asked]
            if not there or time.monotonic() >= deadline:
                return there
            time.sleep(LOOK_S)
