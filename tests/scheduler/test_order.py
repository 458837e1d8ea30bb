"""The order between shares against a slow one that looks at every share again for every start."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, OrderPolicy, Policy, PreemptionPolicy
from mainspring.core.shares import Share, path_of
from mainspring.core.snapshot import DecisionKind, ShareState, WaitingRun

pytestmark = pytest.mark.property
LEAVES = ("a/x", "a/y", "b/z", "c", "d/e/f", "d/e/g")
GPUS = 8
CPUS = 1_000_000  # thousandths; a run takes one


class _Slow:
    """Every start looks at all shares again. Whole GPUs; CPUs are plenty."""

    def __init__(self, shares: dict[str, Share], runs: list[WaitingRun]) -> None:
        self.shares = shares
        self.left = sorted(runs, key=lambda run: (-run.priority, run.seq))
        self.used: dict[str, int] = defaultdict(int)
        self.cpus: dict[str, int] = defaultdict(int)
        self.turn: dict[str, int] = defaultdict(int)  # who was served longest ago
        self.free = GPUS
        names = {step for run in runs for step in path_of(run.share)} | {step for name in shares for step in path_of(name)}
        self.children: dict[str, set[str]] = defaultdict(set)
        for name in names - {""}:
            self.children[name.rpartition("/")[0]].add(name)
        self.guarantee = {name: self._promised(name) for name in names}
        self.guarantee[""] = min(GPUS * 1000, self.guarantee[""])
        for name in sorted(names, key=lambda one: one.count("/") if one else -1):
            total = sum(self.guarantee[child] for child in self.children[name])
            if total > self.guarantee[name]:
                for child in self.children[name]:
                    self.guarantee[child] = self.guarantee[child] * self.guarantee[name] // total

    def _promised(self, name: str) -> int:
        own = self.shares[name].guarantee.get("gpu", 0) if name in self.shares else 0
        return max(own, sum(self._promised(child) for child in self.children[name]))

    def starts(self) -> list[str]:
        """Return the runs in the order of their starts."""
        found: list[str] = []
        while (run := self._next("")) is not None:
            self.left.remove(run)
            need = run.resources.gpu_milli // 1000
            if need > self.free or not all(self._may_hold(name, need) for name in path_of(run.share)):
                alike = (run.share, run.resources)  # who asks for the same fails as well, and holds up nobody behind
                self.left = [one for one in self.left if (one.share, one.resources) != alike]
                continue
            self.free -= need
            for name in path_of(run.share):
                self.used[name] += need * 1000
                self.cpus[name] += 1
                self.turn[name] = len(found) + 1
            found.append(run.id)
        return found

    def _may_hold(self, name: str, need: int) -> bool:
        limit = self.shares[name].limit.get("gpu", 2**60) if name in self.shares else 2**60
        return self.used[name] + need * 1000 <= limit

    def _next(self, name: str) -> WaitingRun | None:
        if not self.children[name]:
            return next((run for run in self.left if run.share == name), None)
        heads = [(child, head) for child in self.children[name] if (head := self._next(child)) is not None]
        return min(heads, key=lambda one: self._rank(*one), default=(None, None))[1]

    def _rank(self, name: str, head: WaitingRun) -> tuple[int, Fraction, int, int]:
        guarantee, used = self.guarantee[name], self.used[name]
        if guarantee and used + head.resources.gpu_milli <= guarantee:
            return (0, Fraction(used, guarantee), self.turn[name], head.seq)
        weight = Fraction(self.shares[name].weight) if name in self.shares else Fraction(1)
        dominant = max(Fraction(self.cpus[name], CPUS), Fraction(used - guarantee, GPUS * 1000))
        return (1, dominant / weight, self.turn[name], head.seq)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_starts_come_in_the_order_of_looking_at_every_share(seed: int, scene: Any, make_node: Any, make_waiting: Any) -> None:
    draw = Random(seed)
    names = sorted({step for leaf in LEAVES for step in path_of(leaf) if step})
    shares: dict[str, Share] = {}
    for name in names:
        guarantee = {"gpu": draw.choice([1000, 3000, 9000])} if draw.random() < 0.3 else {}
        limit = {"gpu": max(draw.choice([2000, 4000]), guarantee.get("gpu", 0))} if draw.random() < 0.2 else {}
        if draw.random() < 0.6:
            shares[name] = Share(name=name, weight=draw.choice([1.0, 2.0, 0.5]), guarantee=guarantee, limit=limit)
    runs = [
        make_waiting(
            seq,
            share=draw.choice(LEAVES),
            gpu_milli=draw.choice([1000, 1000, 2000, 3000]),
            cpu_milli=1,
            priority=draw.choice([0, 0, 1]),
        )
        for seq in range(draw.randrange(1, 25))
    ]
    policy = Policy(
        order=OrderPolicy(history=0.0), backfill=BackfillPolicy(reserved=0), preemption=PreemptionPolicy(mode="never")
    )
    node = make_node("n", cpus=CPUS // 1000, gpus=GPUS)
    snapshot = scene([node], runs, shares=tuple(ShareState(share=one) for one in shares.values()), policy=policy)
    started = [one.run for one in scheduler.plan(snapshot).decisions if one.kind is DecisionKind.START]
    assert started == _Slow(shares, runs).starts()
