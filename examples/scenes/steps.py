"""One step on CPUs, one on a GPU, each where such machines are: the first on hosts over SSH, the second on Kubernetes.

python examples/scenes/steps.py lab pods
"""

import os
import sys

import mainspring as ms

CPUS, GPUS = [*sys.argv[1:3], "lab", "pods"][:2] if __name__ == "__main__" else ("lab", "pods")


@ms.task(cpus=0.25, labels={"cluster": CPUS})
def prepare(count: int = 1000) -> list[float]:
    """Return numbers to learn from."""
    return [number / count for number in range(count)]


@ms.task(cpus=0.25, gpus=1, labels={"cluster": GPUS})
def train(numbers: list[float]) -> dict[str, str]:
    """Return what was learned, and on which device."""
    return {"mean": f"{sum(numbers) / len(numbers):.3f}", "device": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


@ms.pipeline
def steps(count: int = 1000) -> None:
    """Record the graph: what one step returns reaches the other wherever that is."""
    train(prepare(count))


if __name__ == "__main__":
    print(steps.run().state)
