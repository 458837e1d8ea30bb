"""A command inside a running run, from Python: what it printed, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.client.client import Client
from mainspring.client.inside import Shell
from mainspring.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class ShellResult:
    """What a command inside a run printed, and its exit code (128 and the number of a signal that ended it)."""

    code: int
    output: bytes
    errors: bytes = b""

    @property
    def text(self) -> str:
        """Return the output as text."""
        return self.output.decode("utf-8", "replace")


def run_inside(
    client: Client, ref: str, command: Sequence[str], *, data: bytes = b"", replica: int = 0, timeout: float | None = None
) -> ShellResult:
    """Run a command inside a run and wait for its end. Raises like `open_shell`, UsageError without a command, TimeoutError."""
    if isinstance(command, str) or not command:
        raise UsageError("shell takes a command as a list of words.", hint='run.shell(["nvidia-smi"]), or ["sh", "-c", "…"]')
    opened = client.runs.shell(ref, command, replica=replica)
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        opened.close()

    timer = None if timeout is None else threading.Timer(timeout, stop)
    if timer is not None:
        timer.daemon = True
        timer.start()
    threading.Thread(target=_feed, args=(opened, data), daemon=True, name="shell-input").start()
    found: tuple[bytearray, bytearray] = (bytearray(), bytearray())
    try:
        for part in opened.outputs():
            found[part.is_error].extend(part.data)
    except Exception:  # whatever a stream raises that is closed under its reader
        if is_late.is_set():
            raise TimeoutError(f"{command[0]} was not done after {timeout:g} s, and was ended.") from None
        raise
    finally:
        if timer is not None:
            timer.cancel()
        opened.close()
    return ShellResult(opened.code if opened.code is not None else 1, bytes(found[0]), bytes(found[1]))


def _feed(opened: Shell, data: bytes) -> None:
    opened.send(data)
    opened.end()
