"""Every list, and every state that takes no name, as people and as programs ask for it, where little has happened yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mainspring.cli import dispatch

LISTS = [f"{group} {word}" for group, _, _, members in dispatch.GROUPS for word, _ in members if word == "ls"]
LISTS += ["doctor", "ps", "share", "usage"]
STATES = ["plan show --now", "policy show", "status"]
pytestmark = pytest.mark.e2e


def test_there_are_lists() -> None:
    assert {"cluster ls", "data ls", "endpoint ls", "model ls", "token ls", "user ls"} <= set(LISTS)


@pytest.mark.parametrize("words", sorted(LISTS) + STATES)
def test_people_get_a_table_and_programs_get_json(words: str, typed: Callable[..., Any]) -> None:
    shown = typed(*words.split())
    assert shown.returncode == 0, shown
    assert shown.stdout or shown.stderr, "nothing is no answer: that there is none is told"
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(shown.stdout)
    told = typed(*words.split(), "--json")
    assert (told.returncode, told.stderr) == (0, ""), told
    assert isinstance(json.loads(told.stdout), list if words in LISTS else dict)
