"""Scorers by the name that `Policy.scorer` gives: the built-in ones, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.core.errors import PlannerError
from mainspring.scheduler.scorers.fitting import best_fit, dot_product, first_fit, random, spread
from mainspring.scheduler.scorers.fragmentation import fgd, fgd_float, fill
from mainspring.scheduler.scorers.gpus import clustering, pack, packing
from mainspring.scheduler.scorers.scorer import Scorer

_added: dict[str, Scorer] = {}
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
    found = SCORERS.get(name) or _added.get(name)
    if found is None:
        raise PlannerError(f"There is no scorer {name!r}.", hint="Known: " + ", ".join(sorted({*SCORERS, *_added})) + ".")
    return found


def add_scorer(name: str, scorer: Scorer) -> None:
    """Let policies name one more scorer, for the life of this process: whoever starts it knows the plug-ins, this room does not.

    Raises PlannerError for the name of a built-in one.
    """
    if name in SCORERS:
        raise PlannerError(f"The scorer {name!r} is built in.", hint="Give the plug-in's scorer another name.")
    _added[name] = scorer
