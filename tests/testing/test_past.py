"""What a share had lately fades by its half-life and is a part of what its siblings had."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mainspring.core.shares import Share
from mainspring.core.snapshot import ShareState
from mainspring.simulator.past import Past

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_use_fades_by_half_and_siblings_sum_to_one() -> None:
    past = Past(half_life_s=100.0, configured=(ShareState(share=Share(name="a")), ShareState(share=Share(name="b"))))
    past.change("a", 2.0, 0.0)
    past.change("a", -2.0, 100.0)  # two half-lives later a quarter of it is left, and b has had as much as a had
    past.change("b", 2.0, 200.0)
    past.change("b", -2.0, 300.0)
    found = {state.share.name: state.history for state in past.states(300.0)}
    assert found == {"a": pytest.approx(0.2), "b": pytest.approx(0.8)}


def test_a_share_that_nobody_configured_is_known_once_it_was_served() -> None:
    past = Past(half_life_s=100.0)
    past.serve("team/person", NOW)
    assert {state.share.name: state.served_at for state in past.states(0.0)} == {"team": NOW, "team/person": NOW}
