"""What took long is told again for a while; what was quick is worked out anew."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from mainspring.services.recent import TIMES, Recent
from mainspring.testing.clock import FakeClock


def test_an_answer_is_told_again_for_a_while_in_proportion_to_what_it_took() -> None:
    clock, recent = FakeClock(), Recent()
    asked: list[float] = []

    def slow(took_s: float) -> int:
        asked.append(took_s)
        clock.advance(took_s)
        return len(asked)

    def told(took_s: float, age_s: float) -> int:
        return recent.get("a", lambda: slow(took_s), clock=clock, age_s=age_s)

    assert told(0.1, 10) == 1
    assert told(0.1, 10) == 1
    clock.advance(0.1 * TIMES + 0.001)
    assert told(1.0, 10) == 2, "a tenth of a second of work is good for two"
    clock.advance(9)
    assert told(1.0, 10) == 2
    assert told(1.0, 5) == 3, "who wants it fresher than that gets it"
    assert told(1.0, 0) == 4


def test_what_takes_no_time_is_always_fresh() -> None:
    clock, recent = FakeClock(), Recent()
    numbers = iter(range(9))
    assert [recent.get("a", lambda: next(numbers), clock=clock, age_s=60) for _ in range(3)] == [0, 1, 2]
    assert recent.get("b", lambda: "other", clock=clock) == "other"


def test_those_who_ask_at_the_same_time_wait_for_one_answer() -> None:
    clock, recent = FakeClock(), Recent()
    asked: list[int] = []
    together = threading.Barrier(8)

    def work() -> int:
        asked.append(1)
        clock.advance(5)
        return 7

    def ask(_: int) -> int:
        together.wait(10)
        return recent.get("a", work, clock=clock, age_s=60)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {7}
    assert len(asked) == 1
