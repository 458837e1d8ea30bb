"""Transactions of the planner's state: what is rolled back was never there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mainspring.core.errors import PlannerError
from mainspring.scheduler.cluster import build


def test_rollback_restores_and_reports_the_rows(make_node: Any) -> None:
    cluster = build([make_node("a", gpus=2), make_node("b")])
    free, gpus = cluster.free.copy(), cluster.gpu_free.copy()
    need = np.array([1000, 0, 0])
    cluster.begin()
    cluster.put(0, need, [(1, 300)])
    cluster.put(0, need, [(1, 300)])
    cluster.put(1, need, [])
    mark = cluster.mark()
    assert cluster.gpu_free[0].tolist() == [1000, 400]
    cluster.rollback()
    assert (cluster.free == free).all()
    assert (cluster.gpu_free == gpus).all()
    assert cluster.touched_since(mark).tolist() == [0, 1]
    assert cluster.touched_since(cluster.mark()).tolist() == []


def test_commit_keeps_what_was_put(make_node: Any) -> None:
    cluster = build([make_node("a")])
    cluster.begin()
    cluster.put(0, np.array([1000, 0, 0]), [])
    with pytest.raises(PlannerError):
        cluster.begin()
    cluster.commit()
    cluster.begin()
    cluster.rollback()
    assert cluster.free[0, 0] == 7000
