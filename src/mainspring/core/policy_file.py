"""The policy as people write it: a TOML file. What is wrong is named by key, line and the nearest right key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
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


def with_value(text: str, path: str, value: str) -> str:
    """Return the policy `text` with the key `path` (`burst.mode`) at `value`; what else its author wrote stays.

    Text needs no quotes. Raises SpecError for an unknown key, and for a value of another kind.
    """
    section, _, key = path.rpartition(".")
    default: object = Policy()
    for part in path.split("."):
        known = {one.name: getattr(default, one.name) for one in fields(default)} if is_dataclass(default) else {}
        if part not in known:
            raise _unknown(path, part, known, "")
        default = known[part]
    if is_dataclass(default):
        inner = ", ".join(f"{path}.{one.name}" for one in fields(default))
        raise SpecError(f"{path} is a section.", hint=f"Name one of its keys: {inner}.", details={"path": path})
    try:
        (given,) = tomllib.loads(f"value = {value}").values()
    except (tomllib.TOMLDecodeError, ValueError):
        given = value
    _check_value(given, default, path, "")
    line = f"{key} = {_value(given)}"
    lines = text.splitlines()
    at, head = _place(lines, section, key)
    if at is not None:
        lines[at] = line
    elif head is not None:
        lines.insert(head + 1, line)
    else:
        lines += ["", f"[{section}]", line]
    return "\n".join(lines).strip("\n") + "\n"


def _place(lines: Sequence[str], section: str, key: str) -> tuple[int | None, int | None]:
    """Return where the key stands, and the line after which a new one of its section goes; None where there is none."""
    inside, at, head = "", None, None if section else -1
    for number, line in enumerate(lines):
        if (match := _SECTION.match(line)) is not None:
            inside = match[1].replace('"', "")
            head = number if inside == section else head
        elif inside == section and (match := _KEY.match(line)) is not None and match[1].replace('"', "") == key:
            at = number
    return at, head


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
        else:
            _check_value(value, known[key], where, text)


def _check_value(value: object, default: object, path: str, text: str) -> None:
    """Refuse a value of another type than the default's, and what is none of a choice's members."""
    right, choices = "text in quotes", [str(one) for one in type(default)] if isinstance(default, StrEnum) else []
    is_right = isinstance(value, str) and (not choices or value in choices)
    if isinstance(default, bool):
        right, is_right = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        right, is_right = "a whole number", type(value) is int
    elif isinstance(default, float):
        right, is_right = "a number", type(value) in (int, float)
    if is_right:
        return
    line = line_of(text, path)
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"Do you mean {near[0]!r}?" if near else f"Such as {path.rpartition('.')[2]} = {_value(default)}, the default."
    right = "one of " + ", ".join(choices) if choices else right
    raise SpecError(
        f"{f'Line {line}: ' if line else ''}{path} is {_value(value)}, and must be {right}.",
        hint=hint,
        details={"path": path, "line": line},
    )


def _unknown(where: str, key: str, known: Mapping[str, object], text: str) -> SpecError:
    line = line_of(text, where)
    inner = [f"{section}.{one.name}" for section, value in _sections(Policy()).items() for one in fields(value)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    last = where.rpartition(".")[2]
    near = near or [name for name in inner if name.rpartition(".")[2] == last] or difflib.get_close_matches(where, inner, n=1)
    hint = f"Do you mean {near[0]!r}?" if near else "Known here: " + ", ".join(sorted(known)) + "."
    said = f"Line {line}: there" if line else "There"
    return SpecError(f"{said} is no key {where!r} in a policy.", hint=hint, details={"path": where, "line": line})


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
