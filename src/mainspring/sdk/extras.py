"""The door to packages that a user may or may not have: imported when first needed, with a hint when missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mainspring.core.errors import UsageError


def need(module: str, what: str, extra: str = "") -> Any:
    """Return the module. Raises UsageError that says what it is needed for."""
    try:
        return import_module(module)
    except ImportError as missing:
        package = module.partition(".")[0]
        hint = f'pip install "mainspring[{extra}]"' if extra else f"pip install {package}"
        raise UsageError(f"{what} needs {package}, which cannot be imported: {missing}.", hint=hint) from missing


def is_of(value: object, module: str, *names: str) -> bool:
    """Say whether `value` is one of the classes `names` of `module`, without importing it."""
    return any(cls.__name__ in names and cls.__module__.partition(".")[0] == module for cls in type(value).__mro__)
