"""What a cluster may be told: the options of its engine kind, checked and typed. Pure, for both sides of the wire."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from mainspring.core.backend import Engine, Option, OptionKind
from mainspring.core.errors import UsageError

TARGETS = "targets"
MAX_TEXT = 64 * 1024
COMMON = (
    Option(name="pool", help="The pool that its nodes are in; default: `default`."),
    Option(name="labels", help="Labels of all its nodes, KEY=VALUE, separated by commas.", kind=OptionKind.LIST),
)
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def options_of(engine: Engine) -> tuple[Option, ...]:
    """Return the options of an engine kind, those that every kind has last."""
    own = {option.name for option in engine.options}
    return (*engine.options, *(option for option in COMMON if option.name not in own))


def check_config(kind: str, engine: Engine, given: Mapping[str, object], targets: Sequence[str] = ()) -> dict[str, object]:
    """Return the config of a cluster of `kind`: options by name, typed, defaults filled in, and its targets if it takes any.

    Names may be written with `-`; numbers, flags and lists (separated by commas) may come as text. Raises UsageError that
    names what is wrong and what comes nearest.
    """
    known = {option.name: option for option in options_of(engine)}
    config = {option.name: option.default for option in engine.options if option.default is not None}
    for word, value in given.items():
        name = word.lstrip("-").replace("-", "_")
        if name not in known:
            raise _unknown(kind, word.lstrip("-"), list(known))
        config[name] = _typed(kind, known[name], value)
    for option in engine.options:
        if option.is_required and option.name not in config:
            raise UsageError(f"A cluster of kind {kind} needs {flag(option)}: {option.help}", hint=_usage(kind))
    return config | _targets(kind, engine, targets)


def flag(option: Option) -> str:
    """Return how the option is written on the command line."""
    return "--" + option.name.replace("_", "-")


def secret_names(engine: Engine) -> frozenset[str]:
    """Return the names of the options that are kept encrypted."""
    return frozenset(option.name for option in engine.options if option.kind is OptionKind.SECRET)


def _targets(kind: str, engine: Engine, targets: Sequence[str]) -> dict[str, object]:
    words = [word for word in targets if word]
    if not engine.targets:
        if words:
            raise UsageError(f"A cluster of kind {kind} takes no {words[0][:60]!r} behind the kind.", hint=_usage(kind))
        return {}
    most = engine.max_targets or len(words)
    if not engine.min_targets <= len(words) <= most:
        wanted = f"{engine.min_targets} or more" if not engine.max_targets else f"{engine.min_targets} to {engine.max_targets}"
        raise UsageError(f"A cluster of kind {kind} needs {wanted} {engine.targets}, not {len(words)}.", hint=_usage(kind))
    if len(set(words)) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise UsageError(f"{twice[:60]!r} is named twice.", hint=_usage(kind))
    return {TARGETS: words}


def _typed(kind: str, option: Option, value: object) -> object:
    typed: object
    match option.kind:
        case OptionKind.NUMBER:
            typed = _number(value)
        case OptionKind.FLAG:
            typed = _flag(value)
        case OptionKind.LIST:
            typed = _list(value)
        case _:
            typed = value if isinstance(value, str) and value and len(value) <= MAX_TEXT and "\x00" not in value else None
    if typed is None:
        shown = "its value" if option.kind is OptionKind.SECRET else repr(value)[:60]
        raise UsageError(f"{flag(option)} takes {_TAKES[option.kind]}, not {shown}.", hint=_usage(kind))
    return typed


_TAKES = {
    OptionKind.TEXT: "a text",
    OptionKind.NUMBER: "a number",
    OptionKind.FLAG: "no value",
    OptionKind.PATH: "a path",
    OptionKind.LIST: "texts separated by commas",
    OptionKind.SECRET: "a text",
}


def _number(value: object) -> int | float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or number < 0:
        return None
    return int(number) if number == int(number) else number


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    word = value.casefold() if isinstance(value, str) else ""
    return True if word in _YES else False if word in _NO else None


def _list(value: object) -> list[str] | None:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        return None
    return [word.strip() for word in words if word.strip()]


def _unknown(kind: str, name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    shown = name[:60].replace("_", "-")
    message = f"A cluster of kind {kind} has no option --{shown}"
    if near:
        return UsageError(f"{message}; did you mean --{near[0].replace('_', '-')}?", hint=_usage(kind))
    said = ", ".join("--" + one.replace("_", "-") for one in known) or "none"
    return UsageError(f"{message}; it has: {said}.", hint=_usage(kind))


def _usage(kind: str) -> str:
    return f"mainspring cluster kinds {kind}"
