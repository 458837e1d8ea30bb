"""CPU and memory of user code and all below it: measured beside it, and told in the beat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mainspring.runner import watch
from mainspring.runner.beats import Link
from mainspring.runner.folder import Folder
from mainspring.runner.watch import Stop, Watch

MIB = 1 << 20
BURN = """
import subprocess, sys
below = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
held = b"x" * (100 << 20)
below.wait()
"""


@pytest.fixture
def burning() -> Iterator[int]:
    """A process that holds 100 MiB, with one below it that computes for ever."""
    made = subprocess.Popen([sys.executable, "-S", "-c", BURN], start_new_session=True)
    yield made.pid
    os.killpg(made.pid, signal.SIGKILL)
    made.wait()


def full(server: Any) -> list[dict[str, Any]]:
    """Return what was told since all was held: from then on whoever holds it computes nothing."""
    return [one for one in server.lines("usage") if one["memory_bytes"] > 100 * MIB]


def test_cpu_and_memory_of_the_whole_tree_come_with_the_beat(
    site: Any, server: Any, until: Callable[..., None], burning: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "USAGE_S", 0.2)
    server.beat_in_s = 0.1
    folder = Folder(str(site.root))
    folder.make()
    link = Link(folder, site.read("launch.json"), "t0ken", lambda *_: None, lambda: None)
    looking = Watch(folder, link, Stop(folder), {}, burning, visible="")
    link.start()
    looking.start()
    try:
        until(lambda: any(one["cpu"] > 0.1 for one in full(server)[2:]), "a beat that tells of what computes below")
        assert all(one["memory_bytes"] < 160 * MIB for one in full(server)), "two interpreters are a few MiB each"
        assert all(0 <= one["cpu"] <= 3 and one["gpu"] == [] for one in server.lines("usage"))
    finally:
        looking.is_over.set()
        link.is_acknowledged.set()
        looking.join(10)
