"""Operations on the installation as a whole."""

from __future__ import annotations

from pathlib import Path

from mainspring.core.actors import Actor
from mainspring.core.errors import UsageError
from mainspring.services.context import Context
from mainspring.services.runs import said


def backup(ctx: Context, actor: Actor, path: str = "") -> dict[str, object]:
    """Write a consistent copy of the database while everything goes on; return where it lies and its bytes.

    Blobs are immutable and are copied by the ordinary tools; the copy names the digests that it needs.
    """
    actor.need_admin()
    stamp = ctx.clock.now().strftime("%Y%m%dT%H%M%SZ")
    target = Path(path) if path else ctx.settings.home / "backups" / f"mainspring-{stamp}.db"
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, ValueError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else wrong
        raise UsageError(f"{target.parent} cannot be made: {why}.", hint="Name another file.") from wrong
    ctx.store.backup(str(target))
    ctx.store.events.append(said(actor, "installation.backed_up", str(target.name), ""))
    return {"path": str(target), "bytes": target.stat().st_size}
