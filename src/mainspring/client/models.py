"""Models, objectives and gates over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.objectives import Objective
from mainspring.core.records import GateResult, ModelVersion


@dataclass(frozen=True, slots=True)
class Models:
    """What can be asked about models."""

    transport: Transport

    def add_version(
        self,
        name: str,
        manifest: str,
        *,
        format: str = "native",
        run: str = "",
        signature: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        verification: Mapping[str, object] | None = None,
        aliases: Sequence[str] = (),
        project: str = "default",
    ) -> ModelVersion:
        """Register a manifest as the next version; the same manifest again gives the newest one, so it may be repeated."""
        body = {
            "manifest": manifest, "format": format, "run": run, "signature": dict(signature or {}),
            "metrics": dict(metrics or {}), "verification": dict(verification or {}), "aliases": list(aliases),
        }  # fmt: skip
        path = f"/models/{quote(name, safe='')}/versions"
        return self.transport.post(path, body, query={"project": project}, is_repeatable=True).record(ModelVersion)

    def all(self, *, project: str = "default") -> list[dict[str, Any]]:
        """Return `{name, versions, latest, objective}` of each model."""
        return list(self.transport.get("/models", {"project": project}).plain()["items"])

    def versions(self, name: str, *, project: str = "default") -> list[ModelVersion]:
        """Return all versions, oldest first."""
        plain = self.transport.get(f"/models/{quote(name, safe='')}/versions", {"project": project}).plain()
        return [to_record(one, ModelVersion) for one in plain["items"]]

    def get(self, name: str, ref: str = "latest", *, project: str = "default") -> ModelVersion:
        """Return one version: a number, `v3`, an alias or `latest`."""
        path = f"/models/{quote(name, safe='')}/versions/{quote(ref, safe='')}"
        return self.transport.get(path, {"project": project}).record(ModelVersion)

    def set_alias(self, name: str, alias: str, number: int, *, project: str = "default") -> ModelVersion:
        """Let an alias mean a version."""
        return self.transport.send("PUT", _alias(name, alias), body={"number": number}, query={"project": project}).record(
            ModelVersion
        )

    def remove_alias(self, name: str, alias: str, *, project: str = "default") -> None:
        """Take an alias away."""
        self.transport.send("DELETE", _alias(name, alias), query={"project": project})

    def judge(
        self,
        objective: Objective,
        figures: Mapping[str, float],
        *,
        run: str = "",
        model: str = "",
        model_version: int = 0,
        project: str = "default",
    ) -> GateResult:
        """Judge figures by an objective and keep the verdict; a refusal is a result."""
        body = {
            "objective": objective, "figures": dict(figures), "run": run, "model": model, "model_version": model_version,
        }  # fmt: skip
        return self.transport.post("/gates", body, query={"project": project}).record(GateResult)

    def gates(self, *, objective: str = "", model: str = "", project: str = "default") -> list[GateResult]:
        """Return verdicts, newest first."""
        plain = self.transport.get("/gates", {"project": project, "objective": objective, "model": model}).plain()
        return [to_record(one, GateResult) for one in plain["items"]]


def _alias(name: str, alias: str) -> str:
    return f"/models/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"
