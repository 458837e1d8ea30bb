"""What the composition root does for the whole process: its memory."""

from __future__ import annotations

import subprocess
import sys

_HEAPS = """
import re, sys, threading
from mainspring.app import give_back, keep_memory_small

def heaps():
    begins = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ \\S+ \\S+ 00:00 0 *$", open("/proc/self/maps").read(), re.M)
    return sum(int(begin, 16) % (64 << 20) == 0 for begin in begins)  # where glibc puts each but the first

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10

def ask():
    kept = [bytes(3000) for _ in range(1500)]  # by all together less than the 64 MiB of one heap
    together.wait()
    few.append(kept[::100])

if sys.argv[1] == "small":
    keep_memory_small()
few, together = [], threading.Barrier(12)
threads = [threading.Thread(target=ask) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
high = resident()
give_back()
print(heaps(), high - resident())
"""


def _told(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _HEAPS, how], capture_output=True, text=True, check=True, timeout=110)
    heaps, given = done.stdout.split()
    return int(heaps), int(given)


def test_a_server_of_many_threads_keeps_two_heaps_and_gives_back_what_is_free() -> None:
    heaps, given_mib = _told("small")
    assert heaps == 1
    assert given_mib > 40  # of about 50 that the threads had, what is left lies all over them
    assert _told("plain")[0] > 4
