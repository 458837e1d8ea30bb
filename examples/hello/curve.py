"""Log parameters, a curve and a file. Outside a run the same calls do nothing.

mainspring run examples/hello/curve.py -- 0.3
"""

import math
import sys
from pathlib import Path

import mainspring as ms


def main(rate: float) -> float:
    """Log a loss that falls at `rate`; return the last one."""
    ms.log_params({"rate": rate})
    loss = 1.0
    for step in range(50):
        loss = math.exp(-rate * step)
        ms.log_metric("loss", loss, step=step)
    page = Path("summary.txt")
    page.write_text(f"rate {rate}, last loss {loss:.3g}\n", encoding="utf-8")
    ms.log_artifact(page)
    return loss


if __name__ == "__main__":
    print(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.1))
