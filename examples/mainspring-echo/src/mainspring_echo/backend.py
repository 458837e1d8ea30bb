"""A backend that runs nothing and remembers what it was asked: the smallest thing that speaks the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mainspring.core.backend import (
    Capabilities,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Notice,
    Observation,
    ObservedState,
    Probe,
)
from mainspring.core.records import Cluster, Node


class EchoBackend:
    """Keeps requests in memory; whatever was launched is RUNNING until it is stopped."""

    capabilities = Capabilities()

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.requests: dict[tuple[str, int], LaunchRequest] = {}

    def probe(self) -> Probe:
        """Say that it is an echo."""
        return Probe(is_ready=True, version="echo", notices=(Notice(text="Nothing is run here."),))

    def inventory(self) -> Inventory:
        """Return one node of one CPU."""
        node = Node(id=f"{self.cluster.id}.echo", cluster=self.cluster.id, name="echo", cpu_milli=1000, memory_bytes=1 << 30)
        return Inventory(nodes=(node,))

    def launch(self, request: LaunchRequest) -> Handle:
        """Remember the request."""
        self.requests[request.attempt, request.replica] = request
        return Handle(attempt=request.attempt, replica=request.replica)

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Say RUNNING of what is remembered."""
        return [
            Observation(
                handle=one,
                state=ObservedState.RUNNING if (one.attempt, one.replica) in self.requests else ObservedState.GONE,
            )
            for one in handles
        ]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Forget the request."""
        del grace_s
        self.requests.pop((handle.attempt, handle.replica), None)

    def owned(self) -> Sequence[Handle]:
        """Return what is remembered."""
        return [Handle(attempt=one.attempt, replica=one.replica) for one in self.requests.values()]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the request's key."""
        return {"echo": handle.attempt}

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return nothing: nothing ran."""
        del handle
        return None

    def forget(self, handle: Handle) -> None:
        """Forget the request."""
        self.stop(handle, 0)


def create(cluster: Cluster, folder: Path, installation: str) -> EchoBackend:
    """Build the backend."""
    del folder, installation
    return EchoBackend(cluster)
