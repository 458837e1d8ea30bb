"""Answers of routes, and what routes tell the OpenAPI document about themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response

from mainspring.core import codec
from mainspring.core.queries import Page

F = TypeVar("F", bound=Callable[..., Any])
PREFIX = "/api/v1"
_SHAPE = "__mainspring_shape__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a route takes and gives: record types, or the media type of raw bytes. `is_page`, `is_list`: many of `gives`."""

    takes: Any = None
    takes_bytes: str = ""
    gives: Any = None
    gives_bytes: str = ""
    is_page: bool = False
    is_list: bool = False
    status: int = 200


def shaped(
    *,
    takes: Any = None,
    takes_bytes: str = "",
    gives: Any = None,
    gives_bytes: str = "",
    is_page: bool = False,
    is_list: bool = False,
    status: int = 200,
) -> Callable[[F], F]:
    """Write down what the route below takes and gives; changes nothing about how it runs."""
    shape = Shape(
        takes=takes,
        takes_bytes=takes_bytes,
        gives=gives,
        gives_bytes=gives_bytes,
        is_page=is_page,
        is_list=is_list,
        status=status,
    )

    def mark(function: F) -> F:
        setattr(function, _SHAPE, shape)
        return function

    return mark


def shape_of(function: Callable[..., Any]) -> Shape:
    """Return what the route told about itself."""
    found = getattr(function, _SHAPE, None)
    return found if isinstance(found, Shape) else Shape()


def answer(value: object, *, status: int = 200) -> Response:
    """Return `value` as JSON."""
    return Response(codec.encode(value), status_code=status, media_type="application/json")


def answer_page(page: Page[Any]) -> Response:
    """Return a page as JSON."""
    return answer({"items": page.items, "cursor": page.cursor, "total": page.total})


def answer_all(items: Sequence[Any]) -> Response:
    """Return everything there is as one page."""
    return answer({"items": items, "cursor": "", "total": len(items)})


def answer_nothing() -> Response:
    """Return 204."""
    return Response(status_code=204)
