"""Shares, usage and advance reservations over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from mainspring.client.transport import Transport, to_record
from mainspring.core.errors import SpecError
from mainspring.core.moments import parse_moment
from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.core.shares import Share, parse_amounts
from mainspring.core.snapshot import Reservation
from mainspring.core.standings import History, Standing
from mainspring.core.usage import UsageRow

_MANY_GPUS = re.compile(r"^(?P<count>\d+)\s*gpus?(?::(?P<model>[A-Za-z0-9._-]+))?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shares:
    """Who is promised what, and who used what."""

    transport: Transport

    def all(self) -> list[Share]:
        """Return the configured shares by name."""
        return [to_record(one, Share) for one in self.transport.get("/shares").plain()["items"]]

    def standings(self, name: str = "") -> list[Standing]:
        """Return who holds what and is owed what: the root first, each share before those below it.

        With a name (a path, or its last part) that share and those below it; empty where there is none.
        """
        found = [to_record(one, Standing) for one in self.transport.get("/standings").plain()["items"]]
        tops = [one.name for one in found if one.name == name or one.name.endswith("/" + name)]
        below = tuple(top + "/" for top in tops)
        return [one for one in found if not name or one.name in tops or one.name.startswith(below)]

    def history(self, *, hours: float = 24.0, stretches: int = 144) -> History:
        """Return what each leaf of the tree held on average in equal stretches of the last `hours`, who held most first."""
        return self.transport.get("/standings/history", {"hours": hours, "stretches": stretches}).record(History)

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
        self, share: str, begins_at: datetime | str, ends_at: datetime | str, what: str | Resources, *, replicas: int = 1
    ) -> tuple[Reservation, tuple[str, ...]]:
        """Keep something for a share between two moments; return that, and what is worth knowing about it (administrators).

        `what` is whole GPUs (`4gpu`, `4gpu:A100`) or CPUs and memory of one machine (`16cpu, 64GiB`); as Resources, what each
        of `replicas` holds. Moments may be words such as `tomorrow 9:00`. Raises SpecError, UsageError.
        """
        if isinstance(what, str):
            what, replicas = to_reserved(what)
        now = datetime.now(UTC)
        body = {
            "share": share,
            "begins_at": parse_moment(begins_at, now, "begins_at") if isinstance(begins_at, str) else begins_at,
            "ends_at": parse_moment(ends_at, now, "ends_at") if isinstance(ends_at, str) else ends_at,
            "resources": what,
            "replicas": replicas,
        }
        plain = self.transport.post("/reservations", body).plain()
        return to_record(plain["reservation"], Reservation), tuple(plain["notices"])

    def release(self, reservation: str) -> None:
        """Give an advance reservation up."""
        self.transport.send("DELETE", f"/reservations/{quote(reservation, safe='')}")


def to_reserved(text: str) -> tuple[Resources, int]:
    """Return what one member of a reservation holds, and how many there are: `4gpu` are four of one GPU. Raises SpecError."""
    many = _MANY_GPUS.match(text.strip())
    if many is not None and int(many["count"]):
        models = (many["model"],) if many["model"] else ()
        return Resources(gpu_milli=GPU_MILLI, gpu_models=models), int(many["count"])
    amounts = parse_amounts(text)
    if not amounts or any(name.startswith("gpu") for name in amounts):
        raise SpecError(f"{text[:60]!r} cannot be reserved.", hint="Say whole GPUs (4gpu:A100), or `16cpu, 64GiB`.")
    return Resources(cpu_milli=amounts.get("cpu", 1000), memory_bytes=amounts.get("memory", 0)), 1
