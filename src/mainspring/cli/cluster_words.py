"""The words behind `mainspring cluster add KIND`: targets and the options of the kind, which only the server knows. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.core.backend import OptionKind
from mainspring.core.errors import UsageError

ASKED = "-"  # a secret that is asked for, or read from standard input


@dataclass(slots=True)
class Words:
    """What was typed. `asked` are secrets whose value is not on the command line."""

    targets: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    name: str = ""
    is_json: bool = False


def read_words(kind: Mapping[str, Any], words: Sequence[str]) -> Words:
    """Return targets and options. A flag takes no value; a list may be given several times; paths are made absolute.

    Unknown options are left to the server, which knows the nearest one. Raises UsageError for one without its value.
    """
    kinds = {str(one["name"]): OptionKind(one["kind"]) for one in kind["options"]}
    found = Words()
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or word == "--":
            if word != "--":
                found.targets.append(word)
            continue
        written, equals, value = word[2:].partition("=")
        name = written.replace("-", "_")
        option = kinds.get(name, OptionKind.TEXT)
        if name == "json" and name not in kinds:
            found.is_json = True
            continue
        if not equals:
            if option is OptionKind.FLAG:
                value = "yes"
            elif not left:
                raise UsageError(f"--{written} needs a value.", hint=f"mainspring cluster kinds {kind['name']}")
            else:
                value = left.pop(0)
        if name == "name" and name not in kinds:
            found.name = value
        elif option is OptionKind.LIST:
            found.options.setdefault(name, []).extend(part for part in value.split(",") if part)
        elif option is OptionKind.PATH:
            found.options[name] = os.path.abspath(os.path.expanduser(value))
        elif option is OptionKind.SECRET and value == ASKED:
            found.asked.append(name)
        else:
            found.options[name] = value
    return found
