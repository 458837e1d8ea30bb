"""The server's own process, by the shortest way: what a command line needs does not stay in its memory for ever (11 MB)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from mainspring.core.errors import UsageError
from mainspring.core.loading import load_without

# Mako and uvicorn load these where they find them, for pages and reloads that we do not have: 6 MB.
UNUSED = ("pygments", "watchfiles")
_KINDS: Mapping[str, type] = {
    "home": Path,
    "gpus": int,
    "gpu-model": str,
    "cpus": float,
    "port": int,
    "bind": str,
    "advertise": str,
    "database-url": str,
}


def plain(words: Sequence[str]) -> dict[str, object] | None:
    """Return what `--NAME VALUE ...` gives; None for anything else, which the whole command line explains."""
    found: dict[str, object] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--insecure-http":
            found["insecure_http"] = True
            continue
        name = word.removeprefix("--")
        if name == word or name not in _KINDS or not rest or rest[0].startswith("-"):
            return None
        try:
            found[name.replace("-", "_")] = _KINDS[name](rest.pop(0))
        except ValueError:
            return None
    return found if "home" in found else None


def run(given: Mapping[str, object]) -> int:
    """Be the server until it is told to end; return the exit code."""
    try:
        serve(given)
    except Exception as wrong:  # the top of this program
        code: int = import_module("mainspring.cli.dispatch").explain(wrong)
        return code
    return 0


def serve(given: Mapping[str, object]) -> None:
    """Load the server and be it; names are those of the flags, None and "" say nothing. Raises UsageError, StoreError."""
    try:
        app = load_without("mainspring.app", UNUSED)
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"The server needs {missing.name}, which is not installed.", hint='pip install "mainspring[server]"'
        ) from missing
    said = {name: value for name, value in given.items() if value is not None and value != "" and value is not False}
    if "advertise" in said:
        said["advertise_url"] = said.pop("advertise")
    app.serve(**said)
