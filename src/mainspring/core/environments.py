"""Environments: what a lock may hold, what a run was seen to run with, and what there is on nodes.

A lock is text: one pinned package a line, as `pip` and `uv` read it (`numpy==2.1.0 --hash=sha256:…`). It is data: nothing in it
names a file. What a run without a lock ran with is captured, and can be made such a text again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mainspring.core.errors import UsageError
from mainspring.core.units import counted

MAX_LOCK_BYTES = 8 << 20
FROM = "from:"
_PINNED = re.compile(
    r"^[A-Za-z0-9][A-Za-z0-9._-]* ?(\[[A-Za-z0-9._, -]*\])? ?"
    r"(===? ?[^\s;*,]+|@ ?(https?|git\+https?|git\+ssh)://[^\s]+)( ?;((?! -).)*)?$"  # no option hides behind a marker
)
_HASH = re.compile(r"^--hash=sha(256|384|512):[0-9a-f]+$")
_OPTION = re.compile(
    r"^(--pre|--prefer-binary|(-i|--index-url|--extra-index-url|-f|--find-links)[ =]https?://\S+|--(no|only)-binary[ =]\S+)$"
)
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_SSH = re.compile(r"@ ?git\+ssh://[^/@:\s]+@")
_PASSWORD = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user says of the environment: `environment` (here, lock, auto, a lock file, `from:RUN`), `python`, `wheels`."""

    environment: str = ""
    python: str = ""
    wheels: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed package. `origin` is where it came from if from no index: a URL with its commit, or a folder.

    `wheel` is the name that its wheel had; empty for one that was built from source in place.
    """

    name: str
    version: str
    wheel: str = ""
    origin: str = ""
    is_editable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What an interpreter had installed while a run used it."""

    python: str
    implementation: str = "cpython"
    platform: str = ""
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnvironment:
    """How a run was run: what was asked for, and what was seen (None: nothing was, or not yet).

    `lock` is the text from which it can be rebuilt: that of the run's own lock, else of what was seen. `left_out` are packages
    that are in no index (editable, or of a folder): their code is not in it.
    """

    run: str
    python: str
    lock: str
    left_out: tuple[str, ...] = ()
    has_lock: bool = False
    digest: str = ""  # of the lock the run was given
    captured: Captured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEnvironment:
    """An environment on a node, as the last run there told. `key` names its folder, `lock` is the digest of its lock.

    `asked_to_go_at` is set once somebody wants it removed: the next run on the node does it, unless one uses it.
    """

    node: str
    cluster: str
    key: str
    lock: str
    python: str
    platform: str = ""
    tool: str = ""
    size_bytes: int = 0
    built_at: datetime
    used_at: datetime
    uses: int = 1
    run: str = ""  # the last that used it
    is_in_use: bool = False
    asked_to_go_at: datetime | None = None


def sentence_of(found: RunEnvironment) -> str:
    """Return in one line what a run ran with: its Python, the lock it was built from or none, how many packages were seen."""
    seen = found.captured
    python = f"Python {found.python}" if found.python else "a Python that was not seen"
    if seen is not None and seen.implementation != "cpython":
        python = f"{seen.implementation} {seen.python}"
    origin = f"built from the lock {found.digest[:12]}" if found.has_lock else "as it was there"
    if seen is None:
        return f"{python}, {origin}; its packages were not seen" if found.has_lock or found.python else ""
    return f"{python}, {origin}, with {counted(len(seen.packages), 'package')}"


def check_lock(text: str, where: str = "the lock") -> bool:
    """Return whether every package in `text` has a hash. Raises UsageError for a line that is no pinned package."""
    if len(text) > MAX_LOCK_BYTES:
        raise UsageError(f"{where} has {len(text):,} characters; the limit is {MAX_LOCK_BYTES:,}.", hint="Lock fewer packages.")
    is_hashed = True
    for number, line in lock_lines(text):
        if _PASSWORD.search(line) and not _SSH.search(line):
            raise UsageError(
                f"Line {number} of {where} holds a password.",
                hint="Take it out, and make it a secret that uv and pip read: mainspring secret set UV_INDEX_URL",
            )
        said, hashes = split_hashes(line)
        is_fine = _OPTION.match(said) is not None if said.startswith("-") else _PINNED.match(said) is not None
        if not is_fine or not all(_HASH.match(one) for one in hashes):
            raise UsageError(
                f"Line {number} of {where} pins no package: {line[:80]!r}.",
                hint="Lock it: uv pip compile requirements.in --generate-hashes -o requirements.txt",
            )
        is_hashed = is_hashed and (said.startswith("-") or bool(hashes))
    return is_hashed


def split_hashes(line: str) -> tuple[str, list[str]]:
    """Return (what is asked for, the hashes behind it) of a line."""
    words = line.replace("--hash ", "--hash=").split(" ")
    count = next((n for n, word in enumerate(reversed(words)) if not word.startswith("--hash=")), len(words))
    return " ".join(words[: len(words) - count]), words[len(words) - count :]


def lock_lines(text: str) -> Iterator[tuple[int, str]]:
    """Give (number of its first line, whole line without comment and double spaces) of what is meant."""
    held: list[str] = []
    begun = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begun = begun or number
        if line.endswith("\\"):
            held.append(line[:-1])
            continue
        whole = " ".join(_COMMENT.sub("", " ".join([*held, line])).split())
        if whole:
            yield begun, whole
        held, begun = [], 0


def lock_of(captured: Captured) -> tuple[str, tuple[str, ...]]:
    """Return (the lock that rebuilds what was seen, the packages that it cannot rebuild)."""
    lines = []
    left_out = []
    for one in sorted(captured.packages, key=lambda one: one.name.casefold()):
        line = f"{one.name} @ {one.origin}" if one.origin else f"{one.name}=={one.version}"
        if one.is_editable or ";" in line or _PINNED.match(line) is None:
            left_out.append(one.name)
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines), tuple(left_out)
