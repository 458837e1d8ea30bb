"""Two servers on one PostgreSQL: one leads, and when it is killed the other goes on with what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

RUNS = 12


def is_done(site: Any) -> bool:
    found = site.runs()
    return len(found) == RUNS and all(run["state"] in ("succeeded", "failed", "cancelled") for run in found)


@pytest.mark.chaos
def test_when_the_leader_is_killed_another_server_goes_on(on_postgres: Any, poll: Callable[..., None]) -> None:
    first = on_postgres
    first.start()
    second = replace(first, process=None)
    try:
        second.start()
        ids = [second.submit(number, pause_s=0.4) for number in range(RUNS // 2)]  # of 8 s each: they outlive the first server
        poll(lambda: len(first.lines()) >= 3, 90, "the begin of some by the word of the first server")
        first.kill()
        ids += [second.submit(number) for number in range(RUNS // 2, RUNS)]
        assert all(ids), "the one that lives did not answer"
        poll(lambda: is_done(second), 180, "the end of all by the second server alone")
        second.check(RUNS)
    finally:
        second.kill()
