"""The fleet and the server itself over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.records import Node, Run, Unadopted


@dataclass(frozen=True, slots=True)
class Clusters:
    """What can be asked about the fleet."""

    transport: Transport

    def all(self) -> list[dict[str, Any]]:
        """Return `{cluster, nodes, holders}` of each cluster."""
        return list(self.transport.get("/clusters").plain())

    def act(self, node: str, action: str) -> Node:
        """`drain`, `resume` or `dead`: declare what an operator knows of a node."""
        plain = self.transport.post(f"/nodes/{quote(node, safe='')}/{action}", is_repeatable=True).plain()
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
