"""Patterns of `.gitignore` and `.mainspringignore`, for folders that git does not answer for (gitignore(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

NEVER_FOLDERS = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"}
)
_NEVER_FILES = (".env*", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".pypirc", "*.pyc", ".DS_Store")
_KEY_FILES = (".pem", ".key", ".p12", ".pfx", ".ppk", ".jks")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of an ignore file that lies in `folder` (relative, `` for the root)."""

    folder: str
    regex: re.Pattern[str]
    is_negated: bool
    is_folder_only: bool


def parse_ignore(text: str, folder: str = "") -> list[Pattern]:
    """Return the patterns of an ignore file."""
    found = []
    for raw in text.splitlines():
        line = re.sub(r"(?<!\\)\s+$", "", raw)
        if not line or line.startswith("#"):
            continue
        is_negated = line.startswith("!")
        line = line[1:] if is_negated else line.removeprefix("\\")
        is_folder_only = line.endswith("/")
        line = line.rstrip("/")
        if line:
            found.append(Pattern(folder, re.compile(_translate(line)), is_negated, is_folder_only))
    return found


def is_ignored(path: str, is_folder: bool, patterns: Sequence[Pattern]) -> bool:
    """Say whether the last pattern that matches `path` leaves it out. The folders above are the caller's to ask about."""
    for pattern in reversed(patterns):
        if pattern.is_folder_only and not is_folder:
            continue
        inside = path if not pattern.folder else path.removeprefix(pattern.folder + "/")
        if pattern.folder and inside == path:
            continue
        if pattern.regex.match(inside):
            return not pattern.is_negated
    return False


def is_below_ignored(path: str, patterns: Sequence[Pattern]) -> bool:
    """Say whether `path` (a file) or any folder above it is left out."""
    parts = path.split("/")
    above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return any(is_ignored(folder, True, patterns) for folder in above) or is_ignored(path, False, patterns)


def is_private(name: str) -> bool:
    """Say whether a file of that name is never sent: environment files and private keys."""
    if name.endswith(".pub"):
        return False
    return any(fnmatchcase(name, pattern) for pattern in _NEVER_FILES)


def may_hold_key(name: str) -> bool:
    """Say whether a file of that name must be looked into for a private key."""
    return name.lower().endswith(_KEY_FILES)


def leaves_out(parts: Iterable[str]) -> bool:
    """Say whether a path with these parts is never sent."""
    *folders, name = parts
    return any(folder in NEVER_FOLDERS for folder in folders) or is_private(name)


def _translate(line: str) -> str:
    """Return the regular expression of one pattern: with a slash it is anchored, without one it matches at any depth."""
    is_anchored = "/" in line
    line = line.removeprefix("/")
    out = "" if is_anchored else "(?:.*/)?"
    at = 0
    while at < len(line):
        char = line[at]
        if line.startswith("**/", at) and (at == 0 or line[at - 1] == "/"):
            out, at = out + "(?:.*/)?", at + 3
        elif line.startswith("**", at) and at + 2 == len(line) and (at == 0 or line[at - 1] == "/"):
            out, at = out + ".+", at + 2
        elif char == "*":
            out, at = out + "[^/]*", at + 1
            while at < len(line) and line[at] == "*":
                at += 1
        elif char == "?":
            out, at = out + "[^/]", at + 1
        elif char == "[" and (end := line.find("]", at + 2)) > 0:
            inner = line[at + 1 : end].replace("\\", "\\\\")
            out += "(?!/)[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]"
            at = end + 1
        elif char == "\\" and at + 1 < len(line):
            out, at = out + re.escape(line[at + 1]), at + 2
        else:
            out, at = out + re.escape(char), at + 1
    return out + r"\Z"
