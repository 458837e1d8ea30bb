"""Options that many commands share, and the words of the command line turned into values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from mainspring.core.errors import UsageError

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON for programs instead of a table for people.")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), help="Do not ask.")]
Project = Annotated[
    str,
    Parameter(name="--project", help="The project; default MAINSPRING_PROJECT, else `default`.", env_var="MAINSPRING_PROJECT"),
]
Flag = Parameter(negative=())


def pairs(words: Iterable[str], flag: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {word!r} is not NAME=VALUE.", hint=f"Write {flag} NAME=VALUE.")
        found[name] = value
    return found


def values(words: Iterable[str], flag: str) -> dict[str, object]:
    """Return NAME=VALUE words with values read as JSON where they are JSON (1e-4, true), else as text. Raises UsageError."""
    return {name: scalar(text) for name, text in pairs(words, flag).items()}


def scalar(text: str) -> object:
    """Return a number, a boolean, null or a JSON list where `text` is one, else `text`."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
