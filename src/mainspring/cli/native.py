"""`mainspring native`: what the engine itself has of a run."""

from __future__ import annotations

from typing import Any

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json
from mainspring.cli.output import emit_json, facts, note
from mainspring.core.codec import encode


def native(run: str, /, *, as_json: Json = False) -> None:
    """Show the engine's own objects of a run's newest try: the pod, the container, the process.

    Example: `mainspring native train`.
    """
    found = connect().runs.native(run)
    if as_json:
        emit_json(found)
        return
    if found.get("error"):
        note(f"The engine could not be asked; this is what was recorded at the launch: {found['error']}")
    facts([("cluster", str(found["cluster"])), ("engine", str(found["backend"])), ("attempt", str(found["attempt"]))])
    for replica in found["replicas"]:
        facts([("replica", str(replica["index"])), ("node", str(replica["node"])), *_rows(replica["object"] or {})])


def _rows(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, value if isinstance(value, str) else encode(value).decode()) for name, value in told.items()]
