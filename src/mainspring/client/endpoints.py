"""Endpoints over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.records import Endpoint, Revision


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint with its revisions, the addresses that answer now, and what its replicas run in, in words."""

    endpoint: Endpoint
    revisions: tuple[Revision, ...]
    addresses: tuple[str, ...]
    serves_in: str = ""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What can be asked about endpoints."""

    transport: Transport

    def deploy(self, name: str, model: str, *, replicas: int = 1, pool: str | None = None, project: str = "default") -> Endpoint:
        """Serve a model version (`delays@champion`); returns before it is ready. `pool` None: that of the revision before."""
        body = {"name": name, "model": model, "replicas": replicas, "pool": pool}
        return self.transport.post("/endpoints", body, query={"project": project}).record(Endpoint)

    def all(self, *, project: str = "default") -> list[Endpoint]:
        """Return the endpoints."""
        plain = self.transport.get("/endpoints", {"project": project}).plain()
        return [to_record(one, Endpoint) for one in plain["items"]]

    def get(self, name: str, *, project: str = "default") -> EndpointView:
        """Return the endpoint with its revisions and addresses."""
        plain = self.transport.get(path_of(name), {"project": project}).plain()
        revisions = tuple(to_record(one, Revision) for one in plain.pop("revisions", ()))
        addresses = tuple(plain.pop("addresses", ()))
        place = str(plain.pop("serves_in", ""))
        return EndpointView(to_record(plain, Endpoint), revisions, addresses, place)

    def rollback(self, name: str, *, to: int | None = None, project: str = "default") -> Endpoint:
        """Serve an earlier revision's model again."""
        return self.transport.post(path_of(name, "rollback"), {"to": to}, query={"project": project}).record(Endpoint)

    def stop(self, name: str, *, project: str = "default") -> Endpoint:
        """Stop serving; the history stays."""
        return self.transport.send("DELETE", path_of(name), query={"project": project}).record(Endpoint)

    def lineage(self, name: str, *, project: str = "default") -> dict[str, Any]:
        """Return `{nodes, edges}` from the endpoint down to the digests of files."""
        return dict(self.transport.get(path_of(name, "lineage"), {"project": project}).plain())

    def predict(self, name: str, records: Sequence[Mapping[str, object]], *, project: str = "default") -> tuple[list[Any], int]:
        """Return (predictions in the order of `records`, the revision that answered)."""
        body = {"records": [dict(one) for one in records]}
        plain = self.transport.post(path_of(name, "predict"), body, query={"project": project}, is_repeatable=True).plain()
        return list(plain["predictions"]), int(plain.get("revision", 0))


def path_of(name: str, tail: str = "") -> str:
    """Return the route of an endpoint."""
    return f"/endpoints/{quote(name, safe='')}" + (f"/{tail}" if tail else "")
