"""The door between records and JSON: what threads that come through it at once may not do to each other."""

from __future__ import annotations

import subprocess
import sys

# Types that nobody has decoded yet, each met by four threads at once; the interpreter goes from one to the next at any moment.
RACE = """
import dataclasses, sys, threading
from mainspring.core import codec
sys.setswitchinterval(1e-6)

def meet(outer, inner):
    gate, wrong = threading.Barrier(4), []
    def come(first, data):
        gate.wait()
        try:
            codec.decode(data, first)
            codec.decoder(first).decode(data)
        except Exception as one:
            wrong.append(one)
    asked = [(outer, '{"z": {"x3": 1}, "y3": [{"x7": 3}]}'), (inner, '{"x3": 1, "x29": 2}')] * 2
    threads = [threading.Thread(target=come, args=one) for one in asked]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong, wrong

for n in range(60):
    inner = dataclasses.make_dataclass(f"Inner{n}", [(f"x{k}", int | None, None) for k in range(30)])
    outer = dataclasses.make_dataclass(f"Outer{n}", [(f"y{k}", tuple[inner, ...], ()) for k in range(10)] + [("z", inner, None)])
    meet(outer, inner)
print("all met")
"""


def test_threads_that_meet_a_type_first_at_once_do_not_end_the_process() -> None:
    """msgspec 0.22 by itself dies of it (SIGSEGV), as a server did once when it started on a busy machine."""
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "all met\n"), done
