"""Shares as the planner sees them: what is configured, what was used, what is spent and may still be spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, select

from mainspring.core.budgets import up_the_tree
from mainspring.core.policy import Policy
from mainspring.core.records import Node, NodeState
from mainspring.core.shares import Share, with_ancestors
from mainspring.core.snapshot import PlacedRun, ShareState
from mainspring.core.usage import history_of, month_of, usd
from mainspring.store.columns import record_of
from mainspring.store.share_tables import shares
from mainspring.store.statements import Statement
from mainspring.store.usage import part_of, past_of, spent_of

_SHARES = Statement(select(shares).order_by(shares.c.name))


def ask_states_ahead(conn: Connection) -> None:
    """Ask ahead for what `States.take` reads each time."""
    _SHARES.ahead(conn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The moment that is asked about, this process's time then, and how old past use may be."""

    now: datetime
    at_s: float
    age_s: float = 0.0


@dataclass(slots=True)
class States:
    """Reads the states of shares; keeps them for a while, bringing up to date who was served last."""

    _about: object = None
    _read_s: float = 0.0
    _states: list[ShareState] = field(default_factory=list)
    _place_of: dict[str, int] = field(default_factory=dict)

    def take(
        self,
        conn: Connection,
        past: Past,
        policy: Policy,
        nodes: Sequence[Node],
        placed: Sequence[PlacedRun],
        to_come: Mapping[str, Decimal],
    ) -> tuple[ShareState, ...]:
        """Return every share that was configured or was ever used; `to_come` is reserved for rented machines.

        What costs money is never older than the moment.
        """
        rows = _SHARES.stored(conn)
        ready = [node for node in nodes if node.state is NodeState.READY]
        capacity = (
            float(sum(len(node.devices) - len(node.out()) for node in ready)),
            sum(node.cpu_milli for node in ready) / 1000,
            sum(node.memory_bytes for node in ready) / (1 << 30),
        )
        about = (rows, capacity, policy, month_of(past.now))
        is_free = not to_come and all(node.price_usd_per_hour in ("", "0") for node in nodes)
        is_kept = is_free and past.at_s - self._read_s < past.age_s and about == self._about
        if not (is_kept and self._serve(placed)):
            configured = [record_of(Share, shares, _SHARES.read(conn, row)) for row in rows]
            self._states = _read(conn, past.now, policy, configured, capacity, _to_come(past.now, policy, nodes, placed, to_come))
            self._place_of = {state.share.name: place for place, state in enumerate(self._states)}
            self._about, self._read_s = about, past.at_s
        return tuple(self._states)

    def _serve(self, placed: Sequence[PlacedRun]) -> bool:
        """Note who was given something since; False where somebody was for the first time."""
        for run in placed:
            place = self._place_of.get(run.share)
            if place is None:
                return False
            state = self._states[place]
            if state.served_at is None or state.served_at < run.since:
                self._states[place] = replace(state, served_at=run.since)
        return True


def _read(
    conn: Connection,
    now: datetime,
    policy: Policy,
    configured_shares: Sequence[Share],
    capacity: Sequence[float],
    to_come: Mapping[str, Decimal],
) -> list[ShareState]:
    configured = {share.name: share for share in configured_shares}
    past = past_of(conn, now, policy.order.half_life_s)
    history = history_of(past, capacity)
    spent = up_the_tree({name: Decimal(micros) for name, micros in spent_of(conn, now).items()})
    reserved = up_the_tree(to_come)
    names = sorted(with_ancestors([*configured, *past, *spent, *reserved]))
    return [
        ShareState(
            share=configured.get(name, Share(name=name)),
            history=history.get(name, 0.0),
            served_at=past[name].served_at if name in past else None,
            spent_usd=usd(int(spent.get(name, 0))),
            reserved_usd=usd(int(reserved.get(name, 0))),
        )
        for name in names
        if name in configured or name in past or history.get(name) or spent.get(name) or reserved.get(name)
    ]


def _to_come(
    now: datetime, policy: Policy, nodes: Sequence[Node], placed: Sequence[PlacedRun], rented: Mapping[str, Decimal]
) -> dict[str, Decimal]:
    """Return what rented machines, and runs on own ones that have a price, may still cost, by leaf, in millionths of a dollar."""
    priced = {
        node.id: node for node in nodes if node.price_usd_per_hour not in ("", "0") and Decimal(node.price_usd_per_hour) > 0
    }
    found: dict[str, Decimal] = defaultdict(Decimal, rented)
    for run in placed:
        left_s = max(0.0, run.estimate_s * policy.burst.safety - (now - run.since).total_seconds())
        for place in run.places:
            node = priced.get(place.node)
            if node is not None and left_s:
                part = part_of(place.granted, node.devices, node.cpu_milli)
                found[run.share] += part * Decimal(node.price_usd_per_hour) * Decimal(left_s) / 3600 * 1_000_000
    return found
