"""The policy as people write it: a TOML file. What is wrong is named by key, line and the nearest right key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from mainspring.core.codec import from_plain, to_plain
from mainspring.core.errors import SpecError
from mainspring.core.policy import Policy, check_policy

MAX_CHARACTERS = 100_000
_SECTION = re.compile(r"^\s*\[\s*([A-Za-z0-9_.\"-]+)\s*\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"-]+)\s*=")
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)")


def parse_policy(text: str) -> Policy:
    """Return the policy that a TOML text describes; what it leaves out has its default.

    Raises SpecError that names the key and its line, with `details["path"]` and `details["line"]`.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError(f"The policy has {len(text):,} characters.", hint=f"The limit is {MAX_CHARACTERS:,}.")
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        found = _AT_LINE.search(str(wrong))
        line = int(found[1]) if found else text.count("\n") + 1
        said = _AT_LINE.sub("", str(wrong)).removesuffix(" (at end of document)")
        raise SpecError(
            f"Line {line} of the policy is no TOML: {said}.",
            hint="Write `key = value` below a [section]; mainspring policy show prints a whole one.",
            details={"path": "", "line": line},
        ) from wrong
    _check_keys(plain, Policy(), "", text)
    try:
        return check_policy(from_plain(_with_floats(plain, Policy()), Policy))
    except SpecError as wrong:
        path = str(wrong.details.get("path", ""))
        line = line_of(text, path)
        raise SpecError(
            f"{f'Line {line}: ' if line else ''}{wrong.message}", hint=wrong.hint, details={"path": path, "line": line}
        ) from wrong


def show_policy(policy: Policy) -> str:
    """Return the policy as `parse_policy` reads it, every key in its section."""
    plain = to_plain(policy)
    sections = [name for name in plain if isinstance(plain[name], dict)]
    lines = [f"{name} = {_value(plain[name])}" for name in plain if name not in sections]
    for section in sections:
        lines += ["", f"[{section}]", *(f"{name} = {_value(value)}" for name, value in plain[section].items())]
    return "\n".join(lines) + "\n"


def line_of(text: str, path: str) -> int:
    """Return the line of the key `path` (`order.history`), that of its section where the key has none, else 0."""
    section, found = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if (match := _SECTION.match(line)) is not None:
            section = match[1].replace('"', "")
            if path == section or path.startswith(section + "."):
                found = number
        elif (match := _KEY.match(line)) is not None:
            key = match[1].replace('"', "")
            if path == (f"{section}.{key}" if section else key):
                return number
    return found


def _check_keys(plain: Mapping[str, object], default: object, path: str, text: str) -> None:
    known = {one.name: getattr(default, one.name) for one in fields(default)} if is_dataclass(default) else {}
    for key, value in plain.items():
        where = f"{path}.{key}" if path else key
        if key not in known:
            raise _unknown(where, key, known, text)
        if is_dataclass(known[key]) != isinstance(value, Mapping):
            line = line_of(text, where)
            right = f"a section: write [{where}]" if is_dataclass(known[key]) else f"a value: write {key} = ..."
            raise SpecError(f"Line {line}: {where} is {right}.", details={"path": where, "line": line})
        if isinstance(value, Mapping):
            _check_keys(value, known[key], where, text)


def _unknown(where: str, key: str, known: Mapping[str, object], text: str) -> SpecError:
    line = line_of(text, where)
    inner = [f"{section}.{one.name}" for section, value in _sections(Policy()).items() for one in fields(value)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [name for name in inner if name.rpartition(".")[2] == key] or difflib.get_close_matches(where, inner, n=1)
    hint = f"Do you mean {near[0]!r}?" if near else "Known here: " + ", ".join(sorted(known)) + "."
    return SpecError(f"Line {line}: there is no key {where!r} in a policy.", hint=hint, details={"path": where, "line": line})


def _sections(policy: Policy) -> dict[str, Any]:
    return {one.name: value for one in fields(policy) if is_dataclass(value := getattr(policy, one.name))}


def _with_floats(plain: Mapping[str, object], default: object) -> dict[str, object]:
    """Return `plain` with whole numbers as floats where floats are meant: TOML tells `60` from `60.0`, people do not."""
    made: dict[str, object] = {}
    for key, value in plain.items():
        right = getattr(default, key)
        if isinstance(value, Mapping):
            made[key] = _with_floats(value, right)
        else:
            made[key] = float(value) if isinstance(right, float) and type(value) is int else value
    return made


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
