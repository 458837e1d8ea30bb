"""Three steps, each a run of its own, and a gate: readings are made, cleaned, and averaged; the goal judges the result.

python examples/pipeline/weather.py
"""

import random

import mainspring as ms

goal = ms.Objective("weather", kpi="share_kept", at_least=0.9, owner="examples")


@ms.task(cpus=0.5)
def read(days: int = 100, seed: int = 0) -> list[float]:
    """Return temperatures; one in twenty is a fault of the sensor."""
    draw = random.Random(seed)
    return [draw.gauss(15, 5) if draw.random() > 0.05 else 999.0 for _ in range(days)]


@ms.task(cpus=0.5)
def clean(readings: list[float]) -> list[float]:
    """Return the readings that can be true."""
    return [reading for reading in readings if -60 < reading < 60]


@ms.task(cpus=0.5)
def judge(kept: list[float], days: int = 100) -> dict[str, float]:
    """Return the figures that the goal is about."""
    figures = {"share_kept": len(kept) / days, "mean": sum(kept) / len(kept)}
    for name, value in figures.items():
        ms.log_metric(name, value)
    return figures


@ms.pipeline(objective=goal)
def weather(days: int = 100) -> None:
    """Record the graph: calls on tasks inside a pipeline run nothing yet."""
    figures = judge(clean(read(days)), days)
    ms.gate(figures, objective=goal)


if __name__ == "__main__":
    done = weather.run(days=200)
    print(done.state)
