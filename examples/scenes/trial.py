"""One trial of a sweep that is spread over whatever engines there are.

mainspring sweep examples/scenes/trial.py:trial -n 60 --maximize score lr=log:1e-4:1
"""

import mainspring as ms


@ms.task(cpus=0.25, memory="64MiB")
def trial(lr: float = 0.1) -> float:
    """Return a score that is best at 0.01."""
    score = -((lr - 0.01) ** 2)
    ms.log_metric("score", score)
    return score
