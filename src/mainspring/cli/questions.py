"""Asking a person before something is lost."""

from __future__ import annotations

import sys

from rich.prompt import Confirm

from mainspring.core.errors import UsageError


def confirm(question: str, *, is_yes: bool) -> None:
    """Return when the answer is yes. Raises UsageError when it is no, or when nobody is there to ask."""
    if is_yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer.", hint="Add --yes.")
    if not Confirm.ask(question, default=False):
        raise UsageError("Nothing was done.")
