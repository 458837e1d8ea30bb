"""The fleet and the server itself over HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.errors import UnreachableError, from_wire
from mainspring.core.moments import parse_deadline
from mainspring.core.operations import Operation, OperationState
from mainspring.core.records import Node, Run, Unadopted

ANSWER_S = 120.0  # an engine that has not answered by then is said not to


@dataclass(frozen=True, slots=True)
class Clusters:
    """What can be asked about the fleet."""

    transport: Transport

    def all(self) -> list[dict[str, Any]]:
        """Return `{cluster, nodes, holders}` of each cluster."""
        return list(self.transport.get("/clusters").plain())

    def get(self, name: str) -> dict[str, Any]:
        """Return `{cluster, nodes, holders, probe}` of one; `probe` is what its engine told last, and how fast (`latency_s`)."""
        return dict(self.transport.get(_path(name)).plain())

    def kinds(self) -> list[dict[str, Any]]:
        """Return `{name, help, targets, options}` of each engine kind that the server has."""
        return list(self.transport.get("/backends").plain())

    def kind(self, name: str) -> dict[str, Any]:
        """Return one engine kind."""
        return dict(self.transport.get(f"/backends/{quote(name, safe='')}").plain())

    def add(self, backend: str, *targets: str, name: str = "", **options: object) -> dict[str, Any]:
        """Register a cluster; return `{cluster, probe, nodes, latency_s}`. Blocks until its engine has answered.

        Raises UsageError (an option), ConflictError (the name), ClusterRefusedError (its details tell what was found),
        UnreachableError, CredentialsError.
        """
        body = {"backend": backend, "name": name, "targets": list(targets), "options": options}
        return self._ended(self.transport.post("/clusters", body).record(Operation))

    def probe(self, name: str) -> dict[str, Any]:
        """Look at a cluster's engine now; return and raise as `add`."""
        return self._ended(self.transport.post(_path(name, "probe"), is_repeatable=True).record(Operation))

    def check(self, name: str, *, project: str = "default") -> list[Run]:
        """Submit a tiny run to each node that takes runs; return them at once."""
        plain = self.transport.send("POST", _path(name, "check"), query={"project": project}).plain()
        return [to_record(one, Run) for one in plain]

    def remove(self, name: str) -> None:
        """Forget a cluster on which nothing runs."""
        self.transport.send("DELETE", _path(name), is_repeatable=True)

    def _ended(self, operation: Operation) -> dict[str, Any]:
        """Wait for what was asked of an engine. Raises what it raised."""
        until = time.monotonic() + ANSWER_S
        while operation.state is OperationState.PENDING:
            if time.monotonic() > until:
                raise UnreachableError(f"{operation.subject} has not answered for {ANSWER_S:g} s.", hint="mainspring status")
            operation = self.transport.get(f"/operations/{operation.id}").record(Operation)
        if operation.error:
            raise from_wire({"error": operation.error})
        return dict(operation.result)

    def drain(self, node: str, *, device: int | None = None, by: datetime | str | None = None, reason: str = "") -> Node:
        """Let a node, or one of its devices, take no further runs.

        What still runs there at `by` (a moment, or words such as `30m` and `18:00`) is asked for a checkpoint ahead of it and
        stopped then; it goes on elsewhere. Raises NotFoundError, UsageError.
        """
        moment = parse_deadline(by, datetime.now(UTC), "by") if isinstance(by, str) else by
        return self._act(node, "drain", {"device": device, "by": moment, "reason": reason})

    def resume(self, node: str, *, device: int | None = None) -> Node:
        """Let a node, or one of its devices, take runs again."""
        return self._act(node, "resume", {"device": device})

    def dead(self, node: str) -> Node:
        """Declare that a node is gone for good and nothing runs there any more."""
        return self._act(node, "dead", {})

    def _act(self, node: str, action: str, asked: dict[str, object]) -> Node:
        body = {name: value for name, value in asked.items() if value not in (None, "")}
        plain = self.transport.post(f"/nodes/{quote(node, safe='')}/{action}", body, is_repeatable=True).plain()
        return to_record(plain, Node)

    def unadopted(self) -> list[Unadopted]:
        """Return the attempts whose runners live and that nobody knows."""
        return [to_record(one, Unadopted) for one in self.transport.get("/unadopted").plain()]

    def adopt(self, attempt: str) -> Run:
        """Make the rows of such an attempt again; return its run."""
        return to_record(self.transport.post(f"/unadopted/{quote(attempt, safe='')}/adopt").plain(), Run)

    def queue(self) -> dict[str, Any]:
        """Return `{waiting, planned_at, fingerprint}`."""
        return dict(self.transport.get("/queue").plain())

    def status(self) -> dict[str, Any]:
        """Return the server's version, place and load."""
        return dict(self.transport.get("/status").plain())

    def backup(self, path: str = "") -> dict[str, Any]:
        """Write a consistent copy of the database; return `{path, bytes}`."""
        return dict(self.transport.send("POST", "/backup", body={"path": path}, timeout_s=600.0).plain())

    def shut_down(self) -> None:
        """Let the server end; runs go on."""
        self.transport.post("/shutdown")


def _path(name: str, verb: str = "") -> str:
    return f"/clusters/{quote(name, safe='')}" + (f"/{verb}" if verb else "")
