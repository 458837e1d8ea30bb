"""Of servers that share a database one leads; another takes over when it is silent for a lease, or at once when it resigns."""

from __future__ import annotations

import itertools

import pytest

from mainspring.controllers.leader import HEART_S, LEASE_S, Leader


@pytest.fixture
def servers(house) -> tuple[Leader, Leader]:
    first, second = Leader(house.ctx, "first"), Leader(house.ctx, "second")
    first.tick()
    second.tick()
    return first, second


def test_one_leads_for_as_long_as_its_heart_beats(house, servers) -> None:
    first, second = servers
    term = first.term()
    assert term is not None
    for _ in range(20):
        house.clock.advance(HEART_S)
        house.clock.jump(86400.0)
        for one in servers:
            one.tick()
        assert (first.term(), second.term()) == (term, None)


def test_a_leader_that_is_silent_has_ceased_before_another_leads(house, servers) -> None:
    first, second = servers
    house.clock.advance(LEASE_S - 0.1)
    second.tick()
    assert second.term() is None
    house.clock.advance(0.2)
    assert first.term() is None, "it acts though its lease is over"
    second.tick()
    assert second.term() is not None
    first.tick()
    assert first.term() is None


def test_who_resigns_lets_another_lead_at_once(servers) -> None:
    first, second = servers
    second.resign()
    assert first.term() is not None, "only who leads can resign"
    first.resign()
    second.tick()
    assert (first.term(), second.term() is None) == (None, False)


def test_loops_act_only_where_they_are_led_and_begin_each_term_with_nothing_remembered(house, servers) -> None:
    first, second = servers
    acted: list[str] = []
    numbers = itertools.count()

    def make_loop():
        number = next(numbers)

        def tick() -> float:
            acted.append(f"loop {number}")
            return 7.0

        return tick

    mine, other = first.led(make_loop), second.led(make_loop)
    assert [mine(), mine()] == [7.0, 7.0]
    assert other() not in (7.0, None), "it looks again soon"
    assert acted == ["loop 0", "loop 0"]
    house.clock.advance(LEASE_S + 1)
    second.tick()
    mine()
    other()
    assert acted == ["loop 0", "loop 0", "loop 1"]
    second.resign()
    first.tick()
    mine()
    assert acted[-1] == "loop 2", "what it knew in its former term is stale"


def test_who_owns_the_database_leads_for_ever(house) -> None:
    alone = Leader(house.ctx, "alone", is_alone=True)
    assert alone.tick() is None, "no heart beats: an idle server writes nothing"
    house.clock.advance(1e9)
    assert alone.term() is not None
    alone.resign()
    assert alone.term() is None
