"""Data sets over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, new_key, to_record
from mainspring.core.records import DatasetVersion


@dataclass(frozen=True, slots=True)
class Datasets:
    """What can be asked about data sets."""

    transport: Transport

    def add_version(
        self, name: str, manifest: str, *, message: str = "", producer: str = "", project: str = "default"
    ) -> DatasetVersion:
        """Register a manifest as the next version; the newest version when that is the same."""
        body = {"manifest": manifest, "message": message, "producer": producer}
        return self.transport.post(_path(name), body, query={"project": project}, key=new_key()).record(DatasetVersion)

    def all(self, *, project: str = "default") -> list[dict[str, Any]]:
        """Return `{dataset, latest}` of each."""
        return list(self.transport.get("/datasets", {"project": project}).plain()["items"])

    def versions(self, name: str, *, project: str = "default") -> list[DatasetVersion]:
        """Return all versions, oldest first."""
        plain = self.transport.get(_path(name), {"project": project}).plain()
        return [to_record(one, DatasetVersion) for one in plain["items"]]

    def get(self, name: str, ref: str = "latest", *, project: str = "default") -> DatasetVersion:
        """Return one version: a number, `v3` or `latest`."""
        return self.transport.get(f"{_path(name)}/{quote(ref, safe='')}", {"project": project}).record(DatasetVersion)


def _path(name: str) -> str:
    return f"/datasets/{quote(name, safe='')}/versions"
