"""Which of the nodes that fit is best: plain functions of 10 to 30 lines, found by name; see scorer.py for the contract."""

from mainspring.scheduler.scorers.names import SCORERS, add_scorer, find_scorer
from mainspring.scheduler.scorers.scorer import Scorer

__all__ = ["SCORERS", "Scorer", "add_scorer", "find_scorer"]
