"""Shares, usage and advance reservations over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.resources import Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import Reservation
from mainspring.core.standings import Standing
from mainspring.core.usage import UsageRow


@dataclass(frozen=True, slots=True)
class Shares:
    """Who is promised what, and who used what."""

    transport: Transport

    def all(self) -> list[Share]:
        """Return the configured shares by name."""
        return [to_record(one, Share) for one in self.transport.get("/shares").plain()["items"]]

    def standings(self) -> list[Standing]:
        """Return who holds what and is owed what: the root first, each share before those below it."""
        return [to_record(one, Standing) for one in self.transport.get("/standings").plain()["items"]]

    def change(
        self,
        name: str,
        *,
        weight: float | None = None,
        guarantee: Mapping[str, int] | None = None,
        limit: Mapping[str, int] | None = None,
        budget_usd: str | None = None,
        is_held: bool | None = None,
        parent: str | None = None,
    ) -> tuple[Share, tuple[str, ...]]:
        """Configure a share, made if there is none; return it, and what is worth knowing about it."""
        body = {
            "weight": weight,
            "guarantee": None if guarantee is None else dict(guarantee),
            "limit": None if limit is None else dict(limit),
            "budget_usd": budget_usd,
            "is_held": is_held,
            "parent": parent,
        }
        plain = self.transport.send("PATCH", f"/shares/{quote(name, safe='/')}", body=body).plain()
        return to_record(plain["share"], Share), tuple(plain["notices"])

    def remove(self, name: str) -> None:
        """Forget what was configured for a share."""
        self.transport.send("DELETE", f"/shares/{quote(name, safe='/')}")

    def usage(self, *, by: str = "share", month: str = "") -> list[UsageRow]:
        """Return what was used in a month (`2026-01`, default this one) by share, user or project."""
        plain = self.transport.get("/usage", {"by": by, "month": month}).plain()
        return [to_record(one, UsageRow) for one in plain["items"]]

    def reservations(self) -> list[Reservation]:
        """Return the advance reservations, the first to begin first."""
        return [to_record(one, Reservation) for one in self.transport.get("/reservations").plain()["items"]]

    def reserve(
        self, share: str, begins_at: datetime, ends_at: datetime, resources: Resources, *, replicas: int = 1
    ) -> tuple[Reservation, tuple[str, ...]]:
        """Keep `resources` x `replicas` for a share between two moments; return that, and what is worth knowing about it."""
        body = {"share": share, "begins_at": begins_at, "ends_at": ends_at, "resources": resources, "replicas": replicas}
        plain = self.transport.post("/reservations", body).plain()
        return to_record(plain["reservation"], Reservation), tuple(plain["notices"])

    def release(self, reservation: str) -> None:
        """Give an advance reservation up."""
        self.transport.send("DELETE", f"/reservations/{quote(reservation, safe='')}")
