"""Two hundred random schedules of the small team: machines are asked for only when no part of an owned GPU is idle."""

from __future__ import annotations

from statistics import fmean

import pytest
from benchmarks import team

SCHEDULES, SHARDS, TRIALS = 200, 4, 14


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_machine_is_asked_for_while_a_gpu_is_idle(shard: int) -> None:
    asked = 0
    for seed in range(shard, SCHEDULES, SHARDS):
        wrong, count = team.with_site(team.schedule(seed, TRIALS))
        assert not wrong, f"schedule {seed}"
        asked += count
    assert asked > SCHEDULES // SHARDS, "too little was rented to prove anything"


def test_ten_people_get_equal_parts() -> None:
    found = [team.at_home(team.schedule(seed, 200)) for seed in (1,)]
    assert fmean(jain for jain, _ in found) >= 0.98
    assert max(ratio for _, ratio in found) <= 1.15
