"""A notifier that appends each sentence to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainspring.core.records import Event


class FileNotifier:
    """Appends to `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def notify(self, event: Event, sentence: str) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as out:
            out.write(f"{event.seq} {sentence}\n")


def create(config: Mapping[str, object]) -> FileNotifier:
    """Build the notifier; `config["path"]` names the file."""
    return FileNotifier(Path(str(config["path"])))
