"""Fit a line by gradient descent, and search for the rate that does it best.

python examples/sweep/fit.py
mainspring sweep examples/sweep/fit.py:fit -n 20 --minimize loss rate=log:1e-3:1
"""

import random

import mainspring as ms


@ms.task(cpus=0.5)
def fit(rate: float = 0.1, steps: int = 60, seed: int = 0) -> dict[str, float]:
    """Return slope and intercept of noisy points on y = 3x + 1, and the loss that is left."""
    draw = random.Random(seed)
    points = [(x / 20, 3 * x / 20 + 1 + draw.gauss(0, 0.1)) for x in range(40)]
    slope = intercept = 0.0
    loss = 0.0
    for step in range(steps):
        errors = [(slope * x + intercept - y, x) for x, y in points]
        loss = min(sum(error * error for error, _ in errors) / len(points), 1e6)
        ms.log_metric("loss", loss, step=step)
        slope -= rate * 2 * sum(error * x for error, x in errors) / len(points)
        intercept -= rate * 2 * sum(error for error, _ in errors) / len(points)
        if loss >= 1e6:  # it runs away: a larger rate never comes back
            break
    return {"slope": slope, "intercept": intercept, "loss": loss}


if __name__ == "__main__":
    study = ms.sweep(fit, trials=12, minimize="loss", parallel=4, seed=1, rate=ms.loguniform(1e-3, 1.0))
    print(f"best: {study.best.params} {study.best.metrics}")
