"""Live progress on everything longer than a second: a bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from mainspring.sdk.extras import need


class Progress:
    """A bar over `total` things; does nothing when stderr is no terminal."""

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            console = need("rich.console", "Showing progress").Console(stderr=True)
            progress = need("rich.progress", "Showing progress")
            self._bar = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._text, total=self._total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show `done` of the total, and a note behind it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
