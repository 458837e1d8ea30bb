"""Lists of objects, asked for in parts; of each object only the fields of a type are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from mainspring.backends.kubernetes.api import Api, MissingError, StaleError, decoded, stranger
from mainspring.backends.kubernetes.places import kubectl
from mainspring.core.errors import UnreachableError

PAGE = "1000"
T = TypeVar("T")


class _Page(msgspec.Struct, Generic[T]):
    items: list[T] | None = None
    metadata: dict[str, object] = {}


def listed(api: Api, path: str, kind: type[T], **query: str) -> tuple[list[T], str]:
    """Return a whole list and the version as of which it is.

    Raises UnreachableError, also where there is no such list, as every Kubernetes has them; CredentialsError.
    """
    try:
        try:
            return _in_parts(api, path, kind, {"limit": PAGE, **query})
        except StaleError:  # the store forgot what the rest was to be read from: all at once, as kubectl does then
            return _in_parts(api, path, kind, query)
    except (MissingError, StaleError) as wrong:
        raise UnreachableError(
            f"There is no list of {path.rpartition('/')[2]} at {api.place.url}: {wrong}.",
            hint=f"See what is there: {kubectl(api.place, 'get', '--raw', '/version')}",
        ) from wrong


def _in_parts(api: Api, path: str, kind: type[T], query: Mapping[str, str]) -> tuple[list[T], str]:
    found: list[T] = []
    after: dict[str, str] = {}
    while True:
        told = api.read(path, **query, **after)
        page = decoded(api.place, told, _Page[kind])  # type: ignore[valid-type]
        version = str(page.metadata.get("resourceVersion") or "")
        if not version:  # none of Kubernetes' lists, though it is JSON: an empty one would end every run
            raise stranger(api.place, told.decode(errors="replace"))
        found += page.items or []
        after = {"continue": str(page.metadata.get("continue") or "")}
        if not after["continue"]:
            return found, version
