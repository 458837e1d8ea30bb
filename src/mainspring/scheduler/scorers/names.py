"""The built-in scorers by the name that `Policy.scorer` gives."""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.core.errors import PlannerError
from mainspring.scheduler.scorers.fitting import best_fit, dot_product, first_fit, random, spread
from mainspring.scheduler.scorers.fragmentation import fgd, fgd_float, fill
from mainspring.scheduler.scorers.gpus import clustering, pack, packing
from mainspring.scheduler.scorers.scorer import Scorer

SCORERS: Mapping[str, Scorer] = {
    "best_fit": best_fit,
    "clustering": clustering,
    "dot_product": dot_product,
    "fgd": fgd,
    "fgd_float": fgd_float,
    "fill": fill,
    "first_fit": first_fit,
    "pack": pack,
    "packing": packing,
    "random": random,
    "spread": spread,
}


def find_scorer(name: str) -> Scorer:
    """Return the scorer of that name. Raises PlannerError."""
    if name not in SCORERS:
        raise PlannerError(f"There is no scorer {name!r}.", hint="Known: " + ", ".join(sorted(SCORERS)) + ".")
    return SCORERS[name]
