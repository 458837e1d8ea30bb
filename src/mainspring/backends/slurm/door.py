"""The way to Slurm's commands: `far.py`, run on this machine or on the login host, one round trip for each question."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mainspring.backends.slurm import far
from mainspring.core.errors import UnreachableError

FAR = Path(far.__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command returned."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Files to write (path, bytes; those in `kept` only where there is none), then commands, files to read, folders to remove."""

    write: Mapping[str, bytes] = field(default_factory=dict)
    kept: Mapping[str, bytes] = field(default_factory=dict)
    run: Sequence[Sequence[str]] = ()
    script: str = ""  # standard input of the last command, whose environment is a login's and what is `passed` of the one there
    passed: Sequence[str] = ()
    read: Sequence[str] = ()
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of it, in the order of the questions. A file that is not there reads as None."""

    said: tuple[Said, ...] = ()
    read: Mapping[str, bytes | None] = field(default_factory=dict)
    python: str = ""


class Carry(Protocol):
    """Runs a Python program with text on standard input where Slurm is. Raises UnreachableError, CredentialsError."""

    def __call__(self, program: str, text: str) -> str:
        """Return what it printed."""
        ...


def here(program: str, text: str) -> str:
    """Do on this machine what the program would do: to start a Python for it takes longer than most of Slurm's commands."""
    del program
    try:
        return json.dumps(far.carry_out(json.loads(text)))
    except OSError as wrong:
        raise UnreachableError(f"Slurm's folder cannot be used: {wrong}.") from wrong


@dataclass(slots=True)
class Door:
    """Asks through a carrier. Thread safe."""

    carry: Carry
    _program: str = ""
    _home: str = ""
    _login: dict[str, str] | None = None
    _pythons: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def python(self, word: str) -> tuple[str, ...]:
        """Return where a word leads that names a Python after a login; asked once, as what leads to it may take long each time.

        That is (what it is on the PATH, the Python behind it, that without links, the kind of machine), or nothing.
        """
        if word not in self._pythons:
            self._pythons[word] = tuple(self._told({"python": word, "env": self.login()})["python_place"])
        return self._pythons[word]

    def login(self) -> dict[str, str]:
        """Return the environment that whoever submits there finds after a login; asked once, as profiles may take seconds."""
        if self._login is None:
            self._login = self._told({"login": True})["login"]
        return self._login

    def home(self) -> str:
        """Return the home folder of whoever submits there; asked once."""
        if not self._home:
            self.ask(Asked())
        return self._home

    def ask(self, asked: Asked) -> Answer:
        """Return the answer. Raises UnreachableError (also for a file that cannot be read), CredentialsError."""
        write: list[dict[str, object]] = [{"path": path, "data": _packed(data)} for path, data in asked.write.items()]
        write += [{"path": path, "data": _packed(data), "is_kept": True} for path, data in asked.kept.items()]
        run: list[dict[str, object]] = [{"words": list(words)} for words in asked.run]
        if asked.script:
            run[-1] |= {"input": asked.script, "passed": list(asked.passed), "env": self.login()}
        told = self._told({"write": write, "run": run, "read": list(asked.read), "remove": list(asked.remove)})
        for path, why in told["unread"].items():  # to take it for one that is not there would be to say that a run has ended
            raise UnreachableError(f"{path} cannot be read where Slurm is: {why}.", hint="Is its file system well there?")
        return Answer(
            said=tuple(Said(code=one["code"], out=one["out"], err=one["err"]) for one in told["run"]),
            read={path: None if data is None else base64.b64decode(data) for path, data in told["read"].items()},
            python=str(told["python"]),
        )

    def _told(self, asked: Mapping[str, object]) -> dict[str, Any]:
        self._program = self._program or FAR.read_text()
        printed = self.carry(self._program, json.dumps(asked))
        try:
            told: dict[str, Any] = json.loads(printed.rstrip().rpartition("\n")[2])
        except ValueError as wrong:
            raise UnreachableError(f"The login host answers with something else: {printed[:200]!r}.") from wrong
        self._home = str(told["home"])
        return told


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()
