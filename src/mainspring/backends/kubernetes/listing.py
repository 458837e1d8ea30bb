"""Lists of objects, asked for in parts; of each object only the fields of a type are kept."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from mainspring.backends.kubernetes.api import Api

PAGE = "1000"
T = TypeVar("T")


class _Page(msgspec.Struct, Generic[T]):
    items: list[T] | None = None
    metadata: dict[str, object] = {}


def listed(api: Api, path: str, kind: type[T], **query: str) -> tuple[list[T], str]:
    """Return a whole list and the version as of which it is. Raises as `Api.get`."""
    found: list[T] = []
    after: dict[str, str] = {}
    while True:
        page = msgspec.json.decode(api.read(path, limit=PAGE, **query, **after), type=_Page[kind])  # type: ignore[valid-type]
        found += page.items or []
        after = {"continue": str(page.metadata.get("continue") or "")}
        if not after["continue"]:
            return found, str(page.metadata.get("resourceVersion") or "")
