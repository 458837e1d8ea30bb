"""What a run used, in a line."""

from __future__ import annotations

from mainspring.cli.use_words import use_words

GIB = 1 << 30


def test_busy_is_a_mean_and_memory_the_most() -> None:
    def sample(cpu: float, memory: int, busy: float, held: int) -> dict[str, object]:
        return {"cpu": cpu, "memory_bytes": memory, "gpu": [{"index": 0, "utilization": busy, "memory_bytes": held}]}

    told = use_words([sample(0.5, GIB, 0.2, GIB), sample(1.0, 3 * GIB, 1.0, 2 * GIB)])
    assert told == "0.75 CPUs, 3 GiB at most, GPU 60% busy, GPU memory 2 GiB at most"


def test_what_was_not_measured_is_not_told() -> None:
    assert use_words([]) == ""
    assert use_words([{"cpu": 0.5, "gpu": []}, {"odd": 1, "gpu": "odd"}]) == "0.5 CPUs"
