"""Environments in Python: what a run ran with, and what nodes keep. The words are those of `mainspring env`."""

from __future__ import annotations

from mainspring.client.connection import connect
from mainspring.core.environments import NodeEnvironment, RunEnvironment
from mainspring.sdk.resources import to_seconds


def environment(run: str) -> RunEnvironment:
    """Return what a run ran with; its `lock` is the text that builds it again (`environment="from:RUN"` does so at once)."""
    return connect().environments.of_run(run)


def environments() -> list[NodeEnvironment]:
    """Return the environments that nodes keep, by node, the last used first."""
    return connect().environments.all()


def prune_environments(
    *keys: str, older_than: str | float | None = None, keep: int = 0, node: str = "", now: bool = False
) -> list[NodeEnvironment]:
    """Let environments go (administrators): those named, else all that no run used for `older_than`, less the newest `keep`.

    The next run on their node removes them, never one in use; `now` submits a tiny run to each node for it, and waits until
    these are over. Return those that were asked for; `environments()` tells what is still there.
    """
    client, unused_s = connect(), to_seconds(older_than, "older_than")
    found = client.environments.prune(keys=keys, unused_s=unused_s, keep=keep, node=node)
    for run in client.environments.remove_now() if now and found else []:
        client.runs.wait(run.id)
    return found
