"""How the log of a run is printed: its bytes as they are for people, one JSON object a line for programs."""

from __future__ import annotations

from typing import Protocol, TextIO

from mainspring.cli.output import one_line


class Printed(Protocol):
    """Takes a log in pieces, in order; pieces of another attempt begin another log."""

    def take(self, data: bytes, attempt: int, offset: int, /) -> None:
        """Print a piece that begins at `offset` of the log of `attempt`."""
        ...

    def end(self) -> None:
        """Print what is left: no more comes of this attempt."""
        ...


class PlainLog:
    """Prints bytes as they were written."""

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def take(self, data: bytes, _attempt: int, _offset: int, /) -> None:
        """Print the piece."""
        raw = getattr(self._to, "buffer", None)
        if raw is None:
            self._to.write(data.decode("utf-8", "replace"))
        else:
            raw.write(data)
            raw.flush()

    def end(self) -> None:
        """Nothing is held back."""


class JsonLog:
    """Prints `{"stream", "attempt", "offset", "text"}` for each line, once it is whole; the last one may have no end.

    `offset` is where the line begins, in bytes; what is no UTF-8 becomes U+FFFD in `text`, which has no line end.
    """

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._attempt = 0
        self._offset = 0
        self._rest = bytearray()

    def take(self, data: bytes, attempt: int, offset: int, /) -> None:
        """Print the lines that this piece ends."""
        if attempt != self._attempt:
            self.end()
            self._attempt, self._offset = attempt, offset
        *ended, rest = data.split(b"\n")  # splitlines would end lines at a carriage return too
        for line in ended:
            self._rest += line + b"\n"
            self._print()
        self._rest += rest
        self._to.flush()

    def end(self) -> None:
        """Print a last line that has no end."""
        if self._rest:
            self._print()
            self._to.flush()

    def _print(self) -> None:
        text = self._rest.removesuffix(b"\n").decode("utf-8", "replace")
        told = {"stream": "log", "attempt": self._attempt, "offset": self._offset, "text": text}
        self._to.write(one_line(told))
        self._offset += len(self._rest)
        self._rest.clear()
