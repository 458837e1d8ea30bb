"""CPU and memory of user code and all below it: measured beside it, and told in the beat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mainspring.runner import process, watch
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


FORKS = """
import os, sys, time
held = b"x" * (80 << 20)
own = int(sys.argv[1]) << 20
for _ in range(4):
    if not os.fork():
        more = b"y" * own
        os.write(1, b"up\\n")
        time.sleep(600)
os.write(1, b"up\\n")
time.sleep(600)
"""


@pytest.fixture
def forked() -> Iterator[Callable[[int], int]]:
    """A process of 80 MiB with four forks that each hold so many MiB of their own beside them."""
    made: list[subprocess.Popen[bytes]] = []

    def begin(own: int) -> int:
        one = subprocess.Popen([sys.executable, "-S", "-c", FORKS, str(own)], stdout=subprocess.PIPE, start_new_session=True)
        made.append(one)
        assert one.stdout is not None
        assert [one.stdout.readline() for _ in range(5)] == [b"up\n"] * 5
        return one.pid

    yield begin
    for one in made:
        os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


@pytest.mark.parametrize("own", [0, 20])
def test_memory_that_forks_share_counts_once(forked: Callable[[int], int], own: int) -> None:
    usage = process.Usage(forked(own))
    wanted = (80 + 4 * own) * MIB
    for _ in range(2):  # the second one is scaled: nothing is asked again so soon
        _, memory = usage.sample()
        assert wanted <= memory < wanted + 60 * MIB, "five interpreters are a few MiB each"


def test_the_kernel_is_asked_to_divide_for_a_hundredth_of_the_time(
    forked: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [100.0], []

    def slowly(pid: int, resident: int) -> int:
        asked.append(pid)
        now[0] += 0.1  # half a second for all five
        return resident // 2

    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(process, "_own_bytes", slowly)
    usage = process.Usage(forked(0))
    first = usage.sample()[1]
    assert len(asked) == 5
    for wait_s, times in ((5.0, 1), (44.0, 1), (2.0, 2)):
        now[0] += wait_s
        assert usage.sample()[1] == pytest.approx(first, rel=0.05)
        assert len(asked) == 5 * times
