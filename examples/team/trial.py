"""What alice tunes. A file of its own, so that a run imports nothing that it does not need."""

import time

import mainspring as ms

STEP_S = 1.2


@ms.task(gpus=1)
def trial(learning_rate: float = 0.1) -> float:
    """Stand for a short training: hold a GPU, then report how good the rate was."""
    time.sleep(STEP_S)
    score = 1 - abs(learning_rate - 0.03)
    ms.log_metric("score", score)
    return score
