"""What a file says of pipelines and sweeps at its top level: here it only has to be understood; nothing is recorded or begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_VALUES = ("Objective", "choice", "cron", "integers", "loguniform", "on_dataset", "on_push", "uniform")


def pipeline(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Mark a function as a pipeline; here it stays a plain function that has itself as `.function`."""
    if function is None:
        return lambda found: pipeline(found, **options)
    function.function = function  # type: ignore[attr-defined]
    return function


class Said:
    """What `ms.uniform(0, 1)` and the like are where nobody asks for them."""

    def __init__(self, *values: Any, **more: Any) -> None:
        self.values = values
        self.more = more


def find(name: str) -> Any:
    """Return what user code means by `ms.NAME`. Raises AttributeError, with what to do."""
    if name in _VALUES:
        return Said
    if name.startswith("__"):
        raise AttributeError(name)
    told = "is not there inside a run on a node without Mainspring: install it there, or run with --environment lock."
    raise AttributeError(f"mainspring.{name} {told}")
