"""Ids that sort by time: `run-01jdc3v8k2x7m4qp`, a kind, 9 characters of milliseconds, 7 of chance.

Pure: the caller brings the clock and the dice (`Ids` is the contract, `app.py` builds the real one).
"""

from __future__ import annotations

import re
from typing import NewType, Protocol

from mainspring.core.errors import UsageError

RunId = NewType("RunId", str)
AttemptId = NewType("AttemptId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case: no i, l, o, u
_TIME_CHARS, _CHANCE_CHARS = 9, 7
_SHAPE = re.compile(rf"^[a-z]{{2,8}}-[{_ALPHABET}]{{{_TIME_CHARS + _CHANCE_CHARS}}}\Z")
_NAME = re.compile(r"^[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,126}[a-zA-Z0-9])?\Z")


class Ids(Protocol):
    """Hands out fresh ids; thread safe; two calls never return the same."""

    def new(self, kind: str) -> str:
        """Return an id of `kind` (two to eight lower-case letters)."""
        ...


def make_id(kind: str, time_ms: int, chance: int) -> str:
    """Return the id of `kind` for `time_ms` since 1970 (0 <= time_ms < 2**45) and `chance` (0 <= chance < 2**35)."""
    return f"{kind}-{_base32(time_ms, _TIME_CHARS)}{_base32(chance, _CHANCE_CHARS)}"


def is_id(text: str) -> bool:
    """Say whether `text` has the shape of an id of any kind."""
    return _SHAPE.match(text) is not None


def check_name(text: str, what: str) -> str:
    """Return `text` if it may name a `what`; letters, digits, `.`, `_`, `-`, at most 128, no `..`.

    Raises UsageError otherwise: a name is used in paths, URLs and labels, so it is refused rather than mended.
    """
    if _NAME.match(text) is None or ".." in text:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise UsageError(
            f"{shown!r} cannot name a {what}.",
            hint="Use letters, digits, '.', '_' and '-', starting and ending with a letter or digit, at most 128.",
        )
    return text


def _base32(number: int, width: int) -> str:
    out = []
    for _ in range(width):
        number, rest = divmod(number, 32)
        out.append(_ALPHABET[rest])
    return "".join(reversed(out))
