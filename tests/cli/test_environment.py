"""`--env`: text as it is, and a refusal of what is none."""

from __future__ import annotations

import pytest

from mainspring.cli.flags import environment
from mainspring.core.errors import UsageError


def test_any_text_is_passed_on_and_bytes_that_are_none_are_refused() -> None:
    told = {"A": "été 日本 🚀", "B": "\x01\x7f\n\t=;&|'\"", "C": ""}
    assert environment(tuple(f"{name}={value}" for name, value in told.items())) == told
    with pytest.raises(UsageError, match="The value of D is not UTF-8") as caught:
        environment(("D=a\udcff",))  # as Python shows the byte 0xff of an argument
    assert "base64" in caught.value.hint
